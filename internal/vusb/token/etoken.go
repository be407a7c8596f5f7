// Package token has a virtual USB token for each of OpenCT's token drivers.
package token

import (
	"context"
	"sync"

	"openct/internal/usb"
	"openct/internal/vusb"
	"openct/internal/vusb/card"
)

// EToken is an Aladdin eToken PRO: T=1 blocks in vendor requests to the
// device. It is strict where the real one is said to be: the reset has an
// order, every block in has one block out, a block that is too long crashes it
// (doc/devices/etoken.md).
type EToken struct {
	noEndpoints
	desc  vusb.Descriptors
	order []eTokenRequest // what must follow the reset request before blocks are taken

	mu      sync.Mutex
	chip    *card.T1
	at      int    // how far in order; -1 before the first reset
	atr     []byte // latched by the reset
	block   []byte // from the host
	pending bool   // block is not yet answered
	crashed bool
}

// eTokenRequest is one request of the reset sequence with its answer.
type eTokenRequest struct {
	request uint8
	out     []byte // what an OUT request must carry
	in      []byte // what an IN request answers; nil: the ATR behind its length
}

// eTokenMaxBlock is the longest block the token takes: 3 bytes of prologue, 32
// of information, one of checksum.
const eTokenMaxBlock = 3 + 32 + 1

// NewEToken64 makes an eToken PRO 64k (0529:0600). The name strings are as
// usb.ids gives them, not read from a token.
func NewEToken64(c card.Card) *EToken {
	return newEToken(c, vendorToken(0x0529, 0x0600, 0x0100, vusb.FullSpeed, 60, "AKS", "eToken Pro 64k (4.2)"),
		[]eTokenRequest{
			{request: 0x81},
			{request: 0x08}, {request: 0x88, in: []byte{0x00, 0x00}},
			{request: 0x03}, {request: 0x83, in: []byte{0x00}},
		})
}

// NewEToken makes an eToken PRO 32k (0529:050c).
func NewEToken(c card.Card) *EToken {
	return newEToken(c, vendorToken(0x0529, 0x050C, 0x0100, vusb.LowSpeed, 60, "AKS", "eToken Pro 4154"),
		[]eTokenRequest{
			{request: 0x81},
			{request: 0x03}, {request: 0x83, in: make([]byte, 13)},
			{request: 0x02, out: []byte{0x00, 0x00, 0x01, 0x00}}, {request: 0x82, in: []byte{0x00}},
		})
}

func newEToken(c card.Card, d vusb.Descriptors, order []eTokenRequest) *EToken {
	return &EToken{desc: d, order: order, chip: card.NewT1(c, card.T1Options{MaxINF: 32}), at: -1}
}

// Chip is the card's side of T=1, for tests that make it misbehave.
func (t *EToken) Chip() *card.T1 { return t.chip }

// Descriptors implements Model.
func (t *EToken) Descriptors() vusb.Descriptors { return t.desc }

// Reset implements Model.
func (t *EToken) Reset() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.at, t.atr, t.pending, t.crashed = -1, nil, false, false
}

// Control implements Model.
func (t *EToken) Control(_ context.Context, s usb.Setup, out []byte, length int) ([]byte, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	want := uint8(usb.VendorDeviceOut)
	if s.Request&0x80 != 0 {
		want = usb.VendorDeviceIn
	}
	if t.crashed || s.RequestType != want || s.Value != 0 || s.Index != 0 {
		return nil, vusb.ErrStall
	}
	switch s.Request {
	case 0x01:
		t.at, t.atr, t.pending = 0, t.chip.Reset(), false
		return nil, nil
	case 0x06:
		return nil, t.take(out)
	case 0x86:
		return t.answer(length)
	}
	return t.initialise(s.Request, out)
}

// initialise is the rest of the reset sequence, in its order.
func (t *EToken) initialise(request uint8, out []byte) ([]byte, error) {
	if t.at < 0 || t.at >= len(t.order) || t.order[t.at].request != request {
		return nil, vusb.ErrStall
	}
	step := t.order[t.at]
	if len(out) < len(step.out) || string(out[:len(step.out)]) != string(step.out) {
		return nil, vusb.ErrStall
	}
	t.at++
	switch {
	case request&0x80 == 0:
		return nil, nil
	case step.in == nil:
		return append([]byte{byte(len(t.atr))}, t.atr...), nil
	}
	return step.in, nil
}

// take accepts a block for the card.
func (t *EToken) take(block []byte) error {
	if len(block) > eTokenMaxBlock {
		t.crashed = true // until it is plugged again
	}
	if t.at != len(t.order) || t.pending || len(block) < 4 || t.crashed {
		return vusb.ErrStall
	}
	t.block, t.pending = append(t.block[:0], block...), true
	return nil
}

// answer lets the card work on the block and returns the card's.
func (t *EToken) answer(length int) ([]byte, error) {
	if !t.pending || length < 4 {
		return nil, vusb.ErrStall
	}
	t.pending = false
	return t.chip.Block(t.block), nil
}
