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

// token is a reader with a card that cannot be taken out: one slot behind
// interface 0. Drivers give it their slot.
type token struct {
	dev  usb.Device
	slot ifd.Slot
	name string
}

// openToken claims interface 0, which every token here needs, and nothing more:
// opening a token makes no traffic.
func openToken(dev usb.Device, slot ifd.Slot, o ifd.Options) (ifd.Reader, error) {
	if err := dev.Claim(0, 0); err != nil {
		return nil, err
	}
	return &token{dev: dev, slot: slot, name: o.Name}, nil
}

func (t *token) Slots() []ifd.Slot     { return []ifd.Slot{t.slot} }
func (t *token) Name() string          { return t.name }
func (t *token) Gone() <-chan struct{} { return t.dev.Gone() }
func (t *token) Close() error          { return t.dev.Close() }

// controlLink carries T=1 blocks in the data stages of two vendor requests,
// as the eTokens and the StarKey do: one OUT, then one IN.
type controlLink struct {
	dev       usb.Device
	send, get usb.Setup
}

func (l *controlLink) Send(ctx context.Context, block []byte) error {
	return sendAll(ctx, l.dev, l.send, block, controlTimeout)
}

func (l *controlLink) Recv(ctx context.Context, buf []byte, timeout time.Duration) (int, error) {
	return l.dev.Control(ctx, l.get, buf, timeout)
}

// choose settles the protocol for a card: p if its ATR offers that, or for
// proto.Default the one the ATR puts first.
func choose(p proto.ID, a *atr.ATR) (proto.ID, error) {
	switch {
	case a == nil:
		return 0, fmt.Errorf("card without a usable ATR: %w", ifd.ErrInvalidATR)
	case p == proto.Default:
		return a.Default(), nil
	case !a.Offers(p):
		return 0, fmt.Errorf("protocol %d: %w", p, ifd.ErrNotSupported)
	}
	return p, nil
}

// t1Only refuses whatever is not T=1, for a token that carries its blocks and
// nothing else.
func t1Only(token string, p proto.ID, a *atr.ATR) error {
	p, err := choose(p, a)
	if err == nil && p != proto.T1 {
		err = fmt.Errorf("%s does not support T=%d: %w", token, p, ifd.ErrNotSupported)
	}
	return err
}

// preferT1 makes T=1 the default for a card that offers it at all, for tokens
// that talk T=1 to such a card whatever the ATR puts first.
func preferT1(p proto.ID, a *atr.ATR) proto.ID {
	if p == proto.Default && a != nil && a.Offers(proto.T1) {
		return proto.T1
	}
	return p
}

// maxBusy bounds how long a token may call itself busy with one command. A
// 2048-bit key takes such chips a minute or two.
const maxBusy = 3 * time.Minute

// phases is the state of a token that takes APDUs apart in several transfers
// of its own. After a failed exchange nobody knows which of them it expects
// next, and the card must be reset.
type phases struct {
	proto.Session
	end time.Time // until when the token may be busy with what it was told
}

// give begins something that the token may be busy with for so long.
func (ph *phases) give(d time.Duration) { ph.end = time.Now().Add(d) }

// overdue is the error of a token that is busy for too long.
func (ph *phases) overdue() error {
	if time.Now().Before(ph.end) {
		return nil
	}
	return fmt.Errorf("the token stays busy: %w", usb.ErrTimeout)
}

// engine makes the engine for such a token. Its card runs T=0 behind the
// token, and either name for that will do.
func (ph *phases) engine(p proto.ID, x proto.Exchange) (proto.Engine, error) {
	if p != proto.Default && p != proto.T0 && p != proto.Transparent {
		return nil, fmt.Errorf("protocol %d: %w", p, ifd.ErrNotSupported)
	}
	return proto.NewTransparent(func(ctx context.Context, apdu, resp []byte) ([]byte, error) {
		if err := ph.Lost(); err != nil {
			return nil, err
		}
		ph.give(maxBusy)
		out, err := x(ctx, apdu, resp)
		if err != nil && !errors.Is(err, proto.ErrInvalidAPDU) {
			return nil, ph.Lose(err)
		}
		return out, err
	}), nil
}

// Limits implements proto.Limiter: such a token takes short APDUs (parseTPDU).
func (ph *phases) Limits() proto.Limits { return proto.ShortAPDU }

// tpdu is a short command APDU as T=0 carries it (ISO/IEC 7816-3, 12.2).
type tpdu struct {
	header [5]byte // CLA INS P1 P2 P3; P3 is Lc or else Le
	data   []byte
	le     int // bytes of response data allowed, 0 to 256
}

func parseTPDU(apdu []byte) (tpdu, error) {
	c, err := proto.ParseCommand(apdu)
	if err == nil && c.Extended {
		err = fmt.Errorf("%w: this token does not support extended length", proto.ErrInvalidAPDU)
	}
	if err != nil {
		return tpdu{}, err
	}
	t := tpdu{data: c.Data, le: c.Le}
	copy(t.header[:], apdu)
	return t, nil
}

// orMax decodes a length in which 0 stands for 256.
func orMax(b byte) int {
	if b == 0 {
		return 256
	}
	return int(b)
}
