/* CT-BCS: commands for the terminal itself (MKT, part 4: CT-BCS; the set is that of C OpenCT, ctapi.c). */
#include "terminal.h"

#include <openct/ctapi.h>

#include <string.h>

/* A command taken apart. */
struct command {
	unsigned char cla, ins, p1, p2;
	const unsigned char *data;
	size_t lc;
	size_t le; /* SIZE_MAX: as much as there is */
};

/* A response being made. */
struct response {
	unsigned char data[256];
	size_t len;
};

/* ISO 7816-4 short commands, cases 1 to 4. */
static bool parse_command(struct command *c, const unsigned char *cmd, size_t len)
{
	memset(c, 0, sizeof *c);
	c->le = SIZE_MAX;
	if (len < 4)
		return false;
	c->cla = cmd[0];
	c->ins = cmd[1];
	c->p1 = cmd[2];
	c->p2 = cmd[3];
	if (len == 4)
		return true;
	if (len == 5) {
		c->le = cmd[4] ? cmd[4] : SIZE_MAX;
		return true;
	}
	c->lc = cmd[4];
	c->data = cmd + 5;
	if (c->lc == 0 || len < 5 + c->lc || len > 6 + c->lc)
		return false;
	if (len == 6 + c->lc && cmd[len - 1])
		c->le = cmd[len - 1];
	return true;
}

/* Next data object of tag, length, value, with lengths up to 127. */
static bool next_object(const unsigned char **p, const unsigned char *end,
		unsigned char *tag, const unsigned char **value, size_t *len)
{
	if (end - *p < 2 || (*p)[1] > 127 || end - *p - 2 < (*p)[1])
		return false;
	*tag = (*p)[0];
	*len = (*p)[1];
	*value = *p + 2;
	*p += 2 + *len;
	return true;
}

/* Functional unit 1 is the first card, 2 the second; 0, the terminal, gives
 * true with *slot out of range. */
static bool parse_unit(const struct terminal *t, unsigned char p1, unsigned int *slot)
{
	*slot = (unsigned int)p1 - 1;
	return p1 <= t->slots;
}

/* The user: how long to wait for him, in seconds, what to tell him, and for the
 * verifications the command to perform, which points into the command. */
struct user {
	unsigned int timeout;
	char prompt[OCT_MESSAGE_MAX + 1];
	const unsigned char *perform;
	size_t perform_len;
};

/* Data objects 80 seconds, 50 prompt, 52 command to perform; others are passed
 * over. Of several prompts the first counts: a reader is told one. False: they
 * are malformed. */
static bool parse_user(const struct command *c, struct user *u)
{
	const unsigned char *p = c->data, *end = p ? p + c->lc : p, *value;
	bool prompted = false;
	unsigned char tag;
	size_t len;

	memset(u, 0, sizeof *u);
	while (p != end) {
		if (!next_object(&p, end, &tag, &value, &len))
			return false;
		if (tag == CTBCS_TAG_TIMEOUT) {
			if (len != 1)
				return false;
			u->timeout = value[0];
		} else if (tag == CTBCS_TAG_PROMPT && !prompted) {
			memcpy(u->prompt, value, len);
			prompted = true;
		} else if (tag == CTBCS_TAG_VERIFY_CMD) {
			u->perform = value;
			u->perform_len = len;
		}
	}
	return true;
}

/* REQUEST ICC and EJECT ICC have two dialects: data objects, and one byte, the
 * seconds. */
static bool parse_wait(const struct command *c, struct user *u)
{
	if (c->lc != 1)
		return parse_user(c, u);
	memset(u, 0, sizeof *u);
	u->timeout = c->data[0];
	return true;
}

/* A user who had some time and did nothing is a warning; any other error is
 * CT_data's. */
