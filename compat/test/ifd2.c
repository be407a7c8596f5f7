/* openct-ifd.so, as reader.conf files for C OpenCT name it: version 2 of the IFD
 * handler API, where the channel number is OpenCT's reader. */
#include "check.h"
#include "fake.h"

#define IFDHANDLERv2
#include <PCSC/wintypes.h>
#include <PCSC/pcsclite.h>
#include <PCSC/ifdhandler.h>

#include <dlfcn.h>

#define ATR0 "3b848131fe455249475083"

static __typeof__(IFDHCreateChannel) *create;
static __typeof__(IFDHCloseChannel) *close_channel;
static __typeof__(IFDHGetCapabilities) *get;
static __typeof__(IFDHPowerICC) *power;
static __typeof__(IFDHTransmitToICC) *transmit;
static __typeof__(IFDHControl) *control;
static __typeof__(IFDHICCPresence) *presence;

static void load(void)
{
	static const char *const rest[] = { "IFDHSetCapabilities", "IFDHSetProtocolParameters" };
	char path[4096];
	const char *build = getenv("BUILD");
	void *lib;

	snprintf(path, sizeof path, "%s/openct-ifd.so", build ? build : ".");
	lib = dlopen(path, RTLD_NOW | RTLD_LOCAL);
	if (!lib) {
		fprintf(stderr, "%s\n", dlerror());
		exit(3);
	}
	*(void **)&create = dlsym(lib, "IFDHCreateChannel");
	*(void **)&close_channel = dlsym(lib, "IFDHCloseChannel");
	*(void **)&get = dlsym(lib, "IFDHGetCapabilities");
	*(void **)&power = dlsym(lib, "IFDHPowerICC");
	*(void **)&transmit = dlsym(lib, "IFDHTransmitToICC");
	*(void **)&control = dlsym(lib, "IFDHControl");
	*(void **)&presence = dlsym(lib, "IFDHICCPresence");
	if (!create || !close_channel || !get || !power || !transmit || !control || !presence ||
			!dlsym(lib, rest[0]) || !dlsym(lib, rest[1]))
		exit(3);
	check_case("without channels by name pcscd passes CHANNELID");
	CHECK(dlsym(lib, "IFDHCreateChannelByName") == NULL);
}

static void power_up(DWORD lun, const char *want)
{
	unsigned char atr[MAX_ATR_SIZE];
	DWORD len = sizeof atr;

	CHECK_INT(power(lun, IFD_POWER_UP, atr, &len), IFD_SUCCESS);
	CHECK_HEX(atr, len, want);
}

int main(void)
{
	static const struct { const char *name; DWORD channel; const char *atr; } channels[] = {
		{ "CHANNELID 0", 0, ATR0 }, { "CHANNELID 1", 1, "3b00" },
		{ "hotplug of old, 200000 hex and up", 0x200001, "3b00" },
		{ "a number that is no reader's is reader 0", 17, ATR0 },
		{ "16, too", 16, ATR0 },
	};
	struct fake_reader *r[2] = { fake_reader_new(), fake_reader_new() };
	SCARD_IO_HEADER pci = { SCARD_PROTOCOL_T1, 8 };
	unsigned char rx[16];
	pid_t server[2];
	DWORD len;

	load();
	world_open();
	check_case("pcscd before OpenCT");
	CHECK_INT(create(0x30000, 0), IFD_SUCCESS);
	CHECK_INT(presence(0x30000), IFD_ICC_NOT_PRESENT);
	for (unsigned int i = 0; i < 2; i++) {
		world_reader(i, "phoenix", 1);
		world_entries[i].ct_card[0] = 1;
		server[i] = fake_reader_serve(i, r[i]);
	}
	CHECK_INT(presence(0x30000), IFD_ICC_PRESENT);
	CHECK_INT(close_channel(0x30000), IFD_SUCCESS);

	strcpy(r[1]->atr[0], "3b00");
	for (size_t i = 0; i < sizeof channels / sizeof channels[0]; i++) {
		check_case(channels[i].name);
		CHECK_INT(create(0, channels[i].channel), IFD_SUCCESS);
		CHECK_INT(presence(0), IFD_ICC_PRESENT);
		power_up(0, channels[i].atr);
		CHECK_INT(close_channel(0), IFD_SUCCESS);
	}
	check_case("two readers at once, APDUs");
	CHECK_INT(create(0, 0), IFD_SUCCESS);
	CHECK_INT(create(0x10000, 1), IFD_SUCCESS);
	power_up(0, ATR0);
	power_up(0x10000, "3b00");
	len = sizeof rx;
	CHECK_INT(transmit(0x10000, pci, (PUCHAR)"\0\xa4\0\0", 4, rx, &len, NULL), IFD_SUCCESS);
	CHECK_HEX(rx, len, "00a400009000");
	check_case("SCardControl of version 2");
	len = sizeof rx;
	CHECK_INT(control(0, rx, 4, rx, &len), IFD_NOT_SUPPORTED);
	CHECK_INT(len, 0);
	CHECK_INT(control(0, rx, 4, rx, NULL), IFD_NOT_SUPPORTED);
	len = sizeof rx;
	CHECK_INT(get(0, TAG_IFD_THREAD_SAFE, &len, rx), IFD_SUCCESS);
	CHECK_HEX(rx, len, "01");
	CHECK_INT(close_channel(0), IFD_SUCCESS);
	CHECK_INT(close_channel(0x10000), IFD_SUCCESS);
	fake_end(server[0]);
	fake_end(server[1]);
	world_close();
	return check_result("ifd2");
}
