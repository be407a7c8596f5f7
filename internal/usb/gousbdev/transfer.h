#ifndef OPENCT_TRANSFER_H
#define OPENCT_TRANSFER_H

#include <libusb.h>

// A transfer of one device that can be cancelled from another thread.
struct openct_transfer;

// openct_transfer_new makes one; NULL when there is no memory.
struct openct_transfer *openct_transfer_new(void);

// openct_transfer_run sends len bytes of buf, or receives up to as many, and
// waits for the end. For LIBUSB_TRANSFER_TYPE_CONTROL, setup is the setup packet
// (USB 2.0, 9.3) and endpoint is 0. It returns libusb's error (the transfer was not made), or 0
// and the transfer's status and the bytes transferred.
int openct_transfer_run(struct openct_transfer *t, libusb_context *ctx, libusb_device_handle *handle,
		unsigned char type, unsigned char endpoint, const unsigned char setup[8],
		unsigned char *buf, int len, unsigned int timeout_ms, int *status, int *actual);

// openct_transfer_cancel ends it, now or as soon as it is begun; the status is
// then LIBUSB_TRANSFER_CANCELLED.
void openct_transfer_cancel(struct openct_transfer *t);

// openct_transfer_free is for after the end of run and of all calls of cancel.
void openct_transfer_free(struct openct_transfer *t);

#endif
