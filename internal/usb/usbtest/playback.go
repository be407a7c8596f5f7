package usbtest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"openct/internal/usb"
	"openct/internal/usb/record"
)

// ErrScript is what an operation gets that the script does not have next. The
// test has been failed already; the driver just needs some error.
var ErrScript = errors.New("operation is not the one of the script")

// Playback is a usb.Device that answers from a script. An operation that is
// not the next one fails the test.
type Playback struct {
	// Desc is what Descriptor returns. Parse leaves one vendor-class
	// interface, number 0; a test may set its own before the driver starts.
	Desc *usb.Descriptor

	t           testing.TB
	checkClaims bool

	mu     sync.Mutex
	ops    []record.IO // the whole script
	done   []bool      // which of ops have happened
	broken bool        // an operation did not fit
	closed bool
	change chan struct{} // closed and replaced when a waiter should look again
	gone   chan struct{}
}

var _ usb.Device = (*Playback)(nil)

// Parse makes a device of a script; a bad script fails the test.
func Parse(t testing.TB, script string) *Playback {
	t.Helper()
	ops, err := record.ParseScript(script)
	if err != nil {
		t.Fatalf("usbtest: %v", err)
	}
	return Play(t, ops)
}

// Play makes a device of operations, such as a recorder kept.
func Play(t testing.TB, ops []record.IO) *Playback {
	return &Playback{
		Desc: &usb.Descriptor{Interfaces: []usb.Interface{{Class: 0xFF}}},
		t:    t,
		ops:  ops,
		done: make([]bool, len(ops)),
		checkClaims: slices.ContainsFunc(ops, func(op record.IO) bool {
			return op.Kind == record.Claim || op.Kind == record.Release
		}),
		change: make(chan struct{}),
		gone:   make(chan struct{}),
	}
}

// Done fails the test when operations are left over. Call it deferred.
func (p *Playback) Done(t testing.TB) {
	t.Helper()
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.broken {
		return // reported already; the rest would be noise
	}
	for i, op := range p.ops {
		if !p.done[i] {
			t.Errorf("usbtest: never happened: %v", op)
		}
	}
}

// Next appends operations to the script.
func (p *Playback) Next(ops []record.IO) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.ops = append(p.ops, ops...)
	p.done = append(p.done, make([]bool, len(ops))...)
	p.wakeLocked()
}

// Unplug makes the device leave the bus now.
func (p *Playback) Unplug() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.unplugLocked()
}

func (p *Playback) unplugLocked() {
	if !p.goneLocked() {
		close(p.gone)
		p.wakeLocked()
	}
}

func (p *Playback) goneLocked() bool {
	select {
	case <-p.gone:
		return true
	default:
		return false
	}
}

func (p *Playback) wakeLocked() {
	close(p.change)
	p.change = make(chan struct{})
}

// Descriptor returns p.Desc.
func (p *Playback) Descriptor() *usb.Descriptor { return p.Desc }

// Gone is closed by an UNPLUG line or by Unplug.
func (p *Playback) Gone() <-chan struct{} { return p.gone }

// Close ends waiting Interrupt calls; later operations get usb.ErrClosed.
func (p *Playback) Close() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.closed {
		p.closed = true
		p.wakeLocked()
	}
	return nil
}

// Claim takes a CLAIM line; without any in the script it succeeds.
func (p *Playback) Claim(iface, alt uint8) error {
	_, err := p.do(context.Background(), record.IO{Kind: record.Claim, Iface: iface, Alt: alt}, nil)
	return err
}

// Release takes a RELEASE line; without any in the script it succeeds.
func (p *Playback) Release(iface uint8) error {
	_, err := p.do(context.Background(), record.IO{Kind: record.Release, Iface: iface}, nil)
	return err
}

// ClearHalt takes a HALT line.
func (p *Playback) ClearHalt(ep uint8) error {
	_, err := p.do(context.Background(), record.IO{Kind: record.ClearHalt, Endpoint: ep}, nil)
	return err
}

// Control takes an IN or OUT line.
func (p *Playback) Control(ctx context.Context, s usb.Setup, data []byte, timeout time.Duration) (int, error) {
	return p.do(ctx, record.IO{Kind: record.Control, Setup: s, Timeout: timeout}, data)
}

// Bulk takes a BULK line.
func (p *Playback) Bulk(ctx context.Context, ep uint8, data []byte, timeout time.Duration) (int, error) {
	return p.do(ctx, record.IO{Kind: record.Bulk, Endpoint: ep, Timeout: timeout}, data)
}

