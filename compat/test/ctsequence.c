/* What CT-API programs do: CT_init, commands, CT_close. Called with the number
 * of a reader and commands as DAD:HEX, it prints a response a line.
 *
 * internal/daemon/kaan_test.go runs it against a handler. */
#include <openct/ctapi.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static size_t unhex(const char *text, unsigned char *out, size_t size)
{
	size_t n = 0;
	unsigned int byte;

	while (n < size && sscanf(text, "%2x", &byte) == 1) {
		out[n++] = (unsigned char)byte;
		text += text[1] ? 2 : 1;
	}
	return n;
}

int main(int argc, char **argv)
{
	const unsigned short ctn = 1;
	char rc;

	if (argc < 2)
		return 2;
	rc = CT_init(ctn, (unsigned short)atoi(argv[1]));
	printf("init %d\n", (signed char)rc);
	if (rc != OK)
		return 1;
	for (int i = 2; i < argc; i++) {
		unsigned char cmd[300], rsp[300], dad = (unsigned char)atoi(argv[i]), sad = 2;
		const char *hex = strchr(argv[i], ':');
		unsigned short lenr = sizeof rsp;

		if (!hex)
			return 2;
		rc = CT_data(ctn, &dad, &sad, (unsigned short)unhex(hex + 1, cmd, sizeof cmd), cmd, &lenr, rsp);
		if (rc != OK) {
			printf("error %d\n", (signed char)rc);
			continue;
		}
		for (unsigned short j = 0; j < lenr; j++)
			printf("%02x", rsp[j]);
		printf("\n");
	}
	printf("close %d\n", (signed char)CT_close(ctn));
	return 0;
}
