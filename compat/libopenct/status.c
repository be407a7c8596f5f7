/* The status file as clients see it (spec/status-file.md). */
#include "internal.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#include <limits.h>

_Static_assert(sizeof(ct_info_t) == 108, "an entry has 108 bytes");

/* Every status file this process has mapped. Programs keep pointers into them,
 * so none is ever unmapped. A file in this list cannot lose its inode number
 * to another one. The list only grows at its head, without a lock: it works in
 * any thread and after any fork. */
static _Atomic(struct oct_map *) maps;

static const struct oct_map *find_map(const struct oct_map *head, const struct stat *st)
{
	for (const struct oct_map *m = head; m; m = m->next)
		if (m->dev == st->st_dev && m->ino == st->st_ino)
			return m;
	return NULL;
}

static struct oct_map *map_file(const char *path)
{
	const size_t full = OPENCT_MAX_READERS * sizeof(ct_info_t);
	struct oct_map *m = NULL;
	struct stat st;
	int saved = EINVAL;
	int fd;

	do
		fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
	while (fd < 0 && errno == EINTR);
	if (fd < 0)
		return NULL;
	if (fstat(fd, &st) == 0 && S_ISREG(st.st_mode) &&
			st.st_size >= (off_t)sizeof(ct_info_t)) {
		size_t size = st.st_size < (off_t)full ? (size_t)st.st_size : full;
		void *p = mmap(NULL, size, PROT_READ, MAP_SHARED, fd, 0);

		saved = errno;
		m = p == MAP_FAILED ? NULL : malloc(sizeof *m);
		if (m) {
			m->entries = p;
			m->count = (unsigned int)(size / sizeof(ct_info_t));
			m->dev = st.st_dev;
			m->ino = st.st_ino;
		} else if (p != MAP_FAILED) {
			munmap(p, size);
			saved = ENOMEM;
		}
	}
	close(fd);
	errno = saved;
	return m;
}

const struct oct_map *oct_status_map(void)
{
	char path[PATH_MAX];
	struct stat st;
	struct oct_map *head, *m;
	const struct oct_map *found;

	if (!oct_join_path(path, sizeof path, "status")) {
		errno = ENAMETOOLONG;
		return NULL;
	}
	if (stat(path, &st) < 0)
		return NULL;
	head = atomic_load(&maps);
	found = find_map(head, &st);
	if (found)
		return found;
	m = map_file(path);
	if (!m)
		return NULL;
	do
		m->next = head;
	while (!atomic_compare_exchange_weak(&maps, &head, m));
	return m;
}

int ct_status(const ct_info_t **out)
{
	const struct oct_map *m;

	if (!out)
		return -1;
	m = oct_status_map();
	if (!m) {
		char path[PATH_MAX];
		int saved = errno;

		if (oct_join_path(path, sizeof path, "status"))
			ct_error("can't open %s: %s", path, strerror(saved));
		return -1;
	}
	*out = m->entries;
	return (int)m->count;
}

void oct_info_copy(ct_info_t *out, const ct_info_t *entry)
{
	pid_t pid = __atomic_load_n(&entry->ct_pid, __ATOMIC_ACQUIRE);

	memcpy(out, entry, sizeof *out);
	out->ct_pid = pid;
	out->ct_name[sizeof out->ct_name - 1] = '\0';
	if (out->ct_slots > OPENCT_MAX_SLOTS)
		out->ct_slots = OPENCT_MAX_SLOTS;
}

/* A process of another user is alive, too. */
bool oct_pid_alive(pid_t pid)
{
	return pid > 0 && (kill(pid, 0) == 0 || errno != ESRCH);
}

int ct_reader_info(unsigned int reader, ct_info_t *out)
{
	const struct oct_map *m = oct_status_map();
	ct_info_t info;

	if (!out || !m || reader >= m->count)
		return -1;
	oct_info_copy(&info, m->entries + reader);
	if (!oct_pid_alive(info.ct_pid))
		return -1;
	*out = info;
	return 0;
}
