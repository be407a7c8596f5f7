/* What an old CT-API program does with a memory card, on reader 0 or the one
 * that is named. It prints the card's first 256 bytes. */
#include <openct/ctapi.h>

#include <stdio.h>
#include <stdlib.h>

static unsigned char rsp[300];

/* Length of the response without its status word, which must be 9000. */
static int command(unsigned char to, const char *what, unsigned char *cmd, unsigned short len)
{
	unsigned char sad = 2;
	unsigned short lenr = sizeof rsp;
	int rc = CT_data(1, &to, &sad, len, cmd, &lenr, rsp);

	if (rc != OK || lenr < 2 || rsp[lenr - 2] != 0x90 || rsp[lenr - 1] != 0x00) {
		printf("%s: %d, %d bytes, %02x%02x\n", what, rc, lenr, rsp[lenr - 2], rsp[lenr - 1]);
		exit(1);
	}
	return lenr - 2;
}

int main(int argc, char **argv)
{
	unsigned char request[] = { 0x20, 0x12, 0x01, 0x01, 0x00 };
	unsigned char select[] = { 0x00, 0xa4, 0x00, 0x00, 0x02, 0x3f, 0x00 };
	unsigned char read[] = { 0x00, 0xb0, 0x00, 0x00, 0x00 };
	unsigned char eject[] = { 0x20, 0x15, 0x01, 0x00, 0x00 };
	int n;

	if (CT_init(1, (unsigned short)(argc > 1 ? atoi(argv[1]) : 0)) != OK) {
		printf("CT_init failed\n");
		return 1;
	}
	n = command(CTAPI_DAD_CT, "REQUEST ICC", request, sizeof request);
	printf("ATR of %d bytes\n", n);
	command(CTAPI_DAD_ICC1, "SELECT FILE", select, sizeof select);
	n = command(CTAPI_DAD_ICC1, "READ BINARY", read, sizeof read);
	for (int i = 0; i < n; i++)
		printf("%02x", rsp[i]);
	printf("\n");
	command(CTAPI_DAD_CT, "EJECT ICC", eject, sizeof eject);
	return CT_close(1) == OK ? 0 : 1;
}
