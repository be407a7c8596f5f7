/* What version 3 of the IFD handler API has: channels by name, and SCardControl
 * with a code. This is the handler of openct-ifd.bundle. */
#include "ifd.h"

#include "channel.h"
#include "log.h"
#include "pinpad.h"

RESPONSECODE IFDHCreateChannelByName(DWORD Lun, LPSTR DeviceName)
{
	struct place place;

	if (!DeviceName || !place_parse(&place, DeviceName)) {
		ifd_log(LOG_AS_ERROR, "unknown device name %s, expected openct:N or usb:...",
				DeviceName ? DeviceName : "(none)");
		return IFD_NO_SUCH_DEVICE;
	}
	/* pcscd goes on to the class driver, libccid, then. */
	if (place_refused(&place)) {
		ifd_log(LOG_AS_INFO, "OpenCT has no driver for %s, see openct-control doctor", DeviceName);
		return IFD_NO_SUCH_DEVICE;
	}
	return ifd_open(Lun, &place, DeviceName);
}

RESPONSECODE IFDHControl(DWORD Lun, DWORD dwControlCode, PUCHAR TxBuffer, DWORD TxLength,
		PUCHAR RxBuffer, DWORD RxLength, LPDWORD pdwBytesReturned)
{
	struct channel *c;
	int rc;

	if (!pdwBytesReturned)
		return IFD_COMMUNICATION_ERROR;
	*pdwBytesReturned = 0;
	if ((!TxBuffer && TxLength) || (!RxBuffer && RxLength))
		return IFD_COMMUNICATION_ERROR;
	c = channel_get(Lun);
	if (!c)
		return IFD_NO_SUCH_DEVICE;
	rc = pinpad_control(c, dwControlCode, TxBuffer, TxLength, RxBuffer, RxLength);
	channel_put(c);
	if (rc < 0)
		return ifd_result(rc);
	*pdwBytesReturned = (DWORD)rc;
	return IFD_SUCCESS;
}
