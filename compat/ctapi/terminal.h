/* A card terminal: one connection to one reader. */
#ifndef CTAPI_TERMINAL_H
#define CTAPI_TERMINAL_H

#include "internal.h"

enum { TERMINAL_SLOTS = 2 }; /* CT-API addresses two cards */

struct terminal {
	struct terminal *next;
	unsigned short ctn;
	unsigned int users;     /* calls inside, and one for the list */

	pthread_mutex_t busy;   /* one command at a time; guards the rest */
	ct_handle *h;
	unsigned int slots;     /* 1 to TERMINAL_SLOTS */
	bool synchronous[TERMINAL_SLOTS]; /* slot holds a memory card */
	unsigned int directory; /* selected among the terminal's own files */
	unsigned int file;
};

/* A CT-BCS command. Length of the response in rsp, or a negative OpenCT error
 * when there is none. */
int ctbcs_command(struct terminal *t, const unsigned char *cmd, size_t len,
		unsigned char *rsp, size_t size);

/* The terminal's own files: SELECT FILE and READ BINARY. They return the
 * length of the response data and set *sw. */
size_t ctfile_select(struct terminal *t, unsigned int id, unsigned char *out, unsigned int *sw);
size_t ctfile_read(const struct terminal *t, size_t offset, size_t len,
		unsigned char *out, unsigned int *sw);

enum {
	CTFILE_MF = 0x3f00,
	CTFILE_MAX = 64, /* no response of these two is longer */
};

#endif
