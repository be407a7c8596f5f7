/* The entry points that versions 2 and 3 of the IFD handler API share. pcscd
 * opens a channel for each reader, and calls these with the reader's Lun: reader
 * in the upper 16 bits, slot in the lower. */
#include "ifd.h"

#include "channel.h"
#include "log.h"

#include <stdio.h>
#include <string.h>

RESPONSECODE ifd_result(int rc)
{
	switch (rc) {
	case CT_NOT_CONNECTED:
	case CT_DISCONNECTED:
		return IFD_NO_SUCH_DEVICE;
	case CT_NO_CARD:
		return IFD_ICC_NOT_PRESENT;
	case CT_TIMEOUT:
		return IFD_RESPONSE_TIMEOUT;
	case CT_BUFFER_TOO_SMALL:
		return IFD_ERROR_INSUFFICIENT_BUFFER;
	case CT_NOT_SUPPORTED:
	case CT_INVALID_CMD:
		return IFD_ERROR_NOT_SUPPORTED;
	default:
		return rc < 0 ? IFD_COMMUNICATION_ERROR : IFD_SUCCESS;
	}
}

RESPONSECODE ifd_open(DWORD Lun, const struct place *place, const char *name)
{
	int rc = channel_open(Lun, place);

	if (rc > 0 && place_forbidden(place))
		ifd_log(LOG_AS_ERROR, "pcscd may not open OpenCT's sockets, and so not %s;"
				" add pcscd to their group, see openct(7)", name);
	else if (rc > 0)
		ifd_log(LOG_AS_ERROR, "no OpenCT handler serves %s yet; see openct-control doctor", name);
	return rc < 0 ? IFD_COMMUNICATION_ERROR : IFD_SUCCESS;
}

RESPONSECODE IFDHCreateChannel(DWORD Lun, DWORD Channel)
{
	struct place place;

	place_from_channel(&place, Channel);
	return ifd_open(Lun, &place, "this channel");
}

RESPONSECODE IFDHCloseChannel(DWORD Lun)
{
	struct channel *c = channel_get(Lun);

	if (!c)
		return IFD_COMMUNICATION_ERROR;
	channel_close(Lun);
	channel_put(c);
	return IFD_SUCCESS;
}

/* Capabilities */

/* pcscd's polling thread sleeps here instead of asking again and again. */
static RESPONSECODE wait_for_news(DWORD Lun, int timeout)
{
	struct channel *c = channel_get(Lun);

	if (!c)
		return IFD_NO_SUCH_DEVICE;
	channel_wait(c, timeout);
	channel_put(c);
	return IFD_SUCCESS;
}

static RESPONSECODE stop_waiting(DWORD Lun)
{
	struct channel *c = channel_get(Lun);

	if (!c)
		return IFD_NO_SUCH_DEVICE;
	channel_wake(c);
	channel_put(c);
	return IFD_SUCCESS;
}

static RESPONSECODE give(const void *data, size_t len, PDWORD Length, PUCHAR Value)
{
	if (*Length < len) {
		*Length = 0;
		return IFD_ERROR_INSUFFICIENT_BUFFER;
	}
	if (len)
		memcpy(Value, data, len);
	*Length = len;
	return IFD_SUCCESS;
}

static RESPONSECODE give_byte(unsigned int value, PDWORD Length, PUCHAR Value)
{
	unsigned char byte = (unsigned char)value;

	return give(&byte, 1, Length, Value);
}

static RESPONSECODE give_number(uint32_t value, PDWORD Length, PUCHAR Value)
{
	return give(&value, sizeof value, Length, Value);
}

/* What the reader's daemon tells of the device, in the form that libccid gives
 * it: the serial number with its NUL, bcdDevice in the upper half of the
 * version, and 0x0020 (USB), bus and device number as channel (PC/SC part 3,
 * 3.1.4). */
