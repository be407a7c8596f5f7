// Package vusb makes virtual USB tokens and readers: the device's side of
// USB, down to descriptors and setup packets. A virtual device can be used in
// process (Port.Open gives a usb.Device), and it can be plugged into this
// machine's kernel through vhci_hcd (AttachVHCI), where real udev, libusb and
// systemd see it.
package vusb

import (
	"context"
	"errors"

	"openct/internal/usb"
)

// Model is the firmware of a virtual device: what answers when the host
// talks. Standard requests (GET_DESCRIPTOR, SET_CONFIGURATION ...) are
// answered for it; it sees class and vendor requests and its endpoints.
// Calls may come from several goroutines. ctx ends when the host gave up the
// transfer or the device is pulled.
type Model interface {
	// Descriptors never changes while the device is plugged.
	Descriptors() Descriptors

	// Control answers a class or vendor request. For an IN request it
	// returns the data stage (the caller cuts it to wLength, given as
	// length); for an OUT request out holds it. ErrStall refuses.
	Control(ctx context.Context, s usb.Setup, out []byte, length int) ([]byte, error)

	// Out takes one transfer to a bulk or interrupt OUT endpoint.
	Out(ctx context.Context, ep uint8, data []byte) error

	// In waits for the device to have something on an IN endpoint and
	// returns at most max bytes.
	In(ctx context.Context, ep uint8, max int) ([]byte, error)

	// Reset is a USB bus reset: the state after plugging.
	Reset()
}

// ErrStall makes the host see a stalled endpoint.
var ErrStall = errors.New("stall")

// Descriptors is how a device describes itself.
type Descriptors struct {
	Device  []byte   // 18 bytes (USB 2.0, table 9-8)
	Config  []byte   // configuration 1 with all that belongs to it
	Strings []string // from index 1
	Speed   Speed
}

// Speed of a device, with usbip's and the kernel's numbers
// (enum usb_device_speed).
type Speed uint8

const (
	LowSpeed  Speed = 1 // 1.5 Mbit/s
	FullSpeed Speed = 2 // 12 Mbit/s
	HighSpeed Speed = 3 // 480 Mbit/s
)
