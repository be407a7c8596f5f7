package driver

import (
	"context"
	"errors"
	"fmt"
	"time"

	"openct/internal/atr"
	"openct/internal/device"
	"openct/internal/ifd"
	"openct/internal/proto"
	"openct/internal/serial"
)

// What a Towitoko reader does with an asynchronous card: it passes characters on,
// both ways.

// resetAsync tries both polarities of the contact RST, and then both again with
// the other parity, for a reader that throws away what has a wrong one.
func (s *towitokoSlot) resetAsync(ctx context.Context) (raw []byte, err error) {
	for _, odd := range []bool{false, true} {
		if s.odd != odd {
			if err := s.parity(ctx, odd); err != nil {
				return nil, err
			}
		}
		for _, level := range []byte{0x80, 0xA0} {
			cmd := []byte{level, 0x6F, 0x00, 0x05}
			if err := s.line.Flush(serial.In); err != nil {
				return nil, err
			}
			if err := s.line.Write(ctx, append(cmd, towitokoSum(s.seed, cmd))); err != nil {
				return nil, err
			}
			if raw, err = s.readATR(ctx); err == nil {
				return raw, s.parity(ctx, s.inverse)
			}
			if !errors.Is(err, ifd.ErrNoATR) && !errors.Is(err, ifd.ErrInvalidATR) {
				return nil, err
			}
		}
	}
	return nil, err
}

// readATR reads an answer to reset as far as it tells its length. A byte that
// begins none is what a memory card may send.
func (s *towitokoSlot) readATR(ctx context.Context) ([]byte, error) {
	var raw, have []byte // as it came, and in the card's convention
	buf := make([]byte, atr.MaxLen)
	for atr.Need(have) > 0 {
		n, err := s.line.Read(ctx, buf[:atr.Need(have)], towitokoATR)
		switch {
		case err == nil:
		case !errors.Is(err, device.ErrTimeout):
			return nil, err
		case len(raw) == 0:
			return nil, fmt.Errorf("%w: no byte within %v", ifd.ErrNoATR, towitokoATR)
		default:
			return nil, fmt.Errorf("%w: the ATR ends after %d bytes, % x", ifd.ErrInvalidATR, len(raw), have)
		}
		raw = append(raw, buf[:n]...)
		if raw[0] != atr.TSDirect && raw[0] != atr.TSInverse && raw[0] != tsInverseRaw {
			return nil, fmt.Errorf("%w: first byte %02x is not that of an ATR", ifd.ErrNoATR, raw[0])
		}
		s.inverse = raw[0] == tsInverseRaw
		have = append(have[:0], raw...)
		if s.inverse {
			atr.Invert(have)
		}
	}
	return have, nil
}

// Protocol implements ifd.Slot. The card stays at the speed with which it
// begins, 9600 bit/s at the usual clock.
func (s *towitokoSlot) Protocol(ctx context.Context, id proto.ID, a *atr.ATR) (proto.Engine, error) {
	t, err := choose(id, a)
	if err != nil {
		return nil, err
	}
	if t != proto.T0 && t != proto.T1 {
		return nil, fmt.Errorf("protocol %d: %w", t, ifd.ErrNotSupported)
	}
	var rate atr.Rate
	if _, specific := a.Specific(); specific && !a.Implicit() {
		if f, d := a.FiDi(); f != atr.DefaultFi || d != atr.DefaultDi {
			return nil, fmt.Errorf("the card requires Fi %d, Di %d from the start (TA2): %w", f, d, ifd.ErrNotSupported)
		}
	} else if !specific && t != a.Default() {
		if err := s.selectProtocol(ctx, t, a); err != nil {
			return nil, err
		}
	}
	s.t1 = t == proto.T1
	s.gap = a.WWT(rate) + latency
	var e proto.Engine = proto.NewT0(s, proto.T0Params{Stream: true, WWT: s.gap})
	if s.t1 {
		s.gap = a.CWT(rate) + latency
		e = proto.NewT1(s, proto.T1Params{
			IFSC: a.IFSC(), CRC: a.CRC(), Stream: true,
			BWT: a.BWT(rate), Timeout: a.BWT(rate) + latency, CWT: s.gap,
		})
	}
	return towitokoEngine{e, s}, nil
}

// selectProtocol asks a card that was just reset for another protocol than its
// first.
func (s *towitokoSlot) selectProtocol(ctx context.Context, t proto.ID, a *atr.ATR) error {
	req, err := a.PPS(t, atr.Absent)
	if err != nil {
		return err
	}
	if s.used {
		if _, err := s.Reset(ctx); err != nil {
			return err
		}
	}
	if err := s.enter(ctx); err != nil {
		return err
	}
	defer s.leave()
	_, err = exchangePPS(ctx, s, req, towitokoReply)
	if err != nil {
		s.silence(ctx)
	}
	return err
}

// towitokoEngine has the line while it exchanges an APDU.
type towitokoEngine struct {
	proto.Engine
	slot *towitokoSlot
}

func (e towitokoEngine) Limits() proto.Limits { return proto.LimitsOf(e.Engine) }

func (e towitokoEngine) Transmit(ctx context.Context, apdu, resp []byte) ([]byte, error) {
	s := e.slot
	if err := s.enter(ctx); err != nil {
		return nil, err
	}
	defer s.leave()
	if s.odd != s.inverse { // the other slot's card has the other convention
		if err := s.parity(ctx, s.inverse); err != nil {
			return nil, err
		}
	}
	resp, err := e.Engine.Transmit(ctx, apdu, resp)
	if errors.Is(err, proto.ErrResetRequired) {
		s.silence(ctx)
	}
	return resp, err
}

// silence takes the power of a card that must be reset before it is used again, in a
// reader with two slots: what it says too late would pass for an answer of the other
// slot's card.
func (s *towitokoSlot) silence(ctx context.Context) {
	if len(s.slots) > 1 {
		// Without a card or a reader it fails, and there is nothing to silence.
		_ = s.do(context.WithoutCancel(ctx), 0x61, 0x0F)
	}
}

// Send implements proto.Link: a header says how many bytes for the card follow.
func (s *towitokoSlot) Send(ctx context.Context, b []byte) error {
	s.used = true
	if err := s.line.Flush(serial.In); err != nil {
		return err
	}
	for len(b) > 0 {
		part := b[:min(len(b), 255)]
		b = b[len(part):]
		head := []byte{0x6F, byte(len(part)), 0x05}
		out := append(append(head, towitokoSum(s.seed, head)), part...)
		if s.inverse {
			atr.Invert(out[4:])
		}
		err := s.line.Write(ctx, out)
		clear(out) // there may be a PIN
		if err != nil {
			return err
		}
	}
	return nil
}

// Recv implements proto.Link: timeout is for the first byte.
func (s *towitokoSlot) Recv(ctx context.Context, buf []byte, timeout time.Duration) (int, error) {
	n := 0
	for wait := timeout; n < len(buf); wait = s.gap {
		got, err := s.line.Read(ctx, buf[n:], wait)
		n += got
		switch {
		case err == nil:
		case s.t1 && errors.Is(err, device.ErrTimeout):
			return n, fmt.Errorf("%w: %d of %d bytes: %w", proto.ErrCorrupted, n, len(buf), err)
		default:
			return n, fmt.Errorf("%d of %d bytes: %w", n, len(buf), err)
		}
	}
	if s.inverse {
		atr.Invert(buf)
	}
	return n, nil
}
