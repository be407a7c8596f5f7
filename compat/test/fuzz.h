/* A fuzz target is LLVMFuzzerTestOneInput and its seeds. fuzz_main.c runs it
 * without a fuzzer: any compiler, and the same mutations for the same seed.
 * `make libfuzzer` leaves fuzz_main.c out. */
#ifndef OPENCT_TEST_FUZZ_H
#define OPENCT_TEST_FUZZ_H

#include <stddef.h>
#include <stdint.h>

enum { FUZZ_MAX = 6000 };

struct fuzz_seed {
	const char *name;
	const char *text; /* hex, or text itself where fuzz_seeds_are_text */
};

extern const struct fuzz_seed fuzz_seeds[]; /* ends with a name of NULL */
extern const int fuzz_seeds_are_text;

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#endif
