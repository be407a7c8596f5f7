/* Paths in the socket directory. */
#include "internal.h"

#include <stdio.h>
#include <stdlib.h>

#ifndef OPENCT_SOCKETDIR
#define OPENCT_SOCKETDIR "/run/openct"
#endif

/* The empty string counts: it names the root directory, as it always did
 * in C OpenCT (path.c). A privileged program must not be led to
 * another directory by its caller, hence secure_getenv. */
static const char *socket_dir(void)
{
	const char *dir = secure_getenv("OPENCT_SOCKETDIR");

	return dir ? dir : OPENCT_SOCKETDIR;
}

bool oct_join_path(char *out, size_t size, const char *file)
{
	int n;

	if (!out || size == 0 || !file)
		return false;
	n = snprintf(out, size, "%s/%s", socket_dir(), file);
	if (n < 0 || (size_t)n >= size) {
		out[0] = '\0';
		return false;
	}
	return true;
}

int ct_format_path(char *out, const size_t len, const char *file)
{
	return oct_join_path(out, len, file) ? 1 : 0;
}
