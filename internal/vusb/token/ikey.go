package token

import (
	"bytes"
	"context"
	"encoding/binary"
	"sync"

	"openct/internal/usb"
	"openct/internal/vusb"
	"openct/internal/vusb/card"
)

// IKey is a Rainbow iKey 2032 or 3000: T=1 blocks in vendor requests to the
// interface, the first four bytes of each in wValue and wIndex. The reset has
// an order, every block has one answer, and junk follows it
// (doc/devices/ikey.md).
type IKey struct {
	noEndpoints
	desc  vusb.Descriptors
	order []iKeyRequest // the reset

	// Exact leaves out the junk behind blocks. Set it before plugging.
	Exact bool

	mu     sync.Mutex
	chip   *card.T1
	at     int // how far in order
	atr    []byte
	answer []byte // the card's block; nil: none, empty: it is silent
}

// iKeyRequest is one request of the reset: a command, or what asks for a
// result.
type iKeyRequest struct {
	request uint8
	command uint16 // wValue of request 16
	length  int    // wLength of the others
	in      []byte // what is answered
	atr     func(atr []byte) []byte
}

// iKeyAnswer is the wLength with which blocks are fetched.
const iKeyAnswer = 255

// iKeyJunk was seen behind a block.
var iKeyJunk = [...]byte{0x40, 0x98, 0xC1}

// IKey2kATR is the answer to reset of an iKey 2032's own card. The token
// hands out 25 bytes, whatever the card's are.
var IKey2kATR = [...]byte{
	0x3B, 0xFF, 0x11, 0x00, 0x00, 0x81, 0x31, 0xFE, 0x4D, 0x80, 0x25, 0xA0, 0x00, 0x00, 0x00,
	0x56, 0x57, 0x44, 0x4B, 0x33, 0x33, 0x30, 0x06, 0x00, 0xD0,
}

// NewIKey2k makes an iKey 2032 (04b9:1202).
func NewIKey2k(c card.Card) *IKey {
	as25 := func(atr []byte) []byte {
		return append(bytes.Clone(atr), make([]byte, len(IKey2kATR))...)[:len(IKey2kATR)]
	}
	off := []iKeyRequest{{request: 0x16}, {request: 0x01, length: 2, in: []byte{0}}}
	on := []iKeyRequest{{request: 0x16, command: 0x1901}, {request: 0x01, length: 25, atr: as25}}
	order := []iKeyRequest{{request: 0x00, length: 0x40,
		in: []byte{0x0D, 0x63, 0x00, 0x05, 0x2D, 0x2D, 0xC0, 0x80, 0x80, 0x60, 0x80, 0x01, 0x19}}}
	order = append(append(append(order, off...), on...), off...)
	order = append(order, iKeyRequest{request: 0x16}, iKeyRequest{request: 0x01, length: 32, in: []byte{0}})
	return newIKey(c, vendorToken(0x04B9, 0x1202, 0x0100, vusb.LowSpeed, 56, "", "iKey 2032"), append(order, on...))
}

// NewIKey3k makes an iKey 3000 (04b9:1300). Speed, power and name are the
// iKey 2032's and a guess.
func NewIKey3k(c card.Card) *IKey {
	padded := func(atr []byte) []byte {
		return append(append([]byte{byte(len(atr))}, atr...), make([]byte, 32)...)[:32]
	}
	return newIKey(c, vendorToken(0x04B9, 0x1300, 0x0100, vusb.LowSpeed, 56, "", "iKey 3000"), []iKeyRequest{
		{request: 0x00, length: 0x40, in: []byte{0x0A, 0x61, 0x00, 0x07, 0x2D, 0x2D, 0xC0, 0x80, 0x80, 0x60}},
		{request: 0x16}, {request: 0x01, length: 2, in: []byte{0}},
		{request: 0x16, command: 0x2005}, {request: 0x01, length: 32, atr: padded},
		{request: 0x16, command: 0x0002}, {request: 0x01, length: 4, in: []byte{0xFF, 0x11, 0x11, 0xFF}},
	})
}

func newIKey(c card.Card, d vusb.Descriptors, order []iKeyRequest) *IKey {
	return &IKey{desc: d, order: order, chip: card.NewT1(c, card.T1Options{})}
}

// Chip is the card's side of T=1, for tests that make it misbehave.
func (t *IKey) Chip() *card.T1 { return t.chip }

// Descriptors implements Model.
func (t *IKey) Descriptors() vusb.Descriptors { return t.desc }

// Reset implements Model.
func (t *IKey) Reset() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.at, t.atr, t.answer = 0, nil, nil
}

// Control implements Model.
func (t *IKey) Control(ctx context.Context, s usb.Setup, out []byte, length int) ([]byte, error) {
	in, err := t.control(s, out, length)
	if err == nil && s.In() && len(in) == 0 {
		<-ctx.Done() // the card is silent
		return nil, ctx.Err()
	}
	return in, err
}

func (t *IKey) control(s usb.Setup, out []byte, length int) ([]byte, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	switch {
	case s.RequestType == usb.VendorInterfaceOut && s.Request == 0x17:
		return nil, t.take(s, out)
	case s.RequestType == usb.VendorInterfaceIn && s.Value == 0 && s.Index == 0:
		if s.Request == 0x01 && t.at == len(t.order) {
			return t.block(length)
		}
		if s.Request == 0x00 {
			t.at = 0 // a reset may begin at any time
		}
	case s.RequestType != usb.VendorInterfaceOut || s.Request != 0x16 || s.Index != 0 || len(out) != 0:
		return nil, vusb.ErrStall
	}
	if t.at == len(t.order) {
		return nil, vusb.ErrStall
	}
	step := t.order[t.at]
	if step.request != s.Request || step.command != s.Value || step.length != length {
		return nil, vusb.ErrStall
	}
	t.at++
	t.answer = nil
	switch {
	case step.command&0xFF == 0x01 || step.command&0xFF == 0x05:
		t.atr = t.chip.Reset()
	case step.atr != nil:
		return step.atr(t.atr), nil
	}
	return step.in, nil
}

// take puts a block together and gives it to the card.
func (t *IKey) take(s usb.Setup, out []byte) error {
	block := binary.LittleEndian.AppendUint16(nil, s.Value)
	block = binary.LittleEndian.AppendUint16(block, s.Index)
	block = append(block, out...)
	if t.at != len(t.order) || t.answer != nil || len(block) != 3+int(block[2])+1 {
		return vusb.ErrStall
	}
	t.answer = append([]byte{}, t.chip.Block(block)...)
	return nil
}

// block hands out the card's.
func (t *IKey) block(length int) ([]byte, error) {
	if t.answer == nil || length != iKeyAnswer {
		return nil, vusb.ErrStall
	}
	b := t.answer
	t.answer = nil
	if len(b) > 0 && !t.Exact {
		b = append(b, iKeyJunk[:]...)
	}
	return b, nil
}
