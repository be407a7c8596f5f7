/* Messages to stderr or syslog. */
#ifndef OPENCT_LOGGING_H
#define OPENCT_LOGGING_H

#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

#if defined(__GNUC__)
#define OPENCT_PRINTF __attribute__((format(printf, 1, 2)))
#else
#define OPENCT_PRINTF
#endif

/* Sends messages to "@stderr" or "@syslog". Until a program calls this, the
 * library's own messages stay unsaid, except the one of ct_status(). */
void ct_log_destination(const char *destination);

void ct_error(const char *fmt, ...) OPENCT_PRINTF;
void ct_debug(const char *fmt, ...) OPENCT_PRINTF;

/* " xx" per byte, at most 340 bytes of it. The string stays valid until the
 * same thread's next call. */
const char *ct_hexdump(const void *data, size_t len);

#ifdef __cplusplus
}
#endif
#endif
