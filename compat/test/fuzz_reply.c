/* A hostile server: the input is which call is made, and all bytes the server
 * ever sends. Packets whose xid is fefefefe get the call's own. */
#include "fuzz.h"

/* The handle's insides, for its connection and for the xid to come. */
#include "../libopenct/handle.c"

#include <stdlib.h>

const int fuzz_seeds_are_text = 0;

const struct fuzz_seed fuzz_seeds[] = {
	{ "ATR", "00 fefefefe00000000 0000 0600 03043b021450" },
	{ "lock", "01 fefefefe00000000 0000 0400 44000100" },
	{ "response", "02 fefefefe00000000 0000 0500 4500029000" },
	{ "PIN", "03 fefefefe00000000 0000 0500 45000263c2" },
	{ "memory", "04 fefefefe00000000 0000 0600 c60003414243" },
	{ "empty", "05 fefefefe00000000 0000 0000" },
	{ "error", "02 fefefefe00000000 f9ff 0000" },
	{ "stray, then ours", "02 0102030400000000 0000 0200 9000 fefefefe00000000 0000 0500 4500029000" },
	{ "two answers", "02 fefefefe00000000 0000 0900 4500029000 05026a82" },
	{ "too long", "02 fefefefe00000000 0000 f50f 45" },
	{ NULL, NULL },
};

static void patch_xids(uint8_t *b, size_t n)
{
	static const uint8_t ours[4] = { 0xfe, 0xfe, 0xfe, 0xfe };
	uint32_t xid = atomic_load(&last_xid) + 1;
	size_t at = 0;

	while (n - at >= OCT_HEADER) {
		uint16_t count;

		if (memcmp(b + at, ours, sizeof ours) == 0)
			memcpy(b + at, &xid, sizeof xid);
		memcpy(&count, b + at + 10, sizeof count);
		if (n - at - OCT_HEADER < count)
			return;
		at += OCT_HEADER + count;
	}
}

/* What a call may return at all; anything else is a fault of ours. */
static void expect(int rc, int most)
{
	if (rc > most || rc < -32768)
		abort();
}

static void call(ct_handle *h, unsigned int which)
{
	unsigned char buf[64] = { 0 };
	unsigned char guard = buf[63] = 0x5a;
	ct_lock_handle lock;

	switch (which % 6) {
	case 0:
		expect(ct_card_request(h, 0, 5, "card", buf, 33), 33);
		break;
	case 1:
		expect(ct_card_lock(h, 0, 1, &lock), 0);
		break;
	case 2:
		expect(ct_card_transact(h, 0, "\x00\xa4\x00\x00", 4, buf, 63), 63);
		break;
	case 3:
		expect(ct_card_verify(h, 0, 5, "PIN", 1, 0, 5, "\x00\x20\x00\x01", 4, buf, 2), 2);
		break;
	case 4:
		expect(ct_card_read_memory(h, 0, 7, buf, 63), 63);
		break;
	default:
		expect(ct_card_set_protocol(h, 0, 1), 0);
	}
	if (buf[63] != guard)
		abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct ct_handle h = { .fd = -1 };
	uint8_t *stream;
	int pair[2];

	if (size < 1 || size > FUZZ_MAX || socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0)
		return 0;
	stream = malloc(size);
	if (!stream)
		abort();
	memcpy(stream, data + 1, size - 1);
	patch_xids(stream, size - 1);
	if (send(pair[1], stream, size - 1, MSG_NOSIGNAL | MSG_DONTWAIT) != (ssize_t)size - 1)
		abort();
	free(stream);
	shutdown(pair[1], SHUT_WR);
	h.fd = pair[0];
	pthread_mutex_init(&h.lock, NULL);
	call(&h, data[0]);
	call(&h, data[0] / 6u); /* what is left of the stream, or a broken connection */
	pthread_mutex_destroy(&h.lock);
	close(pair[0]);
	close(pair[1]);
	return 0;
}
