package pcmcia

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"openct/internal/device"
)

// file is a Node of the kernel. cm4000_cs has no poll operation and refuses to be
// opened without blocking (drivers/char/pcmcia/cm4000_cs.c as of Linux 6.3), so
// Go's poller is of no use. What blocks has a goroutine, and whoever waits for it a
// deadline; the goroutine ends when the kernel returns.
type file struct {
	path string
	fd   int
	turn chan struct{} // holds a token when nothing is under way

	mu     sync.Mutex
	closed bool
	over   chan struct{} // closed by Close
	gone   chan struct{}
	left   sync.Once
}

var _ Node = (*file)(nil)

const (
	// maxMessage is more than any message: cm4000_cs keeps 512 bytes.
	maxMessage = 1024

	// maxArgument is room for an ioctl's argument. cm4000_cs leaves as many
	// bytes of ATR as the reader has received, which is up to 511.
	maxArgument = 1024
)

// Open opens a character device.
func Open(path string) (Node, error) {
	fd, err := device.OpenNode(path)
	if err != nil {
		return nil, err
	}
	f := &file{path: path, fd: fd, turn: make(chan struct{}, 1), over: make(chan struct{}), gone: make(chan struct{})}
	f.turn <- struct{}{}
	return f, nil
}

func (f *file) Name() string          { return f.path }
func (f *file) Gone() <-chan struct{} { return f.gone }

// Close implements Node. Where the kernel has not finished a request, the file
// is closed when it has.
func (f *file) Close() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		return nil
	}
	f.closed = true
	close(f.over)
	select {
	case <-f.turn:
		return device.Wrap("close", f.path, unix.Close(f.fd))
	default:
		return nil
	}
}

// Ioctl implements Node.
func (f *file) Ioctl(ctx context.Context, r Request, arg []byte, timeout time.Duration) error {
	buf := make([]byte, max(maxArgument, len(arg)))
	copy(buf, arg)
	_, err := f.do(ctx, r.String(), timeout, func() (int, error) {
		// A request without an argument does not look at it.
		_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(f.fd), uintptr(r.code()), uintptr(unsafe.Pointer(&buf[0])))
		if errno != 0 {
			return 0, errno
		}
		return 0, nil
	})
	if err == nil {
		copy(arg, buf)
	}
	return err
}

// Write implements Node.
func (f *file) Write(ctx context.Context, b []byte, timeout time.Duration) error {
	out := append([]byte(nil), b...)
	n, err := f.do(ctx, "write", timeout, func() (int, error) {
		defer clear(out) // there may be a PIN
		return unix.Write(f.fd, out)
	})
	if err == nil && n != len(b) {
		err = device.Wrap("write", f.path, fmt.Errorf("%d of %d bytes: %w", n, len(b), device.ErrIO))
	}
	return err
}

// Read implements Node. A driver that has taken a message has the answer when
// write(2) returns. If read(2) finds none, only the next write ends it, and it is
// not known to which of the two the answer belongs: the device is of no use until it is
// opened anew. So Read does not end with ctx, which would hide that.
func (f *file) Read(ctx context.Context, buf []byte, timeout time.Duration) (int, error) {
	in := make([]byte, maxMessage)
	n, err := f.do(context.WithoutCancel(ctx), "read", timeout, func() (int, error) { return unix.Read(f.fd, in) })
	switch {
	case errors.Is(err, device.ErrTimeout):
		f.leave()
		return 0, device.Wrap("read", f.path, fmt.Errorf("%w: the kernel's driver does not come back", device.ErrUnplugged))
	case err != nil:
		return 0, err
	case n > len(buf):
		return 0, device.Wrap("read", f.path, fmt.Errorf("message of %d bytes where %d fit: %w", n, len(buf), device.ErrIO))
	}
	return copy(buf, in[:n]), nil
}

// do makes a system call that may block. Calls are made one at a time, in turn.
func (f *file) do(ctx context.Context, op string, timeout time.Duration, call func() (int, error)) (int, error) {
	late := time.NewTimer(timeout)
	defer late.Stop()
	select {
	case <-f.turn:
	case <-late.C:
		return 0, device.Wrap(op, f.path, fmt.Errorf("%w: %w", device.ErrTimeout, ErrPending))
	case <-ctx.Done():
		return 0, device.Wrap(op, f.path, ctx.Err())
	case <-f.over:
		return 0, device.Wrap(op, f.path, device.ErrClosed)
	}
	if err := f.stopped(ctx); err != nil {
		f.release()
		return 0, device.Wrap(op, f.path, err)
	}
	type result struct {
		n   int
		err error
	}
	done := make(chan result, 1)
	go func() {
		var r result
		for {
			if r.n, r.err = call(); !errors.Is(r.err, unix.EINTR) {
				break
			}
		}
		f.release()
		done <- r
	}()
	select {
	case r := <-done:
		err := device.FileError(r.err)
		if errors.Is(err, device.ErrUnplugged) {
			f.leave()
		}
		return r.n, device.Wrap(op, f.path, err)
	case <-late.C:
		return 0, device.Wrap(op, f.path, device.ErrTimeout)
	case <-ctx.Done():
		return 0, device.Wrap(op, f.path, ctx.Err())
	case <-f.over:
		return 0, device.Wrap(op, f.path, device.ErrClosed)
	}
}

// leave says that the device cannot be used any more.
func (f *file) leave() { f.left.Do(func() { close(f.gone) }) }

// stopped is why nothing is to begin.
func (f *file) stopped(ctx context.Context) error {
	select {
	case <-f.over:
		return device.ErrClosed
	default:
		return ctx.Err()
	}
}

// release gives the turn back, or closes the file where Close could not.
func (f *file) release() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		_ = unix.Close(f.fd)
		return
	}
	f.turn <- struct{}{}
}
