#include "ifdhost.h"
#include "check.h"

#include <dlfcn.h>
#include <stdarg.h>

__typeof__(IFDHCreateChannelByName) *create_by_name;
__typeof__(IFDHCreateChannel) *create;
__typeof__(IFDHCloseChannel) *close_channel;
__typeof__(IFDHGetCapabilities) *get;
__typeof__(IFDHSetCapabilities) *set;
__typeof__(IFDHSetProtocolParameters) *set_protocol;
__typeof__(IFDHPowerICC) *power;
__typeof__(IFDHTransmitToICC) *transmit;
__typeof__(IFDHControl) *control;
__typeof__(IFDHICCPresence) *presence;

char last_log[256];

/* pcscd has this for its drivers. */
void log_msg(const int priority, const char *fmt, ...);
void log_msg(const int priority, const char *fmt, ...)
{
	va_list ap;

	(void)priority;
	va_start(ap, fmt);
	vsnprintf(last_log, sizeof last_log, fmt, ap);
	va_end(ap);
}

void host_load(void)
{
	char path[4096];
	const char *build = getenv("BUILD");
	void *lib;

	snprintf(path, sizeof path, "%s/libopenct-ifd.so", build ? build : ".");
	lib = dlopen(path, RTLD_NOW | RTLD_LOCAL);
	if (!lib) {
		fprintf(stderr, "%s\n", dlerror());
		exit(3);
	}
	*(void **)&create_by_name = dlsym(lib, "IFDHCreateChannelByName");
	*(void **)&create = dlsym(lib, "IFDHCreateChannel");
	*(void **)&close_channel = dlsym(lib, "IFDHCloseChannel");
	*(void **)&get = dlsym(lib, "IFDHGetCapabilities");
	*(void **)&set = dlsym(lib, "IFDHSetCapabilities");
	*(void **)&set_protocol = dlsym(lib, "IFDHSetProtocolParameters");
	*(void **)&power = dlsym(lib, "IFDHPowerICC");
	*(void **)&transmit = dlsym(lib, "IFDHTransmitToICC");
	*(void **)&control = dlsym(lib, "IFDHControl");
	*(void **)&presence = dlsym(lib, "IFDHICCPresence");
	if (!create_by_name || !create || !close_channel || !get || !set || !set_protocol ||
			!power || !transmit || !control || !presence)
		exit(3);
}

/* pcscd's names are not const. */
RESPONSECODE open_name(DWORD lun, const char *name)
{
	char copy[128];

	snprintf(copy, sizeof copy, "%s", name);
	return create_by_name(lun, copy);
}

const char *transmit_hex(DWORD lun, const char *apdu, DWORD size)
{
	static char text[2 * 4200];
	static unsigned char tx[70000], rx[70000];
	SCARD_IO_HEADER pci = { SCARD_PROTOCOL_T1, 8 }, rpci = { 0, 0 };
	DWORD len = size;
	RESPONSECODE rv = transmit(lun, pci, tx, unhex(apdu, tx, sizeof tx), rx, &len, &rpci);
	char *h;

	if (rv != IFD_SUCCESS) {
		CHECK_INT(len, 0);
		snprintf(text, sizeof text, "!%ld", (long)rv);
		return text;
	}
	h = hex(rx, len);
	snprintf(text, sizeof text, "%s", h);
	free(h);
	return text;
}

RESPONSECODE power_up(DWORD lun, DWORD action, const char *want_atr)
{
	unsigned char atr[MAX_ATR_SIZE];
	DWORD len = sizeof atr;
	RESPONSECODE rv = power(lun, action, atr, &len);

	CHECK_HEX(atr, len, want_atr);
	return rv;
}

RESPONSECODE power_down(DWORD lun)
{
	return power_up(lun, IFD_POWER_DOWN, "");
}

const char *control_hex(DWORD lun, DWORD code, const char *tx)
{
	static char text[256];
	unsigned char in[128], out[64];
	DWORD len = 99;
	RESPONSECODE rv = control(lun, code, in, unhex(tx, in, sizeof in), out, sizeof out, &len);
	char *h;

	if (rv != IFD_SUCCESS) {
		CHECK_INT(len, 0);
		snprintf(text, sizeof text, "!%ld", (long)rv);
		return text;
	}
	h = hex(out, len);
	snprintf(text, sizeof text, "%s", h);
	free(h);
	return text;
}
