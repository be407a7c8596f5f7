/* Arguments and answers: tag, length, value (internal/socket/PROTOCOL.md). */
#include "internal.h"

#include <string.h>

void oct_request_init(struct oct_request *r, unsigned char command, unsigned int unit)
{
	r->payload[0] = command;
	r->payload[1] = (unsigned char)unit;
	r->len = 2;
	r->overflow = false;
}

/* Values always go out with a two-byte length, as clients of OpenCT do: it
 * also makes the server answer so. An empty value cannot be expressed. */
void oct_put_bytes(struct oct_request *r, unsigned char tag, const void *data, size_t len)
{
	unsigned char *p = r->payload + r->len;

	if (len == 0)
		return;
	if (r->overflow || len > sizeof r->payload - OCT_TLV ||
			r->len > sizeof r->payload - OCT_TLV - len) {
		r->overflow = true;
		return;
	}
	p[0] = tag | CT_TAG_LARGE;
	p[1] = (unsigned char)(len >> 8);
	p[2] = (unsigned char)(len & 0xff);
	memcpy(p + OCT_TLV, data, len);
	r->len += OCT_TLV + len;
}

/* Big endian, as few bytes as it takes, at least one. */
void oct_put_int(struct oct_request *r, unsigned char tag, unsigned int value)
{
	unsigned char bytes[4] = {
		(unsigned char)(value >> 24 & 0xff), (unsigned char)(value >> 16 & 0xff),
		(unsigned char)(value >> 8 & 0xff), (unsigned char)(value & 0xff),
	};
	size_t skip = 0;

	while (skip < 3 && bytes[skip] == 0)
		skip++;
	oct_put_bytes(r, tag, bytes + skip, sizeof bytes - skip);
}

int oct_tlv_find(const unsigned char *payload, size_t len, unsigned char tag,
		const unsigned char **value, size_t *value_len)
{
	int found = 0;
	size_t pos = 0;

	while (pos < len) {
		unsigned char t = payload[pos];
		size_t header = t & CT_TAG_LARGE ? 3 : 2;
		size_t n;

		if (len - pos < header)
			return -1;
		n = payload[pos + 1];
		if (t & CT_TAG_LARGE)
			n = n << 8 | payload[pos + 2];
		pos += header;
		if (n == 0 || n > len - pos)
			return -1;
		if ((t & ~CT_TAG_LARGE) == tag) {
			*value = payload + pos;
			*value_len = n;
			found = 1;
		}
		pos += n;
	}
	return found;
}

bool oct_reply_int(const struct oct_reply *r, unsigned char tag, unsigned int *value)
{
	const unsigned char *bytes;
	size_t n;

	if (oct_tlv_find(r->payload, r->len, tag, &bytes, &n) != 1)
		return false;
	*value = 0;
	for (size_t i = 0; i < n; i++)
		*value = *value << 8 | bytes[i];
	return true;
}

int oct_reply_bytes(const struct oct_reply *r, unsigned char tag, void *out, size_t size)
{
	const unsigned char *value;
	size_t n;

	if (oct_tlv_find(r->payload, r->len, tag, &value, &n) != 1)
		return IFD_ERROR_GENERIC;
	if (n > size)
		return IFD_ERROR_BUFFER_TOO_SMALL;
	memcpy(out, value, n);
	return (int)n;
}
