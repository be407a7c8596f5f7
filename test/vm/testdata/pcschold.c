/* A PC/SC program that sits on a card: pcschold READER SECONDS begins a
 * transaction, says so, and keeps it. */
#include <winscard.h>

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

int main(int argc, char **argv)
{
	SCARDCONTEXT context;
	SCARDHANDLE card;
	DWORD protocol;
	LONG rc;

	if (argc != 3)
		return 2;
	rc = SCardEstablishContext(SCARD_SCOPE_SYSTEM, NULL, NULL, &context);
	if (rc == SCARD_S_SUCCESS)
		rc = SCardConnect(context, argv[1], SCARD_SHARE_SHARED, SCARD_PROTOCOL_T0 | SCARD_PROTOCOL_T1, &card, &protocol);
	if (rc == SCARD_S_SUCCESS)
		rc = SCardBeginTransaction(card);
	if (rc != SCARD_S_SUCCESS) {
		fprintf(stderr, "%s: %s\n", argv[1], pcsc_stringify_error(rc));
		return 1;
	}
	puts("holding");
	fflush(stdout);
	sleep((unsigned int)atoi(argv[2]));
	return 0;
}
