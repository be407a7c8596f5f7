/* What place.c reads of files that others write. */
#include "check.h"
#include "place.h"

static void records(void)
{
	static const struct { const char *name, *record; bool refused; } table[] = {
		{ "none", "S:x\nE:ID_BUS=usb\nE:OPENCT_DRIVER=none\nG:systemd\n", true },
		{ "none, first and last line", "E:OPENCT_DRIVER=none", true },
		{ "a driver", "E:OPENCT_DRIVER=ccid\nE:OPENCT_UNIT=x\n", false },
		{ "a driver whose name begins so", "E:OPENCT_DRIVER=nonesuch\n", false },
		{ "not asked about", "E:ID_BUS=usb\n", false },
		{ "empty", "", false },
		{ "in the middle of a line", "E:ID_MODEL=E:OPENCT_DRIVER=none\n", false },
		{ "empty lines", "\n\nE:OPENCT_DRIVER=none\n", true },
	};

	for (size_t i = 0; i < sizeof table / sizeof table[0]; i++) {
		check_case(table[i].name);
		CHECK_INT(place_record_refuses(table[i].record), table[i].refused);
	}
}

static void refused(void)
{
	struct place p;

	check_case("a node that is not there may be ours");
	CHECK(place_parse(&p, "usb:076b/3021:libudev:0:/dev/bus/usb/999/999"));
	CHECK(!place_refused(&p));
	check_case("no node");
	CHECK(place_parse(&p, "openct:1"));
	CHECK(!place_refused(&p));
}

int main(void)
{
	records();
	refused();
	return check_result("place");
}
