#ifndef OPENCT_EVENTS_H
#define OPENCT_EVENTS_H

#include <libusb.h>

// openct_resolve reports whether libusb's own functions were found.
int openct_resolve(void);

// openct_adopt makes ctx one whose event loop sleeps and whose device list has
// one device, until libusb_exit; 0 when there is no room.
int openct_adopt(libusb_context *ctx, int bus, int address);

// openct_set_closing wakes the event loop of ctx and makes it turn every
// millisecond, so that it sees gousb's request to end; 0 lets it sleep again.
void openct_set_closing(libusb_context *ctx, int closing);

// openct_sleeps counts how often the event loop went to sleep.
unsigned long openct_sleeps(libusb_context *ctx);

#endif
