package usbfs

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"openct/internal/usb"
)

const (
	setupSize = 8 // USB 2.0, 9.3

	// maxControl is the longest data stage that is passed on: usbfs's own limit
	// for a control transfer, one page (Linux, drivers/usb/core/devio.c,
	// do_proc_control).
	maxControl = 4096

	// maxBulk is the longest piece of a bulk transfer: what kernels before 3.3
	// allow (MAX_USBFS_BUFFER_SIZE of drivers/usb/core/devio.c), and what others
	// find memory for. It is a multiple of every packet size.
	maxBulk = 16384
)

// transfer is a place for one transfer at a time. The kernel writes to urb and
// buf, which are pinned for that.
type transfer struct {
	urb  urb
	buf  []byte
	pins runtime.Pinner
	step func(fd uintptr) bool // Node.step of this transfer

	// news tells the goroutine that wants the transfer that it is over, or that
	// it is this goroutine's turn to wait in the poller. It has room for one.
	news chan struct{}

	timer *time.Timer

	// Under Node.mu.
	taken      bool
	use        uint64    // counts the transfers that were made here
	deadline   time.Time // zero: for ever
	state      state
	cause      error // why it is to end early
	err        error // why there is no result
	discarding int   // calls under way that discard it
	lost       bool  // the kernel may have it still: not to be used again
}

type state int

const (
	prepared  state = iota
	submitted       // the kernel has it
	over            // taken back, or never submitted
)

// Control makes a control transfer: see usb.Device.
func (n *Node) Control(ctx context.Context, s usb.Setup, data []byte, timeout time.Duration) (int, error) {
	if len(data) > maxControl {
		return 0, fmt.Errorf("%w: a data stage of %d bytes, the kernel allows %d", usb.ErrIO, len(data), maxControl)
	}
	var setup [setupSize]byte // USB 2.0, table 9-2
	setup[0], setup[1] = s.RequestType, s.Request
	binary.LittleEndian.PutUint16(setup[2:], s.Value)
	binary.LittleEndian.PutUint16(setup[4:], s.Index)
	binary.LittleEndian.PutUint16(setup[6:], uint16(len(data)))
	return n.transfer(ctx, kindControl, 0, s.In(), setup[:], data, time.Now().Add(timeout))
}

// Bulk makes a bulk transfer: see usb.Device. A long one is made in pieces.
func (n *Node) Bulk(ctx context.Context, ep uint8, data []byte, timeout time.Duration) (int, error) {
	deadline := time.Now().Add(timeout)
	for total := 0; ; {
		piece := data[total:min(len(data), total+maxBulk)]
		got, err := n.transfer(ctx, kindBulk, ep, ep&0x80 != 0, nil, piece, deadline)
		total += got
		if err != nil || got < len(piece) || total == len(data) {
			return total, err
		}
	}
}

// Interrupt makes an interrupt transfer: see usb.Device.
func (n *Node) Interrupt(ctx context.Context, ep uint8, buf []byte) (int, error) {
	return n.transfer(ctx, kindInterrupt, ep, ep&0x80 != 0, nil, buf, time.Time{})
}

// ClearHalt clears a stalled endpoint: the request to the device and the data
// toggle on the host's side, which a plain CLEAR_FEATURE would leave.
func (n *Node) ClearHalt(ep uint8) error {
	n.mu.Lock()
	if n.ended {
		n.mu.Unlock()
		return usb.ErrClosed
	}
	n.running.Add(1)
	defer n.running.Done()
	n.mu.Unlock()
	if err := n.kernel.clearHalt(ep); err != nil {
		return failure(err)
	}
	return nil
}

// transfer makes one transfer to its end, its deadline, the end of ctx, or End.
// The data follows head, the setup packet of a control transfer.
func (n *Node) transfer(ctx context.Context, kind, ep uint8, in bool, head, data []byte, deadline time.Time) (int, error) {
	if ctx.Err() != nil {
		return 0, endOf(ctx)
	}
	t, err := n.take(len(head)+len(data), deadline)
	if err != nil {
		return 0, err
	}
	defer n.put(t)
	t.urb = urb{kind: kind, endpoint: ep, buffer: unsafe.Pointer(unsafe.SliceData(t.buf)), bufferLength: int32(len(head) + len(data))}
	copy(t.buf, head)
	body := t.buf[len(head):]
	if !in {
		copy(body, data)
	}
	n.run(ctx, t)
	if t.err != nil {
		return 0, t.err
	}
	got := min(max(int(t.urb.actualLength), 0), len(data))
	if in {
		copy(data, body[:got])
	}
	return got, t.result()
}

