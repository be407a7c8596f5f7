/* Runs a fuzz target: each seed as it is, then seeds with some mutations on
 * top. Arguments as libFuzzer has them: -runs=N -seed=N, and files to run. */
#include "fuzz.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static uint64_t state;

static uint32_t rnd(uint32_t below) /* xorshift64* */
{
	state ^= state >> 12;
	state ^= state << 25;
	state ^= state >> 27;
	return (uint32_t)((state * 0x2545f4914f6cdd1du) >> 33) % below;
}

static size_t load_seed(const struct fuzz_seed *s, uint8_t *out)
{
	size_t n = 0;

	if (fuzz_seeds_are_text) {
		n = strlen(s->text);
		memcpy(out, s->text, n);
		return n;
	}
	for (const char *p = s->text; *p; p++) {
		unsigned int byte;

		if (*p == ' ')
			continue;
		if (sscanf(p, "%2x", &byte) != 1 || n == FUZZ_MAX)
			abort();
		out[n++] = (uint8_t)byte;
		p++;
	}
	return n;
}

static const uint8_t interesting[] = {
	0, 1, 2, 3, 0x0f, 0x10, 0x3f, 0x40, 0x41, 0x45, 0x7f, 0x80, 0x81, 0xc0, 0xef, 0xf0, 0xfe, 0xff,
	'"', '\\', '{', '}', ':', '[', ',',
};

static size_t mutate(uint8_t *b, size_t n)
{
	size_t at = n ? rnd((uint32_t)n) : 0, len, from;

	switch (rnd(8)) {
	case 0: /* a bit */
		if (n)
			b[at] ^= (uint8_t)(1u << rnd(8));
		return n;
	case 1:
		if (n)
			b[at] = interesting[rnd(sizeof interesting)];
		return n;
	case 2:
		if (n)
			b[at] = (uint8_t)rnd(256);
		return n;
	case 3: /* insert */
		if (n == FUZZ_MAX)
			return n;
		memmove(b + at + 1, b + at, n - at);
		b[at] = interesting[rnd(sizeof interesting)];
		return n + 1;
	case 4: /* remove some */
		len = n - at ? 1 + rnd((uint32_t)(n - at)) : 0;
		if (len > 8)
			len = 1 + rnd(8);
		if (len > n - at)
			len = n - at;
		memmove(b + at, b + at + len, n - at - len);
		return n - len;
	case 5: /* cut */
		return at;
	case 6: /* repeat a piece */
		if (!n)
			return n;
		from = rnd((uint32_t)n);
		len = 1 + rnd(64);
		if (len > n - from)
			len = n - from;
		if (len > FUZZ_MAX - n)
			return n;
		memmove(b + at + len, b + at, n - at);
		memmove(b + at, b + (from >= at ? from + len : from), len);
		return n + len;
	default: /* many of one byte */
		len = 1 + rnd(600);
		if (len > FUZZ_MAX - n)
			return n;
		memset(b + n, interesting[rnd(sizeof interesting)], len);
		return n + len;
	}
}

static int run_file(const char *path)
{
	static uint8_t data[1 << 20];
	FILE *f = fopen(path, "rb");
	size_t n;

	if (!f) {
		perror(path);
		return 1;
	}
	n = fread(data, 1, sizeof data, f);
	fclose(f);
	return LLVMFuzzerTestOneInput(data, n);
}

/* Each input in memory of its own size, so that a sanitizer sees its ends. */
static void run(const uint8_t *b, size_t n)
{
	uint8_t *exact = malloc(n ? n : 1);

	if (!exact)
		abort();
	memcpy(exact, b, n);
	LLVMFuzzerTestOneInput(exact, n);
	free(exact);
}

int main(int argc, char **argv)
{
	unsigned long runs = 20000, done = 0, seed = 1;
	static uint8_t b[FUZZ_MAX];
	uint32_t seeds = 0;

	for (int i = 1; i < argc; i++) {
		if (sscanf(argv[i], "-runs=%lu", &runs) == 1 || sscanf(argv[i], "-seed=%lu", &seed) == 1)
			continue;
		if (run_file(argv[i]))
			return 1;
		runs = 0;
	}
	state = 0x9e3779b97f4a7c15u ^ seed;
	for (; fuzz_seeds[seeds].name; seeds++) {
		run(b, load_seed(&fuzz_seeds[seeds], b));
		done++;
	}
	for (; done < runs; done++) {
		size_t n = load_seed(&fuzz_seeds[rnd(seeds)], b);

		for (uint32_t m = 1 + rnd(6); m; m--)
			n = mutate(b, n);
		run(b, n);
	}
	printf("%s: %lu executions from %u seeds\n", argv[0], done, seeds);
	return 0;
}
