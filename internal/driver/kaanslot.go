package driver

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"openct/internal/atr"
	"openct/internal/ctbcs"
	"openct/internal/ifd"
	"openct/internal/proto"
)

// kaanSlot is a card slot of a kaan. What is not the core's to call one after
// the other is guarded by the terminal's turn.
type kaanSlot struct {
	k     *kaan
	index int
	unit  byte // in CT-BCS
	nad   byte

	powered bool      // a card was reset
	engine  *kaanCard // of the card, nil: none yet
	last    bool      // the card was in when last asked
	asked   bool      // it was asked

	kind   proto.ID // of the memory card, as far as the terminal knows it
	header []byte   // of the memory card
	set    byte     // how the terminal addresses the memory card, 0: not known
}

var (
	_ ifd.Slot      = (*kaanSlot)(nil)
	_ ifd.Presence  = (*kaanSlot)(nil)
	_ ifd.Requester = (*kaanSlot)(nil)
	_ ifd.Ejector   = (*kaanSlot)(nil)
	_ ifd.Verifier  = kaanPINSlot{}
	_ ifd.Modifier  = kaanPINSlot{}
	_ proto.Limiter = (*kaanCard)(nil)
)

// kaanPINSlot is a slot of a terminal with a keypad.
type kaanPINSlot struct{ *kaanSlot }

// Reset implements ifd.Slot.
func (s *kaanSlot) Reset(ctx context.Context) ([]byte, error) {
	return s.power(ctx, func() ([]byte, error) { return s.resetICC(ctx) })
}

// resetICC is RESET CT for a card. Some firmware may have CT-BCS's INS alone.
func (s *kaanSlot) resetICC(ctx context.Context) ([]byte, error) {
	cmd := ctbcs.ResetICC(s.unit)
	resp, err := s.k.command(ctx, kaanINS(cmd, insKaanReset), kaanTimeout)
	if err == nil && ctbcs.Unknown(resp) {
		resp, err = s.k.command(ctx, cmd, kaanTimeout)
	}
	return resp, err
}

// Request implements ifd.Requester. C OpenCT sends OUTPUT's INS, which is tried
// when a terminal does not know REQUEST ICC.
func (s *kaanSlot) Request(ctx context.Context, timeout time.Duration, message string) ([]byte, error) {
	return s.power(ctx, func() ([]byte, error) {
		cmd := ctbcs.RequestICC(s.unit, timeout, message)
		wait := max(kaanTimeout, timeout+kaanUserExtra)
		resp, err := s.k.command(ctx, cmd, wait)
		if err == nil && ctbcs.Unknown(resp) {
			resp, err = s.k.command(ctx, kaanINS(cmd, insKaanRequest), wait)
		}
		if err == nil && ctbcs.Active(resp) {
			return s.resetICC(ctx)
		}
		return resp, err
	})
}

// power resets the card by a command.
func (s *kaanSlot) power(ctx context.Context, reset func() ([]byte, error)) ([]byte, error) {
	if err := s.k.enter(ctx); err != nil {
		return nil, err
	}
	defer s.k.leave()
	s.engine, s.powered, s.kind = nil, false, proto.Default
	resp, err := reset()
	if err != nil {
		return nil, err
	}
	atr, sw, err := ctbcs.ATR(resp)
	if err != nil {
		return nil, err
	}
	s.powered = true
	if ctbcs.Asynchronous(sw) {
		return atr, nil
	}
	if err := s.memory(ctx, atr, sw); err != nil {
		return nil, err
	}
	return nil, nil
}

// Eject implements ifd.Ejector. C OpenCT's driver has no such command; a terminal
// that does not know it either leaves the card as it is.
func (s *kaanSlot) Eject(ctx context.Context, timeout time.Duration, message string) error {
	if err := s.k.enter(ctx); err != nil {
		return err
	}
	defer s.k.leave()
	resp, err := s.k.command(ctx, ctbcs.EjectICC(s.unit, timeout, message), max(kaanTimeout, timeout+kaanUserExtra))
	if err != nil {
		return err
	}
	if ctbcs.Unknown(resp) {
		return nil
	}
	err = ctbcs.Ejected(resp)
	if s.engine != nil && (err == nil || errors.Is(err, ifd.ErrUserTimeout)) {
		_ = s.engine.Lose(errors.New("card was ejected"))
	}
	s.powered = false
	return err
}

// Verify implements ifd.Verifier.
func (s kaanPINSlot) Verify(ctx context.Context, r ifd.PINRequest) ([]byte, error) {
	return s.pin(ctx, r, ctbcs.Verify)
}

// Modify implements ifd.Modifier.
func (s kaanPINSlot) Modify(ctx context.Context, r ifd.PINRequest) ([]byte, error) {
	return s.pin(ctx, r, ctbcs.Modify)
}

