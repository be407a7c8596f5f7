/* What place.c reads of files that others write. */
#include "check.h"
#include "place.h"

#include <openct/openct.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

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

static void names(void)
{
	static const struct { const char *name, *alias; bool parses; } table[] = {
		{ "openct:office", "office", true },
		{ "openct:1", "", true },
		{ "openct:16", "", false },
		{ "openct:1a", "", false },
		{ "openct:", "", false },
		{ "openct:-1", "", false },
		{ "openct:\xc3\xa4", "\xc3\xa4", true },
		{ "openct:0123456789012345678901234567890123456789", "", false },
		{ "openct:a12345678901234567890123456789012345678", "a12345678901234567890123456789012345678", true },
		{ "openct:a123456789012345678901234567890123456789", "", false },
		{ "office", "", false },
	};
	struct place a, b;

	for (size_t i = 0; i < sizeof table / sizeof table[0]; i++) {
		check_case(table[i].name);
		CHECK_INT(place_parse(&a, table[i].name), table[i].parses);
		if (table[i].parses)
			CHECK(strcmp(a.alias, table[i].alias) == 0 && a.fixed);
	}
	check_case("two names are two places");
	CHECK(place_parse(&a, "openct:office") && place_parse(&b, "openct:home"));
	CHECK(!place_equal(&a, &b) && place_equal(&a, &a));
}

/* Reader 3, which this process is, has a side file. */
static void found(void)
{
	char dir[] = "/tmp/openct-place-XXXXXX", path[64];
	ct_info_t entries[OPENCT_MAX_READERS];
	struct place p;
	unsigned int n = 0;
	FILE *f;

	CHECK(mkdtemp(dir) && setenv("OPENCT_SOCKETDIR", dir, 1) == 0);
	memset(entries, 0, sizeof entries);
	strcpy(entries[3].ct_name, "office: Token");
	entries[3].ct_pid = getpid();
	snprintf(path, sizeof path, "%s/status", dir);
	f = fopen(path, "w");
	CHECK(f && fwrite(entries, sizeof entries, 1, f) == 1 && fclose(f) == 0);
	snprintf(path, sizeof path, "%s/.3.json", dir);
	f = fopen(path, "w");
	CHECK(f && fprintf(f, "{\"pid\":%d,\"device\":\"/dev/bus/usb/001/004\",\"alias\":\"office\"}", (int)getpid()) > 0);
	CHECK(fclose(f) == 0);

	check_case("by name");
	CHECK(place_parse(&p, "openct:office") && place_find(&p, &n));
	CHECK_INT(n, 3);
	check_case("another name");
	CHECK(place_parse(&p, "openct:offic") && !place_find(&p, &n));
	check_case("by number");
	CHECK(place_parse(&p, "openct:3") && place_find(&p, &n));
	CHECK(place_parse(&p, "openct:2") && !place_find(&p, &n));
	check_case("by what is plugged in");
	CHECK(place_parse(&p, "usb:0529/0600:libudev:0:/dev/bus/usb/001/004") && place_find(&p, &n));
	CHECK_INT(n, 3);

	CHECK(unlink(path) == 0);
	snprintf(path, sizeof path, "%s/status", dir);
	CHECK(unlink(path) == 0 && rmdir(dir) == 0);
}

int main(void)
{
	records();
	refused();
	names();
	found();
	return check_result("place");
}
