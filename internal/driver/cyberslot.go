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
	"openct/internal/usb"
)

// cyberSlot is the slot of a cyberJack. Its fields are guarded by the reader's
// turn.
type cyberSlot struct {
	c       *cyberJack
	powered bool       // a card was reset
	card    *cyberAPDU // nil: none has a protocol
}

var (
	_ ifd.Presence  = (*cyberSlot)(nil)
	_ ifd.Requester = (*cyberSlot)(nil)
	_ ifd.Ejector   = (*cyberSlot)(nil)
	_ ifd.Verifier  = (*cyberSlot)(nil)
	_ ifd.Modifier  = (*cyberSlot)(nil)
	_ proto.Limiter = (*cyberAPDU)(nil)
)

// off notes that the card has lost its power, or its session.
func (s *cyberSlot) off(why error) {
	if s.card != nil && s.card.Lost() == nil {
		_ = s.card.Lose(why)
	}
	s.powered = false
}

// Status implements ifd.Presence.
func (s *cyberSlot) Status(ctx context.Context) (ifd.Status, error) {
	if err := s.c.enter(ctx); err != nil {
		return ifd.Status{}, err
	}
	defer s.c.leave()
	present, err := s.present(ctx)
	if err != nil {
		return ifd.Status{}, err
	}
	st := ifd.Status{Present: present, Changed: s.c.moved}
	s.c.moved = false
	if !present {
		s.off(ifd.ErrNoCard)
	}
	return st, nil
}

func (s *cyberSlot) present(ctx context.Context) (bool, error) {
	resp, err := s.c.command(ctx, ctbcs.GetICCStatus(ctbcs.Terminal), cyberStatus)
	if err != nil {
		return false, err
	}
	return ctbcs.Present(resp)
}

// inPlace looks for the card after an answer that may be the reader's, for a card that
// is not there or was inserted since and has no power; or else the card's own.
func (s *cyberSlot) inPlace(ctx context.Context, resp []byte) error {
	if !slices.Equal(resp, noCardSW) {
		return nil
	}
	in := !s.c.moved
	if in {
		var err error
		if in, err = s.present(ctx); err != nil {
			return err
		}
	}
	if !in {
		s.off(ifd.ErrNoCard)
		return ifd.ErrNoCard
	}
	return nil
}

// Reset implements ifd.Slot. REQUEST ICC would wait for a card that is not
// there.
func (s *cyberSlot) Reset(ctx context.Context) ([]byte, error) {
	if err := s.c.enter(ctx); err != nil {
		return nil, err
	}
	defer s.c.leave()
	in, err := s.present(ctx)
	if err == nil && !in {
		err = ifd.ErrNoCard
	}
	if err != nil {
		return nil, err
	}
	return s.request(ctx, cyberInsert, "")
}

// Request implements ifd.Requester.
func (s *cyberSlot) Request(ctx context.Context, timeout time.Duration, message string) ([]byte, error) {
	if err := s.c.enter(ctx); err != nil {
		return nil, err
	}
	defer s.c.leave()
	return s.request(ctx, timeout, message)
}

// request is REQUEST ICC. A card that has power is not reset by it, so the
// reader is reset first, which takes the power away: as C OpenCT does at every
// look at the card.
func (s *cyberSlot) request(ctx context.Context, timeout time.Duration, message string) ([]byte, error) {
	if s.powered {
		if err := s.c.activate(ctx, false); err != nil {
			return nil, err
		}
	}
	cmd := ctbcs.RequestICC(ctbcs.ICC1, timeout, message)
	if message == "" && timeout > 0 {
		// C OpenCT's form, which readers are known to take: the seconds alone.
		cmd = []byte{cmd[0], cmd[1], cmd[2], cmd[3], 0x01, ctbcs.Seconds(timeout), 0x00}
	}
	wait := max(cyberTimeout, timeout) + cyberUserMore
	resp, err := s.c.command(ctx, cmd, wait)
	if err == nil && ctbcs.Active(resp) {
		if err = s.c.activate(ctx, false); err == nil {
			resp, err = s.c.command(ctx, cmd, wait)
		}
	}
	if err != nil {
		return nil, err
	}
	raw, sw, err := ctbcs.ATR(resp)
	if err != nil {
		return nil, err
	}
	// A card that came now is no news for the next Status.
	s.powered, s.c.moved, s.card = true, false, nil
	if !ctbcs.Asynchronous(sw) {
		return nil, fmt.Errorf("%w: the card is a memory card, which a cyberJack does not support", ifd.ErrNoATR)
	}
	return rawATR(raw)
}

