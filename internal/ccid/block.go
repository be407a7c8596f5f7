package ccid

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"openct/internal/device"
	"openct/internal/ifd"
	"openct/internal/usb"
)

// blockTransport is a character device that takes and gives one message at a
// time: the cm4040_cs driver of the OmniKey CardMan 4040, a PCMCIA card. The
// driver refuses to be opened without blocking, so readiness is waited for
// with poll(2). It has no pipe for aborts. Recent kernels lack it.
type blockTransport struct {
	path string
	fd   int
	buf  [blockMax]byte

	wake [2]int // a pipe: written when the device is closed

	mu     sync.Mutex
	closed bool
	away   chan struct{}
	left   sync.Once
}

var _ transport = (*blockTransport)(nil)

// Limits of cm4040_cs: a read must offer room for a header at least, and no
// message is longer.
const blockMax = 512

// cm4040 stands in for the class descriptor, which such a reader cannot show
// (C OpenCT's ifd-ccid.c has the same, but for the IFSD).
var cm4040 = ClassDescriptor{
	Release: 0x0110, Slots: 1, Voltages: 7, Protocols: protocolT0 | protocolT1,
	DefaultClock: fallbackClock, MaxClock: fallbackClock, DefaultRate: 10752, MaxRate: 10752,
	MaxIFSD:  maxIFSD,
	Features: LevelShortAPDU | AutoParameters | AutoVoltage | AutoClock | AutoRate | AutoPPS,
	// The APDU's length is the limit here, not the driver's.
	MaxMessage: shortMessage, BusySlots: 1,
}

// OpenBlock opens the reader behind a character device that carries whole
// messages, "/dev/cmx0".
func OpenBlock(path string, opts ifd.Options) (ifd.Reader, error) {
	fd, err := device.OpenNode(path)
	if err != nil {
		return nil, err
	}
	t, err := newBlockTransport(path, fd)
	if err != nil {
		return nil, err
	}
	return openTransport(t, &cm4040, nil, nil, opts)
}

// newBlockTransport takes fd over, also when it fails.
func newBlockTransport(path string, fd int) (*blockTransport, error) {
	t := &blockTransport{path: path, fd: fd, away: make(chan struct{})}
	if err := unix.Pipe2(t.wake[:], unix.O_CLOEXEC|unix.O_NONBLOCK); err != nil {
		_ = unix.Close(fd)
		return nil, usb.Wrap("open", path, err)
	}
	return t, nil
}

func (t *blockTransport) name() string                            { return t.path }
func (t *blockTransport) abort(context.Context, byte, byte) error { return errNoAbort }
func (t *blockTransport) gone() <-chan struct{}                   { return t.away }
func (t *blockTransport) fail(op string, err error) error {
	err = device.FileError(err)
	if errors.Is(err, usb.ErrUnplugged) {
		t.left.Do(func() { close(t.away) })
	}
	return usb.Wrap(op, t.path, err)
}

func (t *blockTransport) send(_ context.Context, msg []byte) error {
	if len(msg) > blockMax {
		return usb.Wrap("write", t.path, fmt.Errorf("message of %d bytes: %w", len(msg), usb.ErrIO))
	}
	for {
		n, err := unix.Write(t.fd, msg)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case err != nil:
			return t.fail("write", err)
		case n != len(msg):
			return usb.Wrap("write", t.path, fmt.Errorf("%d of %d bytes: %w", n, len(msg), usb.ErrIO))
		}
		return nil
	}
}

// recv ends when the device is closed; its context is looked at before each
// wait.
func (t *blockTransport) recv(ctx context.Context, timeout time.Duration) ([]byte, error) {
	deadline := time.Now().Add(timeout)
	for {
		if err := ctx.Err(); err != nil {
			return nil, usb.Wrap("read", t.path, err)
		}
		left := time.Until(deadline)
		if left <= 0 {
			return nil, usb.Wrap("read", t.path, usb.ErrTimeout)
		}
		fds := []unix.PollFd{{Fd: int32(t.fd), Events: unix.POLLIN}, {Fd: int32(t.wake[0]), Events: unix.POLLIN}}
		_, err := unix.Poll(fds, int(left/time.Millisecond)+1)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case err != nil:
			return nil, t.fail("read", err)
		case fds[1].Revents != 0:
			return nil, usb.Wrap("read", t.path, usb.ErrClosed)
		case fds[0].Revents == 0:
			continue
		}
		n, err := unix.Read(t.fd, t.buf[:])
		switch {
		case errors.Is(err, unix.EINTR), errors.Is(err, unix.EAGAIN):
			continue
		case err != nil:
			return nil, t.fail("read", err)
		case n == 0:
			return nil, t.fail("read", unix.ENODEV)
		}
		return t.buf[:n], nil // as long as its header says, or parseResponse complains
	}
}

func (t *blockTransport) close() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return nil
	}
	t.closed = true
	_, _ = unix.Write(t.wake[1], []byte{0})
	return nil
}

// release closes the files; no recv may be running.
func (t *blockTransport) release() {
	_ = unix.Close(t.fd)
	_ = unix.Close(t.wake[0])
	_ = unix.Close(t.wake[1])
}
