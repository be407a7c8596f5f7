#include "place.h"

#include "internal.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/inotify.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

enum { FILE_MAX = 64 * 1024 };

/* Names */

static bool parse_number(const char *s, unsigned int limit, unsigned int *out)
{
	unsigned int n = 0;

	if (!*s || strlen(s) > 9)
		return false;
	for (; *s; s++) {
		if (!isdigit((unsigned char)*s))
			return false;
		n = n * 10 + (unsigned int)(*s - '0');
	}
	*out = n;
	return n < limit;
}

static bool is_node(const char *s)
{
	unsigned int bus, dev;
	int end = 0;

	return sscanf(s, "/dev/bus/usb/%3u/%3u%n", &bus, &dev, &end) == 2 && s[end] == '\0';
}

static bool parse_usb(struct place *p, const char *name)
{
	const char *node = strstr(name, ":/dev/");
	const char *libusb = strstr(name, ":libusb-1.0:");
	unsigned int vendor, product, bus, dev;

	if (sscanf(name, "usb:%4x/%4x", &vendor, &product) != 2)
		return false;
	snprintf(p->id, sizeof p->id, "usb:%04x/%04x", vendor & 0xffff, product & 0xffff);
	if (node) {
		if (!is_node(node + 1))
			return false;
		snprintf(p->device, sizeof p->device, "%s", node + 1);
	} else if (libusb) {
		if (sscanf(libusb, ":libusb-1.0:%3u:%3u", &bus, &dev) != 2)
			return false;
		snprintf(p->device, sizeof p->device, "/dev/bus/usb/%03u/%03u", bus, dev);
	}
	return true;
}

/* openct:NAME. A name begins with a letter, of ASCII or not (openct.conf(5)). */
static bool parse_alias(struct place *p, const char *name)
{
	static const char prefix[] = "openct:";
	const char *alias = name + sizeof prefix - 1;

	if (strncmp(name, prefix, sizeof prefix - 1) != 0 || (!isalpha((unsigned char)*alias) && (unsigned char)*alias < 0x80) ||
			strlen(alias) >= sizeof p->alias)
		return false;
	strcpy(p->alias, alias);
	p->fixed = true;
	return true;
}

bool place_parse(struct place *p, const char *name)
{
	static const char *const numbered[] = { "openct:", "/dev/null:", "" };

	memset(p, 0, sizeof *p);
	if (strncmp(name, "usb:", 4) == 0)
		return parse_usb(p, name);
	if (is_node(name)) {
		snprintf(p->device, sizeof p->device, "%s", name);
		return true;
	}
	if (parse_alias(p, name))
		return true;
	p->fixed = true;
	if (strcmp(name, "/dev/null") == 0) /* as the classic reader.conf has it */
		return true;
	for (size_t i = 0; i < sizeof numbered / sizeof numbered[0]; i++)
		if (strncmp(name, numbered[i], strlen(numbered[i])) == 0)
			return parse_number(name + strlen(numbered[i]), OPENCT_MAX_READERS,
					&p->number);
	return false;
}

void place_from_channel(struct place *p, unsigned long channel)
{
	memset(p, 0, sizeof *p);
	p->fixed = true;
	if (channel >= 0x200000)
		channel -= 0x200000;
	p->number = channel < OPENCT_MAX_READERS ? (unsigned int)channel : 0;
}

bool place_equal(const struct place *a, const struct place *b)
{
	return a->fixed == b->fixed && a->number == b->number &&
		strcmp(a->device, b->device) == 0 && strcmp(a->id, b->id) == 0 &&
		strcmp(a->alias, b->alias) == 0;
}

/* Side file */

static const char *skip_space(const char *s)
{
	while (*s == ' ' || *s == '\t' || *s == '\n' || *s == '\r')
		s++;
	return s;
}

/* From the opening quote to the closing one, or to the end of the text. */
static const char *string_end(const char *s)
{
	for (s++; *s && *s != '"'; s++)
		if (*s == '\\' && s[1])
			s++;
	return s;
}