static unsigned int waited(const struct user *u, int rc, int *error)
{
	if (u->timeout && (rc == IFD_ERROR_NO_CARD || rc == IFD_ERROR_USER_TIMEOUT))
		return CTBCS_SW_NOT_IN_TIME;
	if (rc < 0)
		*error = rc;
	return CTBCS_SW_SUCCESS;
}

static unsigned int reset_unit(struct terminal *t, const struct command *c,
		const struct user *u, struct response *r, int *error)
{
	unsigned char atr[64];
	unsigned int slot;
	int n;

	if (!parse_unit(t, c->p1, &slot) || (c->p2 & 0x0f) > 1)
		return CTBCS_SW_BAD_PARAMS;
	if (c->p1 == 0)
		return CTBCS_SW_SUCCESS;
	n = ct_card_request(t->h, slot, u->timeout, u->prompt, atr, sizeof atr);
	if (n < 0)
		return waited(u, n, error);
	/* An asynchronous card starts with 3B or 3F; a memory card has four
	 * bytes that do not, and an I2C card none. */
	t->synchronous[slot] = n == 0 || (n == 4 && atr[0] != 0x3b && atr[0] != 0x3f);
	if ((c->p2 & 0x0f) == 1) {
		memcpy(r->data, atr, (size_t)n);
		r->len = (size_t)n;
	}
	return CTBCS_SW_SUCCESS;
}

static void user_request(struct oct_request *r, unsigned char cmd, unsigned int unit,
		const struct user *u)
{
	oct_request_init(r, cmd, unit);
	if (u->timeout)
		oct_put_int(r, CT_TAG_TIMEOUT, u->timeout);
	oct_put_bytes(r, CT_TAG_MESSAGE, u->prompt, strlen(u->prompt));
}

static unsigned int request_icc(struct terminal *t, const struct command *c,
		struct response *r, int *error)
{
	unsigned int mode = c->p2 >> 4;
	struct user u;

	if (mode != 0x0 && mode != 0xf) /* message given or the reader's, none */
		return CTBCS_SW_BAD_PARAMS;
	if (!parse_wait(c, &u))
		return CTBCS_SW_BAD_LENGTH;
	if (mode == 0xf)
		u.prompt[0] = '\0';
	return reset_unit(t, c, &u, r, error);
}

/* P2 81 asks for the functional units, 46 for the maker, anything else for
 * the cards: one byte for each slot. */
static unsigned int status(struct terminal *t, const struct command *c, struct response *r)
{
	static const char maker[] = "OpenCT";
	ct_info_t info;

	if (ct_reader_status(t->h, &info) < 0)
		return CTBCS_SW_BAD_ICC;
	if (c->p2 == 0x81) {
		r->data[0] = 0x81;
		r->len = 2;
		for (unsigned int slot = 0; slot < t->slots; slot++)
			r->data[r->len++] = (unsigned char)(slot + 1);
		if (info.ct_display)
			r->data[r->len++] = 0x40;
		if (info.ct_keypad)
			r->data[r->len++] = 0x50;
		r->data[1] = (unsigned char)(r->len - 2);
	} else if (c->p2 == 0x46) {
		r->data[0] = 0x46;
		r->data[1] = sizeof maker - 1;
		memcpy(r->data + 2, maker, sizeof maker - 1);
		r->len = 2 + sizeof maker - 1;
	} else {
		for (unsigned int slot = 0; slot < t->slots; slot++)
			r->data[r->len++] = info.ct_card[slot] ? 0x05 : 0x00;
	}
	return CTBCS_SW_SUCCESS;
}

static unsigned int eject(struct terminal *t, const struct command *c, int *error)
{
	struct oct_request request;
	struct oct_reply reply;
	unsigned int slot;
	struct user u;

	if (c->p1 == 0 || !parse_unit(t, c->p1, &slot))
		return CTBCS_SW_BAD_PARAMS;
	if (!parse_wait(c, &u))
		return CTBCS_SW_BAD_LENGTH;
	user_request(&request, CT_CMD_EJECT_ICC, slot, &u);
	return waited(&u, oct_call(t->h, &request, &reply), error);
}

