package ccid

import (
	"context"
	"errors"
	"io"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"openct/internal/usb"
)

// tty is a serial port of the kernel: 8 data bits, no parity, 2 stop bits, no
// flow control, raw. Go's poller waits for it.
type tty struct{ f *os.File }

var _ port = (*tty)(nil)

// openTTY opens a serial port for this process alone. RTS goes down at once:
// while it is up, readers send their plug-and-play identification.
func openTTY(path string) (*tty, error) {
	fd, err := unix.Open(path, unix.O_RDWR|unix.O_NONBLOCK|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, usb.Wrap("open", path, fileError(err))
	}
	t := &tty{os.NewFile(uintptr(fd), path)}
	if err := t.prepare(fd); err != nil {
		_ = t.f.Close()
		return nil, usb.Wrap("open", path, fileError(err))
	}
	return t, nil
}

func (t *tty) prepare(fd int) error {
	if err := unix.IoctlSetInt(fd, unix.TIOCEXCL, 0); err != nil {
		return err
	}
	// Pseudo-terminals and some adapters have no such lines.
	err := unix.IoctlSetPointerInt(fd, unix.TIOCMBIC, unix.TIOCM_RTS)
	if err != nil && !errors.Is(err, unix.ENOTTY) && !errors.Is(err, unix.EINVAL) {
		return err
	}
	if err := setLine(fd, serialSpeed); err != nil {
		return err
	}
	return unix.IoctlSetInt(fd, unix.TCFLSH, unix.TCIOFLUSH)
}

func setLine(fd int, baud uint32) error {
	speeds := map[uint32]uint32{serialSlowSpeed: unix.B9600, serialSpeed: unix.B115200}
	code := speeds[baud]
	tio, err := unix.IoctlGetTermios(fd, unix.TCGETS)
	if err != nil {
		return err
	}
	tio.Iflag = unix.IGNBRK | unix.IGNPAR
	tio.Oflag, tio.Lflag = 0, 0
	tio.Cflag = unix.CS8 | unix.CSTOPB | unix.CREAD | unix.CLOCAL | unix.HUPCL | code
	tio.Ispeed, tio.Ospeed = code, code
	tio.Cc[unix.VMIN], tio.Cc[unix.VTIME] = 1, 0
	return unix.IoctlSetTermios(fd, unix.TCSETSW, tio)
}

func (t *tty) name() string { return t.f.Name() }

func (t *tty) write(ctx context.Context, b []byte) error {
	_, err := within(ctx, sendTimeout, t.f.SetWriteDeadline, func() (int, error) { return t.f.Write(b) })
	return err
}

func (t *tty) read(ctx context.Context, buf []byte, timeout time.Duration) (int, error) {
	return within(ctx, timeout, t.f.SetReadDeadline, func() (int, error) { return t.f.Read(buf) })
}

// within runs a read or a write until the timeout or the end of ctx.
func within(ctx context.Context, timeout time.Duration, deadline func(time.Time) error, run func() (int, error)) (int, error) {
	if err := deadline(time.Now().Add(timeout)); err != nil {
		return 0, fileError(err)
	}
	ended := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(ended)
		_ = deadline(time.Unix(1, 0)) // long past
	})
	n, err := run()
	if !stop() {
		<-ended // so that it does not meet the next call
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return n, ctx.Err()
		}
	}
	return n, ttyError(err)
}

// ttyError is fileError for a port: an adapter that was pulled ends the file,
// or fails with EIO.
func ttyError(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, unix.EIO) {
		return usb.ErrUnplugged
	}
	return fileError(err)
}

func (t *tty) setSpeed(baud uint32) error {
	conn, err := t.f.SyscallConn()
	if err != nil {
		return err
	}
	var failed error
	if err := conn.Control(func(fd uintptr) { failed = setLine(int(fd), baud) }); err != nil {
		return err
	}
	return fileError(failed)
}

func (t *tty) close() error {
	err := t.f.Close()
	if errors.Is(err, os.ErrClosed) {
		return nil
	}
	return err
}
