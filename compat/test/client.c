/* Every call, byte for byte, against a scripted server. The bytes are those of
 * internal/socket/PROTOCOL.md, and of recorded exchanges of C OpenCT. */
#include "check.h"
#include "fake.h"

#include <openct/openct.h>

#include <unistd.h>

static ct_handle *connect_or_die(void)
{
	ct_handle *h = ct_reader_connect(0);

	if (!h) {
		fprintf(stderr, "cannot connect to the fake reader\n");
		exit(3);
	}
	return h;
}

/* OpenSC's way through a card. */
static void opensc_session(void)
{
	static const struct exchange script[] = {
		{ "1000", "03043b021450" },
		{ "0100c2000101", "44000100" },
		{ "2100c4000700a40000023f00", "4500029000" },
		{ "020044000100", "" },
	};
	pid_t server = FAKE_SCRIPT(0, script);
	ct_handle *h = connect_or_die();
	unsigned char buf[258];
	ct_lock_handle lock = 77;
	int n;

	check_case("OpenSC's session");
	n = ct_card_request(h, 0, 0, NULL, buf, 33);
	CHECK_INT(n, 4);
	CHECK_HEX(buf, 4, "3b021450");
	CHECK_INT(ct_card_lock(h, 0, IFD_LOCK_EXCLUSIVE, &lock), 0);
	CHECK_INT(lock, 0);
	n = ct_card_transact(h, 0, "\x00\xa4\x00\x00\x02\x3f\x00", 7, buf, sizeof buf);
	CHECK_INT(n, 2);
	CHECK_HEX(buf, 2, "9000");
	CHECK_INT(ct_card_unlock(h, 0, lock), 0);
	ct_reader_disconnect(h);
	fake_end(server);
}

static void reset_variants(void)
{
	char prompt[300], want[600];
	struct exchange script[] = {
		{ "1000", "43000b3b848131fe455249475083" },
		{ "1001", "" },
		{ "1000c000011ec1000a706c65617365206e6f77", "03023b00" },
		{ "1000c0000401020304", "03023b00" },
		{ "1000", "03023b00" },
		{ want, "03023b00" },
		{ "1000", "!-6" },
		{ "1000", "030281003b" },
	};
	pid_t server;
	ct_handle *h;
	unsigned char atr[33];

	/* Servers keep 127 bytes of a prompt, so no more are sent. */
	memset(prompt, 'a', sizeof prompt);
	prompt[sizeof prompt - 1] = '\0';
	strcpy(want, "1000c1007f");
	for (int i = 0; i < 127; i++)
		strcat(want, "61");
	server = FAKE_SCRIPT(0, script);
	h = connect_or_die();

	check_case("ATR is cut to the buffer");
	CHECK_INT(ct_card_reset(h, 0, atr, 4), 4);
	CHECK_HEX(atr, 4, "3b848131");
	check_case("no ATR is success");
	CHECK_INT(ct_card_reset(h, 1, atr, sizeof atr), 0);
	check_case("timeout and prompt");
	CHECK_INT(ct_card_request(h, 0, 30, "please now", atr, sizeof atr), 2);
	check_case("long timeout");
	CHECK_INT(ct_card_request(h, 0, 0x01020304, NULL, NULL, 0), 0);
	check_case("empty prompt is left out");
	CHECK_INT(ct_card_request(h, 0, 0, "", atr, sizeof atr), 2);
	check_case("long prompt is cut");
	CHECK_INT(ct_card_request(h, 0, 0, prompt, atr, sizeof atr), 2);
	check_case("no card");
	CHECK_INT(ct_card_request(h, 0, 0, NULL, atr, sizeof atr), -6);
	check_case("malformed reply");
	CHECK_INT(ct_card_request(h, 0, 0, NULL, atr, sizeof atr), -1);
	ct_reader_disconnect(h);
	fake_end(server);
}