/* The value of a member of the outermost object. Only there, and only before a
 * colon, is a string a key. */
static const char *json_member(const char *s, const char *key)
{
	size_t len = strlen(key);
	int depth = 0;

	for (; *s; s++) {
		const char *end, *after;

		if (*s == '{' || *s == '[')
			depth++;
		else if (*s == '}' || *s == ']')
			depth--;
		if (*s != '"')
			continue;
		end = string_end(s);
		if (!*end)
			return NULL;
		after = skip_space(end + 1);
		if (depth == 1 && *after == ':' && (size_t)(end - s - 1) == len &&
				memcmp(s + 1, key, len) == 0)
			return skip_space(after + 1);
		s = end;
	}
	return NULL;
}

bool place_json_text(const char *json, const char *key, char *out, size_t size)
{
	const char *value = json_member(json, key);
	const char *end;
	size_t len;

	if (!value || *value != '"')
		return false;
	end = string_end(value);
	len = (size_t)(end - value - 1);
	if (!*end || len >= size || memchr(value + 1, '\\', len))
		return false;
	memcpy(out, value + 1, len);
	out[len] = '\0';
	return true;
}

/* Reads a small file; the caller frees it. */
static char *read_file(const char *path)
{
	struct stat st;
	char *text = NULL;
	size_t len = 0;
	int fd;

	fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
	if (fd < 0)
		return NULL;
	if (fstat(fd, &st) == 0 && S_ISREG(st.st_mode) && st.st_size <= FILE_MAX)
		text = malloc((size_t)st.st_size + 1);
	while (text && len < (size_t)st.st_size) {
		ssize_t n = read(fd, text + len, (size_t)st.st_size - len);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			break;
		len += (size_t)n;
	}
	close(fd);
	if (text)
		text[len] = '\0';
	return text;
}

/* The side file, if it is this daemon's: one that died may have left its own. */
static char *side_file_of(unsigned int reader, pid_t pid)
{
	char path[PATH_MAX], name[24];
	const char *owner;
	char *json;

	snprintf(name, sizeof name, ".%u.json", reader);
	if (!oct_join_path(path, sizeof path, name))
		return NULL;
	json = read_file(path);
	owner = json ? json_member(json, "pid") : NULL;

	if (owner && strtol(owner, NULL, 10) == pid)
		return json;
	free(json);
	return NULL;
}

static bool is_at(const struct place *p, unsigned int reader, pid_t pid)
{
	char *json = side_file_of(reader, pid);
	char value[64];
	bool match;

	if (!json)
		return false;
	if (p->device[0])
		match = place_json_text(json, "device", value, sizeof value) &&
			strcmp(value, p->device) == 0;
	else
		match = place_json_text(json, "id", value, sizeof value) &&
			strncasecmp(value, p->id, strlen(p->id)) == 0;
	free(json);
	return match;
}

bool place_announces(unsigned int reader, pid_t pid)
{
	char *json = side_file_of(reader, pid);
	const char *value = json ? json_member(json, "announces") : NULL;
	bool yes = value && strncmp(value, "true", 4) == 0;

	free(json);
	return yes;
}

bool place_tells(unsigned int reader, pid_t pid, const char *key, char *out, size_t size)
{
	char *json = side_file_of(reader, pid);
	bool told = json && place_json_text(json, key, out, size) && *out;

	for (const char *p = out; told && *p; p++)
		told = (unsigned char)*p >= ' ' && *p != 0x7f;
	free(json);
	return told;
}

static bool is_called(const struct place *p, unsigned int reader, pid_t pid)
{
	char alias[sizeof p->alias];

	return place_tells(reader, pid, "alias", alias, sizeof alias) && strcmp(alias, p->alias) == 0;
}

static bool is_the_one(const struct place *p, unsigned int reader, pid_t pid)
{
	if (p->alias[0])
		return is_called(p, reader, pid);
	return p->fixed ? reader == p->number : is_at(p, reader, pid);
}

