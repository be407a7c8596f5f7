package driver

import (
	"context"
	"errors"
	"fmt"
	"time"

	"openct/internal/atr"
	"openct/internal/ifd"
	"openct/internal/proto"
	"openct/internal/serial"
)

// phoenix is a reader that ties the card's contact I/O to both data lines of a
// serial line: whatever is sent comes back. RTS drives the contact RST, DTR
// feeds many of them, and CTS is low while a card is in. Phoenix and SmartMouse
// readers differ in the polarity of RTS (C OpenCT's ifd-smph.c).
//
// The UART sends and checks the parity that the card's convention needs, with
// two stop bits, which are the guard time of 12 etu. What it cannot do is the
// error signal of T=0 (ISO/IEC 7816-3, 7.3): a byte that came with a wrong
// parity cannot be asked for again, and one that the card refuses is noticed in
// the echo and not repeated. Both end the exchange with an error.
type phoenix struct {
	serialCard
	hold bool // RTS while the card is held in reset
	slot ifd.Slot
}

// How long the contact RST is held low. The card needs 400 clocks, 0.1 ms
// (ISO/IEC 7816-3, 6.2.2); C OpenCT holds it for a second. A reader that needs
// it that long gets it at the second attempt.
var phoenixHold = []time.Duration{200 * time.Millisecond, time.Second}

func openPhoenixAt(path string, o ifd.Options) (ifd.Reader, error) {
	return openSerialLine(path, o, openPhoenix)
}

func openSmartMouseAt(path string, o ifd.Options) (ifd.Reader, error) {
	return openSerialLine(path, o, openSmartMouse)
}

// openSerialLine opens a line for a driver, which closes it, too, if it takes
// it.
func openSerialLine(path string, o ifd.Options, open func(serial.Line, ifd.Options) (ifd.Reader, error)) (ifd.Reader, error) {
	l, err := o.Open(path)
	if err != nil {
		return nil, err
	}
	r, err := open(l, o)
	if err != nil {
		_ = l.Close()
		return nil, err
	}
	return r, nil
}

func openPhoenix(l serial.Line, o ifd.Options) (ifd.Reader, error) {
	return newPhoenix(l, o, true)
}

func openSmartMouse(l serial.Line, o ifd.Options) (ifd.Reader, error) {
	return newPhoenix(l, o, false)
}

// newPhoenix sets the line and leaves the card alone: a reader is served
// without one as well.
func newPhoenix(l serial.Line, o ifd.Options, hold bool) (ifd.Reader, error) {
	p := &phoenix{hold: hold, serialCard: serialCard{
		line: l, name: o.Name, log: o.Log, clock: o.Line.Clock, limit: o.Line.Speed,
	}}
	if p.clock == 0 {
		p.clock = atr.DefaultClock
	}
	if err := p.start(); err != nil {
		return nil, err
	}
	p.slot = p
	_, err := l.Lines()
	switch {
	case errors.Is(err, serial.ErrNoLines):
		// Whether a card is in is seen from its ATR.
	case err != nil:
		return nil, err
	case !o.Line.NoSwitch:
		p.slot = phoenixSwitch{p}
		p.removed = func() bool {
			in, err := l.Lines()
			return err == nil && in.CTS
		}
	}
	return p, nil
}

func (p *phoenix) Slots() []ifd.Slot     { return []ifd.Slot{p.slot} }
func (p *phoenix) Name() string          { return p.name }
func (p *phoenix) Gone() <-chan struct{} { return p.line.Gone() }
func (p *phoenix) Close() error          { return p.line.Close() }

// phoenixSwitch is a slot whose switch CTS tells. The core asks once a second,
// as C OpenCT did: to wait for a change of the line (TIOCMIWAIT) would keep a
// thread, which nothing but a signal ends, and not every adapter can.
type phoenixSwitch struct{ *phoenix }

func (s phoenixSwitch) Status(context.Context) (ifd.Status, error) {
	in, err := s.line.Lines()
	return ifd.Status{Present: !in.CTS}, err
}

func (s phoenixSwitch) Reset(ctx context.Context) ([]byte, error) {
	st, err := s.Status(ctx)
	switch {
	case err != nil:
		return nil, err
	case !st.Present:
		return nil, ifd.ErrNoCard
	}
	raw, err := s.phoenix.Reset(ctx)
	if err != nil && s.removed() {
		err = fmt.Errorf("%w (%w)", ifd.ErrNoCard, err)
	}
	return raw, err
}

// Reset implements ifd.Slot. Where the answer makes no sense it is asked for
// once more with the other parity, for adapters that throw away what comes
// with a wrong one.
func (p *phoenix) Reset(ctx context.Context) ([]byte, error) {
	var first error
	for _, hold := range phoenixHold {
		raw, err := p.reset(ctx, hold)
		if err == nil {
			return raw, nil
		}
		if !errors.Is(err, ifd.ErrNoATR) && !errors.Is(err, ifd.ErrInvalidATR) && !errors.Is(err, ifd.ErrComm) {
			return nil, err
		}
		if first == nil || errors.Is(first, ifd.ErrNoATR) {
			first = err
		}
		p.odd = !p.odd
	}
	return nil, first
}

func (p *phoenix) reset(ctx context.Context, hold time.Duration) ([]byte, error) {
	if err := p.start(); err != nil {
		return nil, err
	}
	if err := p.line.SetLines(true, p.hold); err != nil {
		return nil, err
	}
	if err := serial.Wait(ctx, p.line, hold); err != nil {
		return nil, err
	}
	if err := p.line.Flush(serial.Both); err != nil {
		return nil, err
	}
	if err := p.line.SetLines(true, !p.hold); err != nil {
		return nil, err
	}
	return p.readATR(ctx)
}

// Protocol implements ifd.Slot.
func (p *phoenix) Protocol(ctx context.Context, id proto.ID, a *atr.ATR) (proto.Engine, error) {
	t, err := choose(id, a)
	if err != nil {
		return nil, err
	}
	if t != proto.T0 && t != proto.T1 {
		return nil, fmt.Errorf("protocol %d: %w", t, ifd.ErrNotSupported)
	}
	if p.used {
		// A protocol is selected directly after a reset.
		if _, err := p.Reset(ctx); err != nil {
			return nil, err
		}
	}
	err = p.negotiate(ctx, t, a)
	if errors.Is(err, atr.ErrPPS) && t == a.Default() {
		p.log.Info("the card refuses a higher speed", "error", err)
		if _, err = p.Reset(ctx); err == nil {
			p.settle(t, a)
		}
	}
	if err != nil {
		return nil, err
	}
	return p.engine(t, a), nil
}
