package token

import (
	"context"
	"sync"

	"openct/internal/usb"
	"openct/internal/vusb"
	"openct/internal/vusb/card"
)

// StarKey is a G&D StarKey 100: it sends its ATR by itself, on an interrupt
// endpoint, and takes T=1 blocks as an eToken does
// (doc/devices/starkey.md). Nothing in its descriptors but the endpoint's address is known.
type StarKey struct {
	desc vusb.Descriptors

	// Variants, set before plugging: Again sends the ATR again whenever it
	// was read, Empty sends so many empty packets ahead of the first.
	Again bool
	Empty int

	mu    sync.Mutex
	chip  *card.T1
	atr   []byte
	in    vusb.Queue
	ready bool   // somebody has had the ATR
	block []byte // from the host, not yet answered
}

// Endpoint and packet of a low-speed device: an ATR takes several packets.
const (
	starKeyIn     = 0x81
	starKeyPacket = 8
)

// NewStarKey makes a StarKey 100 (096e:0005).
func NewStarKey(c card.Card) *StarKey {
	t := &StarKey{
		desc: vendorToken(0x096E, 0x0005, 0x0100, vusb.LowSpeed, 100, "", "StarKey 100", vusb.Endpoint(starKeyIn, usb.EndpointInterrupt, starKeyPacket)),
		chip: card.NewT1(c, card.T1Options{MaxINF: 32}),
		in:   vusb.NewQueue(starKeyPacket),
	}
	t.Reset()
	return t
}

// Chip is the card's side of T=1, for tests that make it misbehave.
func (t *StarKey) Chip() *card.T1 { return t.chip }

// Descriptors implements Model.
func (t *StarKey) Descriptors() vusb.Descriptors { return t.desc }

// Reset implements Model. The card is powered up with the token.
func (t *StarKey) Reset() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.atr, t.block, t.ready, t.in.Packets = t.chip.Reset(), nil, false, nil
	t.in.Add(t.atr, true)
}

// Out implements Model. There is no such endpoint.
func (t *StarKey) Out(context.Context, uint8, []byte) error { return vusb.ErrStall }

// In implements Model.
func (t *StarKey) In(ctx context.Context, ep uint8, max int) ([]byte, error) {
	if ep != starKeyIn {
		return nil, vusb.ErrStall
	}
	t.mu.Lock()
	if t.Empty > 0 {
		t.Empty--
		t.mu.Unlock()
		return nil, nil
	}
	t.mu.Unlock()
	b, err := t.in.Read(ctx, &t.mu, max)
	if err != nil {
		return nil, err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.ready = true
	if t.Again {
		t.block, t.atr = nil, t.chip.Reset()
		t.in.Add(t.atr, true)
	}
	return b, nil
}

// Control implements Model.
func (t *StarKey) Control(_ context.Context, s usb.Setup, out []byte, length int) ([]byte, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	switch s {
	case usb.Setup{RequestType: usb.VendorDeviceOut, Request: 0x06}:
		if !t.ready || t.block != nil || len(out) < 4 || len(out) > eTokenMaxBlock {
			return nil, vusb.ErrStall
		}
		t.block = append([]byte{}, out...)
		return nil, nil
	case usb.Setup{RequestType: usb.VendorDeviceIn, Request: 0x86}:
		if t.block == nil || length < 4 {
			return nil, vusb.ErrStall
		}
		block := t.block
		t.block = nil
		return t.chip.Block(block), nil
	}
	return nil, vusb.ErrStall
}
