/* The binary interface: sizes, offsets, numbers, types of functions. Linked
 * against libopenct.so as a program of a distribution would be. The list of
 * symbols is compared in rules.mk. */
#include <openct/openct.h>
#include <openct/error.h>
#include <openct/logging.h>
#include <openct/path.h>
#include <openct/protocol.h>

#include "check.h"

/* What C OpenCT (openct.h) has on every platform. */
_Static_assert(sizeof(ct_info_t) == 108, "ct_info_t");
_Static_assert(_Alignof(ct_info_t) == 4, "ct_info_t");
_Static_assert(offsetof(ct_info_t, ct_name) == 0, "ct_name");
_Static_assert(sizeof(((ct_info_t *)0)->ct_name) == 64, "ct_name");
_Static_assert(offsetof(ct_info_t, ct_slots) == 64, "ct_slots");
_Static_assert(offsetof(ct_info_t, ct_card) == 68, "ct_card");
_Static_assert(sizeof(((ct_info_t *)0)->ct_card) == 32, "ct_card");
_Static_assert(offsetof(ct_info_t, ct_pid) == 104, "ct_pid");
_Static_assert(sizeof(ct_lock_handle) == 4, "ct_lock_handle");

/* Each must have exactly this type. */
static const struct {
	int (*status)(const ct_info_t **);
	int (*reader_info)(unsigned int, ct_info_t *);
	ct_handle *(*reader_connect)(unsigned int);
	void (*reader_disconnect)(ct_handle *);
	int (*reader_status)(ct_handle *, ct_info_t *);
	int (*card_status)(ct_handle *, unsigned int, int *);
	int (*card_set_protocol)(ct_handle *, unsigned int, unsigned int);
	int (*card_reset)(ct_handle *, unsigned int, void *, size_t);
	int (*card_request)(ct_handle *, unsigned int, unsigned int, const char *, void *, size_t);
	int (*card_lock)(ct_handle *, unsigned int, int, ct_lock_handle *);
	int (*card_unlock)(ct_handle *, unsigned int, ct_lock_handle);
	int (*card_transact)(ct_handle *, unsigned int, const void *, size_t, void *, size_t);
	int (*card_verify)(ct_handle *, unsigned int, unsigned int, const char *, unsigned int,
			unsigned int, unsigned int, const void *, size_t, void *, size_t);
	int (*card_read_memory)(ct_handle *, unsigned int, unsigned short, void *, size_t);
	int (*card_write_memory)(ct_handle *, unsigned int, unsigned short, const void *, size_t);
	int (*status_destroy)(void);
	int (*status_clear)(unsigned int, const char *);
	ct_info_t *(*status_alloc_slot)(int *);
	int (*status_update)(ct_info_t *);
	const char *(*strerror)(int);
	void (*error)(const char *, ...);
	void (*debug)(const char *, ...);
	void (*log_destination)(const char *);
	const char *(*hexdump)(const void *, size_t);
	int (*format_path)(char *, const size_t, const char *);
} functions = {
	ct_status, ct_reader_info, ct_reader_connect, ct_reader_disconnect, ct_reader_status,
	ct_card_status, ct_card_set_protocol, ct_card_reset, ct_card_request, ct_card_lock,
	ct_card_unlock, ct_card_transact, ct_card_verify, ct_card_read_memory,
	ct_card_write_memory, ct_status_destroy, ct_status_clear, ct_status_alloc_slot,
	ct_status_update, ct_strerror, ct_error, ct_debug, ct_log_destination, ct_hexdump,
	ct_format_path,
};

static void flags_are_bits(void)
{
	ct_info_t info;
	unsigned char bytes[sizeof info];

	check_case("flags");
	memset(&info, 0, sizeof info);
	info.ct_display = 1;
	memcpy(bytes, &info, sizeof info);
#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
	CHECK_HEX(bytes + 100, 4, "01000000");
#else
	CHECK_HEX(bytes + 100, 4, "80000000");
#endif
	info.ct_display = 0;
	info.ct_keypad = 1;
	memcpy(bytes, &info, sizeof info);
#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
	CHECK_HEX(bytes + 100, 4, "02000000");
#else
	CHECK_HEX(bytes + 100, 4, "40000000");
#endif
}

static void constants(void)
{
	static const struct { const char *name; int got, want; } table[] = {
		{ "MAX_READERS", OPENCT_MAX_READERS, 16 }, { "MAX_SLOTS", OPENCT_MAX_SLOTS, 8 },
		{ "CARD_PRESENT", IFD_CARD_PRESENT, 1 }, { "STATUS_CHANGED", IFD_CARD_STATUS_CHANGED, 2 },
		{ "LOCK_SHARED", IFD_LOCK_SHARED, 0 }, { "LOCK_EXCLUSIVE", IFD_LOCK_EXCLUSIVE, 1 },
		{ "PIN_BCD", IFD_PIN_ENCODING_BCD, 0 }, { "PIN_ASCII", IFD_PIN_ENCODING_ASCII, 1 },
		{ "NOT_CONNECTED", IFD_ERROR_NOT_CONNECTED, -103 },
		{ "UNKNOWN_DEVICE", IFD_ERROR_UNKNOWN_DEVICE, -202 },
		{ "TRANSACT", CT_CMD_TRANSACT, 0x21 }, { "SET_PROTOCOL", CT_CMD_SET_PROTOCOL, 0x22 },
		{ "READER", CT_UNIT_READER, 0x10 }, { "CARD_RESPONSE", CT_TAG_CARD_RESPONSE, 5 },
		{ "PROTOCOL", CT_TAG_PROTOCOL, 0x88 },
	};

	for (size_t i = 0; i < sizeof table / sizeof table[0]; i++) {
		check_case(table[i].name);
		CHECK_INT(table[i].got, table[i].want);
	}
}

static void texts(void)
{
	static const struct { int code; const char *want; } table[] = {
		{ 0, "Success" }, { -1, "Generic error" }, { -2, "Command timed out" },
		{ -3, "Invalid slot" }, { -4, "Operation not supported" }, { -5, "Communication error" },
		{ 5, "Communication error" }, { -6, "No card present" }, { -7, "Reader already locked" },
		{ -8, "Reader not locked" }, { -9, "Invalid argument" }, { -10, "Out of memory" },
		{ -11, "Buffer too small" }, { -12, "Timeout on user input" },
		{ -13, "Operation aborted by user" }, { -14, "PIN mismatch" },
		{ -15, "Unable to reset card" }, { -16, "Device cannot perform requested operation" },
		{ -17, "Device was disconnected" }, { -18, "Card returned invalid ATR" },
		{ -19, "Unknown OpenCT error 19" }, { 25, "Unknown OpenCT error -25" },
		{ -100, "Invalid message" }, { -101, "Invalid command" }, { -102, "Missing argument" },
		{ -103, "Not connected to IFD handler" }, { -200, "Device already claimed" },
		{ -201, "Device busy" }, { -202, "Device not known" },
		{ -2147483647 - 1, "Unknown OpenCT error 2147483648" },
	};

	for (size_t i = 0; i < sizeof table / sizeof table[0]; i++) {
		check_case(table[i].want);
		CHECK_STR(ct_strerror(table[i].code), table[i].want);
	}
}

int main(void)
{
	void *const *f = (void *const *)(const void *)&functions;

	check_case("functions");
	for (size_t i = 0; i < sizeof functions / sizeof *f; i++)
		CHECK(f[i] != NULL);
	flags_are_bits();
	constants();
	texts();
	return check_result("abi");
}
