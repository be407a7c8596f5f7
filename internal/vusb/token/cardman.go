package token

import (
	"context"
	"sync"

	"openct/internal/atr"
	"openct/internal/proto"
	"openct/internal/usb"
	"openct/internal/vusb"
	"openct/internal/vusb/card"
)

// CardMan is an OMNIKEY CardMan 2020: vendor requests to the endpoint
// recipient, answers on an interrupt endpoint (doc/devices/cardman.md). It knows
// T=0 alone. What is in its descriptors beside the endpoint is made up.
type CardMan struct {
	desc vusb.Descriptors

	// Variants, set before plugging. End puts an empty packet behind an answer
	// that fills its last one. WarmOnly leaves a cold reset without an answer.
	End      bool
	WarmOnly bool

	mu     sync.Mutex
	card   card.Card // nil: none
	chip   *card.T0
	on     bool
	set    bool // the line's parameters are those of a card after a reset
	speaks proto.ID
	in     vusb.Queue
}

const (
	cardManIn     = 0x81
	cardManPacket = 8
)

// NewCardMan makes a CardMan 2020 (076b:0596).
func NewCardMan(c card.Card) *CardMan {
	r := &CardMan{
		desc: vendorToken(0x076B, 0x0596, 0x0100, vusb.LowSpeed, 100, "OMNIKEY", "CardMan 2020", vusb.Endpoint(cardManIn, usb.EndpointInterrupt, cardManPacket)),
		in:   vusb.NewQueue(cardManPacket),
	}
	r.Insert(c)
	return r
}

// Insert puts a card in, in place of the one that may be there.
func (r *CardMan) Insert(c card.Card) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.card, r.chip, r.on = c, nil, false
	if c != nil {
		r.chip = card.NewT0(c)
	}
}

// Remove takes the card out.
func (r *CardMan) Remove() { r.Insert(nil) }

// Chip is the card's side of T=0, for tests that make it misbehave; nil without
// a card.
func (r *CardMan) Chip() *card.T0 { return r.chip }

// Powered says whether the card has power.
func (r *CardMan) Powered() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.on
}

// Descriptors implements Model.
func (r *CardMan) Descriptors() vusb.Descriptors { return r.desc }

// Reset implements Model.
func (r *CardMan) Reset() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.on, r.set, r.in.Packets = false, false, nil
}

// Out implements Model. There is no such endpoint.
func (r *CardMan) Out(context.Context, uint8, []byte) error { return vusb.ErrStall }

// In implements Model.
func (r *CardMan) In(ctx context.Context, ep uint8, max int) ([]byte, error) {
	if ep != cardManIn {
		return nil, vusb.ErrStall
	}
	return r.in.Read(ctx, &r.mu, max)
}

// Control implements Model. A card that does not answer leaves the endpoint
// silent.
func (r *CardMan) Control(_ context.Context, s usb.Setup, out []byte, _ int) ([]byte, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	set := s.Request == 0x30 && s.Index == 2
	if s.RequestType != usb.VendorEndpointOut || s.Index != 0 && !set || s.Value != 0 && !set && s.Request != 0x10 {
		return nil, vusb.ErrStall
	}
	switch {
	case s.Request == 0x02 && r.set && len(out) >= 5:
		if r.on && r.speaks == proto.T0 {
			r.in.Add(r.chip.TPDU(out), r.End)
		}
	case s.Request == 0x10 && s.Value <= 1 && len(out) == 0:
		r.powerOn(s.Value == 1)
	case s.Request == 0x11 && len(out) == 0:
		r.on = false
	case s.Request == 0x20 && len(out) == 0:
		r.in.Add([]byte{r.status()}, r.End)
	case set && len(out) == 0:
		r.set = s.Value == 0x0100
	default:
		return nil, vusb.ErrStall
	}
	return nil, nil
}

func (r *CardMan) status() byte {
	switch {
	case r.card == nil:
		return 0x00
	case !r.on:
		return 0x40
	}
	return 0xC0
}

func (r *CardMan) powerOn(warm bool) {
	if r.card == nil || r.WarmOnly && !warm {
		return
	}
	raw := r.chip.Reset()
	r.on, r.speaks = true, proto.T0
	if a, err := atr.Parse(raw); err == nil {
		r.speaks = a.Default()
	}
	r.in.Add(raw, r.End)
}