// do matches got, whose transfer buffer is data, with the next line. A context
// that has ended takes no line.
func (p *Playback) do(ctx context.Context, got record.IO, data []byte) (int, error) {
	p.t.Helper()
	if got.In() {
		got.Len = len(data)
	} else if got.Kind <= record.Bulk {
		got.W = data
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if err := p.stateLocked(); err != nil {
		return 0, usb.Wrap(opName(&got), "usbtest", err)
	}
	if ctx.Err() != nil {
		return 0, usb.Wrap(opName(&got), "usbtest", contextError(ctx))
	}
	if (got.Kind == record.Claim || got.Kind == record.Release) && !p.checkClaims {
		return 0, nil
	}
	i := p.nextLocked()
	if i < 0 {
		return 0, p.misfitLocked(got, "the script has ended")
	}
	want := p.ops[i]
	if !matches(want, got) {
		return 0, p.misfitLocked(got, fmt.Sprintf("want %v", want))
	}
	return p.finishLocked(i, got, data)
}

// stateLocked is the error of an operation on a device that is no more.
func (p *Playback) stateLocked() error {
	switch {
	case p.closed:
		return usb.ErrClosed
	case p.goneLocked():
		return usb.ErrUnplugged
	case p.broken:
		return ErrScript
	}
	return nil
}

func (p *Playback) nextLocked() int {
	for i, op := range p.ops {
		if !p.done[i] && op.Kind != record.Interrupt {
			return i
		}
	}
	return -1
}

func (p *Playback) misfitLocked(got record.IO, why string) error {
	p.t.Helper()
	p.broken = true
	p.wakeLocked()
	n := 0
	for _, done := range p.done {
		if done {
			n++
		}
	}
	p.t.Errorf("usbtest: operation %d: got %v, %s", n+1, got, why)
	return usb.Wrap(opName(&got), "usbtest", ErrScript)
}

func (p *Playback) finishLocked(i int, got record.IO, data []byte) (int, error) {
	want := p.ops[i]
	p.done[i] = true
	n := len(want.W)
	if want.In() {
		n = copy(data, want.R)
	}
	if errors.Is(want.Err, usb.ErrUnplugged) {
		p.unplugLocked()
	}
	p.wakeLocked()
	if want.Err != nil && !want.In() {
		n = 0
	}
	return n, usb.Wrap(opName(&got), "usbtest", want.Err)
}

// Interrupt takes the next INT line of the endpoint; with none left the
// device has nothing to say and the call waits for ctx, Unplug or Close.
func (p *Playback) Interrupt(ctx context.Context, ep uint8, buf []byte) (int, error) {
	p.t.Helper()
	got := record.IO{Kind: record.Interrupt, Endpoint: ep, Len: len(buf)}
	for {
		p.mu.Lock()
		if err := p.stateLocked(); err != nil {
			p.mu.Unlock()
			return 0, usb.Wrap(opName(&got), "usbtest", err)
		}
		if i := p.interruptLocked(ep); i >= 0 {
			defer p.mu.Unlock()
			if want := p.ops[i]; want.Len != got.Len {
				return 0, p.misfitLocked(got, fmt.Sprintf("want %v", want))
			}
			return p.finishLocked(i, got, buf)
		}
		change := p.change
		p.mu.Unlock()

		select {
		case <-change:
		case <-ctx.Done():
			return 0, usb.Wrap(opName(&got), "usbtest", contextError(ctx))
		}
	}
}

// contextError is the error of an operation that ctx has ended.
func contextError(ctx context.Context) error {
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return fmt.Errorf("%w: %w", usb.ErrTimeout, ctx.Err())
	}
	return ctx.Err()
}

// interruptLocked finds the INT line of ep that is due, or -1.
func (p *Playback) interruptLocked(ep uint8) int {
	for i, op := range p.ops {
		switch {
		case p.done[i]:
		case op.Kind != record.Interrupt:
			return -1
		case op.Endpoint == ep:
			return i
		}
	}
	return -1
}

func matches(want, got record.IO) bool {
	return want.Kind == got.Kind &&
		want.Setup == got.Setup &&
		want.Endpoint == got.Endpoint &&
		want.Iface == got.Iface && want.Alt == got.Alt &&
		bytes.Equal(want.W, got.W) &&
		want.Len == got.Len &&
		(want.Kind > record.Bulk || want.Timeout == record.AnyTimeout || want.Timeout == got.Timeout)
}

func opName(io *record.IO) string {
	switch io.Kind {
	case record.Control:
		return fmt.Sprintf("control %02x/%02x", io.Setup.RequestType, io.Setup.Request)
	case record.Bulk:
		return fmt.Sprintf("bulk %02x", io.Endpoint)
	case record.Interrupt:
		return fmt.Sprintf("interrupt %02x", io.Endpoint)
	case record.Claim:
		return fmt.Sprintf("claim interface %d", io.Iface)
	case record.Release:
		return fmt.Sprintf("release interface %d", io.Iface)
	default:
		return fmt.Sprintf("clear halt %02x", io.Endpoint)
	}
}
