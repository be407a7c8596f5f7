/* The status file as clients see it: OPENCT_MAX_READERS entries of ct_info_t
 * (openct/openct.h), which daemons change in place. */
#include "internal.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

_Static_assert(sizeof(ct_info_t) == 108, "an entry has 108 bytes");

enum { STATUS_SIZE = OPENCT_MAX_READERS * sizeof(ct_info_t) };

/* Opens the status file that is there now; false with errno. */
static bool open_status(struct oct_status *s, off_t *size)
{
	char path[PATH_MAX];
	struct stat st;

	if (!oct_join_path(path, sizeof path, "status")) {
		errno = ENAMETOOLONG;
		return false;
	}
	do
		s->fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
	while (s->fd < 0 && errno == EINTR);
	if (s->fd < 0)
		return false;
	if (fstat(s->fd, &st) < 0 || !S_ISREG(st.st_mode)) {
		close(s->fd);
		errno = EINVAL;
		return false;
	}
	s->dev = st.st_dev;
	s->ino = st.st_ino;
	if (size)
		*size = st.st_size;
	return true;
}

/* As many of the bytes as there are. */
static size_t read_at(int fd, void *out, size_t size, off_t at)
{
	unsigned char *p = out;
	size_t have = 0;

	while (have < size) {
		ssize_t n = pread(fd, p + have, size - have, at + (off_t)have);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			break;
		have += (size_t)n;
	}
	return have;
}

/* Whatever is in the file: the name of the copy ends and can be printed, and its
 * slots fit. Programs show the name on terminals. */
static void make_safe(ct_info_t *info)
{
	info->ct_name[sizeof info->ct_name - 1] = '\0';
	for (char *p = info->ct_name; *p; p++)
		if ((unsigned char)*p < ' ' || *p == 0x7f)
			*p = '?';
	if (info->ct_slots > OPENCT_MAX_SLOTS)
		info->ct_slots = OPENCT_MAX_SLOTS;
}

int oct_status_read(ct_info_t out[OPENCT_MAX_READERS])
{
	struct oct_status s;
	int count;

	if (!open_status(&s, NULL))
		return -1;
	count = (int)(read_at(s.fd, out, STATUS_SIZE, 0) / sizeof *out);
	close(s.fd);
	for (int i = 0; i < count; i++)
		make_safe(&out[i]);
	return count;
}

/* False, and zeros, when the file has no such entry. */
static bool read_entry(int fd, unsigned int reader, ct_info_t *out)
{
	bool there = reader < OPENCT_MAX_READERS &&
		read_at(fd, out, sizeof *out, (off_t)(reader * sizeof *out)) == sizeof *out;

	if (there)
		make_safe(out);
	else {
		memset(out, 0, sizeof *out);
		errno = ENOENT;
	}
	return there;
}

static bool still_ours(const struct oct_status *s)
{
	struct stat st;

	return s->fd >= 0 && fstat(s->fd, &st) == 0 && st.st_dev == s->dev && st.st_ino == s->ino;
}

void oct_status_close(struct oct_status *s)
{
	if (still_ours(s))
		close(s->fd);
	s->fd = -1;
}

/* An entry without a process belongs to a reader that left, or to a status
 * file that was replaced: the reader may be in the file that is there now. */
bool oct_status_entry(struct oct_status *s, unsigned int reader, ct_info_t *out)
{
	struct oct_status now;
	bool there = false;

	memset(out, 0, sizeof *out);
	if (still_ours(s))
		there = read_entry(s->fd, reader, out);
	else
		s->fd = -1;
	if ((there && out->ct_pid != 0) || !open_status(&now, NULL))
		return there;
	if (s->fd >= 0 && now.dev == s->dev && now.ino == s->ino) {
		close(now.fd);
		return there;
	}
	oct_status_close(s);
	*s = now;
	return read_entry(s->fd, reader, out);
}

/* ct_status() hands the file itself out, as a mapping: a program that keeps
 * the pointer sees readers come and go. Programs never give one back, so none
 * is ever unmapped. A file in this list cannot lose its inode number to another
 * one. The list only grows at its head, without a lock: it works in any thread
 * and after any fork. */
struct map {
	const ct_info_t *entries;
	unsigned int count;
	dev_t dev;
	ino_t ino;
	struct map *next;
};

static _Atomic(struct map *) maps;

static const struct map *find_map(const struct map *head, const struct oct_status *s)
{
	for (const struct map *m = head; m; m = m->next)
		if (m->dev == s->dev && m->ino == s->ino)
			return m;
	return NULL;
}

static struct map *map_file(const struct oct_status *s, off_t length)
{
	size_t size = length < STATUS_SIZE ? (size_t)length : STATUS_SIZE;
	struct map *m;
	void *p;

	if (size < sizeof(ct_info_t)) {
		errno = EINVAL;
		return NULL;
	}
	p = mmap(NULL, size, PROT_READ, MAP_SHARED, s->fd, 0);
	if (p == MAP_FAILED)
		return NULL;
	m = malloc(sizeof *m);
	if (!m) {
		munmap(p, size);
		errno = ENOMEM;
		return NULL;
	}
	m->entries = p;
	m->count = (unsigned int)(size / sizeof(ct_info_t));
	m->dev = s->dev;
	m->ino = s->ino;
	return m;
}

static const struct map *map_status(void)
{
	struct map *head = atomic_load(&maps), *made;
	const struct map *m;
	struct oct_status s;
	off_t size;
	int saved;

	if (!open_status(&s, &size))
		return NULL;
	m = find_map(head, &s);
	if (!m) {
		m = made = map_file(&s, size);
		if (made)
			do
				made->next = head;
			while (!atomic_compare_exchange_weak(&maps, &head, made));
	}
	saved = errno;
	close(s.fd);
	errno = saved;
	return m;
}

int ct_status(const ct_info_t **out)
{
	const struct map *m;

	if (!out)
		return -1;
	m = map_status();
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

/* A process of another user is alive, too. */
bool oct_pid_alive(pid_t pid)
{
	return pid > 0 && (kill(pid, 0) == 0 || errno != ESRCH);
}

int ct_reader_info(unsigned int reader, ct_info_t *out)
{
	struct oct_status s;
	ct_info_t info;
	bool there;

	if (!out || !open_status(&s, NULL))
		return -1;
	there = read_entry(s.fd, reader, &info);
	close(s.fd);
	if (!there || !oct_pid_alive(info.ct_pid))
		return -1;
	*out = info;
	return 0;
}