/* The display shows a text, none clears it. The reader's unit is named, for C
 * OpenCT's handlers refuse the display's. */
static unsigned int output(struct terminal *t, const struct command *c, int *error)
{
	struct oct_request request;
	struct oct_reply reply;
	struct user u;
	ct_info_t info;

	if (ct_reader_status(t->h, &info) < 0 || !info.ct_display ||
			c->p1 != CTBCS_UNIT_DISPLAY || c->p2 != 0)
		return CTBCS_SW_BAD_PARAMS;
	if (!parse_user(c, &u))
		return CTBCS_SW_BAD_LENGTH;
	u.timeout = 0; /* the text stays */
	user_request(&request, CT_CMD_OUTPUT, CT_UNIT_READER, &u);
	*error = oct_call(t->h, &request, &reply);
	return CTBCS_SW_SUCCESS;
}

/* What the user did at the keypad, other than enter a PIN. */
static unsigned int keypad_error(int rc, int *error)
{
	switch (rc) {
	case IFD_ERROR_USER_TIMEOUT:
		return CTBCS_SW_NO_INPUT;
	case IFD_ERROR_USER_ABORT:
		return CTBCS_SW_CANCELLED;
	case IFD_ERROR_PIN_MISMATCH:
		return CTBCS_SW_PIN_MISMATCH;
	case IFD_ERROR_NOT_SUPPORTED:
	case IFD_ERROR_INVALID_CMD: /* C OpenCT's handlers, of CHANGE_PIN */
		return CTBCS_SW_BAD_INS;
	case IFD_ERROR_INVALID_ARG:
		return CTBCS_SW_NOT_SUPPORTED;
	}
	*error = rc;
	return 0;
}

/* PERFORM and MODIFY VERIFICATION. The command to perform is what PIN_DATA is
 * (internal/socket/PROTOCOL.md): control byte, places of the PINs, command. */
static unsigned int verification(struct terminal *t, const struct command *c,
		unsigned char cmd, size_t places, struct response *r, int *error)
{
	unsigned char response[sizeof r->data + 2];
	struct oct_request request;
	unsigned int slot;
	ct_info_t info;
	struct user u;
	int n;

	if (ct_reader_status(t->h, &info) < 0 || !info.ct_keypad)
		return CTBCS_SW_BAD_INS;
	if (c->p1 == 0 || !parse_unit(t, c->p1, &slot) || c->p2 != 0)
		return CTBCS_SW_BAD_PARAMS;
	if (!parse_user(c, &u))
		return CTBCS_SW_BAD_LENGTH;
	if (!u.perform)
		return CTBCS_SW_INVALID_TLV;
	if (u.perform_len < 1 + places + 4) /* CLA INS P1 P2 */
		return CTBCS_SW_BAD_LENGTH;
	user_request(&request, cmd, slot, &u);
	oct_put_bytes(&request, CT_TAG_PIN_DATA, u.perform, u.perform_len);
	n = oct_call_bytes(t->h, &request, CT_TAG_CARD_RESPONSE, response, sizeof response);
	if (n < 0)
		return keypad_error(n, error);
	if (n < 2) {
		*error = IFD_ERROR_COMM_ERROR;
		return 0;
	}
	r->len = (size_t)n - 2;
	memcpy(r->data, response, r->len);
	return (unsigned int)response[n - 2] << 8 | response[n - 1];
}

