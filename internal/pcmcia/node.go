// Package pcmcia is the transport for readers that are a PCMCIA card with a kernel
// driver of its own: a character device with ioctls, such as the CardMan
// 4000's /dev/cmm0.
package pcmcia

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"time"
	"unsafe"
)

// Node is such a device. Its errors are device.Error and wrap package device's
// states or ErrPending.
type Node interface {
	// Name is the node's path.
	Name() string

	// Ioctl makes a request. arg is what the kernel gets, and what it leaves
	// there; nil for a request without an argument.
	Ioctl(ctx context.Context, r Request, arg []byte, timeout time.Duration) error

	// Write sends b as one message.
	Write(ctx context.Context, b []byte, timeout time.Duration) error

	// Read returns one message. One that is longer than buf fails.
	Read(ctx context.Context, buf []byte, timeout time.Duration) (int, error)

	// Gone is closed when the PCMCIA card was unplugged.
	Gone() <-chan struct{}

	Close() error
}

// ErrPending says that the kernel still works on what it was asked before and
// was not waited for any longer.
var ErrPending = errors.New("the kernel has not finished an earlier request")

// Request is an ioctl: direction, type and number of include/uapi/asm-generic/ioctl.h.
type Request struct {
	Direction Direction
	Type      byte
	Number    byte
	Pointer   bool // the size that the number has is a pointer's, not the argument's
}

// Direction of a request's argument, as the program sees it.
type Direction byte

// Directions. ReadWrite is both.
const (
	None      Direction = 0
	Write     Direction = 1
	Read      Direction = 2
	ReadWrite           = Write | Read
)

func (r Request) String() string { return fmt.Sprintf("ioctl/%d", r.Number) }

// code is the number that the kernel knows the request by.
func (r Request) code() uint32 {
	old := strings.HasPrefix(runtime.GOARCH, "mips") || strings.HasPrefix(runtime.GOARCH, "ppc")
	return r.codeOn(uint32(unsafe.Sizeof(uintptr(0))), old)
}

// codeOn is code for a size of pointers. On some machines (old) the direction is in
// three bits, one a direction (arch/mips/include/uapi/asm/ioctl.h and
// arch/powerpc/include/uapi/asm/ioctl.h).
func (r Request) codeOn(pointer uint32, old bool) uint32 {
	code := uint32(r.Type)<<8 | uint32(r.Number)
	if r.Pointer {
		code |= pointer << 16
	}
	switch {
	case !old:
		return code | uint32(r.Direction)<<30
	case r.Direction == None:
		return code | 1<<29
	}
	if r.Direction&Read != 0 {
		code |= 2 << 29
	}
	if r.Direction&Write != 0 {
		code |= 4 << 29
	}
	return code
}
