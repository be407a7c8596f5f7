package ccid

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync/atomic"
	"time"

	"openct/internal/atr"
	"openct/internal/ifd"
	"openct/internal/proto"
	"openct/internal/usb"
)

// slot is one card slot. What only some slots can do is in the types below
// it, so that a slot has exactly the methods its reader has a use for.
type slot struct {
	c      *conn
	plan   *Plan
	number byte     // bSlot
	rates  []uint32 // the reader's table; nil: any rate
	escape bool     // vendor escape commands are allowed
	log    *slog.Logger

	icc     iccStatus // of the last answer
	powered bool      // the card is, since Reset
	worked  bool      // a card answered at voltage, and was not taken out since
	voltage voltage
	present bool // what Status said last
	mute    bool // power-on failed, since the last notification

	moved   atomic.Bool // a card came or went since Status was asked last
	emptied atomic.Bool // the card was taken out since the last Reset

	card session
}

// session is what Protocol settled on for the card.
type session struct {
	t       proto.ID // T0 or T1
	wait    time.Duration
	engine  proto.Engine // at TPDU level; nil at APDU level
	link    *tpduLink
	settled bool
}

// cardSlot is a slot whose card can be taken out.
type cardSlot struct{ *slot }

// verifySlot is a cardSlot of a reader with a keypad.
type verifySlot struct{ cardSlot }

// modifySlot is a verifySlot whose keypad changes PINs, too.
type modifySlot struct{ verifySlot }

var (
	_ ifd.Slot     = (*slot)(nil)
	_ ifd.Ejector  = cardSlot{}
	_ ifd.Presence = cardSlot{}
	_ ifd.Verifier = verifySlot{}
	_ ifd.Modifier = modifySlot{}

	_ proto.Limiter = (*slot)(nil)
	_ proto.Limiter = cardSlot{}
)

// asSlot gives s the methods its reader has a use for.
func (s *slot) asSlot() ifd.Slot {
	switch {
	case s.plan.Modify && s.plan.Verify:
		return modifySlot{verifySlot{cardSlot{s}}}
	case s.plan.Verify:
		return verifySlot{cardSlot{s}}
	case s.plan.Token:
		return s
	}
	return cardSlot{s}
}

// Limits implements proto.Limiter: what the reader carries, whatever the card.
func (s *slot) Limits() proto.Limits {
	if s.plan.Level != ShortAPDU {
		return proto.Limits{Command: proto.MaxCommand, Response: proto.MaxResponse}
	}
	short := proto.ShortAPDU
	return proto.Limits{Command: min(s.plan.MaxMessage-headerSize, short.Command), Response: short.Response}
}

func (s *slot) run(ctx context.Context, m message, timeout time.Duration) (response, error) {
	r, err := s.c.run(ctx, s.number, m, timeout)
	if r.typ != 0 {
		s.icc = r.icc()
	}
	return r, err
}

// Reset implements ifd.Slot. A card that has power is reset warm, then cold at
// the same voltage; any other one, and one that stays mute, is powered at each
// voltage in turn, first at the one that it worked at last. It is without power
// before each of these, as ISO/IEC 7816-3, 6.2.3 and 6.2.4 want it.
func (s *slot) Reset(ctx context.Context) ([]byte, error) {
	s.card = session{}
	s.moved.Store(false) // whatever card is in, this is its reset
	if s.emptied.Swap(false) {
		s.powered, s.worked = false, false
	}
	order := s.plan.Voltages
	if s.worked {
		order = append([]voltage{s.voltage}, slices.DeleteFunc(slices.Clone(order), func(v voltage) bool { return v == s.voltage })...)
	}
	if s.plan.quirk.offFirst {
		if err := s.powerOff(ctx); err != nil && isFinal(err) {
			return nil, err
		}
	} else if s.powered && s.worked {
		order = append([]voltage{s.voltage}, order...)
	}
	var first error
	for i, v := range order {
		if i > 0 {
			if err := s.powerOff(ctx); err != nil && isFinal(err) {
				return nil, err
			}
		}
		raw, err := s.powerOn(ctx, v)
		if err == nil {
			return raw, nil
		}
		if isFinal(err) {
			return nil, err
		}
		s.log.Debug("card does not answer", "voltage", v, "error", err)
		if first == nil {
			first = err
		}
	}
	s.worked = false
	if err := s.powerOff(ctx); err != nil && isFinal(err) {
		return nil, err
	}
	if s.plan.quirk.muteIsNone {
		s.mute = true
		return nil, fmt.Errorf("%w: %w", ifd.ErrNoCard, first)
	}
	return nil, first
}

