#include "pinpad.h"

#include <PCSC/wintypes.h>
#include <PCSC/pcsclite.h>
#include <PCSC/reader.h>

#include <stdio.h>
#include <string.h>

/* Our control codes, told to programs by CM_IOCTL_GET_FEATURE_REQUEST. */
#define FEATURE_CODE(feature) SCARD_CTL_CODE(3500u + (feature))

enum {
	PIN_DATA_MAX = 3 + 5 + 255 + 1, /* control and places, short APDU */
	HEADER_LEN = 5,                 /* CLA INS P1 P2 Lc, before the data */
	KEY_ENDS_ENTRY = 0x02,          /* bEntryValidationCondition */
	EXTENDED_LEN = 9,               /* CLA INS P1 P2, three bytes of Lc, two of Le */
};

/* PIN structures */

/* What the verify and the modify structure have in common. */
struct pin_format {
	unsigned char format, block, length_format;
	unsigned char max_digits, min_digits;
};

/* The control byte of PIN_DATA and the place of the PIN behind Lc, in bytes.
 * PIN_DATA knows digits at a place; length fields and right justification it
 * does not (PC/SC part 10, 2.5.2: bmPINBlockString, bmPINLengthFormat). */
static int convert_format(const struct pin_format *f, unsigned char *control, unsigned int *place)
{
	unsigned int coding = f->format & 0x03;
	unsigned int position = f->format >> 3 & 0x0f;

	if ((coding != 1 && coding != 2) || f->format & 0x04 || f->block >> 4)
		return IFD_ERROR_NOT_SUPPORTED;
	if (!(f->format & 0x80)) {
		if (position % 8)
			return IFD_ERROR_NOT_SUPPORTED;
		position /= 8;
	}
	*control = coding == 2;
	if (f->min_digits == f->max_digits && f->max_digits <= 15)
		*control |= (unsigned char)(f->max_digits << 4);
	*place = position;
	return 0;
}

/* ulDataLength comes in either byte order. */
static bool length_is(const unsigned char b[4], size_t len)
{
	size_t little = b[0] | (size_t)b[1] << 8 | (size_t)b[2] << 16 | (size_t)b[3] << 24;
	size_t big = b[3] | (size_t)b[2] << 8 | (size_t)b[1] << 16 | (size_t)b[0] << 24;

	return little == len || big == len;
}

/* Places in PIN_DATA count from 1 at CLA. */
static int pin_place(unsigned int behind_lc)
{
	return (int)(HEADER_LEN + behind_lc + 1);
}

int pinpad_verify_data(const unsigned char *tx, size_t len, unsigned char *out, size_t size)
{
	const size_t head = sizeof(PIN_VERIFY_STRUCTURE);
	struct pin_format f;
	unsigned int place;
	int rc;

	if (len < head + 4 || !length_is(tx + head - 4, len - head))
		return IFD_ERROR_INVALID_ARG;
	if (2 + len - head > size)
		return IFD_ERROR_BUFFER_TOO_SMALL;
	f = (struct pin_format){ tx[2], tx[3], tx[4], tx[5], tx[6] };
	rc = convert_format(&f, &out[0], &place);
	if (rc < 0)
		return rc;
	out[1] = (unsigned char)pin_place(place);
	memcpy(out + 2, tx + head, len - head);
	return (int)(2 + len - head);
}

/* Two places: the old PIN's, 0 when it is not asked for, and the new one's. */
int pinpad_modify_data(const unsigned char *tx, size_t len, unsigned char *out, size_t size)
{
	const size_t head = sizeof(PIN_MODIFY_STRUCTURE);
	enum { ASK_OLD = 0x02 }; /* bConfirmPIN */
	struct pin_format f;
	unsigned int place;
	int rc;

	if (len < head + 4 || !length_is(tx + head - 4, len - head))
		return IFD_ERROR_INVALID_ARG;
	if (3 + len - head > size)
		return IFD_ERROR_BUFFER_TOO_SMALL;
	f = (struct pin_format){ tx[2], tx[3], tx[4], tx[7], tx[8] };
	rc = convert_format(&f, &out[0], &place);
	if (rc < 0)
		return rc;
	if (place + tx[5] > 200 || place + tx[6] > 200)
		return IFD_ERROR_INVALID_ARG;
	out[1] = (unsigned char)(tx[9] & ASK_OLD ? pin_place(place + tx[5]) : 0);
	out[2] = (unsigned char)pin_place(place + tx[6]);
	memcpy(out + 3, tx + head, len - head);
	return (int)(3 + len - head);
}

/* The user's doings are status words in PC/SC. */
static int user_answer(int rc, unsigned char *rx, size_t rx_size)
{
	unsigned char sw2;

	switch (rc) {
	case IFD_ERROR_USER_TIMEOUT:
		sw2 = 0x00;
		break;
	case IFD_ERROR_USER_ABORT:
		sw2 = 0x01;
		break;
	case IFD_ERROR_PIN_MISMATCH:
		sw2 = 0x02;
		break;
	default:
		return rc;
	}
	if (rx_size < 2)
		return IFD_ERROR_BUFFER_TOO_SMALL;
	rx[0] = 0x64;
	rx[1] = sw2;
	return 2;
}

static int enter_pin(struct channel *c, unsigned char command, unsigned int timeout,
		const unsigned char *data, int len, unsigned char *rx, size_t rx_size)
{
	struct oct_request r;

	if (len < 0)
		return len;
	oct_request_init(&r, command, c->card.slot);
	if (timeout)
		oct_put_int(&r, CT_TAG_TIMEOUT, timeout);
	oct_put_bytes(&r, CT_TAG_PIN_DATA, data, (size_t)len);
	return user_answer(card_request(&c->card, &r, CT_TAG_CARD_RESPONSE, rx, rx_size), rx, rx_size);
}

