package token

import (
	"bytes"
	"context"
	"sync"

	"openct/internal/usb"
	"openct/internal/vusb"
	"openct/internal/vusb/card"
)

// Eutron is a Eutron CryptoIdentity IT-SEC: a byte pipe to a card, with an
// initialisation in four steps and a protocol selection that must happen
// (doc/devices/eutron.md).
type Eutron struct {
	noEndpoints
	desc vusb.Descriptors

	// Variants, set before plugging. Dribble is how many bytes the token
	// gives out at once, 0 for all. Idle is how many reads find nothing
	// before an answer is there. Stale is what it still has from before.
	Dribble int
	Idle    int
	Stale   []byte

	mu   sync.Mutex
	card card.Card
	t1   *card.T1
	t0   *card.T0

	at   int // how far in eutronOrder
	t    byte
	in   []byte // from the host, not yet a block
	out  []byte // for the host
	idle int
}

// eutronOrder is what must be done before the card takes blocks, by request; a
// reset begins with A3.
var eutronOrder = [...]struct {
	request uint8
	value   uint16
}{
	{0xA3, 0}, {0xA1, 0}, {0xA2, 0}, {0xA0, 0}, {0x09, 0}, // reset
	{0x01, 0},                       // protocol selection
	{0x65, 1}, {0xA1, 0}, {0xA0, 0}, // speed
}

const (
	eutronAtReset = 4
	eutronAtPPS   = 5
)

// NewEutron makes a CryptoIdentity IT-SEC (073d:0005). Its names, speed and
// power are guesses.
func NewEutron(c card.Card) *Eutron {
	return &Eutron{
		desc:  vendorToken(0x073D, 0x0005, 0x0120, vusb.LowSpeed, 100, "Eutron", "CryptoIdentity ITSEC"),
		card:  c,
		t1:    card.NewT1(c, card.T1Options{}),
		t0:    card.NewT0(c),
		Stale: []byte{0x5A, 0x5A},
	}
}

// Chip is the card's side of T=1, for tests that make it misbehave.
func (t *Eutron) Chip() *card.T1 { return t.t1 }

// Descriptors implements Model.
func (t *Eutron) Descriptors() vusb.Descriptors { return t.desc }

// Reset implements Model.
func (t *Eutron) Reset() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.at, t.in, t.out = 0, nil, nil
}

// Control implements Model. The token looks at requests, not at recipients.
func (t *Eutron) Control(_ context.Context, s usb.Setup, out []byte, length int) ([]byte, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	switch {
	case s.Index != 0 || s.RequestType&0x60 != 0x40:
		return nil, vusb.ErrStall
	case s.In() && s.Request == 0x02 && s.Value == 0:
		return t.read(length), nil
	case s.In():
		return nil, vusb.ErrStall
	case s.Request == 0x01 && s.Value == 0 && t.at == len(eutronOrder):
		t.take(out)
		return nil, nil
	case s.Request == eutronOrder[0].request:
		t.at, t.in = 0, nil
		t.out = append(t.out, t.Stale...)
	}
	if t.at == len(eutronOrder) || eutronOrder[t.at].request != s.Request || eutronOrder[t.at].value != s.Value {
		return nil, vusb.ErrStall
	}
	switch {
	case t.at == eutronAtPPS:
		if !t.selectProtocol(out) {
			return nil, nil // a card does not answer nonsense
		}
	case len(out) != 0:
		return nil, vusb.ErrStall
	case t.at == eutronAtReset:
		t.t0.Reset()
		t.out, t.idle = bytes.Clone(t.t1.Reset()), t.Idle
	}
	t.at++
	return nil, nil
}

// selectProtocol answers a PPS without parameters; what else is asked for
// stays as it is.
func (t *Eutron) selectProtocol(pps []byte) bool {
	if len(pps) < 3 || pps[0] != 0xFF || pps[1]&0x0F > 1 {
		return false
	}
	t.t = pps[1] & 0x0F
	t.out, t.idle = append(t.out, 0xFF, t.t, 0xFF^t.t), t.Idle
	return true
}

// take gives bytes to the card: in T=1 as soon as they are a block.
func (t *Eutron) take(b []byte) {
	t.idle = t.Idle
	if t.t == 0 {
		t.out = append(t.out, t.t0.Stream(b)...)
		return
	}
	t.in = append(t.in, b...)
	for len(t.in) >= 4 && len(t.in) >= 3+int(t.in[2])+1 {
		n := 3 + int(t.in[2]) + 1
		t.out = append(t.out, t.t1.Block(t.in[:n])...)
		t.in = t.in[n:]
	}
}

// read hands out what there is.
func (t *Eutron) read(length int) []byte {
	if t.idle > 0 {
		t.idle--
		return nil
	}
	n := min(length, len(t.out))
	if t.Dribble > 0 {
		n = min(n, t.Dribble)
	}
	b := bytes.Clone(t.out[:n])
	t.out = t.out[n:]
	return b
}
