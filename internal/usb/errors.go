package usb

import (
	"errors"

	"openct/internal/device"
)

// States of a device that callers branch on; test with errors.Is. Those that
// other transports have as well are package device's.
var (
	ErrUnplugged = device.ErrUnplugged
	ErrStall     = errors.New("device refused the transfer (stall)")
	ErrTimeout   = device.ErrTimeout
	ErrOverflow  = errors.New("device sent more than was asked for")
	ErrIO        = device.ErrIO
	ErrBusy      = device.ErrBusy
	ErrAccess    = device.ErrAccess
	ErrNotFound  = device.ErrNotFound
	ErrClosed    = device.ErrClosed
)

// Wrap is device.Wrap.
func Wrap(op, dev string, err error) error { return device.Wrap(op, dev, err) }

// BusyError and Holder are package device's.
type (
	BusyError = device.BusyError
	Holder    = device.Holder
)
