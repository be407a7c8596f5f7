package serialtest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"openct/internal/device"
	"openct/internal/serial"
	"openct/internal/serial/record"
)

// ErrScript is what an operation gets that is not the next one. The test has
// failed already; the driver just needs some error.
var ErrScript = errors.New("operation is not the one of the script")

// Replay is a serial.Line with a scripted reader at its other end. An
// operation that is not the next one fails the test.
//
// It begins as serial.Open leaves a line: 9600 8N1, DTR and RTS set.
type Replay struct {
	t testing.TB

	mu       sync.Mutex
	where    string // what the steps belong to, for messages
	steps    []Step
	written  int // of the write that is the next step
	in       []arrival
	params   serial.Params
	dtr, rts bool
	inputs   serial.Inputs
	noLines  bool
	broken   bool
	closed   bool
	more     chan struct{} // closed and replaced when a reader should look again
	gone     chan struct{}
}

// arrival is bytes that the reader has sent.
type arrival struct {
	pipe string
	at   time.Time
	data []byte
	bad  bool
}

var _ serial.Line = (*Replay)(nil)

// New makes a line on which the driver must do these steps, as Steps reads
// them. More can be added with Next.
func New(t testing.TB, script string) *Replay {
	t.Helper()
	r := &Replay{
		t: t, params: serial.Default, dtr: true, rts: true,
		more: make(chan struct{}), gone: make(chan struct{}),
	}
	r.Next("script", script)
	return r
}

// Next appends steps to the script; where names them in messages.
func (r *Replay) Next(where, script string) {
	r.t.Helper()
	steps, err := record.Steps(script)
	if err != nil {
		r.t.Fatalf("serialtest: %s: %v", where, err)
	}
	r.begin(where, steps)
}

func (r *Replay) begin(where string, steps []Step) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.where = where
	r.steps = append(r.steps, steps...)
	r.advanceLocked()
}

// Done fails the test when the driver has not done all of the script.
func (r *Replay) Done() {
	r.t.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.broken {
		return // reported already; the rest would be noise
	}
	for _, s := range r.steps {
		r.t.Errorf("serialtest: %s: never happened: %v", r.where, s)
	}
	if r.written > 0 {
		r.t.Errorf("serialtest: %s: only %d bytes of the first", r.where, r.written)
	}
	r.steps, r.written = nil, 0
}

// left is how many steps the driver still has to do.
func (r *Replay) left() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.broken {
		return 0
	}
	return len(r.steps)
}

// Unread is what has come and was not read.
func (r *Replay) Unread() []byte {
	r.mu.Lock()
	defer r.mu.Unlock()
	var b []byte
	for _, a := range r.in {
		b = append(b, a.data...)
	}
	return b
}

// Unplug ends the line.
func (r *Replay) Unplug() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.unplugLocked()
}

func (r *Replay) unplugLocked() {
	if !r.isGone() {
		close(r.gone)
		r.wakeLocked()
	}
}

// NoLines makes it a line without modem lines.
func (r *Replay) NoLines() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.noLines = true
}

func (r *Replay) isGone() bool {
	select {
	case <-r.gone:
		return true
	default:
		return false
	}
}

func (r *Replay) wakeLocked() {
	close(r.more)
	r.more = make(chan struct{})
}

// advanceLocked does what the reader does next.
func (r *Replay) advanceLocked() {
	for len(r.steps) > 0 && r.written == 0 {
		s := r.steps[0]
		switch s.Kind {
		case Answer:
			r.sendLocked(s)
		case Inputs:
			r.inputs = s.Inputs
		case Unplug:
			r.unplugLocked()
		case NoLines:
			r.noLines = true
		default:
			return
		}
		r.steps = r.steps[1:]
	}
}

func (r *Replay) sendLocked(s Step) {
	if len(s.Data) == 0 {
		return
	}
	at := time.Now().Add(s.After)
	if n := len(r.in); n > 0 && at.Before(r.in[n-1].at) {
		at = r.in[n-1].at
	}
	r.in = append(r.in, arrival{s.Pipe, at, s.Data, s.Bad})
	r.wakeLocked()
}

// stateLocked is the error of an operation on a line that is no more.
func (r *Replay) stateLocked() error {
	switch {
	case r.closed:
		return device.ErrClosed
	case r.isGone():
		return device.ErrUnplugged
	case r.broken:
		return ErrScript
	}
	return nil
}

// do matches what the driver does, but for writes, with the next step.
func (r *Replay) do(got Step) error {
	r.t.Helper()
	if err := r.stateLocked(); err != nil {
		return device.Wrap(got.String(), r.Name(), err)
	}
	if len(r.steps) == 0 || r.written > 0 || r.steps[0].String() != got.String() {
		return r.misfitLocked(got)
	}
	r.steps = r.steps[1:]
	r.advanceLocked()
	return nil
}

func (r *Replay) misfitLocked(got Step) error {
	r.t.Helper()
	r.broken = true
	want := "nothing more"
	if len(r.steps) > 0 {
		want = r.steps[0].String()
		if r.written > 0 {
			want += fmt.Sprintf(", %d bytes of it written", r.written)
		}
	}
	r.t.Errorf("serialtest: %s: got %v, want %s", r.where, got, want)
	r.wakeLocked()
	return device.Wrap(got.String(), r.Name(), ErrScript)
}

// Name implements serial.Line.
func (r *Replay) Name() string { return "serialtest" }

