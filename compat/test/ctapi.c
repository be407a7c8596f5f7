/* The CT-API library, loaded as its users load it. Expected bytes:
 * as C OpenCT (ctapi.c) has it. */
#include "check.h"
#include "fake.h"

#include <openct/ctapi.h>

#include <dlfcn.h>
#include <pthread.h>
#include <unistd.h>

static char (*init)(unsigned short, unsigned short);
static char (*data)(unsigned short, unsigned char *, unsigned char *, unsigned short,
		unsigned char *, unsigned short *, unsigned char *);
static char (*close_)(unsigned short);

static void load(void)
{
	char path[4096];
	const char *build = getenv("BUILD");
	void *lib;

	snprintf(path, sizeof path, "%s/libopenctapi.so", build ? build : ".");
	lib = dlopen(path, RTLD_NOW | RTLD_LOCAL);
	if (!lib) {
		fprintf(stderr, "%s\n", dlerror());
		exit(3);
	}
	*(void **)&init = dlsym(lib, "CT_init");
	*(void **)&data = dlsym(lib, "CT_data");
	*(void **)&close_ = dlsym(lib, "CT_close");
	if (!init || !data || !close_)
		exit(3);
}

/* One command; the response as hex, or the error as "!code". */
static const char *command(unsigned short ctn, unsigned char dad, const char *cmd, unsigned short size)
{
	static char text[1100];
	unsigned char in[300], out[520], sad = 2;
	unsigned short lenr = size;
	size_t len = unhex(cmd, in, sizeof in);
	char rc = data(ctn, &dad, &sad, (unsigned short)len, in, &lenr, out);

	if (rc != OK) {
		snprintf(text, sizeof text, "!%d", (signed char)rc);
		return text;
	}
	{
		char *h = hex(out, lenr);

		snprintf(text, sizeof text, "%s", h);
		free(h);
	}
	return text;
}

static const struct { const char *cmd, *want; } terminal[] = {
	/* OpenSC's start-up */
	{ "2013008100", "8103010250 9000" }, /* units: two cards, keypad */
	{ "2011000000", "9000" },
	{ "2013008000", "0500 9000" },
	{ "2012010100", "3b848131fe455249475083 9000" },
	/* STATUS */
	{ "20130046", "46064f70656e4354 9000" },
	{ "20130000", "0500 9000" },
	{ "2013008001", "6700" }, /* two bytes where one may come */
	/* RESET */
	{ "2011010100", "3b848131fe455249475083 9000" },
	{ "2011010000", "9000" },
	{ "2010010100", "3b848131fe455249475083 9000" },
	{ "20100101", "6700" },
	{ "2011010105", "6c00" },
	{ "201101010155", "6700" },
	{ "2011010200", "6a00" },
	{ "2011020100", "aa21 1390 9000" },
	{ "2011030100", "6a00" },
	/* REQUEST ICC */
	{ "2012011100", "6a00" },
	{ "2012 01f1 00", "3b848131fe455249475083 9000" },
	{ "20120101 09 5004 434f4d45 8001 1e", "3b848131fe455249475083 9000" },
	{ "20120101 03 800200", "6700" },
	{ "20120101 04 80020001", "6700" },
	{ "20120101 03 990155", "3b848131fe455249475083 9000" },
	{ "20120100 01 0a", "9000" }, /* the other dialect: the body is the seconds */
	{ "20120101 01 0a 00", "3b848131fe455249475083 9000" },
	/* EJECT ICC */
	{ "2015010000", "9000" },
	{ "20150100 01 05", "9000" },
	{ "20150100 03 80010a", "9000" },
	{ "20150100 02 8001", "6700" },
	{ "2015000000", "6a00" },
	{ "2015030000", "6a00" },
	/* not there */
	{ "2016000000", "6d00" }, { "00d6000000", "6d00" }, { "9011000000", "6e00" },
	{ "20174000 04 50024849", "6a00" }, /* there is no display */
	/* MODIFY VERIFICATION, of a handler that does not know it */
	{ "20190100 09 5207 01060e00240001", "6d00" },
	/* PERFORM VERIFICATION */
	{ "20180100 08 5206 010600200001", "9000" },
	{ "20180100 08 5206 010600200001 00", "9000" },
	{ "20180000 08 5206 010600200001", "6a00" }, { "20180300 08 5206 010600200001", "6a00" },
	{ "20180101 08 5206 010600200001", "6a00" }, { "20180100", "6a85" },
	{ "20180100 03 80011e", "6a85" }, { "20180100 07 5205 0106002000", "6700" },
	{ "20180100 01 1e", "6700" }, { "20180100 05 5206 010600", "6700" },
	{ "20180100 0c 80020001 5206 010600200001", "6700" },
	/* SET INTERFACE PARAMETER */
	{ "80600100 03 220101", "9000" },
	{ "80600100 03 220102", "9000" },
	{ "80600200 03 220102", "9000" },
	{ "80600000 03 220102", "6a00" }, { "80600300 03 220102", "6a00" },
	{ "80600101 03 220102", "6a00" }, { "80600100 03 220180", "6a80" },
	{ "80600100 03 220104", "6a00" }, { "80600100 03 450101", "6a00" },
	{ "80600100 03 330101", "6a85" }, { "80600100", "6a00" },
	{ "80600100 02 2205", "6700" },
	/* lengths */
	{ "", "6700" }, { "2013", "6700" }, { "201300", "6700" },
	{ "201200000501", "6700" }, { "20120000000000", "6700" },
};

