#include "check.h"

#include <stdarg.h>

int check_failures;
static const char *current = "";
static int cases;

void check_failed(const char *file, int line, const char *fmt, ...)
{
	va_list ap;

	check_failures++;
	fprintf(stderr, "%s:%d: [%s] ", file, line, current);
	va_start(ap, fmt);
	vfprintf(stderr, fmt, ap);
	va_end(ap);
	fputc('\n', stderr);
}

void check_case(const char *name)
{
	current = name;
	cases++;
}

int check_result(const char *program)
{
	printf("%-10s %3d cases, %d failures\n", program, cases, check_failures);
	return check_failures ? 1 : 0;
}

char *hex(const void *data, size_t len)
{
	const unsigned char *p = data;
	char *s = malloc(2 * len + 1);

	if (!s)
		abort();
	for (size_t i = 0; i < len; i++)
		sprintf(s + 2 * i, "%02x", p[i]);
	s[2 * len] = '\0';
	return s;
}

size_t unhex(const char *text, unsigned char *out, size_t size)
{
	size_t n = 0;

	for (; *text; text++) {
		unsigned int byte;

		if (*text == ' ')
			continue;
		if (n == size || sscanf(text, "%2x", &byte) != 1 || !text[1]) {
			fprintf(stderr, "bad hex in a test: %s\n", text);
			abort();
		}
		out[n++] = (unsigned char)byte;
		text++;
	}
	return n;
}