// isFinal says whether it is pointless to try another way of the same.
func isFinal(err error) bool {
	return errors.Is(err, ifd.ErrNoCard) || errors.Is(err, usb.ErrUnplugged) || errors.Is(err, usb.ErrClosed) ||
		errors.Is(err, usb.ErrTimeout) || errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded)
}

// powerOn powers or resets the card and returns a copy of its ATR.
func (s *slot) powerOn(ctx context.Context, v voltage) ([]byte, error) {
	m := iccPowerOn(v)
	r, err := s.run(ctx, m, powerTimeout)
	if err != nil && r.code == codeEMVProtocol && s.plan.quirk.isoEscape != nil {
		if _, failed := s.run(ctx, escape(s.plan.quirk.isoEscape), escapeTimeout); failed == nil {
			r, err = s.run(ctx, m, powerTimeout)
		}
	}
	switch {
	case err != nil:
		s.powered = false
		if errors.Is(err, ifd.ErrNoCard) {
			s.present, s.worked = false, false
		}
		return nil, err
	case len(r.data) == 0:
		return nil, s.c.wrap(s.number, m, fmt.Errorf("empty ATR: %w", ifd.ErrNoATR))
	}
	s.powered, s.worked, s.voltage, s.present, s.mute = true, true, v, true, false
	return append([]byte(nil), r.data[:min(len(r.data), atr.MaxLen)]...), nil
}

func (s *slot) powerOff(ctx context.Context) error {
	s.powered = false
	_, err := s.run(ctx, iccPowerOff(), commandTimeout)
	return err
}

// powerCycle gives the card a fresh start after it did not like something.
func (s *slot) powerCycle(ctx context.Context) error {
	if err := s.powerOff(ctx); err != nil && isFinal(err) {
		return err
	}
	_, err := s.powerOn(ctx, s.voltage)
	return err
}

// Status implements ifd.Presence.
func (s cardSlot) Status(ctx context.Context) (ifd.Status, error) {
	r, err := s.c.runNow(ctx, s.number, getSlotStatus(), commandTimeout)
	switch {
	case errors.Is(err, errOccupied):
		return ifd.Status{}, fmt.Errorf("%w: %w", ifd.ErrBusy, err)
	case err != nil && r.typ == 0:
		return ifd.Status{}, err
	}
	s.icc = r.icc()
	// A failed answer tells what the slot holds as well: FE of an absent card
	// is no failure to tell.
	st := ifd.Status{Present: r.icc() != iccAbsent}
	moved := s.moved.Swap(false)
	if moved {
		s.mute = false
	}
	st.Present = st.Present && !s.mute
	// A card we powered and that lost its power was taken out and put back.
	swapped := s.powered && r.icc() == iccInactive
	st.Changed = moved || swapped || st.Present != s.present
	if swapped || !st.Present {
		s.powered, s.worked = false, false
	}
	s.present = st.Present
	return st, nil
}

// Eject implements ifd.Ejector: out with the card where the reader has a motor
// for it, and its power off in any case.
func (s cardSlot) Eject(ctx context.Context, _ time.Duration, _ string) error {
	s.card = session{}
	err := s.powerOff(ctx)
	if err == nil && s.plan.eject {
		_, err = s.run(ctx, mechanical(mechEject), commandTimeout)
	}
	if errors.Is(err, ifd.ErrNoCard) {
		return nil
	}
	return err
}

