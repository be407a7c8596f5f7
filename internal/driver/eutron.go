package driver

import (
	"context"
	"errors"
	"fmt"
	"time"

	"openct/internal/atr"
	"openct/internal/ifd"
	"openct/internal/proto"
	"openct/internal/usb"
)

// The Eutron CryptoIdentity IT-SEC is a byte pipe: what goes in with one
// vendor request to the endpoint recipient goes to the card, and what the card
// says piles up in the token until another fetches it
// (doc/devices/eutron.md).
const (
	eutronWrite = 0x01 // OUT: bytes to the card
	eutronRead  = 0x02 // IN: bytes from the card, none if there are none
	eutronReset = 0x09 // OUT: reset the card; its ATR comes through eutronRead
	eutronSpeed = 0x65 // OUT: data rate in wValue, coded as TA1, or 1 for the default

	// Steps of the initialisation whose meaning is not known.
	eutronA0 = 0xA0
	eutronA1 = 0xA1
	eutronA2 = 0xA2
	eutronA3 = 0xA3
)

const (
	eutronTimeout = time.Second // of transfers that carry the card's bytes

	eutronDrain  = 164 // wLength when old bytes are thrown away
	eutronATR    = 64
	eutronPPS    = 7
	eutronBuffer = 499 // and otherwise: 500 bytes, less one

	// The ATR and the PPS response have 20 looks, 100 ms apart.
	eutronLooks = 20
	eutronPause = 100 * time.Millisecond

	// Everything else is looked for until its time is over, more often at
	// first. Once a block has begun, the rest is never far.
	eutronPauseMin = 10 * time.Millisecond
	eutronGap      = 3 * time.Second

	// eutronDrains bounds the throwing away: a token that always has more is
	// broken.
	eutronDrains = 32
)

func eutronOut(request uint8, value uint16) usb.Setup {
	return usb.Setup{RequestType: usb.VendorEndpointOut, Request: request, Value: value}
}

// eutron is the slot.
type eutron struct {
	dev usb.Device
}

func openEutron(dev usb.Device, o ifd.Options) (ifd.Reader, error) {
	return openToken(dev, &eutron{dev: dev}, o)
}

func (t *eutron) Reset(ctx context.Context) ([]byte, error) {
	for _, request := range []uint8{eutronA3, eutronA1, eutronA2, eutronA0} {
		if err := t.command(ctx, request, 0); err != nil {
			return nil, fmt.Errorf("reset: %w", err)
		}
	}
	buf := make([]byte, eutronDrain)
	for range eutronDrains {
		if n, err := t.read(ctx, buf, eutronTimeout); err != nil || n == 0 {
			break // an error shows again at once
		}
	}
	if err := t.command(ctx, eutronReset, 0); err != nil {
		return nil, fmt.Errorf("reset: %w", err)
	}
	raw, err := t.collect(ctx, eutronATR, atr.Complete)
	if err == nil {
		raw, err = rawATR(raw)
	}
	if err != nil {
		return nil, fmt.Errorf("reset: %w", err)
	}
	return raw, nil
}

// Protocol is T=1 for a card that offers it, for the token knows no way back.
// The speed stays the default one, as in C OpenCT.
func (t *eutron) Protocol(ctx context.Context, p proto.ID, a *atr.ATR) (proto.Engine, error) {
	p, err := choose(preferT1(p, a), a)
	if err != nil {
		return nil, err
	}
	if p != proto.T1 && (p != proto.T0 || a.Offers(proto.T1)) {
		return nil, fmt.Errorf("protocol T=%d on a CryptoIdentity: %w", p, ifd.ErrNotSupported)
	}
	if err := t.selectProtocol(ctx, p, a); err != nil {
		return nil, fmt.Errorf("select T=%d: %w", p, err)
	}
	if p == proto.T0 {
		return proto.NewT0(&eutronLink{t: t}, proto.T0Params{Stream: true, WWT: a.WWT(atr.Rate{})}), nil
	}
	e := proto.NewT1(&eutronLink{t: t, gap: eutronGap}, proto.T1Params{
		Stream: true, IFSC: a.IFSC(), CRC: a.CRC(), BWT: a.BWT(atr.Rate{}),
	})
	if a.IFSC() != atr.DefaultIFSC {
		// As long a block for the host as for the card. A card that does not
		// want to is left with 32.
		if err := e.NegotiateIFSD(ctx, a.IFSC()); err != nil && !errors.Is(err, proto.ErrProtocol) {
			return nil, err
		}
	}
	return e, nil
}