static const struct { const char *cmd, *want; } files[] = {
	{ "00b00000 00", "00200100007f60010000 9000" }, /* MF from the start */
	{ "00a40000 02 3f00", "000a 000a 88 0000000000 9000" },
	{ "00a40000 02 7f70", "6a82" },
	{ "00a40000 02 7f60", "000a 000a 88 0000000000 9000" },
	{ "00b00000 00", "7f700100007f71010000 9000" },
	{ "00b00005 05", "7f71010000 9000" },
	{ "00b00005 06", "7f71010000 6282" },
	{ "00b0000b 01", "6b00" },
	{ "00a40000 02 0020", "6a82" },
	{ "00a40000 02 7f71", "00000000 88 0000000000 9000" },
	{ "00a40000 02 3f00", "000a000a 88 0000000000 9000" },
	{ "00a40000 02 0020", "00000000 08 0000000000 9000" },
	{ "00b00000 01", "6282" },
	{ "00a40000 02 ff10", "00080008 08 0000000000 9000" },
	{ "00b00000 00", "01064f70656e4354 9000" },
	{ "00a40000 02 ff11", "00000000 08 0000000000 9000" },
	{ "00a40000 01 3f", "6e00" }, { "00a40000", "6e00" },
};

static void strip(const char *in, char *out)
{
	for (; *in; in++)
		if (*in != ' ')
			*out++ = *in;
	*out = '\0';
}

static void terminal_commands(struct fake_reader *r)
{
	char want[200];

	strcpy(r->atr[1], "aa211390"); /* a memory card */
	for (size_t i = 0; i < sizeof terminal / sizeof terminal[0]; i++) {
		check_case(terminal[i].cmd);
		strip(terminal[i].want, want);
		CHECK_STR(command(1, 1, terminal[i].cmd, 258), want);
	}
	for (size_t i = 0; i < sizeof files / sizeof files[0]; i++) {
		check_case(files[i].cmd);
		strip(files[i].want, want);
		CHECK_STR(command(1, 1, files[i].cmd, 258), want);
	}
	check_case("response buffer");
	CHECK_STR(command(1, 1, "2013008000", 4), "05009000");
	CHECK_STR(command(1, 1, "2013008000", 3), "6700");
	CHECK_STR(command(1, 1, "2013008000", 2), "6700");
	CHECK_STR(command(1, 1, "2013008000", 1), "!-1");
	CHECK_STR(command(1, 1, "2013008000", 0), "!-1");
}

