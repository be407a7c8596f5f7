package serialline

import (
	"context"
	"sync"
	"time"

	"openct/internal/device"
	"openct/internal/serial"
)

// Local is the host's end of a line to a reader in the same process: no kernel
// and no adapter, and bytes take no time. Its zero value is not usable.
type Local struct {
	// Mangle, if set, sees what the reader sends after each write and each change
	// of the modem lines, and returns what arrives. It is set before the line is used, or between two uses.
	Mangle func([]Char) []Char

	// NoLines makes it a line without modem lines.
	NoLines bool

	mu       sync.Mutex
	reader   Reader
	params   serial.Params
	dtr, rts bool
	in       []Char
	closed   bool
	more     chan struct{} // closed and replaced when a read should look again
	gone     chan struct{}
}

var _ serial.Line = (*Local)(nil)

// NewLocal makes a line to a reader, as serial.Open leaves one.
func NewLocal(r Reader) *Local {
	l := &Local{reader: r, params: serial.Default, more: make(chan struct{}), gone: make(chan struct{})}
	r.Set(l.params)
	l.takeLocked(l.linesLocked(true, true))
	return l
}

// Do runs f while the reader does nothing.
func (l *Local) Do(f func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	f()
}

// Unplug ends the line. It may be called more than once.
func (l *Local) Unplug() {
	l.mu.Lock()
	defer l.mu.Unlock()
	select {
	case <-l.gone:
	default:
		close(l.gone)
	}
}

// stateLocked is the error of an operation on a line that is no more.
func (l *Local) stateLocked() error {
	select {
	case <-l.gone:
		return device.ErrUnplugged
	default:
	}
	if l.closed {
		return device.ErrClosed
	}
	return nil
}

func (l *Local) takeLocked(chars []Char) {
	l.in = append(l.in, chars...)
	close(l.more)
	l.more = make(chan struct{})
}

func (l *Local) linesLocked(dtr, rts bool) []Char {
	l.dtr, l.rts = dtr, rts
	return l.reader.SetLines(dtr, rts)
}

func (l *Local) mangledLocked(chars []Char) []Char {
	if l.Mangle == nil || len(chars) == 0 {
		return chars
	}
	return l.Mangle(chars)
}

// Name implements serial.Line.
func (l *Local) Name() string { return "virtual line" }

// Gone implements serial.Line.
func (l *Local) Gone() <-chan struct{} { return l.gone }

// Set implements serial.Line.
func (l *Local) Set(p serial.Params) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.stateLocked(); err != nil {
		return device.Wrap("set", l.Name(), err)
	}
	if p.StopBits == 0 {
		p.StopBits = 1
	}
	l.params = p
	l.reader.Set(p)
	return nil
}

// SetLines implements serial.Line.
func (l *Local) SetLines(dtr, rts bool) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.stateLocked(); err != nil {
		return device.Wrap("set modem lines", l.Name(), err)
	}
	if !l.NoLines {
		l.takeLocked(l.mangledLocked(l.linesLocked(dtr, rts)))
	}
	return nil
}

// Lines implements serial.Line.
func (l *Local) Lines() (serial.Inputs, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	err := l.stateLocked()
	if err == nil && l.NoLines {
		err = serial.ErrNoLines
	}
	if err != nil {
		return serial.Inputs{}, device.Wrap("read modem lines", l.Name(), err)
	}
	return l.reader.Inputs(), nil
}

// Break implements serial.Line.
func (l *Local) Break(ctx context.Context, d time.Duration) error { return serial.Wait(ctx, l, d) }

// Flush implements serial.Line.
func (l *Local) Flush(q serial.Queue) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if q&serial.In != 0 {
		l.in = nil
	}
	return device.Wrap("flush", l.Name(), l.stateLocked())
}

// Write implements serial.Line.
func (l *Local) Write(ctx context.Context, b []byte) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	err := ctx.Err()
	if err == nil {
		err = l.stateLocked()
	}
	if err != nil {
		return device.Wrap("write", l.Name(), err)
	}
	var out []Char
	for _, c := range b {
		out = append(out, l.reader.Send(c)...)
	}
	l.takeLocked(l.mangledLocked(out))
	return nil
}

// Read implements serial.Line.
func (l *Local) Read(ctx context.Context, buf []byte, timeout time.Duration) (int, error) {
	late := time.NewTimer(timeout)
	defer late.Stop()
	for {
		l.mu.Lock()
		n, bad := 0, false
		for n < len(buf) && len(l.in) > 0 && !bad {
			buf[n], bad = l.in[0].Byte, l.in[0].Bad && l.params.CheckParity
			l.in, n = l.in[1:], n+1
		}
		err := l.stateLocked()
		if err == nil && bad {
			err = serial.ErrParity
		}
		more := l.more
		l.mu.Unlock()
		if n > 0 || err != nil {
			return n, device.Wrap("read", l.Name(), err)
		}
		select {
		case <-more:
		case <-l.gone:
		case <-late.C:
			return 0, device.Wrap("read", l.Name(), device.ErrTimeout)
		case <-ctx.Done():
			return 0, device.Wrap("read", l.Name(), ctx.Err())
		}
	}
}

// Close implements serial.Line.
func (l *Local) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.closed {
		l.closed = true
		l.takeLocked(l.linesLocked(false, false))
	}
	return nil
}
