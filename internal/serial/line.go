package serial

import (
	"context"
	"errors"
	"fmt"
	"time"

	"openct/internal/device"
)

// Line is a serial line: raw bytes, no flow control. Its errors are
// device.Error and wrap package device's states or those of this package.
type Line interface {
	// Name is the node's path.
	Name() string

	// Set changes speed and format once everything written has left. A line
	// that cannot do that is ErrUnsupported and stays as it was.
	Set(p Params) error

	// SetLines drives the modem lines DTR and RTS. Opening raises both.
	SetLines(dtr, rts bool) error

	// Lines reads the modem lines that the other end drives. ErrNoLines: this
	// line has none.
	Lines() (Inputs, error)

	// Break holds the line in the break state for so long.
	Break(ctx context.Context, d time.Duration) error

	// Flush discards what has come and was not read, what was written and has
	// not left, or both.
	Flush(q Queue) error

	// Read returns what has come, one byte at least. With CheckParity, n
	// bytes and ErrParity say that the last of the n came with a wrong parity
	// or without its stop bit, and the others are good.
	Read(ctx context.Context, buf []byte, timeout time.Duration) (n int, err error)

	// Write sends b. It may return before b has left; it never waits longer
	// than the line needs for it, and a second.
	Write(ctx context.Context, b []byte) error

	// Gone is closed when the line has ended: the adapter was unplugged.
	Gone() <-chan struct{}

	// Close drains the line and gives it back, which drops DTR and RTS.
	Close() error
}

// Params are a line's speed and format.
type Params struct {
	Speed       uint32 // bit/s
	Bits        int    // 5 to 8; 0: 8
	Parity      Parity
	StopBits    int  // 1 or 2; 0: 1
	CheckParity bool // Read tells bytes that came with a wrong parity
}

// Default is what Open sets: C OpenCT's generic open does (serial.c).
var Default = Params{Speed: 9600}

// Parity of a line.
type Parity uint8

// Parities.
const (
	None Parity = iota
	Even
	Odd
)

func (p Parity) String() string { return string("NEO"[p%3]) }

// String is the usual way to write it: "9600 8E2".
func (p Params) String() string {
	p = p.complete()
	return fmt.Sprintf("%d %d%v%d", p.Speed, p.Bits, p.Parity, p.StopBits)
}

// complete fills in what a zero stands for.
func (p Params) complete() Params {
	if p.Bits == 0 {
		p.Bits = 8
	}
	if p.StopBits == 0 {
		p.StopBits = 1
	}
	return p
}

// valid refuses what no line can do.
func (p Params) valid() error {
	p = p.complete()
	if p.Speed == 0 || p.Bits < 5 || p.Bits > 8 || p.Parity > Odd || p.StopBits < 1 || p.StopBits > 2 {
		return fmt.Errorf("%v: %w", p, ErrUnsupported)
	}
	return nil
}

// Time is how long n bytes take on the line.
func (p Params) Time(n int) time.Duration {
	p = p.complete()
	bits := 1 + p.Bits + p.StopBits
	if p.Parity != None {
		bits++
	}
	if p.Speed == 0 {
		return 0
	}
	return time.Duration(n) * time.Duration(bits) * time.Second / time.Duration(p.Speed)
}

// Inputs are the modem lines that the other end drives.
type Inputs struct {
	CTS, DSR, DCD, RI bool
}

// Queue is what Flush discards.
type Queue uint8

// Queues; they may be or-ed.
const (
	In Queue = 1 << iota
	Out
	Both = In | Out
)

// States that callers branch on, beside those of package device; test with
// errors.Is.
var (
	ErrUnsupported = errors.New("the serial line does not support this speed or format")
	ErrParity      = fmt.Errorf("%w: parity error in a received byte", device.ErrIO)
	ErrNoLines     = errors.New("line has no modem lines")
	ErrOverrun     = fmt.Errorf("%w: received bytes were lost (overrun)", device.ErrIO)
)

// ReadFull fills buf. It returns how many bytes came, and device.ErrTimeout if
// these are not all within timeout, which is for the whole.
func ReadFull(ctx context.Context, l Line, buf []byte, timeout time.Duration) (int, error) {
	deadline := time.Now().Add(timeout)
	have := 0
	for have < len(buf) {
		n, err := l.Read(ctx, buf[have:], time.Until(deadline))
		have += n
		if err != nil {
			return have, err
		}
	}
	return have, nil
}

// Wait lets time pass. It ends early, with an error, when nobody wants the
// answer any more or the line has ended.
func Wait(ctx context.Context, l Line, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return device.Wrap("wait", l.Name(), ctx.Err())
	case <-l.Gone():
		return device.Wrap("wait", l.Name(), device.ErrUnplugged)
	}
}
