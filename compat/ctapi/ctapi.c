/* CT_init, CT_data and CT_close. */
#pragma GCC visibility push(default)
#include <openct/ctapi.h>
#pragma GCC visibility pop
#include "terminal.h"

#include <stdlib.h>
#include <string.h>

static pthread_mutex_t list_lock = PTHREAD_MUTEX_INITIALIZER;
static struct terminal *list; /* newest first: it wins where a ctn is used twice */

static void release(struct terminal *t)
{
	unsigned int left;

	pthread_mutex_lock(&list_lock);
	left = --t->users;
	pthread_mutex_unlock(&list_lock);
	if (left > 0)
		return;
	ct_reader_disconnect(t->h); /* and with it go the locks */
	pthread_mutex_destroy(&t->busy);
	free(t);
}

static struct terminal *acquire(unsigned short ctn)
{
	struct terminal *t;

	pthread_mutex_lock(&list_lock);
	for (t = list; t && t->ctn != ctn; t = t->next)
		;
	if (t)
		t->users++;
	pthread_mutex_unlock(&list_lock);
	return t;
}

/* Programs of CT-API expect to be alone with their cards. */
static bool lock_cards(const struct terminal *t)
{
	ct_lock_handle ignored;

	for (unsigned int slot = 0; slot < t->slots; slot++)
		if (ct_card_lock(t->h, slot, IFD_LOCK_EXCLUSIVE, &ignored) < 0)
			return false;
	return true;
}

char CT_init(unsigned short ctn, unsigned short pn)
{
	struct terminal *t;
	ct_info_t info;
	ct_handle *h = ct_reader_connect(pn);

	if (!h)
		return ERR_INVALID;
	t = calloc(1, sizeof *t);
	if (!t) {
		ct_reader_disconnect(h);
		return ERR_MEMORY;
	}
	t->ctn = ctn;
	t->h = h;
	t->users = 1;
	t->slots = 1;
	t->directory = t->file = CTFILE_MF;
	if (ct_reader_status(h, &info) == 0 && info.ct_slots > 1)
		t->slots = TERMINAL_SLOTS;
	pthread_mutex_init(&t->busy, NULL);
	if (!lock_cards(t)) {
		release(t);
		return (char)ERR_HTSI;
	}
	pthread_mutex_lock(&list_lock);
	t->next = list;
	list = t;
	pthread_mutex_unlock(&list_lock);
	return OK;
}

char CT_close(unsigned short ctn)
{
	struct terminal *closed = NULL;

	pthread_mutex_lock(&list_lock);
	for (struct terminal **p = &list; *p;) {
		struct terminal *t = *p;

		if (t->ctn != ctn) {
			p = &t->next;
			continue;
		}
		*p = t->next;
		t->next = closed;
		closed = t;
	}
	pthread_mutex_unlock(&list_lock);
	while (closed) {
		struct terminal *t = closed;

		closed = t->next;
		release(t);
	}
	return OK;
}

static size_t put_sw(unsigned char *rsp, size_t len, unsigned int sw)
{
	rsp[len] = (unsigned char)(sw >> 8);
	rsp[len + 1] = (unsigned char)(sw & 0xff);
	return len + 2;
}

/* Status words of ISO/IEC 7816-4, 5.6, for a memory card. */
enum {
	SW_SUCCESS = 0x9000,
	SW_END_REACHED = 0x6282,
	SW_MEMORY_FAILURE = 0x6581,
	SW_WRONG_LENGTH = 0x6700,
	SW_NO_FILE = 0x6a82,
	SW_WRONG_OFFSET = 0x6b00,
};

static int read_binary(struct terminal *t, unsigned int slot,
		const unsigned char *cmd, size_t len, unsigned char *rsp, size_t size)
{
	bool all = len < 5 || cmd[4] == 0; /* as many as there are, up to 256 */
	size_t want = all ? 256 : cmd[4];
	int n;

	if (size < want + 2)
		return IFD_ERROR_BUFFER_TOO_SMALL;
	n = ct_card_read_memory(t->h, slot, (unsigned short)(cmd[2] << 8 | cmd[3]), rsp, want);
	if (n == IFD_ERROR_INVALID_ARG)
		return (int)put_sw(rsp, 0, SW_WRONG_OFFSET);
	if (n < 0)
		return n;
	return (int)put_sw(rsp, (size_t)n, all || (size_t)n == want ? SW_SUCCESS : SW_END_REACHED);
}

