/* The terminal's own files (C OpenCT: ctapi.c). */
#include "terminal.h"

#include <string.h>

enum {
	MF = CTFILE_MF,
	TERMINAL_INFO = 0x0020, /* empty */
	TERMINAL_DIR = 0x7f60,
	SLOT_DIR = 0x7f70,      /* and on, one for each slot */
	HOST = 0xff10,
	HOST_CONFIG = 0xff11,   /* empty */
};

static bool is_directory(const struct terminal *t, unsigned int id)
{
	return id == MF || id == TERMINAL_DIR || (id >= SLOT_DIR && id < SLOT_DIR + t->slots);
}

static unsigned int parent(const struct terminal *t, unsigned int id)
{
	if (id == TERMINAL_INFO || id == TERMINAL_DIR)
		return MF;
	if (id >= SLOT_DIR && id < SLOT_DIR + t->slots)
		return TERMINAL_DIR;
	return 0;
}

static size_t content(const struct terminal *t, unsigned int id, unsigned char out[CTFILE_MAX])
{
	static const unsigned char host[] = { 0x01, 6, 'O', 'p', 'e', 'n', 'C', 'T' };
	const unsigned int all[] = { TERMINAL_INFO, TERMINAL_DIR, SLOT_DIR, SLOT_DIR + 1 };
	size_t n = 0;

	if (id == HOST) {
		memcpy(out, host, sizeof host);
		return sizeof host;
	}
	if (!is_directory(t, id))
		return 0;
	for (size_t i = 0; i < sizeof all / sizeof all[0]; i++)
		if (parent(t, all[i]) == id) {
			const unsigned char entry[5] = {
				(unsigned char)(all[i] >> 8), (unsigned char)(all[i] & 0xff), 1, 0, 0,
			};

			memcpy(out + n, entry, sizeof entry);
			n += sizeof entry;
		}
	return n;
}

size_t ctfile_select(struct terminal *t, unsigned int id, unsigned char *out, unsigned int *sw)
{
	unsigned char data[CTFILE_MAX];
	size_t size;

	if (id != MF && id != HOST && id != HOST_CONFIG && parent(t, id) != t->directory) {
		*sw = 0x6a82;
		return 0;
	}
	t->file = id;
	if (is_directory(t, id))
		t->directory = id;
	size = content(t, id, data);
	memset(out, 0, 10);
	out[0] = out[2] = (unsigned char)(size >> 8);
	out[1] = out[3] = (unsigned char)(size & 0xff);
	out[4] = is_directory(t, id) ? 0x88 : 0x08;
	*sw = 0x9000;
	return 10;
}

size_t ctfile_read(const struct terminal *t, size_t offset, size_t len,
		unsigned char *out, unsigned int *sw)
{
	unsigned char data[CTFILE_MAX];
	size_t size = content(t, t->file, data);

	if (offset > size) {
		*sw = 0x6b00;
		return 0;
	}
	*sw = 0x9000;
	if (len > size - offset) {
		if (len != SIZE_MAX)
			*sw = 0x6282; /* the file ends before */
		len = size - offset;
	}
	memcpy(out, data + offset, len);
	return len;
}
