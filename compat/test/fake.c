#include "fake.h"
#include "check.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <dirent.h>
#include <unistd.h>

enum { CLIENTS = 16, PACKET = 4096 + 64 };

char world_dir[64];
ct_info_t *world_entries;

static void die(const char *what)
{
	perror(what);
	exit(3);
}

/* World */

char *world_path(const char *file)
{
	static char path[128];

	snprintf(path, sizeof path, "%s/%s", world_dir, file);
	return path;
}

static void make_status(const char *name)
{
	int fd = open(world_path(name), O_RDWR | O_CREAT | O_TRUNC, 0644);
	void *p;

	if (fd < 0 || ftruncate(fd, 16 * 108) < 0)
		die("status");
	p = mmap(NULL, 16 * 108, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (p == MAP_FAILED)
		die("mmap");
	world_entries = p;
	close(fd);
}

void world_open(void)
{
	snprintf(world_dir, sizeof world_dir, "/tmp/openct-test.XXXXXX");
	if (!mkdtemp(world_dir))
		die("mkdtemp");
	setenv("OPENCT_SOCKETDIR", world_dir, 1);
	make_status("status");
}

void world_renew_status(void)
{
	char from[128];

	make_status("new");
	snprintf(from, sizeof from, "%s", world_path("new"));
	if (rename(from, world_path("status")) < 0)
		die("rename");
}

void world_close(void)
{
	DIR *d = opendir(world_dir);
	struct dirent *e;

	while (d && (e = readdir(d)))
		if (strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0 &&
				unlink(world_path(e->d_name)) < 0)
			rmdir(world_path(e->d_name));
	if (d)
		closedir(d);
	rmdir(world_dir);
}

void world_touch(void)
{
	if (utimensat(AT_FDCWD, world_path("status"), NULL, 0) < 0)
		die("utimensat");
}

void world_side_file(unsigned int reader, const char *json)
{
	char name[24], tmp[128];
	FILE *f;

	snprintf(tmp, sizeof tmp, "%s", world_path("side"));
	f = fopen(tmp, "w");
	if (!f || fputs(json, f) < 0 || fclose(f) != 0)
		die(tmp);
	snprintf(name, sizeof name, ".%u.json", reader);
	if (rename(tmp, world_path(name)) < 0)
		die(name);
}

void world_reader(unsigned int reader, const char *name, unsigned int slots)
{
	ct_info_t *e = world_entries + reader;

	memset(e, 0, sizeof *e);
	e->ct_pid = getpid();
	e->ct_slots = slots;
	snprintf(e->ct_name, sizeof e->ct_name, "%s", name);
}

/* Server: one loop for all clients, one function that answers. */

struct client {
	int fd;
	size_t have;
	unsigned char in[PACKET];
};

struct server {
	void (*answer)(struct server *, struct client *, uint32_t xid,
			const unsigned char *payload, size_t len);
	int (*over)(struct server *); /* exit code, or -1: go on */
	void (*left)(struct server *, struct client *);
	struct client clients[CLIENTS];

	const struct exchange *script;
	size_t count, at;

	struct fake_reader *reader;
	struct { int fd; unsigned int slot, handle; bool exclusive; } locks[32];
	size_t lock_count;
	unsigned int next_handle;
};

static void hang_up(struct server *s, struct client *c)
{
	if (s->left)
		s->left(s, c);
	close(c->fd);
	c->fd = -1;
	c->have = 0;
}

static void put(struct client *c, const void *data, size_t len)
{
	if (send(c->fd, data, len, MSG_NOSIGNAL) != (ssize_t)len)
		fprintf(stderr, "fake: client does not take its reply: %s\n", strerror(errno));
}

static void reply(struct client *c, uint32_t xid, int error, const void *payload, size_t len)
{
	unsigned char packet[PACKET] = { 0 };
	int16_t e = (int16_t)error;
	uint16_t n = (uint16_t)len;

	memcpy(packet, &xid, 4);
	memcpy(packet + 8, &e, 2);
	memcpy(packet + 10, &n, 2);
	if (len)
		memcpy(packet + 12, payload, len);
	put(c, packet, 12 + len);
}

static void take(struct server *s, struct client *c)
{
	ssize_t n = recv(c->fd, c->in + c->have, sizeof c->in - c->have, 0);

	if (n <= 0) {
		hang_up(s, c);
		return;
	}
	c->have += (size_t)n;
	while (c->fd >= 0 && c->have >= 12) {
		uint16_t count;
		uint32_t xid;

		memcpy(&xid, c->in, 4);
		memcpy(&count, c->in + 10, 2);
		if (c->have < 12u + count)
			return;
		s->answer(s, c, xid, c->in + 12, count);
		if (c->fd < 0)
			return;
		c->have -= 12u + count;
		memmove(c->in, c->in + 12 + count, c->have);
	}
}

static int serve(struct server *s, int listener, int end)
{
	for (;;) {
		struct pollfd pfd[CLIENTS + 2] = {
			{ .fd = listener, .events = POLLIN },
			{ .fd = end, .events = POLLIN },
		};
		size_t open = 0;

		for (size_t i = 0; i < CLIENTS; i++) {
			pfd[i + 2] = (struct pollfd){ .fd = s->clients[i].fd, .events = POLLIN };
			open += s->clients[i].fd >= 0;
		}
		if (poll(pfd, CLIENTS + 2, -1) < 0)
			die("poll");
		for (size_t i = 0; i < CLIENTS; i++)
			if (pfd[i + 2].revents)
				take(s, &s->clients[i]);
		if (pfd[0].revents)
			for (size_t i = 0; i < CLIENTS; i++)
				if (s->clients[i].fd < 0) {
					s->clients[i].fd = accept(listener, NULL, NULL);
					s->clients[i].have = 0;
					if (s->reader)
						atomic_fetch_add(&s->reader->connections, 1);
					break;
				}
		/* The test has closed everything, also what waits to be accepted. */
		if (pfd[1].revents && open == 0 && !pfd[0].revents)
			return s->over(s);
	}
}

static struct { pid_t pid; int end; } servers[16];

static pid_t start(unsigned int reader, struct server *s)
{
	struct sockaddr_un sa = { .sun_family = AF_UNIX };
	int listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	int end[2];
	pid_t pid;

	snprintf(sa.sun_path, sizeof sa.sun_path, "%s/%u", world_dir, reader);
	unlink(sa.sun_path);
	if (listener < 0 || bind(listener, (struct sockaddr *)&sa, sizeof sa) < 0 ||
			listen(listener, 16) < 0 || pipe2(end, O_CLOEXEC) < 0)
		die(sa.sun_path);
	for (size_t i = 0; i < CLIENTS; i++)
		s->clients[i].fd = -1;
	fflush(NULL);
	pid = fork();
	if (pid < 0)
		die("fork");
	if (pid == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		close(end[1]);
		for (size_t i = 0; i < 16; i++) /* other servers' ends stay the test's */
			if (servers[i].pid)
				close(servers[i].end);
		_exit(serve(s, listener, end[0]));
	}
	close(listener);
	close(end[0]);
	for (size_t i = 0; i < 16; i++)
		if (!servers[i].pid) {
			servers[i].pid = pid;
			servers[i].end = end[1];
			break;
		}
	return pid;
}

static int reap(pid_t pid)
{
	int status;

	for (size_t i = 0; i < 16; i++)
		if (servers[i].pid == pid) {
			close(servers[i].end);
			servers[i].pid = 0;
		}
	if (waitpid(pid, &status, 0) != pid)
		die("waitpid");
	return status;
}

void fake_end(pid_t pid)
{
	int status = reap(pid);

	if (!WIFEXITED(status) || WEXITSTATUS(status) != 0)
		check_failed(__FILE__, __LINE__, "server ended with status %#x", status);
}

void fake_kill(pid_t pid)
{
	kill(pid, SIGKILL);
	(void)reap(pid);
}

/* Crowd */

void fake_crowd_open(struct fake_crowd *c, unsigned int reader)
{
	struct sockaddr_un sa = { .sun_family = AF_UNIX };

	memset(c, 0, sizeof *c);
	c->listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	snprintf(sa.sun_path, sizeof sa.sun_path, "%s/%u", world_dir, reader);
	unlink(sa.sun_path);
	if (c->listener < 0 || bind(c->listener, (struct sockaddr *)&sa, sizeof sa) < 0 ||
			listen(c->listener, 2) < 0)
		die(sa.sun_path);
	for (;;) {
		int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

		if (fd < 0 || c->count == sizeof c->waiting / sizeof c->waiting[0])
			die("crowd");
		c->waiting[c->count++] = fd;
		if (connect(fd, (struct sockaddr *)&sa, sizeof sa) < 0) {
			if (errno != EAGAIN)
				die("connect");
			return;
		}
	}
}

void fake_crowd_leave(struct fake_crowd *c)
{
	int fd;

	fcntl(c->listener, F_SETFL, O_NONBLOCK);
	while (c->count > 0)
		close(c->waiting[--c->count]);
	while ((fd = accept(c->listener, NULL, NULL)) >= 0)
		close(fd);
}

void fake_crowd_close(struct fake_crowd *c)
{
	while (c->count > 0)
		close(c->waiting[--c->count]);
	close(c->listener);
}

/* Script */

static void send_raw(struct client *c, uint32_t xid, const char *text)
{
	unsigned char bytes[3 * PACKET];
	char *own = strdup(text), *x, digits[9];
	size_t n;

	for (int i = 0; i < 4; i++)
		sprintf(digits + 2 * i, "%02x", xid >> 8 * i & 0xff);
	while ((x = strstr(own, "xxxxxxxx")))
		memcpy(x, digits, 8);
	n = unhex(own, bytes, sizeof bytes);
	/* In pieces: nobody promises that a packet comes in one. */
	for (size_t at = 0; at < n; at += 7)
		put(c, bytes + at, n - at < 7 ? n - at : 7);
	free(own);
}

static void answer_script(struct server *s, struct client *c, uint32_t xid,
		const unsigned char *payload, size_t len)
{
	const struct exchange *e = s->script + s->at;
	char *got = hex(payload, len);
	unsigned char bytes[PACKET];

	if (s->at >= s->count || strcmp(got, e->want) != 0) {
		fprintf(stderr, "fake: request %zu is %.200s, want %.200s\n", s->at, got,
				s->at < s->count ? e->want : "none");
		_exit(1);
	}
	free(got);
	s->at++;
	if (strcmp(e->reply, "close") == 0)
		hang_up(s, c);
	else if (e->reply[0] == '!')
		reply(c, xid, atoi(e->reply + 1), NULL, 0);
	else if (e->reply[0] == '@')
		send_raw(c, xid, e->reply + 1);
	else
		reply(c, xid, 0, bytes, unhex(e->reply, bytes, sizeof bytes));
}

static int script_over(struct server *s)
{
	if (s->at == s->count)
		return 0;
	fprintf(stderr, "fake: request %s was never made\n", s->script[s->at].want);
	return 2;
}

pid_t fake_script(unsigned int reader, const struct exchange *script, size_t count)
{
	static struct server s;

	memset(&s, 0, sizeof s);
	s.answer = answer_script;
	s.over = script_over;
	s.script = script;
	s.count = count;
	return start(reader, &s);
}

/* Reader */

struct fake_reader *fake_reader_new(void)
{
	struct fake_reader *r = mmap(NULL, sizeof *r, PROT_READ | PROT_WRITE,
			MAP_SHARED | MAP_ANONYMOUS, -1, 0);

	if (r == MAP_FAILED)
		die("mmap");
	strcpy(r->atr[0], "3b848131fe455249475083");
	strcpy(r->atr[1], "3b0214ff");
	strcpy(r->verify_reply, "9000");
	return r;
}

static bool locked(const struct server *s, const struct client *c, unsigned int slot, bool exclusive)
{
	for (size_t i = 0; i < s->lock_count; i++)
		if (s->locks[i].fd != c->fd && s->locks[i].slot == slot &&
				(exclusive || s->locks[i].exclusive))
			return true;
	return false;
}

static void forget_locks(struct server *s, struct client *c)
{
	size_t kept = 0;

	for (size_t i = 0; i < s->lock_count; i++)
		if (s->locks[i].fd != c->fd)
			s->locks[kept++] = s->locks[i];
	s->lock_count = kept;
}

static void put_tlv(struct client *c, uint32_t xid, unsigned char tag, const void *data, size_t len)
{
	unsigned char payload[PACKET];

	payload[0] = tag | 0x40;
	payload[1] = (unsigned char)(len >> 8);
	payload[2] = (unsigned char)(len & 0xff);
	memcpy(payload + 3, data, len);
	reply(c, xid, 0, payload, len ? 3 + len : 0);
}

static void answer_text(struct client *c, uint32_t xid, unsigned char tag, const char *text)
{
	unsigned char bytes[80];

	if (text[0] == '!')
		reply(c, xid, atoi(text + 1), NULL, 0);
	else
		put_tlv(c, xid, tag, bytes, unhex(text, bytes, sizeof bytes));
}

static void answer_transact(struct server *s, struct client *c, uint32_t xid,
		const unsigned char *apdu, size_t len)
{
	unsigned char out[PACKET];

	if (len > 1 && apdu[1] == 0xff)
		_exit(0);
	if (len > 1 && apdu[1] == 0xfe) {
		atomic_store(&s->reader->waiting, 1);
		while (!atomic_load(&s->reader->release))
			(void)poll(NULL, 0, 1);
	}
	memcpy(out, apdu, len);
	out[len] = 0x90;
	out[len + 1] = 0x00;
	put_tlv(c, xid, 0x05, out, len + 2);
}

static void answer_lock(struct server *s, struct client *c, uint32_t xid, unsigned int slot, bool exclusive)
{
	unsigned char handle = (unsigned char)s->next_handle;

	if (locked(s, c, slot, exclusive)) {
		reply(c, xid, -7, NULL, 0);
		return;
	}
	s->locks[s->lock_count].fd = c->fd;
	s->locks[s->lock_count].slot = slot;
	s->locks[s->lock_count].handle = s->next_handle++;
	s->locks[s->lock_count++].exclusive = exclusive;
	put_tlv(c, xid, 0x04, &handle, 1);
}

static void answer_unlock(struct server *s, struct client *c, uint32_t xid, unsigned int handle)
{
	for (size_t i = 0; i < s->lock_count; i++)
		if (s->locks[i].fd == c->fd && s->locks[i].handle == handle) {
			s->locks[i] = s->locks[--s->lock_count];
			reply(c, xid, 0, NULL, 0);
			return;
		}
	reply(c, xid, -8, NULL, 0);
}

static void answer_limits(struct client *c, uint32_t xid, unsigned int max)
{
	const unsigned char payload[] = {
		0x06, 4, (unsigned char)(max >> 24), (unsigned char)(max >> 16 & 0xff),
		(unsigned char)(max >> 8 & 0xff), (unsigned char)(max & 0xff), 0x07, 1, 200,
	};

	if (max)
		reply(c, xid, 0, payload, sizeof payload);
	else
		reply(c, xid, -101, NULL, 0);
}

static void answer_reader(struct server *s, struct client *c, uint32_t xid,
		const unsigned char *p, size_t len)
{
	struct fake_reader *r = s->reader;
	unsigned int n = atomic_load(&r->logged);
	char *text = hex(p, len);

	snprintf(r->log[n % 512], sizeof r->log[0], "%s", text);
	atomic_store(&r->logged, n + 1);
	free(text);

	if (p[0] != 0x01 && p[0] != 0x02 && p[0] != 0x24 && locked(s, c, p[1], false)) {
		reply(c, xid, -7, NULL, 0);
		return;
	}
	switch (p[0]) {
	case 0x01:
		answer_lock(s, c, xid, p[1], p[len - 1] == 1);
		break;
	case 0x02:
		answer_unlock(s, c, xid, p[len - 1]);
		break;
	case 0x24:
		answer_limits(c, xid, r->max_command);
		break;
	case 0x10:
		answer_text(c, xid, 0x03, r->atr[p[1] & 1]);
		break;
	case 0x12:
		answer_text(c, xid, 0, r->eject_reply);
		break;
	case 0x13:
		reply(c, xid, 0, NULL, 0);
		break;
	case 0x22:
		reply(c, xid, p[len - 1] > 1 ? -4 : 0, NULL, 0);
		break;
	case 0x14:
		answer_text(c, xid, 0x05, r->verify_reply);
		break;
	case 0x15:
		if (!r->knows_change_pin)
			reply(c, xid, -101, NULL, 0);
		else if (len == 2)
			reply(c, xid, -102, NULL, 0);
		else
			answer_text(c, xid, 0x05, r->verify_reply);
		break;
	case 0x16: /* a memory card of 0x200 bytes, of which each read gives three */
		if (p[5] << 8 == 0x200)
			reply(c, xid, -9, NULL, 0);
		else
			put_tlv(c, xid, 0x06 | 0x80, "\x11\x22\x33", 3);
		break;
	case 0x17: /* no byte FF can be written */
		reply(c, xid, p[len - 1] == 0xff ? -1 : 0, NULL, 0);
		break;
	case 0x21:
		answer_transact(s, c, xid, p + 5, len - 5);
		break;
	default:
		reply(c, xid, -101, NULL, 0);
	}
}

static int reader_over(struct server *s)
{
	(void)s;
	return 0;
}

pid_t fake_reader_serve(unsigned int reader, struct fake_reader *r)
{
	static struct server s;

	memset(&s, 0, sizeof s);
	s.answer = answer_reader;
	s.over = reader_over;
	s.left = forget_locks;
	s.reader = r;
	return start(reader, &s);
}

void fake_expect_log(struct fake_reader *r, unsigned int *from, const char *const *want, size_t count,
		const char *file, int line)
{
	unsigned int n = atomic_load(&r->logged);

	for (size_t i = 0; i < count; i++) {
		const char *got = *from < n ? r->log[*from % 512] : "nothing";

		if (strcmp(got, want[i]) != 0)
			check_failed(file, line, "request %u is %s, want %s", *from, got, want[i]);
		if (*from < n)
			++*from;
	}
	for (; *from < n; ++*from)
		check_failed(file, line, "request %u is %s, want none", *from, r->log[*from % 512]);
}