static int update_binary(struct terminal *t, unsigned int slot,
		const unsigned char *cmd, size_t len, unsigned char *rsp, size_t size)
{
	int n;

	if (size < 2)
		return IFD_ERROR_BUFFER_TOO_SMALL;
	if (len < 6 || cmd[4] == 0 || len != 5 + (size_t)cmd[4])
		return (int)put_sw(rsp, 0, SW_WRONG_LENGTH);
	n = ct_card_write_memory(t->h, slot, (unsigned short)(cmd[2] << 8 | cmd[3]), cmd + 5, cmd[4]);
	switch (n) {
	case IFD_ERROR_INVALID_ARG:
		return (int)put_sw(rsp, 0, SW_WRONG_OFFSET);
	case IFD_ERROR_GENERIC: /* the card does not keep what is written */
		return (int)put_sw(rsp, 0, SW_MEMORY_FAILURE);
	}
	return n < 0 ? n : (int)put_sw(rsp, 0, SW_SUCCESS);
}

/* A memory card has no files: the one that can be selected is the whole. */
static int select_file(const unsigned char *cmd, size_t len, unsigned char *rsp, size_t size)
{
	bool mf = len == 4 || (len >= 7 && cmd[4] == 2 && cmd[5] == 0x3f && cmd[6] == 0x00);

	if (size < 2)
		return IFD_ERROR_BUFFER_TOO_SMALL;
	return (int)put_sw(rsp, 0, mf ? SW_SUCCESS : SW_NO_FILE);
}

/* Commands for a memory card are the terminal's affair; VERIFY, which presents
 * its PSC, is the daemon's. */
static int memory_command(struct terminal *t, unsigned int slot,
		const unsigned char *cmd, size_t len, unsigned char *rsp, size_t size)
{
	if (len >= 4 && cmd[0] == 0x00) {
		switch (cmd[1]) {
		case 0xa4:
			return select_file(cmd, len, rsp, size);
		case 0xb0:
			return read_binary(t, slot, cmd, len, rsp, size);
		case 0xd6:
			return update_binary(t, slot, cmd, len, rsp, size);
		}
	}
	return ct_card_transact(t->h, slot, cmd, len, rsp, size);
}

static int card_command(struct terminal *t, unsigned int slot,
		const unsigned char *cmd, size_t len, unsigned char *rsp, size_t size)
{
	/* Selects the health card's application, which every card is said to
	 * have (C OpenCT: ctapi.c). */
	static const unsigned char select_health_card[] = {
		0x00, 0xa4, 0x04, 0x00, 0x06, 0xd2, 0x80, 0x00, 0x00, 0x01, 0x01,
	};

	if (slot >= t->slots)
		return IFD_ERROR_INVALID_SLOT;
	if (len == sizeof select_health_card && memcmp(cmd, select_health_card, len) == 0)
		return size < 2 ? IFD_ERROR_BUFFER_TOO_SMALL : (int)put_sw(rsp, 0, 0x9000);
	if (t->synchronous[slot])
		return memory_command(t, slot, cmd, len, rsp, size);
	return ct_card_transact(t->h, slot, cmd, len, rsp, size);
}

char CT_data(unsigned short ctn, unsigned char *dad, unsigned char *sad,
		unsigned short lenc, unsigned char *cmd,
		unsigned short *lenr, unsigned char *rsp)
{
	struct terminal *t;
	int rc;

	if (!dad || !sad || !lenr || !rsp || !cmd)
		return ERR_INVALID;
	t = acquire(ctn);
	if (!t)
		return ERR_INVALID;
	pthread_mutex_lock(&t->busy);
	switch (*dad) {
	case 0:
		rc = card_command(t, 0, cmd, lenc, rsp, *lenr);
		break;
	case 1:
		rc = ctbcs_command(t, cmd, lenc, rsp, *lenr);
		break;
	case 3:
		rc = card_command(t, 1, cmd, lenc, rsp, *lenr);
		break;
	default:
		rc = IFD_ERROR_INVALID_ARG;
	}
	pthread_mutex_unlock(&t->busy);
	release(t);
	if (rc < 0)
		return ERR_INVALID;
	*lenr = (unsigned short)rc;
	return OK;
}
