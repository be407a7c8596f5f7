/* Messages to stderr or syslog. */
#include "internal.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <syslog.h>

enum destination { UNSET, TO_STDERR, TO_SYSLOG };

static _Atomic(enum destination) destination;

void ct_log_destination(const char *name)
{
	if (name && strcmp(name, "@stderr") == 0)
		atomic_store(&destination, TO_STDERR);
	else if (name && strcmp(name, "@syslog") == 0)
		atomic_store(&destination, TO_SYSLOG);
	else
		ct_error("unknown log destination \"%s\"", name ? name : "");
}

__attribute__((format(printf, 3, 0)))
static void say(int priority, const char *prefix, const char *fmt, va_list ap)
{
	char text[1024];

	vsnprintf(text, sizeof text, fmt, ap);
	if (atomic_load(&destination) == TO_SYSLOG)
		syslog(LOG_DAEMON | priority, "%s", text);
	else
		fprintf(stderr, "%s: %s\n", prefix, text);
}

void ct_error(const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	say(LOG_WARNING, "Error", fmt, ap);
	va_end(ap);
}

void ct_debug(const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	say(LOG_DEBUG, "Debug", fmt, ap);
	va_end(ap);
}

void oct_note(const char *fmt, ...)
{
	va_list ap;

	if (atomic_load(&destination) == UNSET)
		return;
	va_start(ap, fmt);
	say(LOG_WARNING, "Error", fmt, ap);
	va_end(ap);
}

const char *ct_hexdump(const void *data, size_t len)
{
	static _Thread_local char text[3 * 340 + 4];
	static const char digits[] = "0123456789abcdef";
	const unsigned char *p = data;
	size_t n = 0;

	for (size_t i = 0; p && i < len && i < 340; i++) {
		text[n++] = ' ';
		text[n++] = digits[p[i] >> 4];
		text[n++] = digits[p[i] & 15];
	}
	text[n] = '\0';
	return text;
}
