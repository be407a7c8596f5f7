// Package usbfs makes the transfers of a USB device on its usbfs node
// (/dev/bus/usb/BBB/DDD), and notices at once when the device has left the bus.
//
// A node has one descriptor, which Go's network poller watches. The kernel says
// there that a transfer can be taken back (POLLOUT), and that the device is gone
// (POLLHUP): see usbdev_poll in Linux, drivers/usb/core/devio.c. A transfer is one
// call to submit it, a sleep, and one call to take it back. The sleep is a short one
// in the kernel, which is enough for nearly every transfer, and then one in the
// poller: a device that takes its time blocks no thread, and an idle node costs
// neither thread, timer nor wakeup.
//
// Interfaces belong to the descriptor that has claimed them, so whoever claims
// has to do it on this one: see Node.Do.
package usbfs

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"sync"
	"sync/atomic"
	"syscall"

	"golang.org/x/sys/unix"

	"openct/internal/usb"
)

// ErrNotNode says that a path is there, but is not a usbfs device node.
var ErrNotNode = errors.New("not a USB device node")

// maxDescriptors bounds what is read from a node: a device has at most 8
// configurations worth speaking of (USB_MAXCONFIG), each at most 64 KiB; real
// ones stay under 1 KiB.
const maxDescriptors = 8 << 16

// Node is one device's open node.
type Node struct {
	// Bus and Address are the device's numbers as the kernel counts them,
	// taken from the node itself and not from its name.
	Bus, Address int

	// Descriptors are the device descriptor and all configurations as the
	// device sent them when it was plugged; see usb.ParseDescriptors.
	Descriptors []byte

	file   *os.File
	conn   syscall.RawConn
	kernel kernel
	gone   chan struct{}
	once   sync.Once
	done   chan struct{} // closed when the goroutine that waits for the hang-up has ended

	// slow counts the calls under way that may keep the kernel's lock of the
	// device for as long as the device takes to answer.
	slow atomic.Int32

	running sync.WaitGroup // transfers

	mu     sync.Mutex
	ended  bool
	idle   []*transfer // for the transfers to come
	lost   []*transfer // which the kernel never gave back
	flying []*transfer // submitted, not yet taken back
	waiter *transfer   // whose goroutine is in the poller, or about to be, for all that are flying
	called bool        // waiter is called back from the poller by a deadline
}

// Open opens the node at path for transfers. Its errors wrap usb.ErrNotFound,
// usb.ErrAccess or ErrNotNode.
func Open(path string) (*Node, error) {
	n, err := open(path, unix.O_RDWR)
	return n, usb.Wrap("open", path, err)
}

// Look opens the node at path to read who the device is, and to notice that it
// leaves: that needs no right to write. Transfers fail. Its errors are those of
// Open.
func Look(path string) (*Node, error) {
	n, err := open(path, unix.O_RDONLY)
	return n, usb.Wrap("open", path, err)
}

func open(path string, mode int) (*Node, error) {
	// Looked at before it is opened: the mere opening of some other device's
	// node (a tape, a watchdog timer) has effects.
	info, err := os.Stat(path)
	if err != nil {
		return nil, openError(err)
	}
	if _, _, err := number(info); err != nil {
		return nil, err
	}
	fd, err := unix.Open(path, mode|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, openError(err)
	}
	n, err := newNode(fd, path)
	if err != nil {
		return nil, err
	}
	if err := n.identify(); err != nil {
		n.Close()
		return nil, err
	}
	return n, nil
}

// number takes bus and address out of a usbfs node's device number.
func number(info fs.FileInfo) (bus, address int, err error) {
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok || info.Mode()&fs.ModeCharDevice == 0 || unix.Major(uint64(st.Rdev)) != usb.NodeMajor {
		return 0, 0, ErrNotNode
	}
	bus, address = usb.NodePlace(int(unix.Minor(uint64(st.Rdev))))
	return bus, address, nil
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

// newNode begins to watch fd, which it owns from then on.
func newNode(fd int, path string) (*Node, error) {
	n := &Node{
		file: os.NewFile(uintptr(fd), path),
		gone: make(chan struct{}),
		done: make(chan struct{}),
	}
	n.kernel = &descriptor{fd: uintptr(fd), slow: &n.slow}
	conn, err := n.file.SyscallConn()
	if err != nil {
		n.file.Close()
		return nil, fmt.Errorf("%w: %w", usb.ErrIO, err)
	}
	n.conn = conn
	go func() {
		defer close(n.done)
		// Read calls hungUp, parks the goroutine in the network poller when
		// it says false, and calls it again when the kernel has news. It
		// ends with an error when the file is closed.
		if conn.Read(hungUp) == nil {
			n.markGone()
		}
	}()
	return n, nil
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
func (n *Node) identify() error {
	info, err := n.file.Stat()
	if err != nil {
		return openError(err)
	}
	if n.Bus, n.Address, err = number(info); err != nil {
		return err
	}
	// Read through the raw descriptor: a usbfs node always has its bytes, and
	// an os.File read would wait for the poller if it had none.
	buf := make([]byte, 4096)
	for {
		var got int
		rerr := n.conn.Control(func(fd uintptr) {
			got, err = unix.Pread(int(fd), buf, int64(len(n.Descriptors)))
		})
		switch err = errors.Join(rerr, err); {
		case errors.Is(err, unix.EINTR):
			continue
		case err != nil:
			return fmt.Errorf("read descriptors: %w", openError(err))
		case got == 0:
			return nil
		case len(n.Descriptors)+got > maxDescriptors:
			return fmt.Errorf("read descriptors: more than %d bytes: %w", maxDescriptors, usb.ErrDescriptor)
		}
		n.Descriptors = append(n.Descriptors, buf[:got]...)
	}
}

func (n *Node) markGone() { n.once.Do(func() { close(n.gone) }) }

// Gone is closed when the device has left the bus.
func (n *Node) Gone() <-chan struct{} { return n.gone }

// Check reports whether the device has left the bus by now. It asks the
// kernel, so it is right even before the one who waits on Gone is woken.
func (n *Node) Check() bool {
	select {
	case <-n.gone:
		return true
	default:
	}
	gone := false
	if err := n.conn.Control(func(fd uintptr) { gone = hungUp(fd) }); err != nil {
		return false // closed
	}
	if gone {
		n.markGone()
	}
	return gone
}

// Do runs f with the descriptor of the node, for what this package does not do
// itself, such as claiming. f may take long; it must not submit or take back
// transfers, nor keep the descriptor.
func (n *Node) Do(f func(fd uintptr)) error {
	n.slow.Add(1)
	defer n.slow.Add(-1)
	return n.conn.Control(f)
}

// Close ends all transfers and closes the node. Gone stays as it is.
func (n *Node) Close() error {
	n.End()
	err := n.file.Close()
	<-n.done
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, t := range append(n.idle, n.lost...) {
		t.pins.Unpin() // the kernel writes to nothing any more
	}
	return err
}
