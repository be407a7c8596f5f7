/* Packets on a reader's socket (spec/socket-protocol.md, 2). */
#include "internal.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
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

int oct_connect(unsigned int reader)
{
	struct sockaddr_un sa = { .sun_family = AF_UNIX };
	char name[16];
	int fd, r;

	snprintf(name, sizeof name, "%u", reader);
	if (!oct_join_path(sa.sun_path, sizeof sa.sun_path, name)) {
		errno = ENAMETOOLONG;
		return -1;
	}
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return -1;
	do
		r = connect(fd, (const struct sockaddr *)&sa, sizeof sa);
	while (r < 0 && errno == EINTR);
	if (r < 0) {
		int saved = errno;

		close(fd);
		errno = saved;
		return -1;
	}
	return fd;
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

static bool read_all(int fd, void *data, size_t len)
{
	unsigned char *p = data;

	while (len > 0) {
		ssize_t n = recv(fd, p, len, 0);

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

bool oct_receive(int fd, uint32_t xid, struct oct_reply *r, int *error)
{
	for (int stray = 0; stray < MAX_STRAY_REPLIES; stray++) {
		struct header h;

		if (!read_all(fd, &h, sizeof h)) {
			oct_note("reader's daemon closed the connection");
			return false;
		}
		if (h.count > sizeof r->payload) {
			oct_note("reply of %u bytes is too long", h.count);
			return false;
		}
		if (!read_all(fd, r->payload, h.count)) {
			oct_note("reader's daemon closed the connection in the middle of a reply");
			return false;
		}
		if (h.xid != xid)
			continue;
		if (h.error > 0) {
			oct_note("reply has the error code %d, which is none", h.error);
			return false;
		}
		r->len = h.count;
		*error = h.error;
		return true;
	}
	oct_note("no reply among %d packets", MAX_STRAY_REPLIES);
	return false;
}
