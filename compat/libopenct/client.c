/* The public calls: each is one request and one reply
 * (internal/socket/PROTOCOL.md, Commands). */
#include "internal.h"

#include <limits.h>
#include <string.h>

/* Units are one byte on the wire. */
static bool unit_ok(unsigned int slot)
{
	return slot <= UCHAR_MAX;
}

static int call_empty(ct_handle *h, struct oct_request *r)
{
	struct oct_reply reply;

	return oct_call(h, r, &reply);
}

int oct_call_bytes(ct_handle *h, struct oct_request *r, unsigned char tag,
		void *out, size_t size)
{
	struct oct_reply reply;
	int rc = oct_call(h, r, &reply);

	if (rc == 0)
		rc = oct_reply_bytes(&reply, tag, out, size);
	explicit_bzero(reply.payload, reply.len);
	return rc;
}

/* What the user is told meanwhile. An empty text has no place in a TLV. */
static void put_prompt(struct oct_request *r, unsigned int timeout, const char *message)
{
	if (timeout)
		oct_put_int(r, CT_TAG_TIMEOUT, timeout);
	if (message)
		oct_put_bytes(r, CT_TAG_MESSAGE, message, strnlen(message, OCT_MESSAGE_MAX));
}

int ct_reader_status(ct_handle *h, ct_info_t *out)
{
	if (!h || !out)
		return IFD_ERROR_INVALID_ARG;
	oct_handle_entry(h, out);
	return 0;
}

/* Slot number ct_slots is let through, and shows no card: CT-API libraries of
 * old ask for slot 1 of a one-slot reader (C OpenCT's ctapi.c, STATUS). */
int ct_card_status(ct_handle *h, unsigned int slot, int *status)
{
	ct_info_t info;
	unsigned int now, before;

	if (!h || !status || slot >= OPENCT_MAX_SLOTS)
		return IFD_ERROR_INVALID_ARG;
	oct_handle_entry(h, &info);
	if (slot > info.ct_slots)
		return IFD_ERROR_INVALID_ARG;
	now = info.ct_card[slot];
	before = atomic_exchange(&h->seen[slot], now);
	*status = 0;
	if (now != 0)
		*status = now == before ? IFD_CARD_PRESENT
			: IFD_CARD_PRESENT | IFD_CARD_STATUS_CHANGED;
	return 0;
}

int ct_card_set_protocol(ct_handle *h, unsigned int slot, unsigned int protocol)
{
	struct oct_request r;

	if (!unit_ok(slot))
		return IFD_ERROR_INVALID_SLOT;
	oct_request_init(&r, CT_CMD_SET_PROTOCOL, slot);
	oct_put_int(&r, CT_TAG_PROTOCOL, protocol);
	return call_empty(h, &r);
}

int ct_card_reset(ct_handle *h, unsigned int slot, void *atr, size_t len)
{
	return ct_card_request(h, slot, 0, NULL, atr, len);
}

int ct_card_request(ct_handle *h, unsigned int slot, unsigned int timeout,
		const char *message, void *atr, size_t len)
{
	struct oct_request r;
	struct oct_reply reply;
	const unsigned char *value;
	size_t n;
	int rc;

	if (!unit_ok(slot))
		return IFD_ERROR_INVALID_SLOT;
	if (!atr && len)
		return IFD_ERROR_INVALID_ARG;
	oct_request_init(&r, CT_CMD_RESET, slot);
	put_prompt(&r, timeout, message);
	rc = oct_call(h, &r, &reply);
	if (rc < 0)
		return rc;
	rc = oct_tlv_find(reply.payload, reply.len, CT_TAG_ATR, &value, &n);
	if (rc <= 0)
		return rc; /* malformed, or a card that has no ATR */
	if (n > len)
		n = len;
	if (n)
		memcpy(atr, value, n);
	return (int)n;
}

int ct_card_lock(ct_handle *h, unsigned int slot, int type, ct_lock_handle *out)
{
	struct oct_request r;
	struct oct_reply reply;
	unsigned int handle;
	int rc;

	if (!unit_ok(slot))
		return IFD_ERROR_INVALID_SLOT;
	if (!out)
		return IFD_ERROR_INVALID_ARG;
	oct_request_init(&r, CT_CMD_LOCK, slot);
	oct_put_int(&r, CT_TAG_LOCKTYPE, (unsigned int)type);
	rc = oct_call(h, &r, &reply);
	if (rc < 0)
		return rc;
	if (!oct_reply_int(&reply, CT_TAG_LOCK, &handle))
		return IFD_ERROR_GENERIC;
	*out = handle;
	return 0;
}

