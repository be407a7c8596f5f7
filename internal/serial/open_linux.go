package serial

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"

	"openct/internal/device"
	"openct/internal/machine"
)

// Open takes the serial line at path for this process alone, raw, at 9600 8N1.
// The kernel raises DTR and RTS. A line that somebody else uses is device.ErrBusy,
// as far as that can be known: who opened it before and did not ask for
// exclusive use or a lock is not noticed.
func Open(path string) (*Port, error) {
	fd, err := unix.Open(path, unix.O_RDWR|unix.O_NONBLOCK|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, device.Wrap("open", path, openError(err, path))
	}
	p := &Port{
		more: make(chan struct{}, 1),
		gone: make(chan struct{}),
		done: make(chan struct{}),
	}
	if err := p.prepare(fd); err != nil {
		_ = unix.Close(fd)
		return nil, device.Wrap("open", path, openError(err, path))
	}
	p.f = os.NewFile(uintptr(fd), path)
	if p.raw, err = p.f.SyscallConn(); err != nil {
		_ = p.f.Close()
		return nil, device.Wrap("open", path, err)
	}
	go p.receive()
	return p, nil
}

// prepare takes the line for this process and sets it up.
func (p *Port) prepare(fd int) error {
	if _, err := unix.IoctlGetTermios(fd, getTermios); err != nil {
		return fmt.Errorf("not a serial port, or one without hardware: %w", err)
	}
	if err := seize(fd); err != nil {
		return err
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return err
	}
	// Majors 136 to 143 are pseudo-terminals (admin-guide/devices.txt).
	major := unix.Major(uint64(st.Rdev))
	p.pty = major >= 136 && major <= 143
	if _, err := unix.IoctlGetUint32(fd, unix.TIOCMGET); isNoLines(err) {
		p.noLines = true
	} else if err != nil {
		return err
	}
	if err := setParams(fd, Default, p.pty); err != nil {
		return err
	}
	p.params = Default
	lowerLatency(fd)
	return unix.IoctlSetInt(fd, unix.TCFLSH, unix.TCIOFLUSH)
}

// seize takes a line for this process. TIOCEXCL makes later opens fail, but
// not root's, who is told by TIOCGEXCL; the lock decides between two that open
// at the same time.
func seize(fd int) error {
	if exclusive, err := unix.IoctlGetUint32(fd, unix.TIOCGEXCL); err == nil && exclusive != 0 {
		return device.ErrBusy
	}
	err := unix.Flock(fd, unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		return device.ErrBusy
	}
	if err != nil {
		return err
	}
	return unix.IoctlSetInt(fd, unix.TIOCEXCL, 0)
}

// isNoLines reports the error of a terminal without modem lines
// (drivers/tty/tty_io.c, tty_tiocmget).
func isNoLines(err error) bool {
	return errors.Is(err, unix.ENOTTY) || errors.Is(err, unix.EINVAL)
}

// translate wraps a system call's error in one of package device. The line of an
// adapter that was unplugged fails with EIO.
func translate(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, os.ErrClosed):
		return device.ErrClosed
	case errors.Is(err, os.ErrDeadlineExceeded):
		return device.ErrTimeout
	}
	var errno unix.Errno
	if !errors.As(err, &errno) {
		return err
	}
	for _, t := range []struct {
		errno unix.Errno
		err   error
	}{
		{unix.EBUSY, device.ErrBusy},
		{unix.EACCES, device.ErrAccess},
		{unix.EPERM, device.ErrAccess},
		{unix.ENOENT, device.ErrNotFound},
		{unix.EIO, device.ErrUnplugged},
		{unix.ENODEV, device.ErrUnplugged},
		{unix.ENXIO, device.ErrUnplugged},
	} {
		if errno == t.errno {
			return t.err
		}
	}
	return fmt.Errorf("%w: %w", device.ErrIO, errno)
}

// openError is translate for a line that was not there to begin with, and says
// who has it or may. A UART's node without the UART opens, and then fails with
// EIO.
func openError(err error, path string) error {
	for _, absent := range []unix.Errno{unix.EIO, unix.ENODEV, unix.ENXIO, unix.ENOTTY} {
		if errors.Is(err, absent) {
			return fmt.Errorf("%w: %w", device.ErrNotFound, err)
		}
	}
	err = translate(err)
	if errors.Is(err, device.ErrBusy) {
		return busy(path)
	}
	return device.ExplainAccess(err, path)
}

// busy says who has the line open, as far as this process may see that.
func busy(path string) error {
	node, err := filepath.EvalSymlinks(path)
	if err != nil {
		return device.ErrBusy
	}
	e := &device.BusyError{}
	for _, p := range machine.Here.Processes() {
		if slices.Contains(p.Open(), node) {
			e.Holders = append(e.Holders, device.Holder{PID: p.PID, Name: cmp.Or(p.Name, "unknown")})
		}
	}
	return e
}