/* Features and properties */

static bool has_keypad(struct channel *c)
{
	ct_info_t info;

	channel_info(c, &info);
	return info.ct_keypad;
}

/* A daemon that knows CHANGE_PIN misses its argument; C OpenCT's knows not the
 * command. Neither does anything. */
static bool can_modify(struct channel *c)
{
	struct oct_request r;
	struct oct_reply reply;

	oct_request_init(&r, CT_CMD_CHANGE_PIN, c->card.slot);
	return card_query(&c->card, &r, &reply) == IFD_ERROR_MISSING_ARG;
}

static size_t put_feature(unsigned char *p, unsigned char feature)
{
	unsigned long code = FEATURE_CODE(feature);

	p[0] = feature;
	p[1] = 4;
	for (int i = 0; i < 4; i++)
		p[2 + i] = (unsigned char)(code >> (24 - 8 * i) & 0xff);
	return 6;
}

static size_t features(struct channel *c, unsigned char *p)
{
	size_t n = 0;

	if (has_keypad(c)) {
		n += put_feature(p + n, FEATURE_VERIFY_PIN_DIRECT);
		if (can_modify(c))
			n += put_feature(p + n, FEATURE_MODIFY_PIN_DIRECT);
		n += put_feature(p + n, FEATURE_IFD_PIN_PROPERTIES);
	}
	n += put_feature(p + n, FEATURE_GET_TLV_PROPERTIES);
	return n;
}

static size_t pin_properties(unsigned char *p)
{
	memset(p, 0, sizeof(PIN_PROPERTIES_STRUCTURE));
	p[2] = KEY_ENDS_ENTRY;
	return sizeof(PIN_PROPERTIES_STRUCTURE);
}

static size_t put_property(unsigned char *p, unsigned char tag, unsigned char len,
		unsigned long value)
{
	p[0] = tag;
	p[1] = len;
	for (unsigned int i = 0; i < len; i++)
		p[2 + i] = (unsigned char)(value >> 8 * i & 0xff);
	return 2u + len;
}

/* dwMaxAPDUDataSize (PC/SC part 10, 2.6.14): 0 is a reader of short APDUs. */
static unsigned long max_apdu_data(struct channel *c)
{
	unsigned int max = card_max_command(&c->card);

	return max > SHORT_APDU_MAX ? max - EXTENDED_LEN : 0;
}

static size_t tlv_properties(struct channel *c, unsigned char *p)
{
	unsigned int vendor, product;
	size_t n = 0;

	if (has_keypad(c)) {
		n += put_property(p + n, PCSCv2_PART10_PROPERTY_wLcdLayout, 2, 0);
		n += put_property(p + n, PCSCv2_PART10_PROPERTY_bEntryValidationCondition, 1,
				KEY_ENDS_ENTRY);
		n += put_property(p + n, PCSCv2_PART10_PROPERTY_bTimeOut2, 1, 0);
	}
	n += put_property(p + n, PCSCv2_PART10_PROPERTY_bPPDUSupport, 1, 0);
	n += put_property(p + n, PCSCv2_PART10_PROPERTY_dwMaxAPDUDataSize, 4,
			max_apdu_data(c));
	if (sscanf(c->card.place.id, "usb:%4x/%4x", &vendor, &product) == 2) {
		n += put_property(p + n, PCSCv2_PART10_PROPERTY_wIdVendor, 2, vendor);
		n += put_property(p + n, PCSCv2_PART10_PROPERTY_wIdProduct, 2, product);
	}
	return n;
}

static int give(const unsigned char *answer, size_t len, unsigned char *rx, size_t rx_size)
{
	if (len > rx_size)
		return IFD_ERROR_BUFFER_TOO_SMALL;
	memcpy(rx, answer, len);
	return (int)len;
}

int pinpad_control(struct channel *c, unsigned long code,
		const unsigned char *tx, size_t tx_len, unsigned char *rx, size_t rx_size)
{
	unsigned char answer[64], data[PIN_DATA_MAX];
	int len;

	switch (code) {
	case CM_IOCTL_GET_FEATURE_REQUEST:
		return give(answer, features(c, answer), rx, rx_size);
	case FEATURE_CODE(FEATURE_GET_TLV_PROPERTIES):
		return give(answer, tlv_properties(c, answer), rx, rx_size);
	}
	if (!has_keypad(c))
		return IFD_ERROR_NOT_SUPPORTED;
	switch (code) {
	case FEATURE_CODE(FEATURE_IFD_PIN_PROPERTIES):
		return give(answer, pin_properties(answer), rx, rx_size);
	case FEATURE_CODE(FEATURE_VERIFY_PIN_DIRECT):
		len = pinpad_verify_data(tx, tx_len, data, sizeof data);
		return enter_pin(c, CT_CMD_PERFORM_VERIFY, tx_len ? tx[0] : 0, data, len, rx, rx_size);
	case FEATURE_CODE(FEATURE_MODIFY_PIN_DIRECT):
		len = pinpad_modify_data(tx, tx_len, data, sizeof data);
		return enter_pin(c, CT_CMD_CHANGE_PIN, tx_len ? tx[0] : 0, data, len, rx, rx_size);
	default:
		return IFD_ERROR_NOT_SUPPORTED;
	}
}