// Protocol implements ifd.Slot.
func (s *slot) Protocol(ctx context.Context, p proto.ID, a *atr.ATR) (proto.Engine, error) {
	if p == proto.Escape {
		if !s.escape {
			return nil, fmt.Errorf("escape commands are not allowed; escape = on; in openct.conf allows them: %w", ifd.ErrNotSupported)
		}
		return proto.NewEscape(s.transmitEscape), nil
	}
	t, err := s.chooseProtocol(p, a)
	if err != nil {
		return nil, err
	}
	if err := s.agree(ctx, a, t); err != nil {
		return nil, err
	}
	switch s.plan.Level {
	case TPDU:
		return s.newTPDUEngine(ctx, a)
	case Characters:
		return s.newCharEngine(a), nil
	}
	return newAPDUEngine(s), nil
}

// agree makes card and reader agree on protocol t, and notes how long the card
// may take for its answers.
func (s *slot) agree(ctx context.Context, a *atr.ATR, t proto.ID) (err error) {
	s.card = session{}
	fidi := byte(defaultFiDi)
	if a != nil && s.plan.Parameters {
		if fidi, err = s.settle(ctx, a, t); err != nil {
			return err
		}
	} else if ta1, ok := taken(a); ok {
		fidi = ta1 // the reader negotiates, and knows no less than we do
	}
	s.card = session{t: t, wait: s.plan.cardWait(a, t, fidi), settled: true}
	return nil
}

func taken(a *atr.ATR) (byte, bool) {
	if a == nil {
		return 0, false
	}
	return a.TA1()
}

// chooseProtocol finds the card protocol that is asked for, that the card
// offers, and that the reader speaks.
func (s *slot) chooseProtocol(p proto.ID, a *atr.ATR) (proto.ID, error) {
	if p != proto.Default && p != proto.T0 && p != proto.T1 {
		return 0, fmt.Errorf("protocol %v: %w", p, ifd.ErrNotSupported)
	}
	if a == nil {
		if s.plan.hostSpeaks() {
			return 0, fmt.Errorf("the ATR does not say which protocol to use: %w", ifd.ErrInvalidATR)
		}
		if p == proto.T0 || p == proto.Default && s.plan.T0 {
			return proto.T0, nil
		}
		return proto.T1, nil
	}
	if p != proto.Default {
		switch {
		case !a.Offers(p):
			return 0, fmt.Errorf("card does not offer T=%d: %w", p, ifd.ErrNotSupported)
		case !s.plan.supports(p):
			return 0, fmt.Errorf("the reader does not support T=%d: %w", p, ifd.ErrNotSupported)
		case s.plan.quirk.noPPS && p != a.Default():
			return 0, fmt.Errorf("reader cannot change a card's protocol to T=%d: %w", p, ifd.ErrNotSupported)
		}
		return p, nil
	}
	if s.plan.quirk.noPPS {
		return s.chooseProtocol(a.Default(), a)
	}
	// A contactless card's ATR names T=0 first as a matter of form; its waiting
	// times are T=1's. A reader that leaves the protocol to the host follows
	// the ATR.
	if a.Contactless() && s.plan.T1 && !s.plan.hostSpeaks() {
		return proto.T1, nil
	}
	for _, t := range a.Protocols() {
		if s.plan.supports(t) {
			return t, nil
		}
	}
	return 0, fmt.Errorf("the card offers T=%d, which the reader does not support: %w", a.Default(), ifd.ErrNotSupported)
}

// transmitEscape passes a vendor command to the reader.
func (s *slot) transmitEscape(ctx context.Context, apdu, resp []byte) ([]byte, error) {
	if len(apdu) > s.plan.MaxMessage-headerSize {
		return nil, fmt.Errorf("escape command of %d bytes: %w", len(apdu), proto.ErrInvalidAPDU)
	}
	// Not through s.run: the reader's own slot shares this one, and has no
	// part in its card.
	r, err := s.c.run(ctx, s.number, escape(apdu), escapeTimeout)
	if err != nil {
		return nil, err
	}
	resp = append(resp[:0], r.data...)
	clear(r.data)
	return resp, nil
}
