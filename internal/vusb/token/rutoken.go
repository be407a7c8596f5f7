package token

import (
	"context"
	"sync"

	"openct/internal/usb"
	"openct/internal/vusb"
	"openct/internal/vusb/card"
)

// Rutoken is an Aktiv Rutoken S: a T=0 card behind vendor requests to the
// interface (doc/devices/rutoken.md). It speaks the token's own language:
// file headers, big-endian numbers. Clients of the driver speak another, so a
// card that is selected by names or has files of ISO's kind is not found
// behind it; card.Rutoken is.
type Rutoken struct {
	noEndpoints
	desc vusb.Descriptors

	// Variants, set before plugging. Busy is how many looks find the token
	// busy after each step; Stuck stops its counter.
	Busy  int
	Stuck bool

	mu    sync.Mutex
	chip  *card.T0
	state byte // high nibble of the status
	busy  int
	count byte // of looks while it is busy
	off   bool // power is off, the ATR may be fetched
	head  [5]byte
	lc    int
	data  []byte
	sw    []byte
}

// States of a Rutoken.
const (
	rutokenIdle = 0x00
	rutokenData = 0x10
	rutokenSW   = 0x20
	rutokenBusy = 0x40
	rutokenMute = 0x80
)

// NewRutoken makes a Rutoken S (0a89:0020). Its names are a guess.
func NewRutoken(c card.Card) *Rutoken {
	return &Rutoken{
		desc: vendorToken(0x0A89, 0x0020, 0x0100, vusb.FullSpeed, 100, "Aktiv", "Rutoken S", classDescriptor()),
		chip: card.NewT0(c), state: rutokenMute, Busy: 3,
	}
}

// Chip is the card's side of T=0, for tests that make it misbehave.
func (t *Rutoken) Chip() *card.T0 { return t.chip }

// Descriptors implements Model.
func (t *Rutoken) Descriptors() vusb.Descriptors { return t.desc }

// Reset implements Model.
func (t *Rutoken) Reset() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.state, t.off = rutokenMute, false
}

// Control implements Model.
func (t *Rutoken) Control(_ context.Context, s usb.Setup, out []byte, length int) ([]byte, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	switch s {
	case usb.Setup{RequestType: usb.VendorInterfaceOut, Request: 0x63}:
		t.state, t.off = rutokenData, true
		t.work()
		return nil, nil
	case usb.Setup{RequestType: usb.VendorInterfaceIn, Request: 0xA0}:
		return t.status(length)
	}
	if t.busy > 0 {
		return nil, vusb.ErrStall // it was told to wait
	}
	switch s {
	case usb.Setup{RequestType: usb.VendorInterfaceIn, Request: 0x62}:
		if !t.off || length != len(card.RutokenATR) {
			return nil, vusb.ErrStall
		}
		t.state, t.off = rutokenIdle, false
		return t.chip.Reset(), nil
	case usb.Setup{RequestType: usb.VendorInterfaceOut, Request: 0x65}:
		return nil, t.take(out)
	case usb.Setup{RequestType: usb.VendorInterfaceIn, Request: 0x6F}:
		return t.read(length)
	}
	return nil, vusb.ErrStall
}

// work keeps the token busy for a while. Its counter goes on from zero.
func (t *Rutoken) work() { t.busy, t.count = t.Busy, 0 }

func (t *Rutoken) status(length int) ([]byte, error) {
	if length != 1 {
		return nil, vusb.ErrStall
	}
	if t.busy == 0 {
		return []byte{t.state}, nil
	}
	t.busy--
	if !t.Stuck {
		t.count = (t.count + 1) & 0x0F
	}
	return []byte{rutokenBusy | t.count}, nil
}

// take takes the header of a command, or its data.
func (t *Rutoken) take(b []byte) error {
	switch {
	case t.state == rutokenIdle && len(b) == 5:
		t.head = [5]byte(b)
		// A SELECT that asks for a header's 32 bytes brings no data.
		if t.lc = t.chip.Expects(t.head); t.lc > 0 && t.head != [5]byte{0x00, 0xA4, t.head[2], t.head[3], 32} {
			t.state = rutokenData
			t.work()
			return nil
		}
		t.lc = 0
		t.run(b)
	case t.state == rutokenData && t.lc > 0 && len(b) == t.lc:
		t.run(append(t.head[:], b...))
	default:
		return vusb.ErrStall
	}
	return nil
}

// run gives the card its command and keeps the response.
func (t *Rutoken) run(tpdu []byte) {
	resp := t.chip.TPDU(tpdu)
	n := len(resp) - 2
	t.data, t.sw, t.lc = resp[:n], resp[n:], 0
	t.state = rutokenSW
	if n > 0 {
		t.state = rutokenData
	}
	t.work()
}

// read hands out what the phase has. What of the data is not asked for is
// lost.
func (t *Rutoken) read(length int) ([]byte, error) {
	switch {
	case t.state == rutokenData && len(t.data) > 0 && length > 0:
		t.state = rutokenSW
		return t.data[:min(length, len(t.data))], nil
	case t.state == rutokenSW && length == 2:
		t.state = rutokenIdle
		return t.sw, nil
	}
	return nil, vusb.ErrStall
}
