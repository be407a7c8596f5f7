/* The PC/SC bundle with a keypad: PC/SC part 10. */
#include "check.h"
#include "fake.h"
#include "ifdhost.h"

static DWORD feature(DWORD lun, unsigned char tag)
{
	unsigned char list[64];
	DWORD len = 0;

	CHECK_INT(control(lun, CM_IOCTL_GET_FEATURE_REQUEST, NULL, 0, list, sizeof list, &len), IFD_SUCCESS);
	CHECK_INT(len % 6, 0);
	for (DWORD i = 0; i + 6 <= len; i += 6)
		if (list[i] == tag)
			return (DWORD)list[i + 2] << 24 | (DWORD)list[i + 3] << 16 |
				(DWORD)list[i + 4] << 8 | list[i + 5];
	return 0;
}

static void keypad(struct fake_reader *r, DWORD lun)
{
	/* timeouts, format, block, length format, max and min digits, validation,
	 * messages, language, index, prologue, length; the command */
	static const struct { const char *name, *tx, *want, *log; } verify[] = {
		{ "ASCII, 8 bytes of padding",
			"1e00 82 08 00 0804 02 01 0904 00 000000 0d000000 0020000108ffffffffffffffff",
			"9000", "1400c000011ec3000f01060020000108ffffffffffffffff" },
		{ "length in big endian, no timeout",
			"0000 82 08 00 0804 02 01 0904 00 000000 0000000d 0020000108ffffffffffffffff",
			"9000", "1400c3000f01060020000108ffffffffffffffff" },
		{ "BCD at byte 1, fixed length",
			"0000 89 08 00 0606 02 01 0904 00 000000 04000000 00200001",
			"9000", "1400c30006600700200001" },
		{ "position in bits",
			"0000 42 08 00 0804 02 01 0904 00 000000 04000000 00200001",
			"9000", "1400c30006010700200001" },
		{ "binary PIN", "0000 80 08 00 0804 02 01 0904 00 000000 04000000 00200001", "!606", NULL },
		{ "right justified", "0000 86 08 00 0804 02 01 0904 00 000000 04000000 00200001", "!606", NULL },
		{ "length field", "0000 82 48 00 0804 02 01 0904 00 000000 04000000 00200001", "!606", NULL },
		{ "half bytes", "0000 22 08 00 0804 02 01 0904 00 000000 04000000 00200001", "!606", NULL },
		{ "wrong length", "0000 82 08 00 0804 02 01 0904 00 000000 05000000 00200001", "!612", NULL },
		{ "no command", "0000 82 08 00 0804 02 01 0904 00 000000 00000000", "!612", NULL },
		{ "nothing", "", "!612", NULL },
	};
	static const char modify_both[] = "1e00 82 08 00 00 08 0804 03 02 03 0904 00 01 02 000000 05000000 0024000110";
	static const char modify_new[] = "0000 82 08 00 00 00 0804 01 02 02 0904 00 01 02 000000 05000000 0024010108";
	static const struct { const char *name, *reply, *want; } answers[] = {
		{ "wrong PIN", "63c2", "63c2" }, { "user is slow", "!-12", "6400" },
		{ "user cancels", "!-13", "6401" }, { "PINs differ", "!-14", "6402" },
		{ "reader is confused", "!-5", "!612" },
	};
	/* dwMaxAPDUDataSize: what reader, driver and protocol carry together, as the
	 * daemon tells it; 0 is short APDUs alone. */
	static const struct { const char *name; unsigned int told; const char *want; } limits[] = {
		{ "largest APDU: a daemon that tells none", 0, "00000000" },
		{ "largest APDU: short ones alone", 261, "00000000" },
		{ "largest APDU: less than a short one", 70, "00000000" },
		{ "largest APDU: extended ones", 300, "23010000" },
		{ "largest APDU: all that a packet carries", 4079, "e60f0000" },
		{ "largest APDU: nonsense", 0xffffffff, "e60f0000" },
	};
	DWORD code;
	unsigned int log;

	check_case("without a keypad");
	CHECK_INT(feature(lun, FEATURE_VERIFY_PIN_DIRECT), 0);
	code = feature(lun, FEATURE_GET_TLV_PROPERTIES);
	CHECK(code != 0);
	for (size_t i = 0; i < sizeof limits / sizeof limits[0]; i++) {
		char want[64];

		check_case(limits[i].name);
		r->max_command = limits[i].told;
		snprintf(want, sizeof want, "090100" "0a04%s", limits[i].want);
		CHECK_STR(control_hex(lun, code, ""), want);
	}
	CHECK_STR(control_hex(lun, SCARD_CTL_CODE(3506), verify[0].tx), "!606");
	CHECK_STR(control_hex(lun, SCARD_CTL_CODE(1), "00"), "!606");

	r->max_command = 0;
	world_entries[0].ct_keypad = 1;
	check_case("with one");
	code = feature(lun, FEATURE_VERIFY_PIN_DIRECT);
	CHECK(code != 0);
	CHECK_INT(feature(lun, FEATURE_MODIFY_PIN_DIRECT), 0); /* an old daemon */
	CHECK_STR(control_hex(lun, feature(lun, FEATURE_IFD_PIN_PROPERTIES), ""), "00000200");
	check_case("a short answer buffer");
	{
		unsigned char out[11];
		DWORD len = 0;

		CHECK_INT(control(lun, CM_IOCTL_GET_FEATURE_REQUEST, NULL, 0, out, sizeof out, &len),
				IFD_ERROR_INSUFFICIENT_BUFFER);
		CHECK_INT(len, 0);
	}
	CHECK_INT(power_up(lun, IFD_POWER_UP, ATR0), IFD_SUCCESS);
	CHECK_STR(transmit_hex(lun, "00a40000", 258), "00a400009000");
	for (size_t i = 0; i < sizeof verify / sizeof verify[0]; i++) {
		check_case(verify[i].name);
		log = atomic_load(&r->logged);
		CHECK_STR(control_hex(lun, code, verify[i].tx), verify[i].want);
		if (verify[i].log)
			FAKE_LOG(r, &log, verify[i].log);
		CHECK_INT(atomic_load(&r->logged), log);
	}
	for (size_t i = 0; i < sizeof answers / sizeof answers[0]; i++) {
		check_case(answers[i].name);
		strcpy(r->verify_reply, answers[i].reply);
		CHECK_STR(control_hex(lun, code, verify[0].tx), answers[i].want);
	}
	check_case("change PIN");
	strcpy(r->verify_reply, "9000");
	r->knows_change_pin = true;
	code = feature(lun, FEATURE_MODIFY_PIN_DIRECT);
	CHECK(code != 0);
	log = atomic_load(&r->logged);
	CHECK_STR(control_hex(lun, code, modify_both), "9000");
	FAKE_LOG(r, &log, "1500c000011ec3000801060e0024000110");
	CHECK_STR(control_hex(lun, code, modify_new), "9000");
	FAKE_LOG(r, &log, "1500c300080100060024010108");
	CHECK_STR(control_hex(lun, code, "0000"), "!612");
	CHECK_INT(power_down(lun), IFD_SUCCESS);
	world_entries[0].ct_keypad = 0;
}

int main(void)
{
	struct fake_reader *r = fake_reader_new();
	pid_t server;

	host_load();
	world_open();
	world_reader(0, "Kaan", 1);
	world_entries[0].ct_card[0] = 1;
	server = fake_reader_serve(0, r);
	CHECK_INT(open_name(0, "openct:0"), IFD_SUCCESS);
	keypad(r, 0);
	CHECK_INT(close_channel(0), IFD_SUCCESS);
	fake_end(server);
	world_close();
	return check_result("ifdpin");
}