/* Both dialects of REQUEST ICC and EJECT ICC reach the reader. */
static void seconds_in_both_dialects(struct fake_reader *r)
{
	static const struct { const char *cmd, *request; } table[] = {
		{ "20120100 01 0a", "1000c000010a" },
		{ "20120100 03 80010a", "1000c000010a" },
		{ "20120100 01 00", "1000" },
		{ "20120100 07 50024849 80011e", "1000c000011ec100024849" },
		{ "201201f0 07 50024849 80011e", "1000c000011e" },
		{ "20150100 01 05", "1200c0000105" },
		{ "20150100 04 50024849", "1200c100024849" },
	};
	unsigned int log = atomic_load(&r->logged);

	for (size_t i = 0; i < sizeof table / sizeof table[0]; i++) {
		check_case(table[i].cmd);
		CHECK_STR(command(1, 1, table[i].cmd, 258), "9000");
		FAKE_LOG(r, &log, table[i].request);
	}
}

/* The keypad and the display. What the user does is a status word. */
static void keypad_and_display(struct fake_reader *r)
{
	static const struct { const char *name, *reply, *want; } outcomes[] = {
		{ "right PIN", "9000", "9000" },
		{ "wrong PIN", "63c2", "63c2" },
		{ "the card sends data", "01029000", "01029000" },
		{ "no key in time", "!-12", "6400" },
		{ "cancelled", "!-13", "6401" },
		{ "two new PINs", "!-14", "6402" },
		{ "no keypad at this slot", "!-4", "6d00" },
		{ "place outside of the command", "!-9", "6a80" },
		{ "no card", "!-6", "!-1" },
		{ "half a status word", "90", "!-1" },
		{ "nothing", "", "!-1" },
	};
	unsigned int log;

	r->knows_change_pin = true;
	for (size_t i = 0; i < sizeof outcomes / sizeof outcomes[0]; i++) {
		check_case(outcomes[i].name);
		strcpy(r->verify_reply, outcomes[i].reply);
		CHECK_STR(command(1, 1, "20180100 08 5206 010600200001", 258), outcomes[i].want);
		CHECK_STR(command(1, 1, "20190100 09 5207 01060e00240001", 258), outcomes[i].want);
	}
	strcpy(r->verify_reply, "9000");
	log = atomic_load(&r->logged);
	check_case("PERFORM VERIFICATION: time, prompt, command");
	CHECK_STR(command(1, 1, "20180200 0f 80011e 50024849 5206 010600200001", 258), "9000");
	FAKE_LOG(r, &log, "1401c000011ec100024849c30006010600200001");
	check_case("MODIFY VERIFICATION: the first of the prompts");
	CHECK_STR(command(1, 1, "20190100 15 50024849 500141 5003424344 5207 01060e00240001", 258), "9000");
	FAKE_LOG(r, &log, "1500c100024849c3000701060e00240001");
	CHECK_STR(command(1, 1, "20190100 08 5206 01060e002400", 258), "6700");
	check_case("OUTPUT");
	log = atomic_load(&r->logged);
	world_entries[0].ct_display = 1;
	CHECK_STR(command(1, 1, "20174000 04 50024849", 258), "9000");
	FAKE_LOG(r, &log, "1310c100024849");
	CHECK_STR(command(1, 1, "20174000 02 5000", 258), "9000");
	FAKE_LOG(r, &log, "1310");
	CHECK_STR(command(1, 1, "20174000 07 80010a 50024849", 258), "9000");
	FAKE_LOG(r, &log, "1310c100024849");
	CHECK_STR(command(1, 1, "20175000 04 50024849", 258), "6a00");
	CHECK_STR(command(1, 1, "20174001 04 50024849", 258), "6a00");
	CHECK_STR(command(1, 1, "20174000 01 48", 258), "6700");
	CHECK_INT(atomic_load(&r->logged), log);
	CHECK_STR(command(1, 1, "2013008100", 258), "8104010240509000");
	world_entries[0].ct_display = 0;
	check_case("a keypad that is not there");
	world_entries[0].ct_keypad = 0;
	CHECK_STR(command(1, 1, "20180100 08 5206 010600200001", 258), "6d00");
	CHECK_STR(command(1, 1, "20190100 09 5207 01060e00240001", 258), "6d00");
	world_entries[0].ct_keypad = 1;
}

