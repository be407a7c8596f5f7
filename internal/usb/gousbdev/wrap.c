// Three functions of libusb as gousb sees them. The linker's --wrap (libusb.go)
// leads the calls of all of this program here; libusb's own are not changed.
#include "wrap.h"

#include <stdlib.h>
#include <unistd.h>

static int offered = -1;
static libusb_device_handle *handle; // of the offered device, until it is opened

void openct_offer(int fd)
{
	offered = fd;
}

void openct_withdraw(void)
{
	if (handle)
		libusb_close(handle);
	handle = NULL;
	offered = -1;
}

int openct_no_discovery(void)
{
	return libusb_set_option(NULL, LIBUSB_OPTION_NO_DEVICE_DISCOVERY);
}

// The list has the offered device alone. It ends with the caller's
// libusb_free_device_list, which calls free.
ssize_t __wrap_libusb_get_device_list(libusb_context *ctx, libusb_device ***list)
{
	libusb_device **one = calloc(2, sizeof *one);
	int rc = one ? libusb_wrap_sys_device(ctx, (intptr_t)offered, &handle) : LIBUSB_ERROR_NO_MEM;

	if (rc != LIBUSB_SUCCESS) {
		free(one);
		return rc;
	}
	one[0] = libusb_ref_device(libusb_get_device(handle));
	*list = one;
	return 1;
}

int __wrap_libusb_open(libusb_device *dev, libusb_device_handle **opened)
{
	if (!handle || libusb_get_device(handle) != dev)
		return LIBUSB_ERROR_NOT_FOUND;
	*opened = handle;
	handle = NULL;
	return LIBUSB_SUCCESS;
}

// Only the loop of gousb's thread calls this. There are no events: libusb makes
// no transfers.
int __wrap_libusb_handle_events_timeout_completed(libusb_context *ctx, struct timeval *tv, int *completed)
{
	(void)ctx, (void)tv, (void)completed;
	for (;;)
		pause();
}

// volatile: a compiler may take it for granted that two names are two functions.
#define WRAPPED(name) ((void *volatile){(void *)name} == (void *volatile){(void *)__wrap_##name})

int openct_wrapped(void)
{
	return WRAPPED(libusb_get_device_list) && WRAPPED(libusb_open) &&
		WRAPPED(libusb_handle_events_timeout_completed);
}
