package usbfs

import (
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// urb is struct usbdevfs_urb of linux/usbdevice_fs.h (USB request block),
// without the packets of isochronous transfers at its end.
type urb struct {
	kind         uint8
	endpoint     uint8
	status       int32 // 0 or an error number, negative
	flags        uint32
	buffer       unsafe.Pointer
	bufferLength int32
	actualLength int32
	startFrame   int32
	packets      int32
	errorCount   int32
	signal       uint32
	userContext  uintptr
}

// Kinds of urb (linux/usbdevice_fs.h, USBDEVFS_URB_TYPE_...).
const (
	kindInterrupt = 1
	kindControl   = 2
	kindBulk      = 3
)

// Requests of usbfs nodes, linux/usbdevice_fs.h; how a number is made up says
// asm-generic/ioctl.h.
const (
	usbdevfs   = 'U' << 8
	submitURB  = iocRead | unsafe.Sizeof(urb{})<<16 | usbdevfs | 10       // USBDEVFS_SUBMITURB
	discardURB = iocNone | usbdevfs | 11                                  // USBDEVFS_DISCARDURB
	reapURB    = iocWrite | unsafe.Sizeof(uintptr(0))<<16 | usbdevfs | 13 // USBDEVFS_REAPURBNDELAY
	clearHalt  = iocRead | unsafe.Sizeof(uint32(0))<<16 | usbdevfs | 21   // USBDEVFS_CLEAR_HALT
)

// kernel is what the kernel does on a node. The errors are error numbers.
type kernel interface {
	submit(*urb) error
	// reap takes back a transfer that is over and returns the address of its
	// urb; unix.EAGAIN when there is none.
	reap() (uintptr, error)
	// wait returns true when a transfer can be taken back or the device is gone,
	// and false when the time is over or this is no moment to wait.
	wait(time.Duration) bool
	// discard ends a transfer, which then can be taken back. It waits until the
	// host controller has let go of it. unix.EINVAL: it is over already.
	discard(*urb) error
	clearHalt(ep uint8) error
}

// descriptor is the kernel behind the descriptor of a node.
type descriptor struct {
	fd     uintptr
	slow   *atomic.Int32
	reaped uintptr
}

// quick makes a call that does not wait for the device. Go's scheduler is not
// told of it: telling would wake the scheduler's own thread for every transfer.
// The call waits for the kernel's lock of the device, though. Where something
// here keeps it for long, the scheduler must know, or this goroutine would keep
// others from running, among them those that the holder of the lock waits for.
func (d *descriptor) quick(request uintptr, arg unsafe.Pointer) error {
	for {
		var errno unix.Errno
		if d.slow.Load() == 0 {
			_, _, errno = unix.RawSyscall(unix.SYS_IOCTL, d.fd, request, uintptr(arg))
		} else {
			_, _, errno = unix.Syscall(unix.SYS_IOCTL, d.fd, request, uintptr(arg))
		}
		if errno == 0 {
			return nil
		}
		if errno != unix.EINTR {
			return errno
		}
	}
}

// long makes a call that may wait for the device.
func (d *descriptor) long(request uintptr, arg unsafe.Pointer) error {
	d.slow.Add(1)
	defer d.slow.Add(-1)
	for {
		_, _, errno := unix.Syscall(unix.SYS_IOCTL, d.fd, request, uintptr(arg))
		if errno == 0 {
			return nil
		}
		if errno != unix.EINTR {
			return errno
		}
	}
}

func (d *descriptor) submit(u *urb) error { return d.quick(submitURB, unsafe.Pointer(u)) }

func (d *descriptor) reap() (uintptr, error) {
	err := d.quick(reapURB, unsafe.Pointer(&d.reaped))
	return d.reaped, err
}

func (d *descriptor) wait(long time.Duration) bool {
	return d.slow.Load() == 0 && waitWritable(d.fd, long)
}

// waitWritable sleeps in the kernel without telling Go's scheduler, as quick
// does: no other goroutine runs on this processor meanwhile. It reports whether
// there is news.
func waitWritable(fd uintptr, long time.Duration) bool {
	fds := unix.PollFd{Fd: int32(fd), Events: unix.POLLOUT}
	ts := unix.NsecToTimespec(max(0, long.Nanoseconds()))
	for {
		// After EINTR (a signal of Go's own scheduler), ts is what is left: ppoll(2).
		got, _, errno := unix.RawSyscall6(unix.SYS_PPOLL, uintptr(unsafe.Pointer(&fds)), 1, uintptr(unsafe.Pointer(&ts)), 0, 0, 0)
		if errno != unix.EINTR {
			return errno == 0 && got > 0
		}
	}
}

func (d *descriptor) discard(u *urb) error { return d.long(discardURB, unsafe.Pointer(u)) }

func (d *descriptor) clearHalt(ep uint8) error {
	endpoint := uint32(ep)
	return d.long(clearHalt, unsafe.Pointer(&endpoint))
}
