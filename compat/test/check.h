/* What the tests share: checks that say where they failed, bytes as hex. */
#ifndef OPENCT_TEST_CHECK_H
#define OPENCT_TEST_CHECK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

extern int check_failures;

#define CHECK(cond) \
	((cond) ? (void)0 : check_failed(__FILE__, __LINE__, "%s", #cond))

#define CHECK_INT(got, want) do { \
	long long got_ = (long long)(got), want_ = (long long)(want); \
	if (got_ != want_) \
		check_failed(__FILE__, __LINE__, "%s is %lld, want %lld", #got, got_, want_); \
} while (0)

#define CHECK_STR(got, want) do { \
	const char *got_ = (got), *want_ = (want); \
	if (strcmp(got_, want_) != 0) \
		check_failed(__FILE__, __LINE__, "%s is \"%s\", want \"%s\"", #got, got_, want_); \
} while (0)

#define CHECK_HEX(data, len, want) do { \
	char *got_ = hex(data, len); \
	if (strcmp(got_, want) != 0) \
		check_failed(__FILE__, __LINE__, "%s is %s, want %s", #data, got_, want); \
	free(got_); \
} while (0)

void check_failed(const char *file, int line, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));

/* Prints the case's name, should a check in it fail. */
void check_case(const char *name);

/* What main returns: 0 when nothing failed. */
int check_result(const char *program);

char *hex(const void *data, size_t len);                /* the caller frees it */
size_t unhex(const char *text, unsigned char *out, size_t size);

#endif
