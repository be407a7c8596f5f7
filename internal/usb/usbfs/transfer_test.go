package usbfs

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"openct/internal/usb"
)

type outcome struct {
	n    int
	err  error
	data string
}

// begin makes a transfer in a goroutine of its own.
func begin(data []byte, f func([]byte) (int, error)) <-chan outcome {
	c := make(chan outcome, 1)
	go func() {
		n, err := f(data)
		c <- outcome{n, err, string(data[:n])}
	}()
	return c
}

func beginBulk(t *testing.T, n *Node, ep uint8) (<-chan outcome, *urb) {
	t.Helper()
	k := n.kernel.(*double)
	c := begin(make([]byte, 64), func(b []byte) (int, error) { return n.Bulk(t.Context(), ep, b, time.Minute) })
	return c, <-k.submitted
}

func want(t *testing.T, c <-chan outcome, data string, sentinel error) {
	t.Helper()
	got := <-c
	if !errors.Is(got.err, sentinel) || got.n != len(data) || got.data != data {
		t.Errorf("got %q, %v; want %q, %v", got.data, got.err, data, sentinel)
	}
}

func TestLayout(t *testing.T) {
	// sizeof and offsetof of struct usbdevfs_urb, linux/usbdevice_fs.h.
	word := unsafe.Sizeof(uintptr(0))
	var u urb
	wantSize, wantBuffer, wantContext := uintptr(56), uintptr(16), uintptr(48)
	if word == 4 {
		wantSize, wantBuffer, wantContext = 44, 12, 40
	}
	if s := unsafe.Sizeof(u); s != wantSize {
		t.Errorf("size %d, want %d", s, wantSize)
	}
	if unsafe.Offsetof(u.status) != 4 || unsafe.Offsetof(u.buffer) != wantBuffer || unsafe.Offsetof(u.userContext) != wantContext {
		t.Errorf("offsets %d, %d, %d", unsafe.Offsetof(u.status), unsafe.Offsetof(u.buffer), unsafe.Offsetof(u.userContext))
	}
	if runtime.GOARCH == "amd64" {
		for _, tt := range []struct {
			name      string
			got, want uintptr
		}{ // what the C compiler makes of the macros
			{"USBDEVFS_SUBMITURB", submitURB, 0x8038550A},
			{"USBDEVFS_DISCARDURB", discardURB, 0x550B},
			{"USBDEVFS_REAPURBNDELAY", reapURB, 0x4008550D},
			{"USBDEVFS_CLEAR_HALT", clearHalt, 0x80045515},
		} {
			if tt.got != tt.want {
				t.Errorf("%s is %#x, want %#x", tt.name, tt.got, tt.want)
			}
		}
	}
}

func TestControl(t *testing.T) {
	n, k := testNode(t)
	in := usb.Setup{RequestType: usb.VendorDeviceIn, Request: 1, Value: 0x1234, Index: 0x5678}
	c := begin(make([]byte, 300), func(b []byte) (int, error) { return n.Control(t.Context(), in, b, time.Minute) })
	u := <-k.submitted
	setup := []byte{0xC0, 1, 0x34, 0x12, 0x78, 0x56, 0x2C, 0x01}
	if got := unsafe.Slice((*byte)(u.buffer), setupSize); !bytes.Equal(got, setup) || u.kind != kindControl || u.bufferLength != 308 {
		t.Errorf("kind %d, length %d, setup % X", u.kind, u.bufferLength, got)
	}
	k.end(u, 0, "answer")
	want(t, c, "answer", nil)

	out := usb.Setup{RequestType: usb.VendorDeviceOut, Request: 1}
	c = begin([]byte("said"), func(b []byte) (int, error) { return n.Control(t.Context(), out, b, time.Minute) })
	u = <-k.submitted
	if got := unsafe.Slice((*byte)(u.buffer), u.bufferLength)[setupSize:]; string(got) != "said" {
		t.Errorf("sent %q", got)
	}
	k.end(u, 0, "said")
	want(t, c, "said", nil)

	if _, err := n.Control(t.Context(), in, make([]byte, maxControl+1), time.Minute); !errors.Is(err, usb.ErrIO) {
		t.Errorf("got %v", err)
	}
}

