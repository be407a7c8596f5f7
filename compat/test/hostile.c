/* A server that means harm: each reply costs one clear error, and where the
 * conversation is beyond repair, the connection. */
#include "check.h"
#include "fake.h"

#include <openct/openct.h>

/* Headers: xid(4) dest(4) error(2) count(2), little endian as on the test's host. */
static const struct {
	const char *name;
	const char *reply;
	int want;  /* of ct_card_transact */
	int after; /* of the call after it, answered well */
} cases[] = {
	{ "nothing but a close", "close", -1, -103 },
	{ "payload longer than a packet", "@xxxxxxxx000000000000f50f", -1, -103 },
	{ "payload of 65535", "@xxxxxxxx000000000000ffff", -1, -103 },
	{ "positive error", "@xxxxxxxx0000000001000000", -1, -103 },
	{ "error with a payload", "@xxxxxxxx00000000f9ff03004500 01", -7, 2 },
	{ "lone byte", "45", -1, 2 },
	{ "large tag without its length", "4500", -1, 2 },
	{ "length 0", "0500", -1, 2 },
	{ "large length 0", "450000", -1, 2 },
	{ "length beyond the reply", "05039000", -1, 2 },
	{ "large length beyond the reply", "45ffff9000", -1, 2 },
	{ "good answer, then rubbish", "4500029000 05", -1, 2 },
	{ "tag 3f of 255 bytes missing", "3fff", -1, 2 },
	{ "only other tags", "0301ff 040100", -1, 2 },
	{ "answer larger than the buffer", "4500050102030490", -11, 2 },
};

static const struct { const char *name, *reply; int want; } lock_cases[] = {
	{ "handle of five bytes", "04050102030405", 0 },
	{ "no handle", "030100", -1 },
	{ "malformed", "0400", -1 },
};

int main(void)
{
	unsigned char resp[4];

	world_open();
	world_reader(0, "Virtual", 1);
	for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
		struct exchange script[] = {
			{ "2100c40001aa", cases[i].reply }, { "2100c40001bb", "4500029000" },
		};
		pid_t server = fake_script(0, script, cases[i].after < 0 ? 1 : 2);
		ct_handle *h = ct_reader_connect(0);

		check_case(cases[i].name);
		CHECK_INT(ct_card_transact(h, 0, "\xaa", 1, resp, sizeof resp), cases[i].want);
		CHECK_INT(ct_card_transact(h, 0, "\xbb", 1, resp, sizeof resp), cases[i].after);
		ct_reader_disconnect(h);
		fake_end(server);
	}
	for (size_t i = 0; i < sizeof lock_cases / sizeof lock_cases[0]; i++) {
		struct exchange script[] = { { "0100c2000101", lock_cases[i].reply } };
		pid_t server = FAKE_SCRIPT(0, script);
		ct_handle *h = ct_reader_connect(0);
		ct_lock_handle lock = 0;

		check_case(lock_cases[i].name);
		CHECK_INT(ct_card_lock(h, 0, 1, &lock), lock_cases[i].want);
		if (lock_cases[i].want == 0)
			CHECK_INT(lock, 0x02030405); /* the low 32 bits */
		ct_reader_disconnect(h);
		fake_end(server);
	}
	{
		/* Never ours, again and again: it must end. */
		static char flood[2 * 12 * 70 + 2] = "@";
		struct exchange script[] = { { "2100c40001aa", flood } };
		pid_t server;
		ct_handle *h;

		for (int i = 0; i < 70; i++)
			strcat(flood, "fefefefe0000000000000000");
		server = FAKE_SCRIPT(0, script);
		h = ct_reader_connect(0);
		check_case("only replies to others");
		CHECK_INT(ct_card_transact(h, 0, "\xaa", 1, resp, sizeof resp), -1);
		CHECK_INT(ct_card_transact(h, 0, "\xaa", 1, resp, sizeof resp), -103);
		ct_reader_disconnect(h);
		fake_end(server);
	}
	world_close();
	return check_result("hostile");
}
