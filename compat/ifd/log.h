/* Messages to pcscd's log. */
#ifndef OPENCT_IFD_LOG_H
#define OPENCT_IFD_LOG_H

enum log_level { LOG_AS_INFO = 1, LOG_AS_ERROR = 2 };

/* Control characters of the text are shown as '?': parts of it may come from
 * a device or from the socket directory. */
void ifd_log(enum log_level level, const char *fmt, ...)
	__attribute__((format(printf, 2, 3)));

#endif