/* A user who has time and does nothing. */
static void user_waits(struct fake_reader *r)
{
	check_case("no card in time");
	strcpy(r->atr[0], "!-6");
	CHECK_STR(command(1, 1, "20120101 03 80010a", 258), "6200");
	CHECK_STR(command(1, 1, "20120101 01 0a", 258), "6200");
	CHECK_STR(command(1, 1, "20120101 03 800100", 258), "!-1");
	strcpy(r->atr[0], "!-5");
	CHECK_STR(command(1, 1, "20120101 03 80010a", 258), "!-1");
	strcpy(r->atr[0], "3b848131fe455249475083");
	check_case("card not taken out in time");
	strcpy(r->eject_reply, "!-12");
	CHECK_STR(command(1, 1, "20150100 03 80010a", 258), "6200");
	CHECK_STR(command(1, 1, "20150100", 258), "!-1");
	r->eject_reply[0] = '\0';
}

/* What C OpenCT's ctapi.h has: programs name these. */
static void constants(void)
{
	static const struct { const char *name; int value, want; } table[] = {
#define HAS(name, want) { #name, name, want }
		HAS(MAX_APDULEN, 1040), HAS(OK, 0), HAS(ERR_INVALID, -1), HAS(ERR_CT, -8),
		HAS(ERR_TRANS, -10), HAS(ERR_MEMORY, -11), HAS(ERR_HOST, -127), HAS(ERR_HTSI, -128),
		HAS(CTAPI_DAD_ICC1, 0), HAS(CTAPI_DAD_CT, 1), HAS(CTAPI_DAD_HOST, 2), HAS(CTAPI_DAD_ICC2, 3),
		HAS(CTBCS_CLA, 0x20), HAS(CTBCS_CLA_2, 0x80), HAS(CTBCS_INS_RESET, 0x11),
		HAS(CTBCS_INS_REQUEST_ICC, 0x12), HAS(CTBCS_INS_STATUS, 0x13), HAS(CTBCS_INS_EJECT_ICC, 0x15),
		HAS(CTBCS_INS_INPUT, 0x16), HAS(CTBCS_INS_OUTPUT, 0x17),
		HAS(CTBCS_INS_PERFORM_VERIFICATION, 0x18), HAS(CTBCS_INS_MODIFY_VERIFICATION, 0x19),
		HAS(CTBCS_INS_SET_INTERFACE_PARAM, 0x60), HAS(CTBCS_UNIT_CT, 0x00),
		HAS(CTBCS_UNIT_INTERFACE1, 0x01), HAS(CTBCS_UNIT_INTERFACE2, 0x02),
		HAS(CTBCS_UNIT_DISPLAY, 0x40), HAS(CTBCS_UNIT_KEYPAD, 0x50),
		HAS(CTBCS_P2_RESET_NO_RESP, 0), HAS(CTBCS_P2_RESET_GET_ATR, 1), HAS(CTBCS_P2_RESET_GET_HIST, 2),
		HAS(CTBCS_P2_REQUEST_NO_RESP, 0), HAS(CTBCS_P2_REQUEST_GET_ATR, 1),
		HAS(CTBCS_P2_REQUEST_GET_HIST, 2), HAS(CTBCS_P2_STATUS_MANUFACTURER, 0x46),
		HAS(CTBCS_P2_STATUS_ICC, 0x80), HAS(CTBCS_P2_INPUT_ECHO, 1), HAS(CTBCS_P2_INPUT_ASTERISKS, 2),
		HAS(CTBCS_TAG_PROMPT, 0x50), HAS(CTBCS_TAG_VERIFY_CMD, 0x52), HAS(CTBCS_TAG_TIMEOUT, 0x80),
		HAS(CTBCS_TAG_TPP, 0x22), HAS(CTBCS_TAG_TPC, 0x45), HAS(CTBCS_PIN_CONTROL_LEN_SHIFT, 4),
		HAS(CTBCS_PIN_CONTROL_LEN_MASK, 0x0f), HAS(CTBCS_PIN_CONTROL_ENCODE_ASCII, 1),
		HAS(CTBCS_SW_BAD_LENGTH, 0x6700), HAS(CTBCS_SW_BAD_COMMAND, 0x6900),
		HAS(CTBCS_SW_NOT_EXECUTABLE, 0x6985), HAS(CTBCS_SW_BAD_PARAMS, 0x6a00),
		HAS(CTBCS_SW_NOT_SUPPORTED, 0x6a80), HAS(CTBCS_SW_INVALID_TLV, 0x6a85),
		HAS(CTBCS_SW_BAD_LE, 0x6c00), HAS(CTBCS_SW_BAD_INS, 0x6d00), HAS(CTBCS_SW_BAD_CLASS, 0x6e00),
		HAS(CTBCS_SW_BAD_ICC, 0x6f00), HAS(CTBCS_SW_SUCCESS, 0x9000),
		HAS(CTBCS_DATA_STATUS_NOCARD, 0), HAS(CTBCS_DATA_STATUS_CARD, 1),
		HAS(CTBCS_DATA_STATUS_CARD_CONNECT, 5),
	};

	for (size_t i = 0; i < sizeof table / sizeof table[0]; i++) {
		check_case(table[i].name);
		CHECK_INT(table[i].value, table[i].want);
	}
}