func (s kaanPINSlot) pin(ctx context.Context, r ifd.PINRequest, encode func(byte, ifd.PINRequest) ([]byte, error)) ([]byte, error) {
	cmd, err := encode(s.unit, r)
	if err != nil {
		return nil, err
	}
	if err := s.k.enter(ctx); err != nil {
		return nil, err
	}
	defer s.k.leave()
	if s.engine != nil && s.engine.Lost() != nil {
		return nil, s.engine.Lost()
	}
	resp, err := s.k.command(ctx, cmd, max(kaanMinPIN, r.Timeout+kaanUserExtra))
	if err != nil {
		return nil, s.lose(err)
	}
	if err := s.inPlace(ctx, resp); err != nil {
		return nil, err
	}
	return ctbcs.PINResponse(resp)
}

// lose ends the session with the card when the one with the terminal has ended
// under it.
func (s *kaanSlot) lose(err error) error {
	if s.engine != nil && errors.Is(err, proto.ErrResetRequired) {
		return s.engine.Lose(err)
	}
	return err
}

// Protocol implements ifd.Slot.
func (s *kaanSlot) Protocol(ctx context.Context, p proto.ID, a *atr.ATR) (proto.Engine, error) {
	if err := s.k.enter(ctx); err != nil {
		return nil, err
	}
	defer s.k.leave()
	if a == nil {
		// The terminal took the card for one with a protocol, and may know which.
		s.engine = &kaanCard{s: s, id: proto.Transparent}
		return s.engine, nil
	}
	if p == proto.Default {
		p = a.Default()
	}
	code, ok := kaanProtocols[p]
	if !ok || !a.Offers(p) {
		return nil, fmt.Errorf("the card does not offer protocol %v: %w", p, ifd.ErrNotSupported)
	}
	if err := s.setProtocol(ctx, code); err != nil {
		return nil, err
	}
	s.engine = &kaanCard{s: s, id: p}
	return s.engine, nil
}

// kaanProtocols are the terminal's numbers of protocols (ifd-kaan.c).
var kaanProtocols = map[proto.ID]byte{
	proto.T0: 0x01,
	proto.T1: 0x02,
}

// setProtocol tells the terminal which protocol it speaks with the card. A B1
// refuses that for the German health cards with 6985, and it works all the same
// (ifd-kaan.c).
func (s *kaanSlot) setProtocol(ctx context.Context, code byte) error {
	const what = "setting the card's protocol"
	resp, err := s.k.command(ctx, []byte{0x80, 0x60, s.unit, 0x00, 0x03, kaanTagProtocol, 0x01, code}, kaanTimeout)
	if err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	if _, sw, err := ctbcs.Split(resp); err == nil && s.k.b1 && sw == 0x6985 {
		return nil
	}
	return ctbcs.Done(what, resp)
}

// kaanCard is a card with a protocol behind the terminal, which takes its APDUs.
type kaanCard struct {
	proto.Session
	s  *kaanSlot
	id proto.ID
}

// ID implements proto.Engine.
func (e *kaanCard) ID() proto.ID { return e.id }

// Limits implements proto.Limiter: it is not known that one of these terminals
// takes a command with extended lengths.
func (e *kaanCard) Limits() proto.Limits { return proto.ShortAPDU }

// Transmit implements proto.Engine. In T=0 the terminal takes no Le behind data,
// and the response is fetched with GET RESPONSE (ifd-kaan.c).
func (e *kaanCard) Transmit(ctx context.Context, apdu, resp []byte) ([]byte, error) {
	if err := e.Lost(); err != nil {
		return nil, err
	}
	if err := e.s.k.enter(ctx); err != nil {
		return nil, err
	}
	defer e.s.k.leave()
	fetch := false
	if e.id == proto.T0 {
		c, err := proto.ParseCommand(apdu)
		if err != nil {
			return nil, err
		}
		if fetch = !c.Extended && len(c.Data) > 0 && c.Le > 0; fetch {
			apdu = apdu[:len(apdu)-1]
		}
	}
	resp, err := e.exchange(ctx, apdu, resp)
	if err == nil && fetch && len(resp) == 2 && resp[0] == 0x61 {
		return e.exchange(ctx, []byte{apdu[0], 0xC0, 0x00, 0x00, resp[1]}, resp)
	}
	return resp, err
}

func (e *kaanCard) exchange(ctx context.Context, apdu, resp []byte) ([]byte, error) {
	resp, err := e.s.k.exchange(ctx, e.s.nad, apdu, resp, kaanTimeout)
	if err != nil {
		return nil, e.s.lose(err)
	}
	if err := e.s.inPlace(ctx, resp); err != nil {
		return nil, err
	}
	return resp, nil
}

// inPlace looks for the card after an answer that may be the terminal's, for a slot
// that is empty, or holds a card that was inserted since and has no power; or else the
// card's own.
func (s *kaanSlot) inPlace(ctx context.Context, resp []byte) error {
	if !slices.Equal(resp, noCardSW) {
		return nil
	}
	present, off, err := s.present(ctx)
	switch {
	case err != nil:
		return s.lose(err)
	case present && !off:
		return nil
	case s.engine != nil:
		return s.engine.Lose(ifd.ErrNoCard)
	}
	return ifd.ErrNoCard
}

// noCardSW is what a terminal answers for a card that is not there.
var noCardSW = []byte{0x64, 0xA1}