int ct_card_unlock(ct_handle *h, unsigned int slot, ct_lock_handle lock)
{
	struct oct_request r;

	if (!unit_ok(slot))
		return IFD_ERROR_INVALID_SLOT;
	oct_request_init(&r, CT_CMD_UNLOCK, slot);
	oct_put_int(&r, CT_TAG_LOCK, lock);
	return call_empty(h, &r);
}

int ct_card_transact(ct_handle *h, unsigned int slot,
		const void *apdu, size_t apdu_len, void *resp, size_t resp_len)
{
	struct oct_request r;

	if (!unit_ok(slot))
		return IFD_ERROR_INVALID_SLOT;
	if (!apdu || apdu_len == 0 || (!resp && resp_len))
		return IFD_ERROR_INVALID_ARG;
	oct_request_init(&r, CT_CMD_TRANSACT, slot);
	oct_put_bytes(&r, CT_TAG_CARD_REQUEST, apdu, apdu_len);
	return oct_call_bytes(h, &r, CT_TAG_CARD_RESPONSE, resp, resp_len);
}

/* PIN_DATA: control, place of the PIN counted from 1, APDU
 * (internal/socket/PROTOCOL.md, PERFORM_VERIFY). */
int ct_card_verify(ct_handle *h, unsigned int slot, unsigned int timeout,
		const char *prompt, unsigned int pin_encoding,
		unsigned int pin_length, unsigned int pin_offset,
		const void *apdu, size_t apdu_len, void *resp, size_t resp_len)
{
	struct oct_request r;
	unsigned char data[2 + 512];

	if (!unit_ok(slot))
		return IFD_ERROR_INVALID_SLOT;
	if (pin_encoding != IFD_PIN_ENCODING_BCD && pin_encoding != IFD_PIN_ENCODING_ASCII)
		return IFD_ERROR_INVALID_ARG;
	if (pin_length > 15 || pin_offset > 254 || !apdu || apdu_len == 0 || (!resp && resp_len))
		return IFD_ERROR_INVALID_ARG;
	if (apdu_len > sizeof data - 2)
		return IFD_ERROR_BUFFER_TOO_SMALL;
	data[0] = (unsigned char)(pin_length << 4 | (pin_encoding == IFD_PIN_ENCODING_ASCII));
	data[1] = (unsigned char)(pin_offset + 1);
	memcpy(data + 2, apdu, apdu_len);

	oct_request_init(&r, CT_CMD_PERFORM_VERIFY, slot);
	put_prompt(&r, timeout, prompt);
	oct_put_bytes(&r, CT_TAG_PIN_DATA, data, 2 + apdu_len);
	return oct_call_bytes(h, &r, CT_TAG_CARD_RESPONSE, resp, resp_len);
}

int ct_card_read_memory(ct_handle *h, unsigned int slot, unsigned short address,
		void *data, size_t len)
{
	struct oct_request r;

	if (!unit_ok(slot))
		return IFD_ERROR_INVALID_SLOT;
	if (!data || len == 0)
		return IFD_ERROR_INVALID_ARG;
	if (len > OCT_RESPONSE_MAX)
		len = OCT_RESPONSE_MAX;
	oct_request_init(&r, CT_CMD_MEMORY_READ, slot);
	oct_put_int(&r, CT_TAG_ADDRESS, address);
	oct_put_int(&r, CT_TAG_COUNT, (unsigned int)len);
	return oct_call_bytes(h, &r, CT_TAG_DATA, data, len);
}

int ct_card_write_memory(ct_handle *h, unsigned int slot, unsigned short address,
		const void *data, size_t len)
{
	struct oct_request r;

	if (!unit_ok(slot))
		return IFD_ERROR_INVALID_SLOT;
	if (!data || len == 0)
		return IFD_ERROR_INVALID_ARG;
	oct_request_init(&r, CT_CMD_MEMORY_WRITE, slot);
	oct_put_int(&r, CT_TAG_ADDRESS, address);
	oct_put_bytes(&r, CT_TAG_DATA, data, len);
	return call_empty(h, &r);
}
