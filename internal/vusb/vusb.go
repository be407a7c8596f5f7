// Package vusb is the device's side of USB, down to descriptors and setup
// packets: a Model is a virtual device, a Port is where it is plugged.
// Port.Open gives a usb.Device in this process; package usbip plugs a model into
// this machine's kernel. Packages token and ccidreader have models, package card
// the cards in them, and package model makes one by a driver's name.
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
// transfer or the device is unplugged.
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

// Endpoint makes an endpoint descriptor. kind is 2 for bulk, 3 for interrupt
// with an interval of 10 ms (USB 2.0, table 9-13).
func Endpoint(address, kind uint8, packet uint16) []byte {
	e := []byte{7, 5, address, kind, byte(packet), byte(packet >> 8), 0}
	if kind == usb.EndpointInterrupt {
		e[6] = 10
	}
	return e
}
