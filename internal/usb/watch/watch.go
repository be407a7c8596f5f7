// Package watch notices that a USB device has left the bus, at once and
// without polling. It holds one read-only descriptor of the device's usbfs
// node: the kernel reports the hang-up to Go's network poller, so a watch
// costs no thread, no timer and no wakeup until the device is gone.
//
// The descriptor never claims an interface and never sends anything, so it
// lives beside libusb and beside other processes.
package watch

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"

	"openct/internal/usb"
)

// ErrNotNode says that a path is there, but is not a usbfs device node.
var ErrNotNode = errors.New("not a USB device node")

// usbfs nodes are character devices 189:N with N = (bus-1)*128 + address-1
// (Linux, include/linux/usb.h USB_DEVICE_MAJOR, drivers/usb/core/usb.c).
const (
	usbMajor       = 189
	addressesOfBus = 128
)

// maxDescriptors bounds what is read from a node: a device has at most 8
// configurations worth speaking of (USB_MAXCONFIG), each at most 64 KiB; real
// ones stay under 1 KiB.
const maxDescriptors = 8 << 16

// Watch is one device's open node.
type Watch struct {
	// Bus and Address are the device's numbers as the kernel counts them,
	// taken from the node itself and not from its name.
	Bus, Address int

	// Descriptors are the device descriptor and all configurations as the
	// device sent them when it was plugged; see usb.ParseDescriptors.
	Descriptors []byte

	file *os.File
	conn syscall.RawConn
	gone chan struct{}
	once sync.Once
	done chan struct{} // closed when the watching goroutine has ended
}

// Open starts to watch the device whose usbfs node is path. Its errors wrap
// usb.ErrNotFound, usb.ErrAccess or ErrNotNode.
func Open(path string) (*Watch, error) {
	w, err := open(path)
	return w, usb.Wrap("open", path, err)
}

func open(path string) (*Watch, error) {
	// Looked at before it is opened: the mere opening of some other device's
	// node (a tape, a watchdog timer) has effects.
	info, err := os.Stat(path)
	if err != nil {
		return nil, openError(err)
	}
	if _, _, err := number(info); err != nil {
		return nil, err
	}
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, openError(err)
	}
	w, err := start(os.NewFile(uintptr(fd), path))
	if err != nil {
		return nil, err
	}
	if err := w.identify(); err != nil {
		w.Close()
		return nil, err
	}
	return w, nil
}

// number takes bus and address out of a usbfs node's device number.
func number(info fs.FileInfo) (bus, address int, err error) {
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok || info.Mode()&fs.ModeCharDevice == 0 || unix.Major(st.Rdev) != usbMajor {
		return 0, 0, ErrNotNode
	}
	minor := int(unix.Minor(st.Rdev))
	return minor/addressesOfBus + 1, minor%addressesOfBus + 1, nil
}

func openError(err error) error {
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, unix.ENOTDIR),
		errors.Is(err, unix.ENODEV), errors.Is(err, unix.ENXIO):
		return usb.ErrNotFound
	case errors.Is(err, fs.ErrPermission):
		return usb.ErrAccess
	}
	return fmt.Errorf("%w: %w", usb.ErrIO, err)
}

// start begins to watch f, which it owns from then on.
func start(f *os.File) (*Watch, error) {
	conn, err := f.SyscallConn()
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("%w: %w", usb.ErrIO, err)
	}
	w := &Watch{file: f, conn: conn, gone: make(chan struct{}), done: make(chan struct{})}
	go func() {
		defer close(w.done)
		// Read calls hungUp, parks the goroutine in the network poller when
		// it says false, and calls it again when the kernel has news. It
		// ends with an error when the file is closed.
		if conn.Read(hungUp) == nil {
			w.markGone()
		}
	}()
	return w, nil
}

// hungUp asks without waiting whether the device behind fd is gone.
func hungUp(fd uintptr) bool {
	fds := []unix.PollFd{{Fd: int32(fd)}} // HUP and ERR are always reported
	for {
		n, err := unix.Poll(fds, 0)
		if err == unix.EINTR {
			continue
		}
		return err == nil && n > 0 && fds[0].Revents&(unix.POLLHUP|unix.POLLERR) != 0
	}
}

// identify reads who the device is.
func (w *Watch) identify() error {
	info, err := w.file.Stat()
	if err != nil {
		return openError(err)
	}
	if w.Bus, w.Address, err = number(info); err != nil {
		return err
	}
	// Read through the raw descriptor: a usbfs node always has its bytes, and
	// an os.File read would wait for the poller if it had none.
	buf := make([]byte, 4096)
	for {
		var n int
		rerr := w.conn.Control(func(fd uintptr) {
			n, err = unix.Pread(int(fd), buf, int64(len(w.Descriptors)))
		})
		switch err = errors.Join(rerr, err); {
		case errors.Is(err, unix.EINTR):
			continue
		case err != nil:
			return fmt.Errorf("read descriptors: %w", openError(err))
		case n == 0:
			return nil
		case len(w.Descriptors)+n > maxDescriptors:
			return fmt.Errorf("read descriptors: more than %d bytes: %w", maxDescriptors, usb.ErrDescriptor)
		}
		w.Descriptors = append(w.Descriptors, buf[:n]...)
	}
}

func (w *Watch) markGone() { w.once.Do(func() { close(w.gone) }) }

// Gone is closed when the device has left the bus.
func (w *Watch) Gone() <-chan struct{} { return w.gone }

// Check reports whether the device has left the bus by now. It asks the
// kernel, so it is right even before the one who waits on Gone is woken.
func (w *Watch) Check() bool {
	select {
	case <-w.gone:
		return true
	default:
	}
	gone := false
	if err := w.conn.Control(func(fd uintptr) { gone = hungUp(fd) }); err != nil {
		return false // closed
	}
	if gone {
		w.markGone()
	}
	return gone
}

// Close stops watching. Gone stays as it is.
func (w *Watch) Close() error {
	err := w.file.Close()
	<-w.done
	return err
}

var _ io.Closer = (*Watch)(nil)
