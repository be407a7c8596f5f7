package usb

import (
	"errors"
	"fmt"
	"strings"

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

// Error is the one error type of this package.
type Error = device.Error

// Wrap is device.Wrap.
func Wrap(op, dev string, err error) error { return device.Wrap(op, dev, err) }

// BusyError is ErrBusy with the holders of the interface, as far as /proc
// tells them to this process.
type BusyError struct {
	Holders []Holder
}

// Holder is who keeps an interface: a process, or a kernel driver (PID 0).
type Holder struct {
	PID  int
	Name string
}

func (h Holder) String() string {
	if h.PID == 0 {
		return "kernel driver " + h.Name
	}
	return fmt.Sprintf("%s (pid %d)", h.Name, h.PID)
}

func (e *BusyError) Error() string {
	if len(e.Holders) == 0 {
		return ErrBusy.Error()
	}
	who := make([]string, len(e.Holders))
	for i, h := range e.Holders {
		who[i] = h.String()
	}
	return ErrBusy.Error() + " by " + strings.Join(who, ", ")
}

func (e *BusyError) Is(target error) bool { return target == ErrBusy }
