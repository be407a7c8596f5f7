// Package gousbdev opens real USB devices. Package usbfs opens the device node
// and makes all transfers on it; gousb, over libusb, gets the open descriptor,
// parses the device's descriptors, takes the configuration, claims and releases
// interfaces, detaches kernel drivers and attaches them again, and closes. gousb
// lists no devices, makes no transfers and handles no events. This is the only
// package that imports it, and it keeps gousb's hazards (v1.1.3) inside:
//
//   - gousb opens a device out of libusb's list of all devices, after it has
//     parsed the descriptors of each, and waits for events ten times a second in
//     a thread. The linker leads three of its calls to wrap.c, where the list has
//     the one device and the thread sleeps; libusb looks for no devices at all;
//   - panics, of NewContext and on odd descriptors, become errors;
//   - error codes that were flattened into text are found again;
//   - automatic detaching of kernel drivers takes every interface of a
//     composite device, so here just the one claimed is taken and given back;
//   - its lines in the global log go to the caller's logger at debug level.
//
// Without cgo the package builds, and Open fails with ErrNoUSB.
package gousbdev

import (
	"errors"

	"openct/internal/usb/usbfs"
)

// ErrNotNode says that the path given to Open is not a usbfs device node.
var ErrNotNode = usbfs.ErrNotNode

// ErrNoUSB says that USB cannot be used at all: libusb does not start, or
// this program was built without it.
var ErrNoUSB = errors.New("no access to USB")
