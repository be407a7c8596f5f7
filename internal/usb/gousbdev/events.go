//go:build cgo

package gousbdev

/*
#cgo pkg-config: libusb-1.0
#cgo LDFLAGS: -ldl
#include "events.h"
*/
import "C"

import (
	"errors"
	"fmt"
	"reflect"
	"unsafe"

	"github.com/google/gousb"
)

// usbContext is a libusb context for one device. gousb's thread for its events
// sleeps until the end.
type usbContext struct {
	gousb *gousb.Context
	c     *C.libusb_context
}

// newContext starts libusb for the device at bus and address.
func newContext(bus, address int) (ctx *usbContext, err error) {
	if C.openct_resolve() == 0 {
		return nil, fmt.Errorf("%w: libusb is not a shared library of this program", ErrNoUSB)
	}
	// gousb.NewContext panics with libusb's error.
	defer recovered(&err, ErrNoUSB)
	g := gousb.NewContext()
	c, err := cPointer(g, "ctx")
	if err != nil {
		return nil, errors.Join(err, g.Close())
	}
	ctx = &usbContext{gousb: g, c: (*C.libusb_context)(c)}
	if C.openct_adopt(ctx.c, C.int(bus), C.int(address)) == 0 {
		return nil, errors.Join(fmt.Errorf("%w: too many devices are open in this process", ErrNoUSB), g.Close())
	}
	return ctx, nil
}

// close ends the event loop and frees the context. It fails while a device is
// open in it.
func (ctx *usbContext) close() error {
	C.openct_set_closing(ctx.c, 1)
	if err := ctx.gousb.Close(); err != nil {
		C.openct_set_closing(ctx.c, 0)
		return err
	}
	return nil
}

// cPointer reads an unexported pointer field of a gousb struct. Reflection
// reads it without breaking a rule of Go; go.mod pins gousb's version, and
// the tests of this package fail when the field is another one.
func cPointer(of any, field string) (unsafe.Pointer, error) {
	v := reflect.ValueOf(of).Elem().FieldByName(field)
	if !v.IsValid() || v.Kind() != reflect.Pointer || v.IsNil() {
		return nil, fmt.Errorf("%w: gousb's %T has no pointer %s", ErrNoUSB, of, field)
	}
	return v.UnsafePointer(), nil
}

// sleeps counts how often the event loop went to sleep, for the tests.
func (ctx *usbContext) sleeps() uint64 { return uint64(C.openct_sleeps(ctx.c)) }

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