// result is how a transfer ended that was taken back.
func (t *transfer) result() error {
	switch errno := unix.Errno(-t.urb.status); errno {
	case 0, unix.EREMOTEIO: // EREMOTEIO: a short packet
		return nil
	case unix.ENOENT, unix.ECONNRESET:
		if t.cause != nil {
			return t.cause
		}
		return fmt.Errorf("%w: the kernel ended the transfer", usb.ErrIO)
	default:
		return failure(errno)
	}
}

// failure gives an error number of a transfer its sentinel (Linux,
// Documentation/driver-api/usb/error-codes.rst).
func failure(err error) error {
	switch err {
	case unix.ENODEV, unix.ESHUTDOWN:
		return usb.ErrUnplugged
	case unix.EPIPE:
		return usb.ErrStall
	case unix.EOVERFLOW:
		return usb.ErrOverflow
	case unix.ETIMEDOUT:
		return usb.ErrTimeout
	case unix.EPERM:
		return usb.ErrAccess
	}
	return fmt.Errorf("%w: %w", usb.ErrIO, err)
}

// endOf is the error of a transfer that ended because ctx did.
func endOf(ctx context.Context) error {
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return fmt.Errorf("%w: %w", usb.ErrTimeout, ctx.Err())
	}
	return ctx.Err()
}

// take returns a place whose buffer has room for size bytes.
func (n *Node) take(size int, deadline time.Time) (*transfer, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.ended {
		return nil, usb.ErrClosed
	}
	n.running.Add(1)
	var t *transfer
	if last := len(n.idle) - 1; last >= 0 {
		t, n.idle = n.idle[last], n.idle[:last]
	} else {
		t = &transfer{news: make(chan struct{}, 1)}
		t.step = func(uintptr) bool { return n.step(t) }
		t.timer = time.AfterFunc(time.Hour, func() {
			// A call that comes late meets another transfer.
			n.discard(t, usb.ErrTimeout, func() bool { return !t.deadline.IsZero() && !time.Now().Before(t.deadline) })
		})
		t.timer.Stop()
	}
	t.taken, t.state, t.deadline, t.cause, t.err = true, prepared, deadline, nil, nil
	if t.buf == nil || len(t.buf) < size {
		t.pins.Unpin()
		t.buf = make([]byte, max(size, 512))
		t.pins.Pin(t)
		t.pins.Pin(unsafe.SliceData(t.buf))
	}
	return t, nil
}

// put gives a place back for the next transfer.
func (n *Node) put(t *transfer) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if !t.lost {
		clear(t.buf[:t.urb.bufferLength]) // there may be a PIN
	}
	t.use++
	t.taken = false
	n.settle(t)
	n.running.Done()
}

// settle keeps t for the next transfer. A discard that is under way would hit
// that one; it calls settle again when it is over.
func (n *Node) settle(t *transfer) {
	switch {
	case t.taken || t.discarding > 0:
	case t.lost:
		n.lost = append(n.lost, t)
	default:
		n.idle = append(n.idle, t)
	}
}

// atOnce is how long a goroutine sleeps in the kernel for its own transfer before
// it leaves the waiting to Go's poller. Nearly every transfer is over by then, and
// costs three calls; the poller, which is asked twice for each sleep, makes it six
// and may switch threads. The other goroutines of a handler, which has one processor
// (daemon.Economise), do not run during the sleep. An unplug ends it at once
// (POLLHUP); whatever else ends a transfer early does so 20 ms late at most.
const atOnce = 20 * time.Millisecond

// run submits t and returns when it is over.
func (n *Node) run(ctx context.Context, t *transfer) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.submit(t)
	if t.urb.kind != kindInterrupt { // those wait for news that may never come
		n.look(t)
	}
	if t.state != over {
		disarm := n.arm(ctx, t)
		n.wait(t)
		disarm()
	}
	if n.waiter == t {
		n.passOn()
	}
	select {
	case <-t.news: // came while this goroutine saw by itself
	default:
	}
}

// arm has t ended early at its deadline or the end of ctx. A transfer that is over
// after a moment needs neither.
func (n *Node) arm(ctx context.Context, t *transfer) (disarm func()) {
	stop := func() bool { return true }
	if ctx.Done() != nil {
		use := t.use
		stop = context.AfterFunc(ctx, func() {
			n.discard(t, endOf(ctx), func() bool { return t.use == use })
		})
	}
	if !t.deadline.IsZero() {
		t.timer.Reset(time.Until(t.deadline))
	}
	return func() {
		t.timer.Stop()
		stop()
	}
}