bool place_find(const struct place *p, unsigned int *reader)
{
	ct_info_t entries[OPENCT_MAX_READERS];
	int count = oct_status_read(entries);

	for (unsigned int n = 0; count > 0 && n < (unsigned int)count; n++) {
		/* A name shows that the daemon has opened the device. */
		if (entries[n].ct_name[0] == '\0' || !oct_pid_alive(entries[n].ct_pid))
			continue;
		if (is_the_one(p, n, entries[n].ct_pid)) {
			*reader = n;
			return true;
		}
	}
	return false;
}

/* Waiting */

int dirwatch_open(void)
{
	return inotify_init1(IN_CLOEXEC | IN_NONBLOCK);
}

/* Watching what is watched already changes nothing. Until the directory is
 * there, its parent tells of it. */
void dirwatch_arm(int fd)
{
	char dir[PATH_MAX];
	char *slash;

	if (!oct_join_path(dir, sizeof dir, "."))
		return;
	if (inotify_add_watch(fd, dir, IN_ATTRIB | IN_CREATE | IN_DELETE | IN_CLOSE_WRITE |
				IN_MOVED_TO | IN_MOVED_FROM | IN_ONLYDIR) >= 0)
		return;
	for (int i = 0; i < 2; i++) {
		slash = strrchr(dir, '/');
		if (!slash)
			return;
		*slash = '\0';
	}
	(void)inotify_add_watch(fd, dir[0] ? dir : "/", IN_CREATE | IN_MOVED_TO | IN_ONLYDIR);
}

void dirwatch_drain(int fd)
{
	char events[4096];

	while (read(fd, events, sizeof events) > 0)
		;
}

/* The socket may listen a moment after the last sign of it in the directory,
 * so the wait also looks by itself now and then. */
bool place_wait(const struct place *p, unsigned int *reader, int ms)
{
	const long long deadline = oct_now_ms() + ms;
	int fd = dirwatch_open();
	bool found;

	for (;;) {
		struct pollfd pfd = { .fd = fd, .events = POLLIN };
		long long left = deadline - oct_now_ms();
		int probe;

		dirwatch_arm(fd);
		found = place_find(p, reader);
		probe = found ? oct_connect(*reader, 0) : -1;
		found = probe >= 0 || (found && errno == EAGAIN);
		if (probe >= 0)
			close(probe);
		if (found || left <= 0)
			break;
		(void)poll(&pfd, 1, left < 200 ? (int)left : 200);
		dirwatch_drain(fd);
	}
	if (fd >= 0)
		close(fd);
	return found;
}

bool place_record_refuses(const char *record)
{
	static const char none[] = "E:OPENCT_DRIVER=none";

	for (const char *line = record; line; line = strchr(line, '\n')) {
		if (*line == '\n')
			line++;
		if (strncmp(line, none, sizeof none - 1) == 0 &&
				(line[sizeof none - 1] == '\n' || line[sizeof none - 1] == '\0'))
			return true;
	}
	return false;
}

bool place_refused(const struct place *p)
{
	char path[64], *record;
	struct stat st;
	bool refused;

	if (!p->device[0] || stat(p->device, &st) < 0 || !S_ISCHR(st.st_mode))
		return false;
	snprintf(path, sizeof path, "/run/udev/data/c%u:%u", major(st.st_rdev), minor(st.st_rdev));
	record = read_file(path);
	refused = record && place_record_refuses(record);
	free(record);
	return refused;
}

bool place_forbidden(const struct place *p)
{
	ct_info_t entries[OPENCT_MAX_READERS];
	unsigned int reader;
	int fd;

	if (oct_status_read(entries) < 0)
		return errno == EACCES;
	if (!place_find(p, &reader))
		return false;
	fd = oct_connect(reader, 0);
	if (fd < 0)
		return errno == EACCES;
	close(fd);
	return false;
}
