// Package device has what the transports under the drivers share, whatever a
// reader is connected by: the states in which a device can be, and the error
// that names the device and what was done with it.
package device

import (
	"errors"
	"fmt"
	"strings"
)

// States of a device that callers branch on; test with errors.Is.
var (
	ErrUnplugged = errors.New("device was unplugged")
	ErrTimeout   = errors.New("device did not answer in time")
	ErrIO        = errors.New("transfer failed")
	ErrBusy      = errors.New("device is in use")
	ErrAccess    = errors.New("permission denied")
	ErrNotFound  = errors.New("no such device")
	ErrClosed    = errors.New("device is closed")
)

// Error is what a transport returns: the operation, the device it ran on, and
// why it failed.
type Error struct {
	Op     string // "control 40/01", "open", "read"
	Device string // "/dev/bus/usb/001/004", "/dev/ttyUSB0" or a virtual device's name
	Err    error
}

func (e *Error) Error() string {
	return fmt.Sprintf("%s: %s: %v", e.Device, e.Op, e.Err)
}

func (e *Error) Unwrap() error { return e.Err }

// Wrap returns nil for a nil err, so that call sites stay flat.
func Wrap(op, device string, err error) error {
	if err == nil {
		return nil
	}
	return &Error{Op: op, Device: device, Err: err}
}

// BusyError is ErrBusy with who holds the device, as far as /proc
// tells them to this process.
type BusyError struct {
	Holders []Holder
}

// Holder is who keeps a device, or an interface of it: a process, or a kernel driver (PID 0).
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
