package record

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"openct/internal/device"
	"openct/internal/serial"
)

// Line wraps a line, as serial.Open leaves it, and keeps what happens on it. What
// changes nothing is left out: settings that the line has, a look at modem lines
// that stay as they are.
type Line struct {
	serial.Line

	mu       sync.Mutex
	steps    []Step
	params   serial.Params
	dtr, rts bool
	inputs   serial.Inputs
	noLines  bool
}

var _ serial.Line = (*Line)(nil)

// New records l. That it has no modem lines, as a pseudo-terminal, is the first step.
func New(l serial.Line) *Line {
	r := &Line{Line: l, params: serial.Default, dtr: true, rts: true}
	if _, err := l.Lines(); errors.Is(err, serial.ErrNoLines) {
		r.noLines = true
		r.keep(Step{Kind: NoLines})
	}
	return r
}

// Take returns what happened since the last call, and forgets it.
func (l *Line) Take() []Step {
	l.mu.Lock()
	defer l.mu.Unlock()
	steps := l.steps
	l.steps = nil
	return steps
}

// keep appends a step. Bytes that come or go one after the other are one step.
func (l *Line) keep(s Step) {
	if n := len(l.steps); n > 0 && (s.Kind == Write || s.Kind == Answer) {
		last := &l.steps[n-1]
		if last.Kind == s.Kind && !last.Bad && !s.Bad {
			last.Data = append(last.Data, s.Data...)
			return
		}
	}
	l.steps = append(l.steps, s)
}

// Set passes through and is kept.
func (l *Line) Set(p serial.Params) error {
	err := l.Line.Set(p)
	l.mu.Lock()
	defer l.mu.Unlock()
	if err == nil && !Same(p, l.params) {
		l.params = p
		l.keep(Step{Kind: Set, Params: p})
	}
	return err
}

// SetLines passes through and is kept.
func (l *Line) SetLines(dtr, rts bool) error {
	err := l.Line.SetLines(dtr, rts)
	l.mu.Lock()
	defer l.mu.Unlock()
	if err == nil && !l.noLines && (dtr != l.dtr || rts != l.rts) {
		l.dtr, l.rts = dtr, rts
		l.keep(Step{Kind: Lines, DTR: dtr, RTS: rts})
	}
	return err
}

// Lines passes through; CTS and DSR are kept.
func (l *Line) Lines() (serial.Inputs, error) {
	in, err := l.Line.Lines()
	l.mu.Lock()
	defer l.mu.Unlock()
	now := serial.Inputs{CTS: in.CTS, DSR: in.DSR}
	if err == nil && now != l.inputs {
		l.inputs = now
		l.keep(Step{Kind: Inputs, Inputs: now})
	}
	return in, err
}

// Break passes through and is kept.
func (l *Line) Break(ctx context.Context, d time.Duration) error {
	err := l.Line.Break(ctx, d)
	l.mu.Lock()
	defer l.mu.Unlock()
	if err == nil {
		l.keep(Step{Kind: Break, On: true})
		l.keep(Step{Kind: Break})
	}
	return err
}

// Write passes through and is kept.
func (l *Line) Write(ctx context.Context, b []byte) error {
	err := l.Line.Write(ctx, b)
	l.mu.Lock()
	defer l.mu.Unlock()
	if err == nil && len(b) > 0 {
		l.keep(Step{Kind: Write, Data: slices.Clone(b)})
	}
	return err
}

// Read passes through and is kept.
func (l *Line) Read(ctx context.Context, buf []byte, timeout time.Duration) (int, error) {
	n, err := l.Line.Read(ctx, buf, timeout)
	bad := errors.Is(err, serial.ErrParity)
	good := max(n, 0)
	if bad && good > 0 {
		good--
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if good > 0 {
		l.keep(Step{Kind: Answer, Data: slices.Clone(buf[:good])})
	}
	if bad && n > 0 {
		l.keep(Step{Kind: Answer, Data: []byte{buf[n-1]}, Bad: true})
	}
	if errors.Is(err, device.ErrUnplugged) {
		l.keep(Step{Kind: Unplug})
	}
	return n, err
}
