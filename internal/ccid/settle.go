package ccid

import (
	"context"
	"fmt"

	"openct/internal/atr"
	"openct/internal/ifd"
	"openct/internal/proto"
)

// settle makes card and reader agree on protocol t and on a speed, as far as
// the reader leaves that to the host: a PPS to the card, SetParameters to the
// reader (ISO/IEC 7816-3, 9; CCID 1.1, 6.1.7). It returns the factors in use.
func (s *slot) settle(ctx context.Context, a *atr.ATR, t proto.ID) (fidi byte, err error) {
	if a.Implicit() {
		return 0, fmt.Errorf("the card uses parameters that its ATR does not contain: %w", ifd.ErrNotSupported)
	}
	sp, err := s.plan.chooseSpeed(a, s.rates)
	if err != nil {
		return 0, err
	}
	fidi = sp.fidi
	_, specific := a.Specific()
	if !specific && s.plan.Negotiate {
		if fidi, err = s.negotiate(ctx, a, t, sp); err != nil {
			return 0, err
		}
	}
	faster := !specific && s.plan.Negotiate && fidi != defaultFiDi // the host's PPS has made the card
	err = s.tellReader(ctx, parametersFor(a, t, fidi), faster)
	if err == nil || isFinal(err) || t != a.Default() || specific && fidi != defaultFiDi {
		return fidi, err
	}
	// What every reader starts with will do.
	s.log.Warn("the reader rejects the card's parameters; using the default ones", "error", err)
	cycles := s.plan.quirk.cycles
	if fidi != defaultFiDi || s.icc != iccActive {
		cycles = max(cycles, 1)
	}
	for range cycles {
		if err := s.powerCycle(ctx); err != nil {
			return 0, err
		}
	}
	return defaultFiDi, nil
}

// negotiate gets the card to protocol t, at the speed sp if it takes it, at
// the default one otherwise. A card that did not like the PPS is powered off
// and on, and is then at the default speed in its first protocol.
func (s *slot) negotiate(ctx context.Context, a *atr.ATR, t proto.ID, sp speed) (fidi byte, err error) {
	if sp.pps {
		fidi, err = s.pps(ctx, a, t, int(sp.fidi))
		if err == nil && fidi != defaultFiDi && s.plan.SetRate {
			err = s.setRate(ctx, fidi)
		}
		if err == nil || isFinal(err) {
			return fidi, err
		}
		s.log.Debug("card or reader refuses the speed", "fidi", fmt.Sprintf("%02X", sp.fidi), "error", err)
		if err := s.powerCycle(ctx); err != nil {
			return 0, err
		}
	}
	if t == a.Default() {
		return defaultFiDi, nil
	}
	if _, err = s.pps(ctx, a, t, atr.Absent); err == nil || isFinal(err) {
		return defaultFiDi, err
	}
	if cycled := s.powerCycle(ctx); cycled != nil {
		return 0, cycled
	}
	return 0, fmt.Errorf("card does not change to T=%d: %w: %w", t, ifd.ErrNotSupported, err)
}

// pps selects protocol t and the factors pps1, atr.Absent for none, and
// returns the factors the card agreed to.
func (s *slot) pps(ctx context.Context, a *atr.ATR, t proto.ID, pps1 int) (fidi byte, err error) {
	req, err := a.PPS(t, pps1)
	if err != nil {
		return 0, fmt.Errorf("%w: %w", ifd.ErrNotSupported, err)
	}
	level := levelWhole
	if s.plan.Level == Characters {
		level = uint16(len(req)) // what a card that agrees sends back
	}
	r, err := s.run(ctx, xfrBlock(0, level, req), s.plan.cardWait(a, a.Default(), defaultFiDi))
	if err != nil {
		return 0, err
	}
	accepted, err := atr.CheckPPS(req, r.data)
	if err != nil {
		return 0, fmt.Errorf("%w: %w", ifd.ErrComm, err)
	}
	if !accepted {
		return defaultFiDi, nil
	}
	return byte(pps1), nil
}

// setRate sets the data rate on readers that do not derive it from the
// parameters. One that answers with another rate has not followed the card.
func (s *slot) setRate(ctx context.Context, fidi byte) error {
	want := bitRate(s.plan.Clock, fidi)
	r, err := s.run(ctx, setRateAndClock(s.plan.Clock, want), commandTimeout)
	if err != nil {
		return err
	}
	_, got, err := parseRateAndClock(r)
	if err != nil {
		return fmt.Errorf("%w: %w", ifd.ErrComm, err)
	}
	// Bits are sampled in their middle; 2 % are safe over a character.
	if diff := int64(got) - int64(want); diff > int64(want/50) || -diff > int64(want/50) {
		return fmt.Errorf("reader set %d bit/s instead of %d: %w", got, want, ifd.ErrComm)
	}
	return nil
}

// tellReader sends the parameters. They are an offer: a reader that finds one it
// cannot change names its offset and goes on with what it has, and one that
// speaks the card's protocol itself knows it from the ATR. The error says that
// reader and card may not understand each other, which is the case, too, when
// the card is faster by now and the reader does not follow.
func (s *slot) tellReader(ctx context.Context, p cardParameters, faster bool) error {
	r, err := s.run(ctx, setParameters(p), commandTimeout)
	switch {
	case err == nil, isFinal(err):
		return err
	case r.typ == 0 || r.icc() != iccActive:
	case !s.plan.hostSpeaks() && !faster && s.plan.quirk.cycles == 0:
		s.log.Warn("the reader rejects the card's parameters; it may set them itself", "error", err)
		return nil
	case r.code > 0 && r.code <= codeLastOffset && !(faster && r.code == offsetFiDi):
		s.log.Debug("reader keeps a parameter of its own", "offset", r.code)
		return nil
	}
	return err
}