// A lone transfer is one submit, one reap.
func TestCallsOfALoneTransfer(t *testing.T) {
	n, k := testNode(t)
	for range 3 {
		c, u := beginBulk(t, n, 0x82)
		k.end(u, 0, "x")
		want(t, c, "x", nil)
	}
	if k.calls != 6 || k.empties != 0 {
		t.Errorf("%d calls for 3 transfers, %d of them for nothing", k.calls, k.empties)
	}
	n.End()
	if len(n.idle) != 1 {
		t.Errorf("%d places for one transfer at a time", len(n.idle))
	}
}

// No PIN, and nothing that a card has told, stays in a buffer.
func TestBuffersAreCleared(t *testing.T) {
	n, k := testNode(t)
	c, u := beginBulk(t, n, 0x82)
	k.end(u, 0, "secret")
	want(t, c, "secret", nil)
	c = begin([]byte("secret"), func(b []byte) (int, error) { return n.Bulk(t.Context(), 0x02, b, time.Minute) })
	k.end(<-k.submitted, 0, "secret")
	want(t, c, "secret", nil)
	n.End()
	for _, place := range n.idle {
		if len(bytes.Trim(place.buf, "\x00")) > 0 {
			t.Errorf("%q is left", place.buf)
		}
	}
}

func TestStatus(t *testing.T) {
	for _, tt := range []struct {
		status unix.Errno
		want   error
	}{
		{unix.EREMOTEIO, nil},
		{unix.EPIPE, usb.ErrStall},
		{unix.EOVERFLOW, usb.ErrOverflow},
		{unix.ENODEV, usb.ErrUnplugged},
		{unix.ESHUTDOWN, usb.ErrUnplugged},
		{unix.EPROTO, usb.ErrIO},
		{unix.EILSEQ, usb.ErrIO},
		{unix.ENOENT, usb.ErrIO}, // nobody here has discarded it
		{unix.ECONNRESET, usb.ErrIO},
	} {
		t.Run(tt.status.Error(), func(t *testing.T) {
			n, k := testNode(t)
			c, u := beginBulk(t, n, 0x82)
			k.end(u, -int32(tt.status), "part")
			want(t, c, "part", tt.want)
		})
	}
}

func TestRefused(t *testing.T) {
	for _, tt := range []struct {
		errno unix.Errno
		want  error
	}{
		{unix.ENODEV, usb.ErrUnplugged}, {unix.ENOENT, usb.ErrIO}, {unix.ENOMEM, usb.ErrIO}, {unix.EPERM, usb.ErrAccess},
	} {
		t.Run(tt.errno.Error(), func(t *testing.T) {
			n, k := testNode(t)
			waiting, u := beginBulk(t, n, 0x81)
			k.refuse = tt.errno
			if _, err := n.Bulk(t.Context(), 0x02, nil, time.Minute); !errors.Is(err, tt.want) { // beside another
				t.Errorf("got %v, want %v", err, tt.want)
			}
			k.end(u, 0, "")
			want(t, waiting, "", nil)
			if _, err := n.Bulk(t.Context(), 0x02, nil, time.Minute); !errors.Is(err, tt.want) { // alone
				t.Errorf("got %v, want %v", err, tt.want)
			}
		})
	}
}

func TestOutOfOrder(t *testing.T) {
	n, k := testNode(t)
	a, ua := beginBulk(t, n, 0x81)
	b, ub := beginBulk(t, n, 0x82)
	c, uc := beginBulk(t, n, 0x83)
	k.end(uc, 0, "c")
	want(t, c, "c", nil)
	k.end(ua, 0, "a") // whose goroutine is in the poller
	want(t, a, "a", nil)
	k.end(ub, 0, "b")
	want(t, b, "b", nil)
}

