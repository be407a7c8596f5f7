/* Calls libopenct as programs do, on a token with the PIV card.
 *	clientlib READER          every call a client has
 *	clientlib READER SECONDS  hold the exclusive lock that long */
#include <openct/error.h>
#include <openct/logging.h>
#include <openct/openct.h>
#include <openct/path.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static int failures;

#define CHECK(what) \
	do { \
		if (!(what)) { \
			printf("line %d: %s\n", __LINE__, #what); \
			failures++; \
		} \
	} while (0)

static const unsigned char select_piv[] =
	{ 0, 0xa4, 4, 0, 11, 0xa0, 0, 0, 3, 8, 0, 0, 0x10, 0, 1, 0, 0 };

static void client(unsigned int reader)
{
	const ct_info_t *all;
	ct_info_t info;
	ct_lock_handle lock, second;
	unsigned char buf[300];
	char path[128], dir[] = "/tmp/clientlib-XXXXXX";
	ct_info_t *mine;
	int status, n;
	ct_handle *h, *other;

	CHECK(ct_status(&all) > (int)reader && all[reader].ct_pid > 0);
	CHECK(ct_reader_info(reader, &info) == 0 && info.ct_slots == 1 && info.ct_card[0] != 0);
	CHECK(strcmp(info.ct_name, "Aladdin eToken PRO 64k") == 0);
	CHECK(ct_reader_info(15, &info) < 0);
	CHECK(ct_reader_connect(15) == NULL);
	h = ct_reader_connect(reader);
	other = ct_reader_connect(reader);
	CHECK(h != NULL && other != NULL);
	if (!h || !other)
		return;
	CHECK(ct_reader_status(h, &info) == 0 && info.ct_slots == 1);
	CHECK(ct_card_status(h, 0, &status) == 0 && (status & IFD_CARD_PRESENT));
	n = ct_card_reset(h, 0, buf, sizeof buf);
	CHECK(n == 11 && buf[0] == 0x3b);
	CHECK(ct_card_request(h, 0, 1, NULL, buf, sizeof buf) == 11);
	CHECK(ct_card_set_protocol(h, 0, 1) == 0);
	CHECK(ct_card_set_protocol(h, 0, 77) < 0);
	CHECK(ct_card_reset(h, 5, buf, sizeof buf) < 0);

	CHECK(ct_card_lock(h, 0, IFD_LOCK_EXCLUSIVE, &lock) == 0);
	CHECK(ct_card_lock(other, 0, IFD_LOCK_SHARED, &second) == IFD_ERROR_LOCKED);
	CHECK(ct_card_transact(other, 0, select_piv, sizeof select_piv, buf, sizeof buf) == IFD_ERROR_LOCKED);
	n = ct_card_transact(h, 0, select_piv, sizeof select_piv, buf, sizeof buf);
	CHECK(n > 2 && buf[n - 2] == 0x90 && buf[n - 1] == 0);
	CHECK(ct_card_transact(h, 0, select_piv, sizeof select_piv, buf, 4) == IFD_ERROR_BUFFER_TOO_SMALL);
	CHECK(ct_card_unlock(h, 0, lock) == 0);
	CHECK(ct_card_unlock(h, 0, lock) < 0);
	CHECK(ct_card_lock(other, 0, IFD_LOCK_SHARED, &second) == 0);
	ct_reader_disconnect(other); /* gives the lock back */
	CHECK(ct_card_lock(h, 0, IFD_LOCK_EXCLUSIVE, &lock) == 0);

	/* What this token cannot do is an error, not a wait. */
	CHECK(ct_card_verify(h, 0, 1, NULL, IFD_PIN_ENCODING_ASCII, 0, 5,
			"\x00\x20\x00\x80\x08\xff\xff\xff\xff\xff\xff\xff\xff", 13, buf, sizeof buf) < 0);
	CHECK(ct_card_read_memory(h, 0, 0, buf, 16) < 0);
	CHECK(ct_card_write_memory(h, 0, 0, buf, 16) < 0);
	ct_reader_disconnect(h);

	CHECK(ct_format_path(path, sizeof path, "status") && strstr(path, "/status"));
	CHECK(strstr(ct_strerror(IFD_ERROR_LOCKED), "ock"));
	CHECK(strcmp(ct_hexdump("\x01\xab", 2), " 01 ab") == 0);
	ct_log_destination("@stderr");
	ct_error("an error is printed");
	ct_debug("so is this, to who asked for it");

	/* The daemons' side, on a status file of its own. */
	CHECK(mkdtemp(dir) != NULL && setenv("OPENCT_SOCKETDIR", dir, 1) == 0);
	CHECK(ct_status_clear(3, NULL) == 0);
	n = -1;
	mine = ct_status_alloc_slot(&n);
	CHECK(mine != NULL && n == 0 && mine->ct_pid == getpid());
	CHECK(mine != NULL && ct_status_update(mine) == 0);
	CHECK(ct_status_destroy() == 0);
}

int main(int argc, char **argv)
{
	unsigned int reader = argc > 1 ? (unsigned int)atoi(argv[1]) : 0;
	ct_lock_handle lock;
	ct_handle *h;

	if (argc < 3) {
		client(reader);
		printf(failures ? "%d calls failed\n" : "all calls are right\n", failures);
		return failures != 0;
	}
	h = ct_reader_connect(reader);
	if (!h || ct_card_lock(h, 0, IFD_LOCK_EXCLUSIVE, &lock) < 0)
		return 1;
	puts("locked");
	fflush(stdout);
	sleep((unsigned int)atoi(argv[2]));
	return 0; /* the lock goes with the process */
}
