/* Texts of the error codes (internal/socket/PROTOCOL.md, Errors). */
#include "internal.h"

#include <limits.h>
#include <stdio.h>

static const struct {
	int code;
	const char *text;
} texts[] = {
	{ IFD_SUCCESS, "Success" },
	{ IFD_ERROR_GENERIC, "Generic error" },
	{ IFD_ERROR_TIMEOUT, "Command timed out" },
	{ IFD_ERROR_INVALID_SLOT, "Invalid slot" },
	{ IFD_ERROR_NOT_SUPPORTED, "Operation not supported" },
	{ IFD_ERROR_COMM_ERROR, "Communication error" },
	{ IFD_ERROR_NO_CARD, "No card present" },
	{ IFD_ERROR_LOCKED, "Reader already locked" },
	{ IFD_ERROR_NOLOCK, "Reader not locked" },
	{ IFD_ERROR_INVALID_ARG, "Invalid argument" },
	{ IFD_ERROR_NO_MEMORY, "Out of memory" },
	{ IFD_ERROR_BUFFER_TOO_SMALL, "Buffer too small" },
	{ IFD_ERROR_USER_TIMEOUT, "Timeout on user input" },
	{ IFD_ERROR_USER_ABORT, "Operation aborted by user" },
	{ IFD_ERROR_PIN_MISMATCH, "PIN mismatch" },
	{ IFD_ERROR_NO_ATR, "Unable to reset card" },
	{ IFD_ERROR_INCOMPATIBLE_DEVICE, "Device cannot perform requested operation" },
	{ IFD_ERROR_DEVICE_DISCONNECTED, "Device was disconnected" },
	{ IFD_ERROR_INVALID_ATR, "Card returned invalid ATR" },
	{ IFD_ERROR_INVALID_MSG, "Invalid message" },
	{ IFD_ERROR_INVALID_CMD, "Invalid command" },
	{ IFD_ERROR_MISSING_ARG, "Missing argument" },
	{ IFD_ERROR_NOT_CONNECTED, "Not connected to IFD handler" },
	{ IFD_ERROR_ALREADY_CLAIMED, "Device already claimed" },
	{ IFD_ERROR_DEVICE_BUSY, "Device busy" },
	{ IFD_ERROR_UNKNOWN_DEVICE, "Device not known" },
};

const char *ct_strerror(int code)
{
	static _Thread_local char unknown[48];
	int negative = code > 0 ? -code : code;

	for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++)
		if (texts[i].code == negative)
			return texts[i].text;
	/* The number is shown negated: -19 as 19. */
	snprintf(unknown, sizeof unknown, "Unknown OpenCT error %lld", -(long long)code);
	return unknown;
}