// Two that end at once are one piece of news.
func TestTwoEndAtOnce(t *testing.T) {
	for _, order := range [][2]int{{0, 1}, {1, 0}} {
		n, k := testNode(t)
		a, ua := beginBulk(t, n, 0x81)
		b, ub := beginBulk(t, n, 0x82)
		us := []*urb{ua, ub}
		n.mu.Lock() // keeps the reaper away
		k.end(us[order[0]], 0, "")
		k.end(us[order[1]], 0, "")
		n.mu.Unlock()
		want(t, a, "", nil)
		want(t, b, "", nil)
	}
}

// What ended before the poller was asked for the first time is no news to it.
func TestEndsBeforeThePoller(t *testing.T) {
	n, k := testNode(t)
	first, _ := n.take(8, time.Time{})
	second, _ := n.take(8, time.Time{})
	n.submit(first)
	n.waiter = first // on its way to the poller
	n.submit(second)
	k.end(&second.urb, 0, "")
	if n.step(first) || second.state != over {
		t.Errorf("first is over: %v, second: %v", first.state == over, second.state == over)
	}
	k.end(&first.urb, 0, "")
	if !n.step(first) {
		t.Error("first is not over")
	}
	n.waiter = nil
	n.put(first)
	n.put(second)
}

func TestTimeout(t *testing.T) {
	n, k := testNode(t)
	for _, timeout := range []time.Duration{-time.Second, 0, time.Microsecond, 10 * time.Millisecond} {
		if _, err := n.Bulk(t.Context(), 0x82, make([]byte, 8), timeout); !errors.Is(err, usb.ErrTimeout) {
			t.Errorf("%v: got %v", timeout, err)
		}
	}
	for len(k.submitted) > 0 {
		<-k.submitted
	}
	// The data that has come is kept.
	c := begin(make([]byte, 8), func(b []byte) (int, error) { return n.Bulk(t.Context(), 0x82, b, 10*time.Millisecond) })
	u := <-k.submitted
	k.mu.Lock()
	copy(unsafe.Slice((*byte)(u.buffer), 8), "par")
	u.actualLength = 3
	k.mu.Unlock()
	want(t, c, "par", usb.ErrTimeout)
}

// A transfer that ends well while it is being discarded has ended well, and its
// place waits for the discard: the next transfer is not hit by it.
func TestEndsWhileDiscarded(t *testing.T) {
	n, k := testNode(t)
	k.held, k.within = make(chan struct{}), make(chan struct{}, 1)
	ctx, cancel := context.WithCancel(t.Context())
	c := begin(make([]byte, 8), func(b []byte) (int, error) { return n.Bulk(ctx, 0x82, b, time.Minute) })
	u := <-k.submitted
	cancel()
	<-k.within
	k.end(u, 0, "done")
	want(t, c, "done", nil)
	again, u2 := beginBulk(t, n, 0x82)
	if u2 == u {
		t.Error("the place is in use again while it is discarded")
	}
	close(k.held)
	k.end(u2, 0, "again")
	want(t, again, "again", nil)
}

func TestContext(t *testing.T) {
	n, k := testNode(t)
	ctx, cancel := context.WithCancel(t.Context())
	c := begin(make([]byte, 8), func(b []byte) (int, error) { return n.Interrupt(ctx, 0x81, b) })
	<-k.submitted
	cancel()
	want(t, c, "", context.Canceled)
	if _, err := n.Interrupt(ctx, 0x81, nil); !errors.Is(err, context.Canceled) || len(k.submitted) != 0 {
		t.Errorf("a dead context: %v, %d submitted", err, len(k.submitted))
	}
	ctx, cancel = context.WithTimeout(t.Context(), 5*time.Millisecond)
	defer cancel()
	_, err := n.Interrupt(ctx, 0x81, make([]byte, 8))
	if !errors.Is(err, usb.ErrTimeout) || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
}

