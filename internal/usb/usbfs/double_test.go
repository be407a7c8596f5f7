package usbfs

import (
	"fmt"
	"os"
	"sync"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// double is a kernel without USB: it keeps what is submitted until a test says
// what becomes of it. Its descriptor is one end of a socket pair, which can be
// written to exactly while a transfer can be taken back, and hangs up when the
// device leaves.
type double struct {
	t     testing.TB
	fd    int
	other *os.File

	submitted chan *urb // every one, as it comes

	mu        sync.Mutex
	flying    []*urb
	over      []*urb
	gone      bool
	silent    bool          // the poller is not told
	impatient bool          // wait does not wait: every transfer goes through the poller
	waits     func()        // called by wait, which waits then
	keep      bool          // discard does not end a transfer
	refuse    error         // of submit
	calls     int           // of submit and reap
	empties   int           // calls of reap that had nothing to give
	held      chan struct{} // discard waits for it
	within    chan struct{} // discard says that it waits
}

// impatient has every test node's transfers go through the poller.
var impatient bool

// testNode is a node on a double. The test's end closes it, and finds out
// whether a transfer was forgotten.
func testNode(t testing.TB) (*Node, *double) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	k := &double{t: t, fd: fds[0], other: os.NewFile(uintptr(fds[1]), "other end"), submitted: make(chan *urb, 64)}
	k.fill()
	n, err := newNode(fds[0], "node")
	if err != nil {
		t.Fatal(err)
	}
	k.impatient = impatient
	n.kernel = k
	t.Cleanup(func() {
		n.Close()
		k.unplug()
		if len(n.flying) != 0 || n.waiter != nil {
			t.Errorf("left: %d transfers, waiter %v", len(n.flying), n.waiter)
		}
	})
	return n, k
}

// fill makes the descriptor one that cannot be written to.
func (k *double) fill() {
	for b := make([]byte, 4096); ; {
		if _, err := unix.Write(k.fd, b); err != nil {
			return
		}
	}
}

// tell makes it one that can, which is news to the poller.
func (k *double) tell() {
	if k.silent {
		return
	}
	for b := make([]byte, 65536); ; {
		k.other.SetReadDeadline(time.Now().Add(-1))
		n, err := unix.Read(k.otherFd(), b)
		if n <= 0 || err != nil {
			return
		}
	}
}

func (k *double) otherFd() (fd int) {
	conn, err := k.other.SyscallConn()
	if err == nil {
		err = conn.Control(func(f uintptr) { fd = int(f) })
	}
	if err != nil {
		return -1
	}
	return fd
}

func (k *double) submit(u *urb) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.calls++
	if k.gone {
		return unix.ENODEV
	}
	if k.refuse != nil {
		return k.refuse
	}
	k.flying = append(k.flying, u)
	k.submitted <- u
	return nil
}

func (k *double) reap() (uintptr, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.calls++
	if len(k.over) == 0 {
		if k.gone {
			return 0, unix.ENODEV
		}
		k.empties++
		k.fill()
		return 0, unix.EAGAIN
	}
	u := k.over[0]
	if k.over = k.over[1:]; len(k.over) == 0 && !k.gone {
		k.fill()
	}
	return uintptr(unsafe.Pointer(u)), nil
}

func (k *double) wait(long time.Duration) bool {
	if k.waits != nil {
		k.waits()
	}
	return !k.impatient && waitWritable(uintptr(k.fd), long)
}

func (k *double) discard(u *urb) error {
	if k.held != nil {
		k.within <- struct{}{}
		<-k.held
	}
	if k.keep {
		return nil
	}
	if !k.end(u, -int32(unix.ENOENT), "") {
		return unix.EINVAL
	}
	return nil
}

func (k *double) clearHalt(uint8) error { return unix.EPIPE }

// endAll ends all that are flying, the newest first, with their endpoints.
func (k *double) endAll() {
	k.mu.Lock()
	defer k.mu.Unlock()
	for i := len(k.flying) - 1; i >= 0; i-- {
		k.endLocked(k.flying[i], 0, fmt.Sprint(k.flying[i].endpoint))
	}
}

// end ends one transfer with the data that came, and tells the poller.
func (k *double) end(u *urb, status int32, data string) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.endLocked(u, status, data)
}

func (k *double) endLocked(u *urb, status int32, data string) bool {
	for i, f := range k.flying {
		if f == u {
			k.flying = append(k.flying[:i:i], k.flying[i+1:]...)
			u.status = status
			if data != "" {
				room := unsafe.Slice((*byte)(u.buffer), u.bufferLength)
				if u.kind == kindControl {
					room = room[setupSize:]
				}
				u.actualLength = int32(copy(room, data))
			}
			k.over = append(k.over, u)
			k.tell()
			return true
		}
	}
	return false
}

// unplug hangs up, and gives back what is flying as the kernel does.
func (k *double) unplug() {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.gone {
		return
	}
	k.gone = true
	if !k.keep {
		for _, u := range k.flying {
			u.status = -int32(unix.ESHUTDOWN)
			k.over = append(k.over, u)
		}
		k.flying = nil
	}
	k.other.Close()
}