/* Data object 22 names the protocol: 01 is T=0, 02 is T=1. */
static unsigned int set_parameter(struct terminal *t, const struct command *c)
{
	const unsigned char *p = c->data, *end = p ? p + c->lc : p, *value;
	unsigned int slot, protocol = 0;
	bool given = false;
	unsigned char tag;
	size_t len;

	if (c->p1 == 0 || !parse_unit(t, c->p1, &slot) || c->p2 != 0)
		return CTBCS_SW_BAD_PARAMS;
	while (p != end) {
		if (!next_object(&p, end, &tag, &value, &len))
			return CTBCS_SW_BAD_LENGTH;
		if (tag == 0x45)
			return CTBCS_SW_BAD_PARAMS;
		if (tag != 0x22)
			return CTBCS_SW_INVALID_TLV;
		if (len != 1)
			return CTBCS_SW_BAD_LENGTH;
		if (value[0] >= 0x80 && value[0] <= 0x83)
			return CTBCS_SW_NOT_SUPPORTED;
		if (value[0] != 1 && value[0] != 2)
			return CTBCS_SW_BAD_PARAMS;
		protocol = value[0] - 1u;
		given = true;
	}
	if (!given)
		return CTBCS_SW_BAD_PARAMS;
	return ct_card_set_protocol(t->h, slot, protocol) < 0 ? CTBCS_SW_NOT_EXECUTABLE : CTBCS_SW_SUCCESS;
}

static unsigned int control_command(struct terminal *t, const struct command *c,
		size_t len, struct response *r, int *error)
{
	static const struct user nobody;

	switch (c->ins) {
	case 0x10: /* RESET, as B1 readers have it */
		return len != 5 ? CTBCS_SW_BAD_LENGTH : reset_unit(t, c, &nobody, r, error);
	case 0x11: /* RESET CT */
		if (len > 5)
			return CTBCS_SW_BAD_LENGTH;
		if (len == 5 && c->le != SIZE_MAX)
			return CTBCS_SW_BAD_LE;
		return reset_unit(t, c, &nobody, r, error);
	case 0x12:
		return request_icc(t, c, r, error);
	case 0x13:
		return status(t, c, r);
	case 0x15:
		return eject(t, c, error);
	case 0x17:
		return output(t, c, error);
	case 0x18:
		return verification(t, c, CT_CMD_PERFORM_VERIFY, 1, r, error);
	case 0x19:
		return verification(t, c, CT_CMD_CHANGE_PIN, 2, r, error);
	default:
		return CTBCS_SW_BAD_INS;
	}
}

static unsigned int file_command(struct terminal *t, const struct command *c, struct response *r)
{
	unsigned int sw;

	switch (c->ins) {
	case 0xa4:
		if (c->lc != 2)
			return CTBCS_SW_BAD_CLASS;
		r->len = ctfile_select(t, (unsigned int)c->data[0] << 8 | c->data[1], r->data, &sw);
		return sw;
	case 0xb0:
		r->len = ctfile_read(t, (size_t)c->p1 << 8 | c->p2, c->le, r->data, &sw);
		return sw;
	default:
		return CTBCS_SW_BAD_INS;
	}
}

int ctbcs_command(struct terminal *t, const unsigned char *cmd, size_t len,
		unsigned char *rsp, size_t size)
{
	struct response r = { .len = 0 };
	struct command c;
	unsigned int sw;
	int error = 0;

	if (size < 2)
		return IFD_ERROR_BUFFER_TOO_SMALL;
	if (!parse_command(&c, cmd, len))
		sw = CTBCS_SW_BAD_LENGTH;
	else if (c.cla == 0x20)
		sw = control_command(t, &c, len, &r, &error);
	else if (c.cla == 0x80)
		sw = c.ins == 0x60 ? set_parameter(t, &c) : CTBCS_SW_BAD_CLASS;
	else if (c.cla == 0x00)
		sw = file_command(t, &c, &r);
	else
		sw = CTBCS_SW_BAD_CLASS;
	if (error < 0)
		return error;
	if (r.len > size - 2 || r.len > c.le) {
		sw = CTBCS_SW_BAD_LENGTH;
		r.len = 0;
	}
	memcpy(rsp, r.data, r.len);
	rsp[r.len] = (unsigned char)(sw >> 8);
	rsp[r.len + 1] = (unsigned char)(sw & 0xff);
	return (int)r.len + 2;
}