// look waits a moment for t. What other goroutines have to do comes first: the
// device works meanwhile.
func (n *Node) look(t *transfer) {
	n.mu.Unlock()
	runtime.Gosched()
	n.mu.Lock()
	for end := time.Now().Add(atOnce); t.state != over; {
		n.mu.Unlock()
		news := n.kernel.wait(time.Until(end))
		n.mu.Lock()
		if !news {
			return
		}
		if t.state != over {
			n.reap(t)
		}
	}
}

// wait returns when t is over. Where others are flying, one goroutine waits in the
// poller for all of them.
func (n *Node) wait(t *transfer) {
	if n.waiter == nil {
		n.waiter = t
	}
	if n.waiter != t {
		n.mu.Unlock()
		<-t.news // it is over, or its turn
		n.mu.Lock()
	}
	if t.state == over {
		return
	}
	n.mu.Unlock()
	_ = n.conn.Write(t.step) // what it came to is in t
	n.mu.Lock()
	if t.state != over { // closed, though Close waits for the transfers
		n.abandon(usb.ErrClosed, t)
	}
}

// passOn gives the turn to wait in the poller to another transfer.
func (n *Node) passOn() {
	n.waiter = nil
	if n.called {
		n.called = false
		_ = n.file.SetWriteDeadline(time.Time{})
	}
	if len(n.flying) > 0 {
		n.waiter = n.flying[0]
		n.waiter.tell()
	}
}

// step is called by the poller for the goroutine whose turn it is: first after
// it has forgotten what it knew of the descriptor, then at each news. It reports
// whether t is over; where it is not, the poller waits for the next news. News
// come once, so everything that is over has to be taken back before that.
func (n *Node) step(t *transfer) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	for t.state != over {
		if !n.reap(t) {
			return false
		}
	}
	return true
}

// submit gives t to the kernel, or says in t.err why not.
func (n *Node) submit(t *transfer) {
	switch {
	case t.cause != nil:
		t.err = t.cause
	case n.ended:
		t.err = usb.ErrClosed
	default:
		if err := n.kernel.submit(&t.urb); err != nil {
			t.err = failure(err)
		}
	}
	if t.err != nil {
		t.state = over
		return
	}
	t.state = submitted
	n.flying = append(n.flying, t)
}

// reap takes one transfer back for the goroutine of the transfer by, and tells its
// owner. False: there is none.
func (n *Node) reap(by *transfer) bool {
	addr, err := n.kernel.reap()
	switch {
	case err == unix.EAGAIN:
		return false
	case err != nil:
		n.abandon(failure(err), by)
		return true
	}
	for i, t := range n.flying {
		if uintptr(unsafe.Pointer(&t.urb)) == addr {
			n.flying = slices.Delete(n.flying, i, i+1)
			n.finish(t, by)
			break
		}
	}
	return true
}

// abandon ends all transfers when the kernel gives none back any more.
func (n *Node) abandon(err error, by *transfer) {
	for _, t := range n.flying {
		t.err, t.lost = err, true
		n.finish(t, by)
	}
	n.flying = nil
}

func (n *Node) finish(t, by *transfer) {
	t.state = over
	switch t {
	case by: // the caller's own; it looks at the state
	case n.waiter:
		// Its goroutine sleeps in the poller, which has nothing to wake it for:
		// the transfer is taken back already. A deadline in the past wakes it.
		n.called = true
		t.tell()
		_ = n.file.SetWriteDeadline(time.Unix(1, 0))
	default:
		t.tell()
	}
}

// tell wakes the goroutine of t. A second call before it has woken adds nothing: it
// looks at the state.
func (t *transfer) tell() {
	select {
	case t.news <- struct{}{}:
	default:
	}
}

// discard has the kernel end t early, because of cause. meant says, under the mutex,
// whether t still is the transfer that the caller wants ended.
func (n *Node) discard(t *transfer, cause error, meant func() bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if t.state == over || t.cause != nil || !meant() {
		return
	}
	t.cause = cause
	if t.state == prepared {
		return // submit sees it
	}
	n.running.Add(1)
	defer n.running.Done()
	t.discarding++
	n.mu.Unlock()
	n.kernel.discard(&t.urb) // an error says that it is over, or the device gone
	n.mu.Lock()
	t.discarding--
	n.settle(t)
}

// End ends all transfers, and those to come, with usb.ErrClosed. It returns when
// the last one is over.
func (n *Node) End() {
	n.mu.Lock()
	n.ended = true
	for _, t := range n.flying {
		go n.discard(t, usb.ErrClosed, func() bool { return true })
	}
	n.mu.Unlock()
	n.running.Wait()
}
