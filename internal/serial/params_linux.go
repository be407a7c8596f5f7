package serial

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// Part of a speed by which a line may miss it: 1 part in 32. A receiver finds
// the tenth bit of a byte while it is off by less than half a bit.
const speedTolerance = 32

// Flags that tell a line's format.
const formatFlags = unix.CSIZE | unix.CSTOPB | unix.PARENB | unix.PARODD | unix.CMSPAR | unix.CRTSCTS

// ptyIgnores are the flags that a pseudo-terminal never takes
// (drivers/tty/pty.c, pty_set_termios).
const ptyIgnores = unix.CSIZE | unix.PARENB

// termios is the whole of a raw line's settings (termios(3)). The fields that
// C OpenCT leaves alone are set as well: what the last user of the line left
// there must not matter.
func (p Params) termios() *unix.Termios {
	p = p.complete()
	t := &unix.Termios{
		Iflag:  unix.IGNBRK | unix.IGNPAR,
		Cflag:  unix.CREAD | unix.CLOCAL | unix.HUPCL | unix.BOTHER,
		Ispeed: p.Speed,
		Ospeed: p.Speed,
	}
	if p.CheckParity {
		t.Iflag = unix.IGNBRK | unix.INPCK | unix.PARMRK
	}
	t.Cflag |= []uint32{unix.CS5, unix.CS6, unix.CS7, unix.CS8}[p.Bits-5]
	if p.StopBits == 2 {
		t.Cflag |= unix.CSTOPB
	}
	switch p.Parity {
	case Even:
		t.Cflag |= unix.PARENB
	case Odd:
		t.Cflag |= unix.PARENB | unix.PARODD
	}
	t.Cc[unix.VMIN] = 1
	return t
}

// setParams gives a line its settings and looks whether it took them; a line
// that did not gets its old ones back.
func setParams(fd int, p Params, pty bool) error {
	if err := p.valid(); err != nil {
		return err
	}
	before, err := unix.IoctlGetTermios(fd, getTermios)
	if err != nil {
		return err
	}
	want := p.termios()
	if err := unix.IoctlSetTermios(fd, setTermios, want); err != nil {
		if err == unix.EINVAL {
			err = fmt.Errorf("%v: %w", p, ErrUnsupported)
		}
		return err
	}
	have, err := unix.IoctlGetTermios(fd, getTermios)
	if err != nil {
		return err
	}
	if err := accepted(want, have, pty); err != nil {
		_ = unix.IoctlSetTermios(fd, setTermios, before)
		return fmt.Errorf("%v: %w: %w", p, ErrUnsupported, err)
	}
	return nil
}

// accepted compares what a line was given with what it made of it.
func accepted(want, have *unix.Termios, pty bool) error {
	flags := uint32(formatFlags)
	if pty {
		flags &^= ptyIgnores
	}
	if (want.Cflag^have.Cflag)&flags != 0 {
		return fmt.Errorf("format flags %#o became %#o", want.Cflag&flags, have.Cflag&flags)
	}
	off := max(want.Ospeed, have.Ospeed) - min(want.Ospeed, have.Ospeed)
	if off > want.Ospeed/speedTolerance {
		return fmt.Errorf("speed became %d bit/s", have.Ospeed)
	}
	return nil
}