static RESPONSECODE get_of_device(int reader, pid_t pid, DWORD Tag, PDWORD Length, PUCHAR Value)
{
	const unsigned int n = (unsigned int)reader;
	unsigned int a, b;
	char text[128];

	switch (reader < 0 ? 0 : Tag) {
	case SCARD_ATTR_VENDOR_IFD_SERIAL_NO:
		if (place_tells(n, pid, "serial", text, sizeof text))
			return give(text, strlen(text) + 1, Length, Value);
		break;
	case SCARD_ATTR_VENDOR_IFD_VERSION:
		if (place_tells(n, pid, "id", text, sizeof text) &&
				sscanf(text, "usb:%*4x/%*4x/%4x", &a) == 1)
			return give_number(a << 16, Length, Value);
		break;
	case SCARD_ATTR_CHANNEL_ID:
		if (place_tells(n, pid, "device", text, sizeof text) &&
				sscanf(text, "/dev/bus/usb/%3u/%3u", &a, &b) == 2)
			return give_number(0x00200000u | (a & 0xff) << 8 | (b & 0xff), Length, Value);
		break;
	}
	*Length = 0;
	return IFD_ERROR_TAG;
}

static RESPONSECODE get_of_reader(struct channel *c, DWORD Tag, PDWORD Length, PUCHAR Value)
{
	unsigned char atr[ATR_MAX];
	ct_info_t info;
	int reader = channel_info(c, &info);
	bool card = c->card.slot < info.ct_slots && info.ct_card[c->card.slot];

	switch (Tag) {
	case TAG_IFD_ATR:
	case SCARD_ATTR_ATR_STRING:
		return give(atr, card_atr(&c->card, atr), Length, Value);
	case TAG_IFD_SLOTS_NUMBER:
		return give_byte(info.ct_slots ? info.ct_slots : 1, Length, Value);
	case SCARD_ATTR_ICC_PRESENCE: /* 0: no card, 2: a card in place */
		return give_byte(card ? 2 : 0, Length, Value);
	case SCARD_ATTR_ICC_INTERFACE_STATUS:
		return give_byte(card_atr(&c->card, atr) ? 1 : 0, Length, Value);
	case SCARD_ATTR_VENDOR_NAME:
		return give("OpenCT", sizeof "OpenCT", Length, Value);
	case SCARD_ATTR_VENDOR_IFD_TYPE:
		return give(info.ct_name, strlen(info.ct_name) + 1, Length, Value);
	case SCARD_ATTR_VENDOR_IFD_VERSION:
	case SCARD_ATTR_VENDOR_IFD_SERIAL_NO:
	case SCARD_ATTR_CHANNEL_ID:
		return get_of_device(reader, info.ct_pid, Tag, Length, Value);
	case SCARD_ATTR_MAXINPUT:
		return give_number(card_max_command(&c->card), Length, Value);
	default:
		*Length = 0;
		return IFD_ERROR_TAG;
	}
}

RESPONSECODE IFDHGetCapabilities(DWORD Lun, DWORD Tag, PDWORD Length, PUCHAR Value)
{
	RESPONSECODE (*const wait)(DWORD, int) = wait_for_news;
	RESPONSECODE (*const stop)(DWORD) = stop_waiting;
	struct channel *c;
	RESPONSECODE rv;

	if (!Length || !Value)
		return IFD_COMMUNICATION_ERROR;
	switch (Tag) {
	case TAG_IFD_SIMULTANEOUS_ACCESS:
		return give_byte(OPENCT_MAX_READERS, Length, Value);
	case TAG_IFD_THREAD_SAFE:
	case TAG_IFD_SLOT_THREAD_SAFE:
		return give_byte(1, Length, Value);
	case TAG_IFD_POLLING_THREAD_KILLABLE:
		return give_byte(0, Length, Value);
	case TAG_IFD_POLLING_THREAD_WITH_TIMEOUT:
		return give(&wait, sizeof wait, Length, Value);
	case TAG_IFD_STOP_POLLING_THREAD:
		return give(&stop, sizeof stop, Length, Value);
	}
	c = channel_get(Lun);
	if (!c)
		return IFD_NO_SUCH_DEVICE;
	rv = get_of_reader(c, Tag, Length, Value);
	channel_put(c);
	return rv;
}

RESPONSECODE IFDHSetCapabilities(DWORD Lun, DWORD Tag, DWORD Length, PUCHAR Value)
{
	struct channel *c;

	(void)Length;
	(void)Value;
	if (Tag != TAG_IFD_DEVICE_REMOVED)
		return IFD_ERROR_TAG;
	c = channel_get(Lun);
	if (!c)
		return IFD_NO_SUCH_DEVICE;
	atomic_store(&c->card.removed, true);
	channel_wake(c);
	channel_put(c);
	return IFD_SUCCESS;
}

/* The card */

