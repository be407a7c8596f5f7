package serial

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// serialStruct is struct serial_struct (linux/serial.h) as far as its flags,
// with room for the rest of it.
type serialStruct struct {
	_     [4]int32
	flags int32
	_     [27]int32
}

// lowLatency is ASYNC_LOW_LATENCY (linux/tty_flags.h).
const lowLatency = 1 << 13

// lowerLatency asks the line's driver not to gather bytes. An FTDI chip keeps
// them for 16 ms otherwise, and for 1 ms then (ftdi_sio.c, write_latency_timer):
// a reader of single bytes takes the line's own time in place of many times that.
// Drivers that know nothing of it refuse, and nothing is lost.
func lowerLatency(fd int) {
	var s serialStruct
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.TIOCGSERIAL, uintptr(unsafe.Pointer(&s))); errno != 0 || s.flags&lowLatency != 0 {
		return
	}
	s.flags |= lowLatency
	_, _, _ = unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.TIOCSSERIAL, uintptr(unsafe.Pointer(&s)))
}
