package serial

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"openct/internal/device"
)

// maxInput bounds what has come and was not read: many times a reader's
// longest message. What comes beyond it is lost, and Read tells so.
const maxInput = 1 << 16

// writeMargin is what a write may take beyond the line's own time.
const writeMargin = time.Second

// Port is a Line of the kernel. One goroutine waits in Go's poller for
// whatever comes, so that the end of the line is noticed at once even while
// nobody reads; it ends with Close or with the line.
type Port struct {
	f       *os.File
	raw     syscall.RawConn
	pty     bool
	noLines bool

	more chan struct{} // has a value when a reader should look again
	gone chan struct{}
	done chan struct{} // closed when the receiving goroutine has ended

	mu     sync.Mutex
	params Params
	in     []received
	marks  marks
	lost   bool      // something came beyond maxInput
	end    error     // why nothing comes any more
	sent   time.Time // when the last byte written will have left
	closed bool
}

var _ Line = (*Port)(nil)

// fail makes the error of an operation, and notices a line that has ended.
func (p *Port) fail(op string, err error) error {
	err = translate(err)
	if errors.Is(err, device.ErrUnplugged) {
		p.finish(err)
	}
	return device.Wrap(op, p.f.Name(), err)
}

// control runs an ioctl.
func (p *Port) control(op string, f func(fd int) error) error {
	return p.fail(op, p.withFD(f))
}

// withFD calls f with the descriptor, which stays open meanwhile.
func (p *Port) withFD(f func(fd int) error) error {
	var failed error
	if err := p.raw.Control(func(fd uintptr) { failed = f(int(fd)) }); err != nil {
		return device.ErrClosed // nothing else can be wrong
	}
	return failed
}

// Name returns the path that Open was given.
func (p *Port) Name() string { return p.f.Name() }

// Gone is closed when the line has ended.
func (p *Port) Gone() <-chan struct{} { return p.gone }

// Set implements Line.
func (p *Port) Set(params Params) error {
	if err := p.drain(context.Background()); err != nil {
		return err
	}
	p.mu.Lock()
	err := p.withFD(func(fd int) error { return setParams(fd, params, p.pty) })
	if err == nil {
		p.params, p.marks = params, marks{}
	}
	p.mu.Unlock()
	return p.fail("set speed and format", err)
}

// SetLines implements Line.
func (p *Port) SetLines(dtr, rts bool) error {
	if p.noLines {
		return nil
	}
	return p.control("set modem lines", func(fd int) error {
		have, err := unix.IoctlGetUint32(fd, unix.TIOCMGET)
		if err != nil {
			return err
		}
		// The other bits stay: a UART's interrupts depend on one of them.
		want := have &^ (unix.TIOCM_DTR | unix.TIOCM_RTS)
		if dtr {
			want |= unix.TIOCM_DTR
		}
		if rts {
			want |= unix.TIOCM_RTS
		}
		if want == have {
			return nil
		}
		return unix.IoctlSetPointerInt(fd, unix.TIOCMSET, int(want))
	})
}

// Lines implements Line.
func (p *Port) Lines() (Inputs, error) {
	if p.noLines {
		return Inputs{}, device.Wrap("read modem lines", p.f.Name(), ErrNoLines)
	}
	var bits uint32
	err := p.control("read modem lines", func(fd int) (err error) {
		bits, err = unix.IoctlGetUint32(fd, unix.TIOCMGET)
		return err
	})
	return Inputs{
		CTS: bits&unix.TIOCM_CTS != 0,
		DSR: bits&unix.TIOCM_DSR != 0,
		DCD: bits&unix.TIOCM_CAR != 0,
		RI:  bits&unix.TIOCM_RNG != 0,
	}, err
}

// Break implements Line.
func (p *Port) Break(ctx context.Context, d time.Duration) error {
	if err := p.control("break", func(fd int) error {
		return unix.IoctlSetInt(fd, unix.TIOCSBRK, 0)
	}); err != nil {
		return err
	}
	waited := Wait(ctx, p, d)
	err := p.control("end of break", func(fd int) error {
		return unix.IoctlSetInt(fd, unix.TIOCCBRK, 0)
	})
	if waited != nil {
		return waited
	}
	return err
}

// Flush implements Line.
func (p *Port) Flush(q Queue) error {
	if q == 0 {
		return nil
	}
	which := []int{In: unix.TCIFLUSH, Out: unix.TCOFLUSH, Both: unix.TCIOFLUSH}[q&Both]
	// Under the lock, so that nothing is between the kernel and p.in.
	p.mu.Lock()
	err := p.withFD(func(fd int) error { return unix.IoctlSetInt(fd, unix.TCFLSH, which) })
	if q&In != 0 {
		p.in, p.marks, p.lost = p.in[:0], marks{}, false
	}
	if q&Out != 0 {
		p.sent = time.Time{}
	}
	p.mu.Unlock()
	return p.fail("flush", err)
}

