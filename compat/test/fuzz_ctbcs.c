/* Commands for the CT-API terminal: whatever a program sends, the response
 * stays in its buffer. The first byte is the buffer's size. */
#include "fuzz.h"
#include "terminal.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

const int fuzz_seeds_are_text = 0;

const struct fuzz_seed fuzz_seeds[] = {
	{ "STATUS", "ff 2013008100" }, { "maker", "ff 2013004600" }, { "RESET", "ff 2011010100" },
	{ "REQUEST ICC", "40 20120101 09 5004434f4d45 80011e" }, { "EJECT", "ff 2015010000" },
	{ "protocol", "10 80600100 03 220102" }, { "SELECT", "ff 00a4000002 7f60" },
	{ "OUTPUT", "ff 20174000 04 50024849" },
	{ "PERFORM VERIFICATION", "ff 20180100 11 520f 0106 0020000108ffffffffffffffff" },
	{ "MODIFY VERIFICATION", "ff 20190100 0c 80011e 5207 01060e00240001" },
	{ "READ", "ff 00b0000000" }, { "READ at", "08 00b0000305" }, { NULL, NULL },
};

/* A status file of one entry, in memory. */
static void open_status(struct oct_status *s, unsigned int keypad)
{
	static const ct_info_t template = { .ct_name = "Reader", .ct_slots = 2, .ct_pid = 1 };
	static int fd = -1;
	ct_info_t entry = template;
	struct stat st;

	if (fd < 0)
		fd = memfd_create("status", MFD_CLOEXEC);
	entry.ct_keypad = keypad & 1u;
	entry.ct_display = keypad & 1u;
	if (pwrite(fd, &entry, sizeof entry, 0) != sizeof entry || fstat(fd, &st) < 0)
		abort();
	*s = (struct oct_status){ fd, st.st_dev, st.st_ino };
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct ct_handle h = { .fd = -1 };
	struct terminal t = { .slots = 2, .directory = CTFILE_MF, .file = CTFILE_MF, .h = &h };
	unsigned char *rsp;
	int rc;

	if (size < 1)
		return 0;
	open_status(&h.status, data[0] & 1u);
	pthread_mutex_init(&h.looking, NULL);
	pthread_mutex_init(&h.lock, NULL);
	rsp = malloc(data[0] ? data[0] : 1);
	if (!rsp)
		abort();
	/* The same command twice, in the state the first one left. */
	for (int i = 0; i < 2; i++) {
		rc = ctbcs_command(&t, data + 1, size - 1, rsp, data[0]);
		if (rc > data[0] || rc == 0 || rc == 1)
			abort();
	}
	free(rsp);
	pthread_mutex_destroy(&h.looking);
	pthread_mutex_destroy(&h.lock);
	return 0;
}
