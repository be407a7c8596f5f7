/* pcscd's headers beside OpenCT's, and what the entry points share. */
#ifndef OPENCT_IFD_IFD_H
#define OPENCT_IFD_IFD_H

#include "place.h"

#include "internal.h"

/* OpenCT's errors, for pcscd's header has names of its own like theirs. */
enum {
	CT_GENERIC = IFD_ERROR_GENERIC,
	CT_TIMEOUT = IFD_ERROR_TIMEOUT,
	CT_NOT_SUPPORTED = IFD_ERROR_NOT_SUPPORTED,
	CT_NO_CARD = IFD_ERROR_NO_CARD,
	CT_BUFFER_TOO_SMALL = IFD_ERROR_BUFFER_TOO_SMALL,
	CT_DISCONNECTED = IFD_ERROR_DEVICE_DISCONNECTED,
	CT_NOT_CONNECTED = IFD_ERROR_NOT_CONNECTED,
	CT_INVALID_CMD = IFD_ERROR_INVALID_CMD,
};
#undef IFD_ERROR_NOT_SUPPORTED

#pragma GCC visibility push(default)
#include <PCSC/wintypes.h>
#include <PCSC/pcsclite.h>
#include <PCSC/ifdhandler.h>
#pragma GCC visibility pop
#include <PCSC/reader.h>

/* What pcscd is told of an OpenCT error. */
RESPONSECODE ifd_result(int rc);

/* Opens the channel Lun for the reader at place; name is for messages. */
RESPONSECODE ifd_open(DWORD Lun, const struct place *place, const char *name);

#endif
