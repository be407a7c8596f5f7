/* Handles: their connection, one call at a time, and what a fork does. */
#include "internal.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

/* All handles of the process, so that a fork can part the child from the
 * parent's connections. The lock is held for moments only. */
static pthread_mutex_t list_lock = PTHREAD_MUTEX_INITIALIZER;
static struct ct_handle *list;

static atomic_uint last_xid;

static uint32_t next_xid(void)
{
	uint32_t xid;

	do
		xid = atomic_fetch_add(&last_xid, 1) + 1;
	while (xid == 0);
	return xid;
}

static void before_fork(void)
{
	pthread_mutex_lock(&list_lock);
}

static void after_fork_parent(void)
{
	pthread_mutex_unlock(&list_lock);
}

/* Two processes on one connection would read each other's replies. The child
 * gives its end up and connects anew when it first uses the handle. Another
 * thread of the parent may have been inside a call, so the child's mutexes
 * start afresh. */
static void after_fork_child(void)
{
	for (struct ct_handle *h = list; h; h = h->next) {
		pthread_mutex_init(&h->lock, NULL);
		pthread_mutex_init(&h->looking, NULL);
		if (h->fd >= 0)
			close(h->fd);
		h->inherited = h->fd >= 0 && !h->broken;
		h->fd = -1;
	}
	pthread_mutex_init(&list_lock, NULL);
}

__attribute__((constructor)) static void watch_forks(void)
{
	pthread_atfork(before_fork, after_fork_parent, after_fork_child);
}

ct_handle *ct_reader_connect(unsigned int reader)
{
	return oct_handle_open(reader, OCT_CONNECT_MS);
}

ct_handle *oct_handle_open(unsigned int reader, int wait_ms)
{
	struct ct_handle *h = calloc(1, sizeof *h);
	ct_info_t entry;

	if (!h)
		return NULL;
	h->status.fd = -1;
	h->fd = oct_status_entry(&h->status, reader, &entry) ? oct_connect(reader, wait_ms) : -1;
	if (h->fd < 0) {
		int saved = errno;

		oct_status_close(&h->status);
		free(h);
		errno = saved;
		return NULL;
	}
	h->reader = reader;
	pthread_mutex_init(&h->lock, NULL);
	pthread_mutex_init(&h->looking, NULL);

	pthread_mutex_lock(&list_lock);
	h->next = list;
	if (list)
		list->prev = h;
	list = h;
	pthread_mutex_unlock(&list_lock);
	return h;
}

void ct_reader_disconnect(ct_handle *h)
{
	if (!h)
		return;
	pthread_mutex_lock(&list_lock);
	if (h->prev)
		h->prev->next = h->next;
	else
		list = h->next;
	if (h->next)
		h->next->prev = h->prev;
	pthread_mutex_unlock(&list_lock);

	if (h->fd >= 0)
		close(h->fd);
	oct_status_close(&h->status);
	pthread_mutex_destroy(&h->looking);
	pthread_mutex_destroy(&h->lock);
	free(h);
}

void oct_handle_entry(ct_handle *h, ct_info_t *out)
{
	pthread_mutex_lock(&h->looking);
	(void)oct_status_entry(&h->status, h->reader, out);
	pthread_mutex_unlock(&h->looking);
}

/* Nothing that comes later could be matched to a request. The descriptor
 * stays, so that its number cannot become another file's while in use. */
static void break_connection(ct_handle *h)
{
	h->broken = true;
	(void)shutdown(h->fd, SHUT_RDWR);
}

static int call_locked(ct_handle *h, const struct oct_request *r, struct oct_reply *reply)
{
	uint32_t xid = next_xid();
	int error;

	if (h->inherited) {
		h->inherited = false;
		h->fd = oct_connect(h->reader, OCT_CONNECT_MS);
	}
	if (h->fd < 0 || h->broken)
		return IFD_ERROR_NOT_CONNECTED;
	if (!oct_send(h->fd, xid, r)) {
		break_connection(h);
		return IFD_ERROR_NOT_CONNECTED;
	}
	if (!oct_receive(h->fd, xid, h->answer_ms, reply, &error)) {
		break_connection(h);
		return IFD_ERROR_GENERIC;
	}
	return error;
}

int oct_call(ct_handle *h, struct oct_request *r, struct oct_reply *reply)
{
	int rc;

	reply->len = 0;
	if (!h)
		rc = IFD_ERROR_INVALID_ARG;
	else if (r->overflow)
		rc = IFD_ERROR_BUFFER_TOO_SMALL;
	else {
		pthread_mutex_lock(&h->lock);
		rc = call_locked(h, r, reply);
		pthread_mutex_unlock(&h->lock);
	}
	explicit_bzero(r->payload, r->len);
	return rc;
}
