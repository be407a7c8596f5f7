/* What version 2 of the IFD handler API has in place of version 3: no names of
 * channels, which makes pcscd pass CHANNELID of its reader.conf, and an
 * SCardControl without a code. This is the handler of openct-ifd.so, which every
 * reader.conf for C OpenCT names, with DEVICENAME /dev/null for each reader. */
#define IFDHANDLERv2
#include "ifd.h"

/* C OpenCT took CT-BCS commands here (pcsc.c). */
RESPONSECODE IFDHControl(DWORD Lun, PUCHAR TxBuffer, DWORD TxLength,
		PUCHAR RxBuffer, PDWORD RxLength)
{
	(void)Lun;
	(void)TxBuffer;
	(void)TxLength;
	(void)RxBuffer;
	if (RxLength)
		*RxLength = 0;
	return IFD_NOT_SUPPORTED;
}