// drain waits until everything written has left. It waits for the line's own time,
// as tcdrain would keep a thread and does not know what an adapter still has; then
// for what the kernel says is left, a second longer at most.
func (p *Port) drain(ctx context.Context) error {
	p.mu.Lock()
	wait, gap := time.Until(p.sent), max(p.params.Time(1), time.Millisecond)
	p.mu.Unlock()
	end := time.Now().Add(max(wait, 0) + writeMargin)
	for {
		if err := p.pause(ctx, wait); err != nil {
			return err
		}
		var left uint32
		err := p.control("drain", func(fd int) (err error) {
			left, err = unix.IoctlGetUint32(fd, unix.TIOCOUTQ)
			return err
		})
		if err != nil || left == 0 {
			return err
		}
		if time.Now().After(end) {
			return device.Wrap("drain", p.f.Name(), fmt.Errorf("%d bytes do not leave: %w", left, device.ErrTimeout))
		}
		wait = gap
	}
}

// pause is Wait, unless there is nothing to wait for.
func (p *Port) pause(ctx context.Context, d time.Duration) error {
	if d <= 0 {
		return nil
	}
	return Wait(ctx, p, d)
}

// receive takes in what comes until the line ends or is closed.
func (p *Port) receive() {
	defer close(p.done)
	var buf [1024]byte
	err := p.raw.Read(func(fd uintptr) bool { return p.take(int(fd), buf[:]) })
	if err != nil {
		p.finish(translate(err))
	}
}

// take reads until there is no more, for the poller tells of it only once. It
// returns true when the line has ended.
func (p *Port) take(fd int, buf []byte) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	for {
		n, err := unix.Read(fd, buf)
		switch {
		case errors.Is(err, unix.EINTR):
		case errors.Is(err, unix.EAGAIN):
			return false
		case err != nil:
			p.finishLocked(translate(err))
			return true
		case n == 0:
			p.finishLocked(device.ErrUnplugged)
			return true
		default:
			p.keepLocked(buf[:n])
		}
	}
}

func (p *Port) keepLocked(b []byte) {
	for _, c := range b {
		if len(p.in) >= maxInput {
			p.lost = true
			break
		}
		if p.params.CheckParity {
			p.in = p.marks.add(p.in, c)
		} else {
			p.in = append(p.in, received{b: c})
		}
	}
	p.wake()
}

func (p *Port) wake() {
	select {
	case p.more <- struct{}{}:
	default:
	}
}

func (p *Port) finish(err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.finishLocked(err)
}

// finishLocked says why nothing comes any more.
func (p *Port) finishLocked(err error) {
	if p.end != nil {
		return
	}
	p.end = err
	if !p.closed {
		close(p.gone)
	}
	p.wake()
}

// Read implements Line.
func (p *Port) Read(ctx context.Context, buf []byte, timeout time.Duration) (int, error) {
	if len(buf) == 0 {
		return 0, nil
	}
	var late <-chan time.Time
	for {
		if n, err := p.next(buf); n > 0 || err != nil {
			return n, device.Wrap("read", p.f.Name(), err)
		}
		if late == nil {
			timer := time.NewTimer(timeout)
			defer timer.Stop()
			late = timer.C
		}
		select {
		case <-p.more:
		case <-late:
			return 0, device.Wrap("read", p.f.Name(), device.ErrTimeout)
		case <-ctx.Done():
			return 0, device.Wrap("read", p.f.Name(), ctx.Err())
		}
	}
}

// next takes what is there: bytes up to a bad one, or the end.
func (p *Port) next(buf []byte) (n int, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for n < len(buf) && n < len(p.in) && err == nil {
		buf[n] = p.in[n].b
		if p.in[n].bad {
			err = ErrParity
		}
		n++
	}
	p.in = p.in[:copy(p.in, p.in[n:])]
	switch {
	case n > 0 || err != nil:
	case p.closed:
		err = device.ErrClosed
	case p.lost:
		p.lost = false
		err = ErrOverrun
	default:
		err = p.end
	}
	return n, err
}

// Write implements Line.
func (p *Port) Write(ctx context.Context, b []byte) error {
	if err := ctx.Err(); err != nil {
		return device.Wrap("write", p.f.Name(), err)
	}
	p.mu.Lock()
	if now := time.Now(); p.sent.Before(now) {
		p.sent = now
	}
	p.sent = p.sent.Add(p.params.Time(len(b)))
	deadline := p.sent.Add(writeMargin)
	p.mu.Unlock()

	if err := p.f.SetWriteDeadline(deadline); err != nil {
		return device.Wrap("write", p.f.Name(), device.ErrClosed) // nothing else can be wrong
	}
	ended := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(ended)
		_ = p.f.SetWriteDeadline(time.Unix(1, 0))
	})
	_, err := p.f.Write(b)
	if !stop() {
		<-ended
		if errors.Is(err, os.ErrDeadlineExceeded) {
			err = ctx.Err()
		}
	}
	return p.fail("write", err)
}

// Close implements Line.
func (p *Port) Close() error {
	p.mu.Lock()
	if p.closed {
		p.mu.Unlock()
		return nil
	}
	ended := p.end != nil
	p.closed = true
	p.wake()
	p.mu.Unlock()

	var err error
	if !ended {
		err = p.drain(context.Background())
		// A close would wait for what does not leave, up to half a minute
		// (closing_wait, drivers/tty/tty_port.c).
		_ = p.control("close", func(fd int) error {
			_ = unix.IoctlSetInt(fd, unix.TCFLSH, unix.TCIOFLUSH)
			return unix.IoctlSetInt(fd, unix.TIOCNXCL, 0)
		})
	}
	cerr := p.f.Close()
	<-p.done
	if err == nil {
		err = device.Wrap("close", p.f.Name(), translate(cerr))
	}
	return err
}
