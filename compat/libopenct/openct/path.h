/* Where the sockets and the status file are. */
#ifndef OPENCT_PATH_H
#define OPENCT_PATH_H

#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Writes the path of file in the socket directory to out: the directory that
 * OPENCT_SOCKETDIR names (not in a privileged program), or the one compiled
 * in. Returns 1, or 0 when it does not fit into len bytes. */
int ct_format_path(char *out, const size_t len, const char *file);

#ifdef __cplusplus
}
#endif
#endif