// Gone implements serial.Line.
func (r *Replay) Gone() <-chan struct{} { return r.gone }

// Set implements serial.Line.
func (r *Replay) Set(p serial.Params) error {
	r.t.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	if record.Same(p, r.params) {
		return device.Wrap("set", r.Name(), r.stateLocked())
	}
	err := r.do(Step{Kind: Set, Params: p})
	if err == nil {
		r.params = p
	}
	return err
}

// SetLines implements serial.Line.
func (r *Replay) SetLines(dtr, rts bool) error {
	r.t.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.noLines || dtr == r.dtr && rts == r.rts {
		return device.Wrap("lines", r.Name(), r.stateLocked())
	}
	err := r.do(Step{Kind: Lines, DTR: dtr, RTS: rts})
	if err == nil {
		r.dtr, r.rts = dtr, rts
	}
	return err
}

// Lines implements serial.Line.
func (r *Replay) Lines() (serial.Inputs, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	err := r.stateLocked()
	if err == nil && r.noLines {
		err = serial.ErrNoLines
	}
	return r.inputs, device.Wrap("read modem lines", r.Name(), err)
}

// Break implements serial.Line.
func (r *Replay) Break(ctx context.Context, d time.Duration) error {
	r.t.Helper()
	r.mu.Lock()
	err := r.do(Step{Kind: Break, On: true})
	r.mu.Unlock()
	if err != nil {
		return err
	}
	if err := serial.Wait(ctx, r, d); err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.do(Step{Kind: Break})
}

// Flush implements serial.Line.
func (r *Replay) Flush(q serial.Queue) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if q&serial.In != 0 {
		// What is still on its way is not in the queue.
		for len(r.in) > 0 && !r.in[0].at.After(time.Now()) {
			r.in = r.in[1:]
		}
	}
	return device.Wrap("flush", r.Name(), r.stateLocked())
}

// Write implements serial.Line. What the recording has in one write may be
// several of the driver's, and the other way round.
func (r *Replay) Write(ctx context.Context, b []byte) error {
	r.t.Helper()
	return r.send(ctx, "", b)
}

// send is a write, on USB to a pipe.
func (r *Replay) send(ctx context.Context, pipe string, b []byte) error {
	r.t.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return device.Wrap("write", r.Name(), err)
	}
	if err := r.stateLocked(); err != nil {
		return device.Wrap("write", r.Name(), err)
	}
	for rest, first := b, true; len(rest) > 0 || first && pipe != ""; first = false {
		if len(r.steps) == 0 || r.steps[0].Kind != Write || r.steps[0].Pipe != pipe {
			return r.misfitLocked(Step{Kind: Write, Pipe: pipe, Data: b})
		}
		s := &r.steps[0]
		n := min(len(rest), len(s.Data)-r.written)
		whole := pipe == "" || n == len(b) && n == len(s.Data) // a transfer is one
		if !whole || !bytes.Equal(rest[:n], s.Data[r.written:r.written+n]) {
			return r.misfitLocked(Step{Kind: Write, Pipe: pipe, Data: b})
		}
		end := r.written + n
		r.sendLocked(Step{Data: s.Echo[min(r.written, len(s.Echo)):min(end, len(s.Echo))]})
		r.written, rest = end, rest[n:]
		if r.written == len(s.Data) {
			r.steps, r.written = r.steps[1:], 0
			r.advanceLocked()
		}
	}
	return nil
}

// Read implements serial.Line.
func (r *Replay) Read(ctx context.Context, buf []byte, timeout time.Duration) (int, error) {
	return r.receive(ctx, buf, timeout, r.takeLocked)
}

// receive waits for what take finds in the queue.
func (r *Replay) receive(ctx context.Context, buf []byte, timeout time.Duration,
	take func(buf []byte) (n int, wait time.Duration, err error),
) (int, error) {
	if len(buf) == 0 {
		return 0, nil
	}
	late := time.NewTimer(timeout)
	defer late.Stop()
	for {
		r.mu.Lock()
		n, wait, err := take(buf)
		if n == 0 && err == nil {
			err = r.stateLocked()
		}
		more := r.more
		r.mu.Unlock()
		if n > 0 || err != nil {
			return n, device.Wrap("read", r.Name(), err)
		}
		var arrives <-chan time.Time
		if wait > 0 {
			arrives = time.After(wait)
		}
		select {
		case <-more:
		case <-arrives:
		case <-late.C:
			return 0, device.Wrap("read", r.Name(), device.ErrTimeout)
		case <-ctx.Done():
			return 0, device.Wrap("read", r.Name(), ctx.Err())
		}
	}
}

// takeLocked reads what has come, or tells when something will.
func (r *Replay) takeLocked(buf []byte) (n int, wait time.Duration, err error) {
	for n < len(buf) && len(r.in) > 0 {
		a := &r.in[0]
		if wait = time.Until(a.at); wait > 0 {
			return n, wait, nil
		}
		bad := a.bad && r.params.CheckParity
		k := len(a.data)
		if bad {
			k = 1
		}
		k = copy(buf[n:], a.data[:k])
		n += k
		if a.data = a.data[k:]; len(a.data) == 0 {
			r.in = r.in[1:]
		}
		if bad {
			return n, 0, serial.ErrParity
		}
	}
	return n, 0, nil
}

// Close implements serial.Line.
func (r *Replay) Close() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.closed {
		r.closed = true
		r.wakeLocked()
	}
	return nil
}
