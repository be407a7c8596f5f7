/* What the bundle is told by others: device names from pcscd, side files, PIN
 * structures from programs. All three get the same input. */
#include "fuzz.h"
#include "pinpad.h"
#include "place.h"

#include <stdlib.h>
#include <string.h>

const int fuzz_seeds_are_text = 1;

const struct fuzz_seed fuzz_seeds[] = {
	{ "libudev", "usb:0529/0600:libudev:0:/dev/bus/usb/001/004" },
	{ "libusb", "usb:0529/0600:libusb-1.0:1:4:0" },
	{ "number", "openct:15" }, { "null", "/dev/null:3" }, { "node", "/dev/bus/usb/001/004" },
	{ "side file", "{\"pid\":12,\"device\":\"/dev/bus/usb/001/004\",\"locks\":[{\"pid\":3}],"
		"\"last_error\":\"a \\\"quoted\\\" {word\",\"announces\":true}" },
	{ "udev record", "E:ID_BUS=usb\nE:OPENCT_DRIVER=none\n" },
	{ "spaces", " { \"device\" : \"x\" , \"id\":\"usb:0529/0600\" } " },
	{ "PIN", "\x1e\x01\x82\x08\x01\x08\x04\x02\x01\x09\x04\x01\x01\x01\x01\x05\x01\x01\x01" "abcde" },
	{ NULL, NULL },
};

static void check_pin_data(int rc, size_t size, size_t given)
{
	if (rc > (int)size || rc == 0 || (rc > 0 && (size_t)rc > given))
		abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct place p;
	char out[64], *text = malloc(size + 1);
	unsigned char pin[264];

	if (!text)
		abort();
	memcpy(text, data, size);
	text[size] = '\0';
	if (place_parse(&p, text) && (p.number >= OPENCT_MAX_READERS ||
				strnlen(p.device, sizeof p.device) == sizeof p.device ||
				(p.device[0] && strncmp(p.device, "/dev/bus/usb/", 13) != 0)))
		abort();
	if (place_json_text(text, "device", out, sizeof out) && strlen(out) >= sizeof out)
		abort();
	(void)place_json_text(text, "", out, 1);
	if (place_record_refuses(text) && !strstr(text, "E:OPENCT_DRIVER=none"))
		abort();
	check_pin_data(pinpad_verify_data(data, size, pin, sizeof pin), sizeof pin, size);
	check_pin_data(pinpad_modify_data(data, size, pin, sizeof pin), sizeof pin, size);
	free(text);
	return 0;
}
