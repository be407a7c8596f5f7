/* Time of one APDU through libopenct, and the same through pcscd and the bundle.
 *	bench [-n ROUNDS] [OPENCT-READER]
 *	bench [-n ROUNDS] -p NAME
 * needs a card that answers P1*256+P2 bytes to any APDU: ifdhandler etoken64
 * virtual echo. pcscd's part is left out where no PC/SC reader is called OpenCT
 * or eToken; -p measures the PC/SC reader with NAME in its name, alone. */
#include <openct/openct.h>

#ifdef HAVE_PCSC
#include <PCSC/winscard.h>
#endif

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

struct kind { const char *name; unsigned char apdu[7]; size_t len, answer; };

static const struct kind kinds[] = {
	{ "5 bytes", { 0x00, 0x10, 0x00, 0x05, 0x05 }, 5, 7 },
	{ "255 bytes", { 0x00, 0x10, 0x00, 0xff, 0xff }, 5, 257 },
	{ "extended", { 0x00, 0x10, 0x07, 0xd0, 0x00, 0x07, 0xd0 }, 7, 2002 },
};

typedef int (*exchange_fn)(void *conn, const struct kind *k, unsigned char *resp, size_t size);

static double now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (double)ts.tv_sec + (double)ts.tv_nsec / 1e9;
}

static int compare(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return x < y ? -1 : x > y;
}

static int measure(const char *way, exchange_fn exchange, void *conn, unsigned int rounds)
{
	double *times = calloc(rounds, sizeof *times);
	unsigned char resp[2100];

	if (!times)
		return 1;
	for (size_t k = 0; k < sizeof kinds / sizeof kinds[0]; k++) {
		double sum = 0;

		for (unsigned int i = 0; i < rounds; i++) {
			double start = now();
			int n = exchange(conn, &kinds[k], resp, sizeof resp);

			times[i] = (now() - start) * 1e6;
			sum += times[i];
			if (n != (int)kinds[k].answer) {
				fprintf(stderr, "%s: %s: answer of %d bytes, want %zu\n", way,
						kinds[k].name, n, kinds[k].answer);
				free(times);
				return 1;
			}
		}
		qsort(times, rounds, sizeof *times, compare);
		printf("%-10s %-10s %8.1f us mean %8.1f us median %8.1f us 99%%\n", way, kinds[k].name,
				sum / rounds, times[rounds / 2], times[rounds * 99 / 100]);
	}
	free(times);
	return 0;
}

static int by_libopenct(void *h, const struct kind *k, unsigned char *resp, size_t size)
{
	return ct_card_transact(h, 0, k->apdu, k->len, resp, size);
}

static int bench_libopenct(unsigned int reader, unsigned int rounds)
{
	ct_handle *h = ct_reader_connect(reader);
	unsigned char atr[33];
	int rc;

	if (!h || ct_card_reset(h, 0, atr, sizeof atr) < 0) {
		fprintf(stderr, "no card in OpenCT reader %u\n", reader);
		ct_reader_disconnect(h);
		return 1;
	}
	rc = measure("libopenct", by_libopenct, h, rounds);
	ct_reader_disconnect(h);
	return rc;
}

#ifdef HAVE_PCSC
static int by_pcsc(void *card, const struct kind *k, unsigned char *resp, size_t size)
{
	DWORD len = size;

	if (SCardTransmit(*(SCARDHANDLE *)card, SCARD_PCI_T1, k->apdu, k->len, NULL, resp, &len) != SCARD_S_SUCCESS)
		return -1;
	return (int)len;
}

static int bench_pcsc(const char *name, unsigned int rounds)
{
	SCARDCONTEXT ctx;
	SCARDHANDLE card;
	DWORD len, protocol;
	char *names = NULL;
	int rc = name != NULL;

	if (SCardEstablishContext(SCARD_SCOPE_SYSTEM, NULL, NULL, &ctx) != SCARD_S_SUCCESS)
		return rc;
	len = SCARD_AUTOALLOCATE;
	if (SCardListReaders(ctx, NULL, (LPSTR)&names, &len) == SCARD_S_SUCCESS)
		for (const char *n = names; *n; n += strlen(n) + 1) {
			if (name ? !strstr(n, name) : !strstr(n, "OpenCT") && !strstr(n, "eToken"))
				continue;
			if (SCardConnect(ctx, n, SCARD_SHARE_SHARED, SCARD_PROTOCOL_T1, &card,
						&protocol) != SCARD_S_SUCCESS)
				continue;
			rc = measure("pcscd", by_pcsc, &card, rounds);
			SCardDisconnect(card, SCARD_RESET_CARD);
			break;
		}
	if (names)
		SCardFreeMemory(ctx, names);
	SCardReleaseContext(ctx);
	return rc;
}
#else
static int bench_pcsc(const char *name, unsigned int rounds)
{
	(void)rounds;
	return name != NULL;
}
#endif

int main(int argc, char **argv)
{
	unsigned int rounds = 2000, reader = 0;
	const char *name = NULL;
	int rc;

	for (int i = 1; i < argc; i++)
		if (strcmp(argv[i], "-n") == 0 && i + 1 < argc)
			rounds = (unsigned int)strtoul(argv[++i], NULL, 10);
		else if (strcmp(argv[i], "-p") == 0 && i + 1 < argc)
			name = argv[++i];
		else
			reader = (unsigned int)strtoul(argv[i], NULL, 10);
	if (rounds == 0)
		rounds = 1;
	rc = name ? 0 : bench_libopenct(reader, rounds);
	return rc ? rc : bench_pcsc(name, rounds);
}