static void card_commands(struct fake_reader *r)
{
	unsigned int log;
	unsigned char dad = 0, sad = 2, rsp[8];
	unsigned short lenr = 8;

	check_case("the card in slot 0");
	log = atomic_load(&r->logged);
	CHECK_STR(command(1, 0, "00a40000023f00", 258), "00a40000023f009000");
	FAKE_LOG(r, &log, "2100c4000700a40000023f00");
	check_case("the card in slot 1 is slot 1's");
	CHECK_STR(command(1, 3, "00ca000000", 258), "00ca0000009000");
	FAKE_LOG(r, &log, "2101c4000500ca000000");
	check_case("health card");
	CHECK_STR(command(1, 0, "00a4040006d28000000101", 258), "9000");
	CHECK_INT(atomic_load(&r->logged), log);
	check_case("memory card");
	CHECK_STR(command(1, 1, "2011020000", 258), "9000");
	log = atomic_load(&r->logged);
	CHECK_STR(command(1, 3, "00b0012003", 258), "1122339000");
	FAKE_LOG(r, &log, "1601c500020120c7000103");
	CHECK_STR(command(1, 3, "00b0012000", 257), "!-1");
	check_case("memory card: its end");
	CHECK_STR(command(1, 3, "00b0012010", 258), "1122336282");
	CHECK_STR(command(1, 3, "00b0012000", 258), "1122339000");
	CHECK_STR(command(1, 3, "00b0020003", 258), "6b00");
	check_case("memory card: UPDATE BINARY");
	log = atomic_load(&r->logged);
	CHECK_STR(command(1, 3, "00d6012002aabb", 258), "9000");
	FAKE_LOG(r, &log, "1701c500020120c60002aabb");
	CHECK_STR(command(1, 3, "00d6012002aaff", 258), "6581");
	CHECK_STR(command(1, 3, "00d6012003aabb", 258), "6700");
	CHECK_STR(command(1, 3, "00d60120", 258), "6700");
	CHECK_STR(command(1, 3, "00d6012002aabb", 1), "!-1");
	check_case("memory card: SELECT FILE");
	log = atomic_load(&r->logged);
	CHECK_STR(command(1, 3, "00a40000023f00", 258), "9000");
	CHECK_STR(command(1, 3, "00a40000022f00", 258), "6a82");
	CHECK_STR(command(1, 3, "00a4040006d28000000101", 258), "9000");
	CHECK_INT(atomic_load(&r->logged), log);
	check_case("memory card: VERIFY is the daemon's");
	CHECK_STR(command(1, 3, "0020000003ffffff", 258), "0020000003ffffff9000");
	FAKE_LOG(r, &log, "2101c400080020000003ffffff");
	check_case("a memory card without an ATR");
	r->atr[1][0] = '\0';
	CHECK_STR(command(1, 1, "2011020100", 258), "9000");
	CHECK_STR(command(1, 3, "00b0012003", 258), "1122339000");
	check_case("an asynchronous card with an ATR of four bytes is none");
	strcpy(r->atr[1], "3b021450");
	CHECK_STR(command(1, 1, "2011020000", 258), "9000");
	CHECK_STR(command(1, 3, "00b0012003", 258), "00b00120039000");
	check_case("no card");
	strcpy(r->atr[0], "!-6");
	CHECK_STR(command(1, 1, "2012010100", 258), "!-1");
	strcpy(r->atr[0], "3b848131fe455249475083");
	check_case("response does not fit");
	CHECK_STR(command(1, 0, "00a40000", 5), "!-1");
	check_case("addresses");
	CHECK_STR(command(1, 2, "00a40000", 258), "!-1");
	CHECK_STR(command(1, 4, "00a40000", 258), "!-1");
	CHECK_STR(command(9, 0, "00a40000", 258), "!-1");
	check_case("null pointers");
	CHECK_INT(data(1, NULL, &sad, 4, rsp, &lenr, rsp), ERR_INVALID);
	CHECK_INT(data(1, &dad, NULL, 4, rsp, &lenr, rsp), ERR_INVALID);
	CHECK_INT(data(1, &dad, &sad, 4, NULL, &lenr, rsp), ERR_INVALID);
	CHECK_INT(data(1, &dad, &sad, 4, rsp, NULL, rsp), ERR_INVALID);
	CHECK_INT(data(1, &dad, &sad, 4, rsp, &lenr, NULL), ERR_INVALID);
}