func TestUnplug(t *testing.T) {
	for _, keep := range []bool{false, true} {
		t.Run(fmt.Sprintf("the kernel keeps the transfers: %v", keep), func(t *testing.T) {
			n, k := testNode(t)
			k.keep = keep
			a, _ := beginBulk(t, n, 0x81)
			b, _ := beginBulk(t, n, 0x82)
			k.unplug()
			want(t, a, "", usb.ErrUnplugged)
			want(t, b, "", usb.ErrUnplugged)
			<-n.Gone()
			if _, err := n.Bulk(t.Context(), 0x81, nil, time.Minute); !errors.Is(err, usb.ErrUnplugged) {
				t.Errorf("got %v", err)
			}
			n.End()
			if keep != (len(n.lost) == 2) {
				t.Errorf("%d places are not to be used again", len(n.lost))
			}
		})
	}
}

func TestEnd(t *testing.T) {
	n, k := testNode(t)
	a, _ := beginBulk(t, n, 0x81)
	b, _ := beginBulk(t, n, 0x82)
	n.End()
	want(t, a, "", usb.ErrClosed)
	want(t, b, "", usb.ErrClosed)
	if _, err := n.Bulk(t.Context(), 0x81, nil, time.Minute); !errors.Is(err, usb.ErrClosed) {
		t.Errorf("got %v", err)
	}
	if err := n.ClearHalt(0x81); !errors.Is(err, usb.ErrClosed) {
		t.Errorf("got %v", err)
	}
	if isClosed(n.Gone()) || len(k.submitted) != 0 {
		t.Error("an end is no unplug")
	}
}

func TestClearHalt(t *testing.T) {
	n, _ := testNode(t)
	if err := n.ClearHalt(0x81); !errors.Is(err, usb.ErrStall) {
		t.Errorf("got %v", err)
	}
}

func TestPieces(t *testing.T) {
	for _, tt := range []struct {
		name   string
		length int
		come   []int // of each piece
	}{
		{"nothing", 0, []int{0}},
		{"one", maxBulk, []int{maxBulk}},
		{"two", maxBulk + 10, []int{maxBulk, 10}},
		{"short first", 3 * maxBulk, []int{100}},
		{"short second", 3 * maxBulk, []int{maxBulk, 0}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			n, k := testNode(t)
			c := begin(make([]byte, tt.length), func(b []byte) (int, error) { return n.Bulk(t.Context(), 0x82, b, time.Minute) })
			var all []byte
			for i, length := range tt.come {
				piece := bytes.Repeat([]byte{byte('a' + i)}, length)
				all = append(all, piece...)
				k.end(<-k.submitted, 0, string(piece))
			}
			want(t, c, string(all), nil)
		})
	}
}

// A goroutine that looks by itself takes back what another one waits for in the
// poller. The poller has no news for that one then.
func TestTakenFromThePoller(t *testing.T) {
	n, k := testNode(t)
	listener := make(chan error, 1)
	listen := func() *urb {
		go func() {
			_, err := n.Interrupt(t.Context(), 0x81, make([]byte, 8))
			listener <- err
		}()
		return <-k.submitted
	}
	u := listen()
	for range 3 { // and what called it back is forgotten
		n.mu.Lock()
		k.silent = true
		k.end(u, 0, "")
		k.silent = false
		if !n.reap(&transfer{}) {
			t.Error("nothing to take back")
		}
		n.mu.Unlock()
		if err := <-listener; err != nil {
			t.Fatal(err)
		}
		b, ub := beginBulk(t, n, 0x82)
		k.end(ub, 0, "x")
		want(t, b, "x", nil)
		u = listen()
	}
	n.End()
	if err := <-listener; !errors.Is(err, usb.ErrClosed) {
		t.Error(err)
	}
}

