#ifndef OPENCT_WRAP_H
#define OPENCT_WRAP_H

#include <libusb.h>

// openct_wrapped reports whether this program was linked so that gousb's calls
// come to wrap.c.
int openct_wrapped(void);

// openct_offer makes the device behind the usbfs descriptor fd the only one that
// gousb finds and can open, until openct_withdraw. One at a time in a process.
void openct_offer(int fd);

// openct_withdraw ends the offer, and closes the device if it was not opened.
void openct_withdraw(void);

// openct_no_discovery keeps libusb, from its next start on, from looking for
// devices and waiting for their coming and going.
int openct_no_discovery(void);

#endif