static void locks(void)
{
	static const struct exchange script[] = {
		{ "0100c2000100", "040101" },
		{ "0101c2000101", "4400040a0b0c0d" },
		{ "0100c2000107", "040102" },
		{ "0100c2000101", "!-7" },
		{ "0100c2000101", "" },
		{ "02014400040a0b0c0d", "" },
		{ "020044000101", "!-8" },
	};
	pid_t server = FAKE_SCRIPT(0, script);
	ct_handle *h = connect_or_die();
	ct_lock_handle lock;

	check_case("shared");
	CHECK_INT(ct_card_lock(h, 0, IFD_LOCK_SHARED, &lock), 0);
	CHECK_INT(lock, 1);
	check_case("slot 1, long handle");
	CHECK_INT(ct_card_lock(h, 1, IFD_LOCK_EXCLUSIVE, &lock), 0);
	CHECK_INT(lock, 0x0a0b0c0d);
	check_case("other types are the server's affair");
	CHECK_INT(ct_card_lock(h, 0, 7, &lock), 0);
	check_case("locked");
	CHECK_INT(ct_card_lock(h, 0, IFD_LOCK_EXCLUSIVE, &lock), -7);
	check_case("reply without handle");
	CHECK_INT(ct_card_lock(h, 0, IFD_LOCK_EXCLUSIVE, &lock), -1);
	check_case("unlock");
	CHECK_INT(ct_card_unlock(h, 1, 0x0a0b0c0d), 0);
	CHECK_INT(ct_card_unlock(h, 0, 1), -8);
	ct_reader_disconnect(h);
	fake_end(server);
}

static void transact(void)
{
	static char longest[2 * 4084 + 1], echo[2 * 4084 + 1];
	static unsigned char apdu[4200], resp[4200];
	struct exchange script[] = {
		{ "2100c40001aa", "45000401029000" },
		{ "2100c40001aa", "45000401029000" },
		{ "2100c40001aa", "45000111 0502 6a82" },
		{ "2100c40001aa", "8100 4500029000" },
		{ "2100c40001aa", "81020102 4500029000" },
		{ "2100c40001aa", "" },
		{ "2103c40001aa", "!-3" },
		{ longest, echo },
	};
	pid_t server;
	ct_handle *h;

	memset(apdu, 0x5a, sizeof apdu);
	strcpy(longest, "2100c40fef");
	for (int i = 0; i < 4079; i++)
		strcat(longest, "5a");
	strcpy(echo, "450ff1");
	for (int i = 0; i < 4081; i++)
		strcat(echo, "77");
	server = FAKE_SCRIPT(0, script);
	h = connect_or_die();

	check_case("buffer exactly large enough");
	CHECK_INT(ct_card_transact(h, 0, "\xaa", 1, resp, 4), 4);
	CHECK_HEX(resp, 4, "01029000");
	check_case("buffer too small: no half answer");
	memset(resp, 0xee, sizeof resp);
	CHECK_INT(ct_card_transact(h, 0, "\xaa", 1, resp, 3), -11);
	CHECK_HEX(resp, 4, "eeeeeeee");
	check_case("the last of two answers");
	CHECK_INT(ct_card_transact(h, 0, "\xaa", 1, resp, 2), 2);
	CHECK_HEX(resp, 2, "6a82");
	check_case("empty value is malformed");
	CHECK_INT(ct_card_transact(h, 0, "\xaa", 1, resp, 258), -1);
	check_case("unknown tag is passed over");
	CHECK_INT(ct_card_transact(h, 0, "\xaa", 1, resp, 258), 2);
	check_case("no answer in the reply");
	CHECK_INT(ct_card_transact(h, 0, "\xaa", 1, resp, 258), -1);
	check_case("slot 3");
	CHECK_INT(ct_card_transact(h, 3, "\xaa", 1, resp, 258), -3);
	check_case("longest APDU, longest response");
	CHECK_INT(ct_card_transact(h, 0, apdu, 4079, resp, sizeof resp), 4081);

	/* These never reach the server. */
	check_case("APDU too long");
	CHECK_INT(ct_card_transact(h, 0, apdu, 4080, resp, sizeof resp), -11);
	CHECK_INT(ct_card_transact(h, 0, apdu, 4092, resp, sizeof resp), -11);
	CHECK_INT(ct_card_transact(h, 0, apdu, (size_t)-1, resp, sizeof resp), -11);
	check_case("bad arguments");
	CHECK_INT(ct_card_transact(h, 0, apdu, 0, resp, sizeof resp), -9);
	CHECK_INT(ct_card_transact(h, 0, NULL, 4, resp, sizeof resp), -9);
	CHECK_INT(ct_card_transact(h, 0, apdu, 4, NULL, 2), -9);
	CHECK_INT(ct_card_transact(NULL, 0, apdu, 4, resp, 2), -9);
	CHECK_INT(ct_card_transact(h, 256, apdu, 4, resp, 2), -3);
	ct_reader_disconnect(h);
	fake_end(server);
}

