// One transfer, waited for in the thread that asked for it. That thread takes
// the events of libusb itself: gousb's own way, a thread for events that calls
// back into Go, costs a switch of threads more for every transfer.
#include "transfer.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

struct openct_transfer {
	pthread_mutex_t lock; // guards running and cancelled
	struct libusb_transfer *running;
	int cancelled;
	int completed; // libusb's to set, and to read under its own locks
};

struct openct_transfer *openct_transfer_new(void)
{
	struct openct_transfer *t = calloc(1, sizeof *t);
	if (t)
		pthread_mutex_init(&t->lock, NULL);
	return t;
}

void openct_transfer_free(struct openct_transfer *t)
{
	pthread_mutex_destroy(&t->lock);
	free(t);
}

void openct_transfer_cancel(struct openct_transfer *t)
{
	pthread_mutex_lock(&t->lock);
	t->cancelled = 1;
	if (t->running)
		libusb_cancel_transfer(t->running); // one that is over says so
	pthread_mutex_unlock(&t->lock);
}

static void LIBUSB_CALL on_end(struct libusb_transfer *u)
{
	*(int *)u->user_data = 1;
}

static int submit(struct openct_transfer *t, struct libusb_transfer *u)
{
	int rc = LIBUSB_SUCCESS;

	pthread_mutex_lock(&t->lock);
	if (!t->cancelled) {
		rc = libusb_submit_transfer(u);
		if (rc == LIBUSB_SUCCESS)
			t->running = u;
	}
	pthread_mutex_unlock(&t->lock);
	return rc;
}

// wait handles events until the transfer is over, as libusb's synchronous
// functions do; after an error of libusb's, until it has been cancelled.
static int wait(struct openct_transfer *t, libusb_context *ctx)
{
	int failed = LIBUSB_SUCCESS;

	while (!t->completed) {
		struct timeval tv = {.tv_sec = 60};
		int rc = libusb_handle_events_timeout_completed(ctx, &tv, &t->completed);
		if (rc == LIBUSB_SUCCESS || rc == LIBUSB_ERROR_INTERRUPTED)
			continue;
		if (failed != LIBUSB_SUCCESS)
			break;
		failed = rc;
		openct_transfer_cancel(t);
	}
	return failed;
}

int openct_transfer_run(struct openct_transfer *t, libusb_context *ctx, libusb_device_handle *handle,
		unsigned char type, unsigned char endpoint, const unsigned char setup[8],
		unsigned char *data, int len, unsigned int timeout_ms, int *status, int *actual)
{
	int is_control = type == LIBUSB_TRANSFER_TYPE_CONTROL;
	int is_in = ((is_control ? setup[0] : endpoint) & LIBUSB_ENDPOINT_DIR_MASK) == LIBUSB_ENDPOINT_IN;
	size_t head = is_control ? LIBUSB_CONTROL_SETUP_SIZE : 0;
	struct libusb_transfer *u = libusb_alloc_transfer(0);
	unsigned char *buf = malloc(head + (size_t)len + 1);
	int rc = LIBUSB_ERROR_NO_MEM;

	t->completed = 0;
	*actual = 0;
	*status = LIBUSB_TRANSFER_CANCELLED;
	if (!u || !buf)
		goto out;
	if (!is_in && len > 0)
		memcpy(buf + head, data, (size_t)len);
	if (is_control) {
		memcpy(buf, setup, LIBUSB_CONTROL_SETUP_SIZE);
		libusb_fill_control_transfer(u, handle, buf, on_end, &t->completed, timeout_ms);
	} else {
		libusb_fill_bulk_transfer(u, handle, endpoint, buf, len, on_end, &t->completed, timeout_ms);
		u->type = type;
	}
	rc = submit(t, u);
	if (rc != LIBUSB_SUCCESS || !t->running)
		goto out;

	rc = wait(t, ctx);
	pthread_mutex_lock(&t->lock);
	t->running = NULL;
	pthread_mutex_unlock(&t->lock);
	if (!t->completed)
		return rc; // libusb has lost it: it may still write to all of this
	*status = (int)u->status;
	*actual = u->actual_length;
	if (is_in && u->actual_length > 0)
		memcpy(data, buf + head, (size_t)u->actual_length);
out:
	libusb_free_transfer(u);
	free(buf);
	return rc;
}
