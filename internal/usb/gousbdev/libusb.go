//go:build cgo

package gousbdev

/*
#cgo pkg-config: libusb-1.0
#cgo LDFLAGS: -Wl,--wrap=libusb_get_device_list
#cgo LDFLAGS: -Wl,--wrap=libusb_open
#cgo LDFLAGS: -Wl,--wrap=libusb_handle_events_timeout_completed
#include "wrap.h"
*/
import "C"

import (
	"fmt"
	"sync"

	"github.com/google/gousb"

	"openct/internal/usb"
)

// libusb is started once in a process and stays: it knows no device but those
// that are open.
var libusb struct {
	sync.Mutex
	ctx *gousb.Context
}

// openWithLibusb makes the device behind fd, a descriptor of its usbfs node, one
// of gousb's. Odd descriptors, on which gousb panics, are usb.ErrDescriptor.
func openWithLibusb(fd uintptr) (dev *gousb.Device, err error) {
	libusb.Lock()
	defer libusb.Unlock()
	if err := startLibusb(); err != nil {
		return nil, err
	}
	defer recovered(&err, usb.ErrDescriptor)
	C.openct_offer(C.int(fd))
	defer C.openct_withdraw()
	devs, err := libusb.ctx.OpenDevices(func(*gousb.DeviceDesc) bool { return true })
	switch {
	case len(devs) > 0:
		return devs[0], nil
	case err != nil:
		return nil, mapError(err)
	}
	return nil, fmt.Errorf("%w: libusb does not list the device", usb.ErrIO)
}

func startLibusb() (err error) {
	if libusb.ctx != nil {
		return nil
	}
	if C.openct_wrapped() == 0 {
		return fmt.Errorf("%w: this program was linked without --wrap", ErrNoUSB)
	}
	if code := C.openct_no_discovery(); code != 0 {
		return fmt.Errorf("%w: %w", ErrNoUSB, gousb.Error(code))
	}
	defer recovered(&err, ErrNoUSB) // NewContext panics with libusb's error
	libusb.ctx = gousb.NewContext()
	return nil
}

// recovered turns a panic into an error that wraps sentinel.
func recovered(err *error, sentinel error) {
	switch p := recover().(type) {
	case nil:
	case error:
		*err = fmt.Errorf("%w: %w", sentinel, p)
	default:
		*err = fmt.Errorf("%w: %v", sentinel, p)
	}
}
