// Package usb is what drivers know of a USB device: descriptors, the three
// transfer types a reader uses, and typed errors. It imports no USB library.
// usb/gousbdev opens real devices, vusb makes virtual ones.
package usb

import (
	"context"
	"time"
)

// Device is one USB device, opened by one owner. Its methods may be called
// from several goroutines; transfers to different endpoints run in parallel.
// Every error wraps one of the sentinels of this package, except that of a
// transfer that its context has ended: it wraps the context's error, and
// ErrTimeout where that was a deadline. The end of a context ends a transfer at
// once; what has come until then is returned with the error.
type Device interface {
	// Descriptor returns what the device said of itself when it was opened.
	Descriptor() *Descriptor

	// Claim takes the interface with the given bInterfaceNumber for this
	// process and selects an alternate setting other than 0. ErrBusy says
	// that another process or a kernel driver holds it (see *BusyError).
	Claim(iface, alt uint8) error

	// Release gives a claimed interface back.
	Release(iface uint8) error

	// Control runs one control transfer. The direction is bit 7 of
	// s.RequestType, wLength is len(data). It returns the bytes of the data
	// stage, which may be fewer than len(data).
	Control(ctx context.Context, s Setup, data []byte, timeout time.Duration) (int, error)

	// Bulk runs one bulk transfer on the endpoint address ep; bit 7 set
	// reads into data, clear writes it. A read ends at a short packet; one
	// that times out returns what has come with ErrTimeout.
	Bulk(ctx context.Context, ep uint8, data []byte, timeout time.Duration) (int, error)

	// Interrupt reads one interrupt packet train into buf. It may wait for
	// as long as the device has nothing to say: ctx ends the wait.
	Interrupt(ctx context.Context, ep uint8, buf []byte) (int, error)

	// ClearHalt clears a stalled bulk or interrupt endpoint.
	ClearHalt(ep uint8) error

	// Gone is closed as soon as the device has left the bus, also while a
	// transfer hangs or nothing at all happens.
	Gone() <-chan struct{}

	// Close releases what is claimed and ends pending transfers. It works
	// after an unplug, and a second call does nothing.
	Close() error
}

// Resetter is a Device that can be reset by its port (USB 2.0, 7.1.7.5). It has
// no claimed interface then; its configuration is the one it had.
type Resetter interface {
	Reset() error
}

// Setup is the part of a setup packet a caller chooses (USB 2.0, 9.3);
// wLength follows from the data buffer.
type Setup struct {
	RequestType uint8  // bmRequestType
	Request     uint8  // bRequest
	Value       uint16 // wValue
	Index       uint16 // wIndex
}

// In reports whether the data stage runs from device to host.
func (s Setup) In() bool { return s.RequestType&0x80 != 0 }

// bmRequestType values of the requests readers use (USB 2.0, table 9-2).
const (
	VendorDeviceOut    = 0x40
	VendorDeviceIn     = 0xC0
	VendorInterfaceOut = 0x41
	VendorInterfaceIn  = 0xC1
	VendorEndpointOut  = 0x42
	VendorEndpointIn   = 0xC2
	ClassInterfaceOut  = 0x21
	ClassInterfaceIn   = 0xA1
)