static atomic_uint wrong;

static void *busy(void *arg)
{
	unsigned short ctn = (unsigned short)(size_t)arg;

	for (int i = 0; i < 200; i++) {
		unsigned char dad = 0, sad = 2, cmd[4] = { 0, 0x10, (unsigned char)ctn, (unsigned char)i }, rsp[16];
		unsigned short lenr = sizeof rsp;

		if (data(ctn, &dad, &sad, 4, cmd, &lenr, rsp) != OK || lenr != 6 || rsp[3] != i)
			atomic_fetch_add(&wrong, 1);
	}
	return NULL;
}

int main(void)
{
	struct fake_reader *r[2] = { fake_reader_new(), fake_reader_new() };
	pid_t server[2];
	pthread_t t[3];

	load();
	world_open();
	for (unsigned int i = 0; i < 2; i++) {
		world_reader(i, "Kaan", 2 - i);
		world_entries[i].ct_keypad = 1;
		world_entries[i].ct_card[0] = 1;
		server[i] = fake_reader_serve(i, r[i]);
	}
	check_case("init");
	CHECK_INT(init(1, 7), ERR_INVALID);
	CHECK_INT(init(1, 0), OK);
	CHECK_INT((signed char)init(2, 0), ERR_HTSI);
	terminal_commands(r[0]);
	seconds_in_both_dialects(r[0]);
	keypad_and_display(r[0]);
	user_waits(r[0]);
	constants();
	card_commands(r[0]);

	check_case("close gives the reader back");
	CHECK_INT(close_(1), OK);
	CHECK_INT(init(2, 0), OK);
	CHECK_INT(init(2, 1), OK); /* the newest of one number is meant */
	CHECK_STR(command(2, 1, "2013008100", 258), "810201509000");
	CHECK_STR(command(2, 1, "2013008000", 258), "059000"); /* one slot, one byte */
	CHECK_STR(command(2, 3, "00a40000", 258), "!-1");
	CHECK_INT(close_(2), OK);
	CHECK_INT(close_(2), OK);
	CHECK_STR(command(2, 1, "2013008100", 258), "!-1");

	check_case("threads");
	CHECK_INT(init(0, 0), OK);
	CHECK_INT(init(1, 1), OK);
	for (size_t i = 0; i < 3; i++)
		pthread_create(&t[i], NULL, busy, (void *)(i & 1));
	for (size_t i = 0; i < 3; i++)
		pthread_join(t[i], NULL);
	CHECK_INT(atomic_load(&wrong), 0);
	close_(0);
	close_(1);
	fake_end(server[0]);
	fake_end(server[1]);
	world_close();
	return check_result("ctapi");
}
