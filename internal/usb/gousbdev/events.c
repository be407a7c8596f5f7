// Three functions of libusb, defined again. An executable's own definition wins
// over a shared library's, so gousb's calls come here; the real ones are found
// behind us with dlsym(RTLD_NEXT). They change nothing for a context that was
// not adopted (events.go), so anything unforeseen ends in gousb's normal
// behaviour.

#define _GNU_SOURCE
#include "events.h"

#include <dlfcn.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

typedef int (*handle_events_fn)(libusb_context *, struct timeval *, int *);
typedef ssize_t (*device_list_fn)(libusb_context *, libusb_device ***);
typedef void (*exit_fn)(libusb_context *);

static handle_events_fn real_handle_events;
static device_list_fn real_device_list;
static exit_fn real_exit;
static pthread_once_t resolve_once = PTHREAD_ONCE_INIT;

static void resolve(void)
{
	real_handle_events = (handle_events_fn)dlsym(RTLD_NEXT, "libusb_handle_events_timeout_completed");
	real_device_list = (device_list_fn)dlsym(RTLD_NEXT, "libusb_get_device_list");
	real_exit = (exit_fn)dlsym(RTLD_NEXT, "libusb_exit");
}

int openct_resolve(void)
{
	pthread_once(&resolve_once, resolve);
	return real_handle_events && real_device_list && real_exit;
}

// An adopted context: one per open device, so a handful in a daemon and a few
// dozen in a test.
struct adopted {
	libusb_context *ctx;
	int bus, address;
	int closing;
	unsigned long sleeps;
};

enum { MAX_ADOPTED = 128 };

static struct adopted contexts[MAX_ADOPTED];
static pthread_mutex_t contexts_lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t closing_changed = PTHREAD_COND_INITIALIZER;

static struct adopted *find_locked(libusb_context *ctx)
{
	for (int i = 0; i < MAX_ADOPTED; i++)
		if (contexts[i].ctx == ctx)
			return &contexts[i];
	return NULL;
}

int openct_adopt(libusb_context *ctx, int bus, int address)
{
	pthread_mutex_lock(&contexts_lock);
	struct adopted *free_entry = find_locked(NULL);
	if (free_entry)
		*free_entry = (struct adopted){.ctx = ctx, .bus = bus, .address = address};
	pthread_mutex_unlock(&contexts_lock);
	return free_entry != NULL;
}

void openct_set_closing(libusb_context *ctx, int closing)
{
	pthread_mutex_lock(&contexts_lock);
	struct adopted *a = find_locked(ctx);
	if (a)
		a->closing = closing;
	pthread_cond_broadcast(&closing_changed);
	pthread_mutex_unlock(&contexts_lock);
}

unsigned long openct_sleeps(libusb_context *ctx)
{
	pthread_mutex_lock(&contexts_lock);
	struct adopted *a = find_locked(ctx);
	unsigned long n = a ? a->sleeps : 0;
	pthread_mutex_unlock(&contexts_lock);
	return n;
}

// gousb's event loop is the one caller that waits 100 ms for nothing in
// particular (completed is NULL). It has nothing to do here: whoever makes a
// transfer takes libusb's events meanwhile (transfer.c). So it sleeps until it
// is to end, and then turns every millisecond to look at the channel that says
// so.
int libusb_handle_events_timeout_completed(libusb_context *ctx, struct timeval *tv, int *completed)
{
	if (!openct_resolve())
		return LIBUSB_ERROR_NOT_SUPPORTED;

	struct timeval wait = *tv;
	if (completed == NULL && tv->tv_sec == 0 && tv->tv_usec == 100000) {
		pthread_mutex_lock(&contexts_lock);
		struct adopted *a = ctx ? find_locked(ctx) : NULL;
		if (a) {
			if (!a->closing)
				a->sleeps++;
			while (!a->closing)
				pthread_cond_wait(&closing_changed, &contexts_lock);
			wait.tv_usec = 1000;
		}
		pthread_mutex_unlock(&contexts_lock);
	}
	return real_handle_events(ctx, &wait, completed);
}

// open_unlisted makes the libusb device of a node that libusb has not listed.
// libudev hides devices that udev has not seen, so without a running udevd (a
// container, an initramfs) there are none. It costs the device a
// GET_CONFIGURATION, which is why it is not the way for all.
static libusb_device *open_unlisted(libusb_context *ctx, int bus, int address)
{
	char path[64];
	snprintf(path, sizeof path, "/dev/bus/usb/%03d/%03d", bus, address);
	int fd = open(path, O_RDWR | O_CLOEXEC);
	if (fd < 0)
		return NULL;
	libusb_device *dev = NULL;
	libusb_device_handle *handle;
	if (libusb_wrap_sys_device(ctx, (intptr_t)fd, &handle) == 0) {
		dev = libusb_ref_device(libusb_get_device(handle));
		libusb_close(handle);
	}
	close(fd);
	return dev;
}

// gousb parses the descriptors of every device in the list before it asks
// which one is wanted. The list of an adopted context has only the one.
ssize_t libusb_get_device_list(libusb_context *ctx, libusb_device ***list)
{
	if (!openct_resolve())
		return LIBUSB_ERROR_NOT_SUPPORTED;

	int bus = 0, address = 0;
	pthread_mutex_lock(&contexts_lock);
	struct adopted *a = ctx ? find_locked(ctx) : NULL;
	if (a) {
		bus = a->bus;
		address = a->address;
	}
	pthread_mutex_unlock(&contexts_lock);
	if (bus == 0)
		return real_device_list(ctx, list);

	libusb_device **one = calloc(2, sizeof *one);
	libusb_device **all;
	ssize_t n = one ? real_device_list(ctx, &all) : LIBUSB_ERROR_NO_MEM;
	if (n < 0) {
		free(one);
		return n;
	}
	for (ssize_t i = 0; i < n; i++)
		if (libusb_get_bus_number(all[i]) == bus && libusb_get_device_address(all[i]) == address)
			one[0] = libusb_ref_device(all[i]);
	libusb_free_device_list(all, 1);
	if (!one[0])
		one[0] = open_unlisted(ctx, bus, address);
	*list = one; // libusb_free_device_list calls free
	return one[0] ? 1 : 0;
}

// A context is forgotten between the end of its event loop and its end: later,
// its address may be another context's.
void libusb_exit(libusb_context *ctx)
{
	pthread_mutex_lock(&contexts_lock);
	struct adopted *a = ctx ? find_locked(ctx) : NULL;
	if (a)
		*a = (struct adopted){0};
	pthread_mutex_unlock(&contexts_lock);
	if (openct_resolve())
		real_exit(ctx);
}
