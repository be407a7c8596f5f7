package driver

import (
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
}

// openToken claims interface 0, which every token here needs
// (spec/drivers-usb-tokens.md, 0.3), and nothing more: opening a token makes
// no traffic.
func openToken(dev usb.Device, slot ifd.Slot) (ifd.Reader, error) {
	if err := dev.Claim(0, 0); err != nil {
		return nil, err
	}
	return &token{dev: dev, slot: slot}, nil
}

func (t *token) Slots() []ifd.Slot { return []ifd.Slot{t.slot} }
func (t *token) Close() error      { return t.dev.Close() }

// controlLink carries T=1 blocks in the data stages of two vendor requests,
// as the eTokens and the StarKey do: one OUT, then one IN.
type controlLink struct {
	dev       usb.Device
	send, get usb.Setup
}

func (l *controlLink) Send(block []byte) error {
	return sendAll(l.dev, l.send, block, controlTimeout)
}

func (l *controlLink) Recv(buf []byte, timeout time.Duration) (int, error) {
	return l.dev.Control(l.get, buf, timeout)
}

// choose settles the protocol for a card: p if its ATR offers that, or for
// proto.Default the one the ATR puts first.
func choose(p proto.ID, a *atr.ATR) (proto.ID, error) {
	switch {
	case a == nil:
		return 0, fmt.Errorf("card without a usable ATR: %w", ifd.ErrInvalidATR)
	case p == proto.Default:
		return proto.ID(a.Default()), nil
	case p < 0 || p > 14 || !a.Offers(int(p)):
		return 0, fmt.Errorf("protocol %d: %w", p, ifd.ErrNotSupported)
	}
	return p, nil
}