// selectProtocol does the PPS, but not with a card in specific mode, and tells
// the token that it is over.
func (t *eutron) selectProtocol(ctx context.Context, p proto.ID, a *atr.ATR) error {
	if _, specific := a.Specific(); !specific {
		request, err := a.PPS(p, atr.Absent)
		if err != nil {
			return err
		}
		if err := sendAll(ctx, t.dev, eutronOut(eutronWrite, 0), request, eutronTimeout); err != nil {
			return err
		}
		response, err := t.collect(ctx, eutronPPS, func(b []byte) bool { return atr.NeedPPS(b) == 0 })
		if err != nil {
			return err
		}
		if _, err := atr.CheckPPS(request, response); err != nil {
			return fmt.Errorf("%w: %w", ifd.ErrComm, err)
		}
	}
	for _, s := range []usb.Setup{eutronOut(eutronSpeed, 1), eutronOut(eutronA1, 0), eutronOut(eutronA0, 0)} {
		if err := t.command(ctx, s.Request, s.Value); err != nil {
			return err
		}
	}
	return nil
}

func (t *eutron) command(ctx context.Context, request uint8, value uint16) error {
	return sendAll(ctx, t.dev, eutronOut(request, value), nil, controlTimeout)
}

func (t *eutron) read(ctx context.Context, buf []byte, timeout time.Duration) (int, error) {
	return t.dev.Control(ctx, usb.Setup{RequestType: usb.VendorEndpointIn, Request: eutronRead}, buf, timeout)
}

// collect fetches up to room bytes, until done or no more looks are left.
func (t *eutron) collect(ctx context.Context, room int, done func([]byte) bool) ([]byte, error) {
	buf, have := make([]byte, room), 0
	for range eutronLooks {
		n, err := t.read(ctx, buf[have:], eutronTimeout)
		if err != nil {
			return nil, err
		}
		have += n
		if done(buf[:have]) || have == room {
			break
		}
		if err := pause(ctx, t.dev, eutronPause); err != nil {
			return nil, err
		}
	}
	return buf[:have], nil
}

// eutronLink carries a stream of bytes.
type eutronLink struct {
	t     *eutron
	gap   time.Duration // the longest silence within an answer; 0: no rule
	in    []byte        // fetched from the token, not yet asked for
	begun bool          // some of the card's answer has come
}

// Send forgets what the card has said before: it is the host's turn, and the
// rest of an answer that was not wanted must not become the start of the next.
func (l *eutronLink) Send(ctx context.Context, b []byte) error {
	l.in, l.begun = l.in[:0], false
	return sendAll(ctx, l.t.dev, eutronOut(eutronWrite, 0), b, eutronTimeout)
}

// Recv fills buf. A card that is thinking has no bytes. One that breaks off
// within a block can be asked again.
func (l *eutronLink) Recv(ctx context.Context, buf []byte, timeout time.Duration) (int, error) {
	limit := time.Now().Add(timeout)
	end, left := l.silence(limit), timeout
	for wait := eutronPauseMin; ; left = time.Until(end) {
		var fresh [eutronBuffer]byte
		if len(l.in) < len(buf) {
			n, err := l.t.read(ctx, fresh[:eutronBuffer-len(l.in)], max(left, time.Millisecond))
			if err != nil {
				return 0, err
			}
			if n > 0 {
				l.in = append(l.in, fresh[:n]...)
				l.begun, wait = true, eutronPauseMin
				if l.gap == 0 { // every byte may take that long
					limit = time.Now().Add(timeout)
				}
				end = l.silence(limit)
			}
		}
		switch left = time.Until(end); {
		case len(l.in) >= len(buf):
			n := copy(buf, l.in)
			l.in = append(l.in[:0], l.in[n:]...)
			return n, nil
		case left > 0:
		case l.begun && l.gap > 0:
			return 0, fmt.Errorf("%d of %d bytes: %w", len(l.in), len(buf), proto.ErrCorrupted)
		default:
			return 0, fmt.Errorf("%d of %d bytes: %w", len(l.in), len(buf), usb.ErrTimeout)
		}
		if err := pause(ctx, l.t.dev, min(wait, left)); err != nil {
			return 0, err
		}
		wait = min(2*wait, eutronPause)
	}
}

// silence is until when it may last from now on.
func (l *eutronLink) silence(limit time.Time) time.Time {
	if gap := time.Now().Add(l.gap); l.begun && l.gap > 0 && gap.Before(limit) {
		return gap
	}
	return limit
}
