/* Packets on a reader's socket (internal/socket/PROTOCOL.md, Packets). */
#include "internal.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

/* Fields are in the byte order of the host, without padding. */
struct header {
	uint32_t xid;
	uint32_t dest;
	int16_t error;
	uint16_t count;
};

_Static_assert(sizeof(struct header) == OCT_HEADER, "header layout");

/* A server that answers other calls than ours this often is not one. */
enum { MAX_STRAY_REPLIES = 64 };

long long oct_now_ms(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec * 1000LL + ts.tv_nsec / 1000000;
}

/* Waits for a place in the queue of a listener that has none left, at most so
 * long. 0 asks once. connect() heeds SO_SNDTIMEO (unix(7)); the timeout is
 * taken away again, for requests have none. */
static int connect_within(int fd, const struct sockaddr_un *sa, int wait_ms)
{
	const long long deadline = oct_now_ms() + wait_ms;
	const struct timeval none = { 0 }, wait = {
		.tv_sec = wait_ms / 1000, .tv_usec = wait_ms % 1000 * 1000,
	};
	int flags = fcntl(fd, F_GETFL), r;

	if (flags < 0)
		return -1;
	if (wait_ms > 0)
		r = setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &wait, sizeof wait);
	else
		r = fcntl(fd, F_SETFL, flags | O_NONBLOCK);
	if (r < 0)
		return -1;
	while (connect(fd, (const struct sockaddr *)sa, sizeof *sa) < 0) {
		if (errno != EINTR)
			return -1;
		if (wait_ms > 0 && oct_now_ms() >= deadline) {
			errno = EAGAIN;
			return -1;
		}
	}
	if (wait_ms > 0)
		return setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &none, sizeof none);
	return fcntl(fd, F_SETFL, flags);
}

int oct_connect(unsigned int reader, int wait_ms)
{
	struct sockaddr_un sa = { .sun_family = AF_UNIX };
	char name[16];
	int fd;

	snprintf(name, sizeof name, "%u", reader);
	if (!oct_join_path(sa.sun_path, sizeof sa.sun_path, name)) {
		errno = ENAMETOOLONG;
		return -1;
	}
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return -1;
	if (connect_within(fd, &sa, wait_ms) < 0) {
		int saved = errno;

		close(fd);
		errno = saved;
		return -1;
	}
	return fd;
}

bool oct_hung_up(int fd)
{
	struct pollfd pfd = { .fd = fd, .events = POLLRDHUP };

	return poll(&pfd, 1, 0) > 0;
}

/* SIGPIPE belongs to the program, so it is never raised. */
static bool write_all(int fd, const void *data, size_t len)
{
	const unsigned char *p = data;

	while (len > 0) {
		ssize_t n = send(fd, p, len, MSG_NOSIGNAL);

		if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) {
			struct pollfd pfd = { .fd = fd, .events = POLLOUT };

			(void)poll(&pfd, 1, -1);
			continue;
		}
		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return false;
		p += n;
		len -= (size_t)n;
	}
	return true;
}

/* Until there is something to read, or the deadline has passed; 0: there is
 * none. */
static bool readable_before(int fd, long long deadline)
{
	for (;;) {
		struct pollfd pfd = { .fd = fd, .events = POLLIN };
		long long left = deadline - oct_now_ms();
		int n;

		if (deadline == 0)
			return true;
		if (left <= 0)
			return false;
		n = poll(&pfd, 1, left < INT_MAX ? (int)left : INT_MAX);
		if (n > 0)
			return true;
		if (n < 0 && errno != EINTR)
			return false;
	}
}

static bool read_all(int fd, void *data, size_t len, long long deadline)
{
	unsigned char *p = data;

	while (len > 0) {
		ssize_t n;

		if (!readable_before(fd, deadline))
			return false;
		n = recv(fd, p, len, 0);
		if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) {
			struct pollfd pfd = { .fd = fd, .events = POLLIN };

			(void)poll(&pfd, 1, -1);
			continue;
		}
		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return false;
		p += n;
		len -= (size_t)n;
	}
	return true;
}

bool oct_send(int fd, uint32_t xid, const struct oct_request *r)
{
	unsigned char packet[OCT_PACKET];
	struct header h = { .xid = xid, .count = (uint16_t)r->len };
	bool ok;

	memcpy(packet, &h, sizeof h);
	memcpy(packet + sizeof h, r->payload, r->len);
	ok = write_all(fd, packet, sizeof h + r->len);
	explicit_bzero(packet, sizeof packet);
	return ok;
}

bool oct_receive(int fd, uint32_t xid, int wait_ms, struct oct_reply *r, int *error)
{
	const long long deadline = wait_ms ? oct_now_ms() + wait_ms : 0;

	for (int stray = 0; stray < MAX_STRAY_REPLIES; stray++) {
		struct header h;

		if (!read_all(fd, &h, sizeof h, deadline)) {
			oct_note("the reader's handler closed the connection");
			return false;
		}
		if (h.count > sizeof r->payload) {
			oct_note("reply of %u bytes is too long", h.count);
			return false;
		}
		if (!read_all(fd, r->payload, h.count, deadline)) {
			oct_note("the reader's handler closed the connection in the middle of a reply");
			return false;
		}
		if (h.xid != xid)
			continue;
		if (h.error > 0) {
			oct_note("the reply has the invalid error code %d", h.error);
			return false;
		}
		r->len = h.count;
		*error = h.error;
		return true;
	}
	oct_note("no reply among %d packets", MAX_STRAY_REPLIES);
	return false;
}