static void verify(void)
{
	static const struct exchange script[] = {
		{ "1400c3000f01060020000108ffffffffffffffff", "45000263c2" },
		{ "1400c0000114c1000350494ec300064006002000 01", "05029000" },
		{ "1400c3000601060020 0001", "!-13" },
		{ "1400c3000601060020 0001", "4500049000 9000" },
	};
	struct exchange exact[sizeof script / sizeof script[0]];
	char wants[4][80];
	pid_t server;
	ct_handle *h;
	unsigned char resp[16];
	const char *apdu = "\x00\x20\x00\x01\x08\xff\xff\xff\xff\xff\xff\xff\xff";

	for (size_t i = 0; i < 4; i++) { /* without the blanks */
		char *w = wants[i];

		for (const char *s = script[i].want; *s; s++)
			if (*s != ' ')
				*w++ = *s;
		*w = '\0';
		exact[i] = (struct exchange){ wants[i], script[i].reply };
	}
	server = FAKE_SCRIPT(0, exact);
	h = connect_or_die();

	check_case("ASCII PIN, the card says no");
	CHECK_INT(ct_card_verify(h, 0, 0, NULL, IFD_PIN_ENCODING_ASCII, 0, 5, apdu, 13, resp, 2), 2);
	CHECK_HEX(resp, 2, "63c2");
	check_case("BCD, fixed length, prompt and timeout");
	CHECK_INT(ct_card_verify(h, 0, 20, "PIN", IFD_PIN_ENCODING_BCD, 4, 5, apdu, 4, resp, 2), 2);
	check_case("cancelled");
	CHECK_INT(ct_card_verify(h, 0, 0, "", IFD_PIN_ENCODING_ASCII, 0, 5, apdu, 4, resp, 2), -13);
	check_case("response does not fit");
	CHECK_INT(ct_card_verify(h, 0, 0, NULL, IFD_PIN_ENCODING_ASCII, 0, 5, apdu, 4, resp, 2), -11);

	check_case("bad arguments");
	CHECK_INT(ct_card_verify(h, 0, 0, NULL, 2, 0, 5, apdu, 4, resp, 2), -9);
	CHECK_INT(ct_card_verify(h, 0, 0, NULL, 1, 16, 5, apdu, 4, resp, 2), -9);
	CHECK_INT(ct_card_verify(h, 0, 0, NULL, 1, 0, 255, apdu, 4, resp, 2), -9);
	CHECK_INT(ct_card_verify(h, 0, 0, NULL, 1, 0, 5, NULL, 4, resp, 2), -9);
	CHECK_INT(ct_card_verify(h, 0, 0, NULL, 1, 0, 5, apdu, 513, resp, 2), -11);
	ct_reader_disconnect(h);
	fake_end(server);
}

static void memory_and_protocol(void)
{
	static const struct exchange script[] = {
		{ "1600c5000110c7000103", "c60003414243" },
		{ "1600c500020100c700020ff1", "860141" },
		{ "1600c5000100c7000102", "860441424344" },
		{ "1700c50002ffffc60002beef", "" },
		{ "2200c8000101", "" },
		{ "2200c80004ffffffff", "!-4" },
	};
	pid_t server = FAKE_SCRIPT(0, script);
	ct_handle *h = connect_or_die();
	unsigned char buf[8192];

	check_case("read");
	CHECK_INT(ct_card_read_memory(h, 0, 0x10, buf, 3), 3);
	CHECK_HEX(buf, 3, "414243");
	check_case("read more than a packet carries");
	CHECK_INT(ct_card_read_memory(h, 0, 0x100, buf, sizeof buf), 1);
	check_case("more than was asked for");
	CHECK_INT(ct_card_read_memory(h, 0, 0, buf, 2), -11);
	check_case("write");
	CHECK_INT(ct_card_write_memory(h, 0, 0xffff, "\xbe\xef", 2), 0);
	CHECK_INT(ct_card_write_memory(h, 0, 0, buf, sizeof buf), -11);
	check_case("protocol");
	CHECK_INT(ct_card_set_protocol(h, 0, 1), 0);
	CHECK_INT(ct_card_set_protocol(h, 0, 0xffffffff), -4);
	check_case("nothing to read or write");
	CHECK_INT(ct_card_read_memory(h, 0, 0, buf, 0), -9);
	CHECK_INT(ct_card_write_memory(h, 0, 0, buf, 0), -9);
	ct_reader_disconnect(h);
	fake_end(server);
}

