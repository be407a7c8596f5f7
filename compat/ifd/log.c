#include "log.h"

#include <stdarg.h>
#include <stdio.h>

/* pcscd offers it to drivers; a test program may not. */
extern void log_msg(const int priority, const char *fmt, ...) __attribute__((weak));

void ifd_log(enum log_level level, const char *fmt, ...)
{
	char text[256];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof text, fmt, ap);
	va_end(ap);
	for (char *p = text; *p; p++)
		if ((unsigned char)*p < ' ' || *p == 0x7f)
			*p = '?';
	if (log_msg)
		log_msg((int)level, "openct: %s", text);
}