// Protocol implements ifd.Slot. The reader chooses the protocol itself, and no
// command is known that changes it.
func (s *cyberSlot) Protocol(ctx context.Context, p proto.ID, a *atr.ATR) (proto.Engine, error) {
	if err := s.c.enter(ctx); err != nil {
		return nil, err
	}
	defer s.c.leave()
	id := proto.Transparent
	if a != nil {
		id = a.Default()
	}
	if p != proto.Default && p != id && p != proto.Transparent {
		return nil, fmt.Errorf("protocol %v: a cyberJack chooses it itself: %w", p, ifd.ErrNotSupported)
	}
	s.card = &cyberAPDU{c: s.c, id: id}
	return s.card, nil
}

// Eject implements ifd.Ejector: the card loses its power.
func (s *cyberSlot) Eject(ctx context.Context, timeout time.Duration, message string) error {
	if err := s.c.enter(ctx); err != nil {
		return err
	}
	defer s.c.leave()
	resp, err := s.c.command(ctx, ctbcs.EjectICC(ctbcs.ICC1, timeout, message), max(cyberTimeout, timeout+cyberUserMore))
	if err != nil {
		return err
	}
	if ctbcs.Unknown(resp) {
		return nil // the card is taken by hand
	}
	err = ctbcs.Ejected(resp)
	if err == nil || errors.Is(err, ifd.ErrUserTimeout) {
		s.off(errors.New("card was ejected"))
	}
	return err
}

// Verify implements ifd.Verifier. A reader need not tell that it has a keypad:
// C OpenCT never asks.
func (s *cyberSlot) Verify(ctx context.Context, r ifd.PINRequest) ([]byte, error) {
	return s.pin(ctx, r, ctbcs.Verify)
}

// Modify implements ifd.Modifier.
func (s *cyberSlot) Modify(ctx context.Context, r ifd.PINRequest) ([]byte, error) {
	return s.pin(ctx, r, ctbcs.Modify)
}

func (s *cyberSlot) pin(ctx context.Context, r ifd.PINRequest, encode func(byte, ifd.PINRequest) ([]byte, error)) ([]byte, error) {
	if r.Timeout <= 0 {
		r.Timeout = cyberPIN
	}
	cmd, err := encode(ctbcs.ICC1, r)
	if err != nil {
		return nil, err
	}
	if err := s.c.enter(ctx); err != nil {
		return nil, err
	}
	defer s.c.leave()
	if s.card == nil {
		return nil, fmt.Errorf("no card was reset: %w", ifd.ErrNoCard)
	}
	if err := s.card.lost(); err != nil {
		return nil, err
	}
	resp, err := s.c.command(ctx, cmd, r.Timeout+cyberUserMore)
	if err == nil {
		err = s.inPlace(ctx, resp)
	}
	if err != nil {
		return nil, s.card.lose(err)
	}
	if err := pause(ctx, s.c.dev, cyberAfterPI); err != nil {
		return nil, err
	}
	return ctbcs.PINResponse(resp)
}

// cyberAPDU is a card behind the reader, which takes its APDUs whole.
type cyberAPDU struct {
	proto.Session
	c  *cyberJack
	id proto.ID
}

// ID implements proto.Engine.
func (e *cyberAPDU) ID() proto.ID { return e.id }

// Limits implements proto.Limiter: it is not known that a reader takes extended
// lengths.
func (e *cyberAPDU) Limits() proto.Limits { return proto.ShortAPDU }

// Transmit implements proto.Engine. What a card of T=0 announces the reader
// fetches; what it does not is fetched here.
func (e *cyberAPDU) Transmit(ctx context.Context, apdu, resp []byte) ([]byte, error) {
	if err := e.c.enter(ctx); err != nil {
		return nil, err
	}
	defer e.c.leave()
	if err := e.lost(); err != nil {
		return nil, err
	}
	out, err := e.exchange(ctx, apdu, resp)
	if err != nil || e.id != proto.T0 || len(out) != 2 || out[0] != 0x61 {
		return out, err
	}
	if c, err := proto.ParseCommand(apdu); err != nil || len(c.Data) == 0 || c.Le == 0 {
		return out, nil
	}
	return e.exchange(ctx, []byte{apdu[0], 0xC0, 0x00, 0x00, out[1]}, resp)
}

func (e *cyberAPDU) exchange(ctx context.Context, apdu, resp []byte) ([]byte, error) {
	resp, err := e.c.exchange(ctx, cyberCard, apdu, resp, cyberTimeout)
	if err == nil {
		err = e.c.slot.inPlace(ctx, resp)
	}
	if err != nil {
		return nil, e.lose(err)
	}
	return resp, nil
}

// lost is Lost, but for a reader that was unplugged the error is ErrUnplugged, and not
// that the card must be reset.
func (e *cyberAPDU) lost() error {
	select {
	case <-e.c.dev.Gone():
		return usb.Wrap("transmit", e.c.dev.Descriptor().ID(), usb.ErrUnplugged)
	default:
		return e.Lost()
	}
}

// lose ends the session with the card when the one with the reader has ended.
func (e *cyberAPDU) lose(err error) error {
	if errors.Is(err, proto.ErrResetRequired) && e.Lost() == nil {
		return e.Lose(err)
	}
	return err
}