/* Replies to other calls, late ones, are passed over. */
static void replies_match(void)
{
	static const struct exchange script[] = {
		{ "1000", "@efbeadde00000000000002009000"
			"00000000000000000000 0000"
			"xxxxxxxx000000000000040003023b00" },
	};
	pid_t server = FAKE_SCRIPT(0, script);
	ct_handle *h = connect_or_die();
	unsigned char atr[33];

	check_case("stray replies");
	CHECK_INT(ct_card_reset(h, 0, atr, sizeof atr), 2);
	CHECK_HEX(atr, 2, "3b00");
	ct_reader_disconnect(h);
	fake_end(server);
}

static void server_goes(void)
{
	static const struct exchange script[] = { { "1000", "close" }, { "1000", "03023b00" } };
	pid_t server = FAKE_SCRIPT(0, script);
	ct_handle *h = connect_or_die();
	unsigned char atr[33];

	check_case("closed while we wait");
	CHECK_INT(ct_card_reset(h, 0, atr, sizeof atr), -1);
	check_case("and later");
	CHECK_INT(ct_card_reset(h, 0, atr, sizeof atr), -103);
	CHECK_INT(ct_card_lock(h, 0, 1, &(ct_lock_handle){ 0 }), -103);
	ct_reader_disconnect(h);
	check_case("a new handle works");
	h = connect_or_die();
	CHECK_INT(ct_card_reset(h, 0, atr, sizeof atr), 2);
	ct_reader_disconnect(h);
	fake_end(server);

	check_case("gone while idle: no SIGPIPE, not connected");
	server = fake_script(0, NULL, 0);
	h = connect_or_die();
	fake_kill(server);
	CHECK_INT(ct_card_reset(h, 0, atr, sizeof atr), -103);
	ct_reader_disconnect(h);

	check_case("stale socket, no socket, no reader");
	CHECK(ct_reader_connect(0) == NULL);
	CHECK(ct_reader_connect(5) == NULL);
	CHECK(ct_reader_connect(16) == NULL);
	ct_reader_disconnect(NULL);
}

static void every_error_passes(void)
{
	static const int codes[] = { -1, -2, -3, -4, -5, -6, -7, -8, -9, -10, -11, -12, -13, -14,
		-15, -16, -17, -18, -100, -101, -102, -200 };
	enum { COUNT = sizeof codes / sizeof codes[0] };
	static char replies[COUNT][8];
	struct exchange script[COUNT];
	unsigned char atr[33];
	pid_t server;
	ct_handle *h;

	for (size_t i = 0; i < COUNT; i++) {
		sprintf(replies[i], "!%d", codes[i]);
		script[i] = (struct exchange){ "1000", replies[i] };
	}
	server = FAKE_SCRIPT(0, script);
	h = connect_or_die();
	for (size_t i = 0; i < COUNT; i++) {
		check_case(replies[i]);
		CHECK_INT(ct_card_reset(h, 0, atr, sizeof atr), codes[i]);
	}
	ct_reader_disconnect(h);
	fake_end(server);
}

int main(void)
{
	world_open();
	world_reader(0, "Virtual", 1);
	opensc_session();
	reset_variants();
	locks();
	transact();
	verify();
	memory_and_protocol();
	replies_match();
	server_goes();
	every_error_passes();
	world_close();
	return check_result("client");
}
