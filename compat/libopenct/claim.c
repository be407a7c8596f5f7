/* The status file as a reader's daemon sees it.
 * Only programs of OpenCT's own ever called these. */
#include "internal.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pwd.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

static bool status_path(char path[PATH_MAX])
{
	return oct_join_path(path, PATH_MAX, "status");
}

int ct_status_destroy(void)
{
	char path[PATH_MAX];

	return status_path(path) ? unlink(path) : -1;
}

/* The directory may belong to the unprivileged user of the daemons, so what
 * lies there is never followed nor taken over: it is removed and made anew. */
static int make_status(const char *path, unsigned int count, const struct passwd *owner)
{
	int fd, rc = -1;

	if (unlink(path) < 0 && errno != ENOENT)
		return -1;
	fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0644);
	if (fd < 0)
		return -1;
	if (ftruncate(fd, (off_t)(count * sizeof(ct_info_t))) == 0 && fchmod(fd, 0644) == 0 &&
			(!owner || fchown(fd, owner->pw_uid, (gid_t)-1) == 0))
		rc = 0;
	close(fd);
	if (rc < 0)
		unlink(path);
	return rc;
}

int ct_status_clear(unsigned int count, const char *owner)
{
	char path[PATH_MAX];
	char buf[4096];
	struct passwd entry, *user = NULL;

	if (count == 0 || count > OPENCT_MAX_READERS || !status_path(path))
		return -1;
	if (owner && (getpwnam_r(owner, &entry, buf, sizeof buf, &user) != 0 || !user)) {
		ct_error("unknown user \"%s\" for %s", owner, path);
		return -1;
	}
	if (make_status(path, count, user) < 0) {
		ct_error("can't create %s: %s", path, strerror(errno));
		return -1;
	}
	return 0;
}

static ct_info_t *map_writable(int fd, unsigned int *count)
{
	struct stat st;
	void *p;

	if (fstat(fd, &st) < 0 || !S_ISREG(st.st_mode) ||
			st.st_size < (off_t)sizeof(ct_info_t))
		return NULL;
	*count = OPENCT_MAX_READERS;
	if (st.st_size < (off_t)(OPENCT_MAX_READERS * sizeof(ct_info_t)))
		*count = (unsigned int)((size_t)st.st_size / sizeof(ct_info_t));
	p = mmap(NULL, *count * sizeof(ct_info_t), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	return p == MAP_FAILED ? NULL : p;
}

/* Searches and claims under the lock, so that two daemons cannot take
 * the same entry. */
static ct_info_t *claim(ct_info_t *entries, unsigned int count, int *num)
{
	if (*num == -1) {
		unsigned int i;

		for (i = 0; i < count; i++)
			if (!oct_pid_alive(entries[i].ct_pid))
				break;
		if (i == count)
			return NULL;
		*num = (int)i;
	} else if (*num < 0 || (unsigned int)*num >= count)
		return NULL;
	memset(entries + *num, 0, sizeof *entries);
	__atomic_store_n(&entries[*num].ct_pid, getpid(), __ATOMIC_RELEASE);
	return entries + *num;
}

/* Daemons and openct-control lock byte 16 of the file .lock while entries
 * change hands. The lock ends with the descriptor; -1 without one. */
static int lock_entries(void)
{
	char path[PATH_MAX];
	struct flock lock = {
		.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = OPENCT_MAX_READERS, .l_len = 1,
	};
	int fd, rc;

	if (!oct_join_path(path, sizeof path, ".lock"))
		return -1;
	fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK, 0600);
	if (fd < 0)
		return -1;
	do
		rc = fcntl(fd, F_OFD_SETLKW, &lock);
	while (rc < 0 && errno == EINTR);
	if (rc < 0) {
		close(fd);
		return -1;
	}
	return fd;
}

ct_info_t *ct_status_alloc_slot(int *num)
{
	char path[PATH_MAX];
	ct_info_t *entries, *entry = NULL;
	unsigned int count;
	int fd, lock;

	if (!num || !status_path(path))
		return NULL;
	fd = open(path, O_RDWR | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
	if (fd < 0)
		return NULL;
	lock = lock_entries();
	entries = lock >= 0 ? map_writable(fd, &count) : NULL;
	if (entries) {
		entry = claim(entries, count, num);
		if (!entry)
			munmap(entries, count * sizeof *entries);
		else
			ct_status_update(entry);
	}
	if (lock >= 0)
		close(lock);
	close(fd);
	return entry;
}

int ct_status_update(ct_info_t *entry)
{
	uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE);
	uintptr_t start = (uintptr_t)entry & ~(page - 1);
	uintptr_t end = (uintptr_t)(entry + 1);

	if (!entry)
		return -1;
	return msync((void *)start, end - start, MS_SYNC);
}