/* While nobody serves a reader it has no card. It is gone when it is unplugged,
 * which pcscd tells us. */
RESPONSECODE IFDHICCPresence(DWORD Lun)
{
	struct channel *c = channel_get(Lun);
	RESPONSECODE rv = IFD_ICC_PRESENT;
	unsigned int state;

	if (!c)
		return IFD_NO_SUCH_DEVICE;
	state = channel_presence(c);
	if (state == CARD_NONE || state == READER_GONE) {
		card_gone(&c->card);
		rv = atomic_load(&c->card.removed) ? IFD_NO_SUCH_DEVICE : IFD_ICC_NOT_PRESENT;
	}
	channel_put(c);
	return rv;
}

RESPONSECODE IFDHSetProtocolParameters(DWORD Lun, DWORD Protocol, UCHAR Flags,
		UCHAR PTS1, UCHAR PTS2, UCHAR PTS3)
{
	struct channel *c;
	int rc;

	(void)Flags; /* the daemon negotiates what card and reader can do */
	(void)PTS1;
	(void)PTS2;
	(void)PTS3;
	if (Protocol != SCARD_PROTOCOL_T0 && Protocol != SCARD_PROTOCOL_T1)
		return IFD_PROTOCOL_NOT_SUPPORTED;
	c = channel_get(Lun);
	if (!c)
		return IFD_NO_SUCH_DEVICE;
	rc = card_protocol(&c->card, Protocol == SCARD_PROTOCOL_T1);
	channel_put(c);
	if (rc == CT_NOT_SUPPORTED)
		return IFD_PROTOCOL_NOT_SUPPORTED;
	if (rc == CT_GENERIC)
		return IFD_ERROR_PTS_FAILURE;
	return ifd_result(rc);
}

static RESPONSECODE power_up(struct channel *c, PUCHAR Atr, PDWORD AtrLength)
{
	int rc = channel_power_up(c);

	if (rc >= 0)
		*AtrLength = card_atr(&c->card, Atr);
	if (rc < 0 && rc != CT_NOT_CONNECTED && rc != CT_DISCONNECTED)
		return IFD_ERROR_POWER_ACTION;
	return ifd_result(rc);
}

RESPONSECODE IFDHPowerICC(DWORD Lun, DWORD Action, PUCHAR Atr, PDWORD AtrLength)
{
	struct channel *c;
	RESPONSECODE rv;

	if (!Atr || !AtrLength)
		return IFD_COMMUNICATION_ERROR;
	*AtrLength = 0;
	memset(Atr, 0, MAX_ATR_SIZE);
	c = channel_get(Lun);
	if (!c)
		return IFD_NO_SUCH_DEVICE;
	switch (Action) {
	case IFD_POWER_UP:
	case IFD_RESET:
		rv = power_up(c, Atr, AtrLength);
		break;
	case IFD_POWER_DOWN:
		rv = ifd_result(card_power_down(&c->card));
		break;
	default:
		rv = IFD_NOT_SUPPORTED;
	}
	channel_put(c);
	return rv;
}

RESPONSECODE IFDHTransmitToICC(DWORD Lun, SCARD_IO_HEADER SendPci,
		PUCHAR TxBuffer, DWORD TxLength, PUCHAR RxBuffer, PDWORD RxLength,
		PSCARD_IO_HEADER RecvPci)
{
	struct channel *c;
	DWORD size;
	int rc;

	if (!RxLength)
		return IFD_COMMUNICATION_ERROR;
	size = *RxLength;
	*RxLength = 0;
	if (!TxBuffer || !RxBuffer || TxLength == 0)
		return IFD_COMMUNICATION_ERROR;
	if (TxLength > OCT_APDU_MAX) {
		ifd_log(LOG_AS_ERROR, "APDU of %lu bytes is too long; the limit is %d",
				(unsigned long)TxLength, OCT_APDU_MAX);
		return IFD_NOT_SUPPORTED;
	}
	c = channel_get(Lun);
	if (!c)
		return IFD_NO_SUCH_DEVICE;
	rc = card_transmit(&c->card, TxBuffer, TxLength, RxBuffer, size);
	channel_put(c);
	if (rc < 0)
		return ifd_result(rc);
	*RxLength = (DWORD)rc;
	if (RecvPci)
		RecvPci->Protocol = SendPci.Protocol;
	return IFD_SUCCESS;
}
