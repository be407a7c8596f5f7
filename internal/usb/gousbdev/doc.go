// Package gousbdev opens real USB devices through libusb. It is the only
// package that imports gousb, and it keeps gousb's hazards (v1.1.3) inside:
//
//   - panics, of NewContext and on odd descriptors, become errors;
//   - a device elsewhere on the machine whose descriptors gousb cannot read
//     is never shown to it (events.c);
//   - its event loop, which would wake ten times a second for ever, sleeps, and
//     transfers take their events themselves (events.c, transfer.c): all of them
//     can be cancelled, control transfers too;
//   - error codes that were flattened into text are found again;
//   - automatic detaching of kernel drivers takes every interface of a
//     composite device, so here just the one claimed is taken and given back;
//   - its lines in the global log go to the caller's logger at debug level.
//
// Without cgo the package builds, and Open fails with ErrNoUSB.
package gousbdev

import (
	"errors"

	"openct/internal/usb/watch"
)

// ErrNotNode says that the path given to Open is not a usbfs device node.
var ErrNotNode = watch.ErrNotNode

// ErrNoUSB says that USB cannot be used at all: libusb does not start, or
// this program was built without it.
var ErrNoUSB = errors.New("no access to USB")