// All of this holds as well for transfers that take longer than a goroutine looks.
func TestInThePoller(t *testing.T) {
	impatient = true
	defer func() { impatient = false }()
	t.Run("control", TestControl)
	t.Run("buffers", TestBuffersAreCleared)
	t.Run("status", TestStatus)
	t.Run("out of order", TestOutOfOrder)
	t.Run("two at once", TestTwoEndAtOnce)
	t.Run("timeout", TestTimeout)
	t.Run("context", TestContext)
	t.Run("unplug", TestUnplug)
	t.Run("end", TestEnd)
	t.Run("pieces", TestPieces)
	t.Run("many", TestManyAtOnce)
}

// Transfers of many goroutines, some of which give up, each get their own answer.
func TestManyAtOnce(t *testing.T) {
	n, k := testNode(t)
	go func() { // the device: says its endpoint, the newest of a few first
		for range k.submitted {
			if len(k.submitted)%3 == 0 {
				k.endAll()
			}
		}
	}()
	var wg sync.WaitGroup
	for g := range 8 {
		wg.Add(1)
		go func() {
			defer wg.Done()
			for i := range 200 {
				ctx, cancel := context.WithCancel(t.Context())
				if i%5 == 0 {
					go cancel()
				}
				b := make([]byte, 8)
				got, err := n.Bulk(ctx, 0x80|uint8(g), b, time.Minute)
				cancel()
				if errors.Is(err, context.Canceled) && i%5 == 0 {
					continue
				}
				if err != nil || string(b[:got]) != fmt.Sprint(0x80|uint8(g)) {
					t.Errorf("goroutine %d: %q, %v", g, b[:got], err)
					return
				}
			}
		}()
	}
	wg.Wait()
	n.End()
	close(k.submitted)
}

func TestDo(t *testing.T) {
	n, _ := testNode(t)
	var slow int32
	if err := n.Do(func(fd uintptr) { slow = n.slow.Load() }); err != nil || slow != 1 || n.slow.Load() != 0 {
		t.Errorf("%v; slow calls: %d within, %d after", err, slow, n.slow.Load())
	}
	n.Close()
	if n.Do(func(uintptr) {}) == nil {
		t.Error("a closed node has a descriptor")
	}
}

func BenchmarkTransfer(b *testing.B) {
	n, k := testNode(b)
	go func() {
		for u := range k.submitted {
			k.end(u, 0, "ok")
		}
	}()
	buf := make([]byte, 64)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := n.Bulk(context.Background(), 0x82, buf, time.Minute); err != nil {
			b.Fatal(err)
		}
	}
}

// While a device works, goroutines run that have something to do, before the one
// that waits sleeps in the kernel and with it the only processor.
func TestOthersRunWhileTheDeviceWorks(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	n, k := testNode(t)
	const rounds = 20
	in := 0
	for range rounds {
		var other atomic.Bool
		k.waits = func() {
			if other.Load() {
				in++
			}
			k.waits = nil
			k.end(<-k.submitted, 0, "x")
		}
		go func() { other.Store(true) }()
		if _, err := n.Bulk(t.Context(), 0x82, make([]byte, 8), time.Minute); err != nil {
			t.Fatal(err)
		}
	}
	// Go's scheduler takes a goroutine out of its turn once in a while, every 61st time.
	if in < rounds-2 {
		t.Errorf("of %d, %d had run when the other one slept", rounds, in)
	}
}

// A signal, such as Go's scheduler sends to a thread, does not end the sleep.
func TestSleepsThroughSignals(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(2))
	_, k := testNode(t)
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	thread := unix.Gettid()
	go func() {
		for range 1000 {
			_ = unix.Tgkill(unix.Getpid(), thread, unix.SIGURG)
		}
		k.mu.Lock()
		defer k.mu.Unlock()
		k.tell()
	}()
	if !waitWritable(uintptr(k.fd), time.Minute) {
		t.Error("woken for nothing")
	}
	k.mu.Lock() // tell may still be reading: the first byte that it takes wakes
	k.fill()
	k.mu.Unlock()
	if waitWritable(uintptr(k.fd), time.Millisecond) {
		t.Error("woken by nothing")
	}
}
