package token

import (
	"context"
	"sync"

	"openct/internal/usb"
	"openct/internal/vusb"
	"openct/internal/vusb/card"
)

// EGate is a Schlumberger e-gate: a T=0 card with a USB port, whose commands
// go phase by phase through vendor requests to the device
// (doc/devices/egate.md). What is in its descriptors is a guess.
type EGate struct {
	noEndpoints
	desc vusb.Descriptors

	// Variants, set before plugging. Busy is how many looks find the token
	// busy after each step. Low is what stands in the low nibble of its
	// status. Split is how many bytes it gives out at once, 0 for all.
	Busy  int
	Low   byte
	Split int

	mu    sync.Mutex
	chip  *card.T0
	state byte // high nibble of the status
	busy  int
	atr   []byte
	head  [5]byte
	lc    int    // data bytes awaited
	data  []byte // response not yet fetched
	sw    []byte
}

// States of an e-gate.
const (
	eGateOff   = 0x80 // before the first reset
	eGateReady = 0x00
	eGateData  = 0x10
	eGateSW    = 0x20
	eGateBusy  = 0x40
)

// NewEGate makes an e-gate (0973:0001). The card's ATR should offer T=0.
func NewEGate(c card.Card) *EGate {
	return &EGate{
		desc: vendorToken(0x0973, 0x0001, 0x0100, vusb.LowSpeed, 100, "SchlumbergerSema", "e-gate", classDescriptor()),
		chip: card.NewT0(c), state: eGateOff, Low: 0x03,
	}
}

// Chip is the card's side of T=0, for tests that make it misbehave.
func (t *EGate) Chip() *card.T0 { return t.chip }

// Descriptors implements Model.
func (t *EGate) Descriptors() vusb.Descriptors { return t.desc }

// Reset implements Model.
func (t *EGate) Reset() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.state, t.atr = eGateOff, nil
}

// Control implements Model.
func (t *EGate) Control(_ context.Context, s usb.Setup, out []byte, length int) ([]byte, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	switch s {
	case usb.Setup{RequestType: usb.VendorDeviceOut, Request: 0x90}:
		t.atr, t.state, t.busy = t.chip.Reset(), eGateReady, t.Busy
		return nil, nil
	case usb.Setup{RequestType: usb.VendorDeviceIn, Request: 0xA0}:
		return t.status(length)
	}
	if t.busy > 0 {
		return nil, vusb.ErrStall // it was told to wait
	}
	switch s {
	case usb.Setup{RequestType: usb.VendorDeviceIn, Request: 0x83}:
		if t.atr == nil || length != 0x23 {
			return nil, vusb.ErrStall
		}
		return t.atr, nil
	case usb.Setup{RequestType: usb.VendorDeviceOut, Request: 0x80}:
		return nil, t.header(out)
	case usb.Setup{RequestType: usb.VendorDeviceOut, Request: 0x82}:
		if t.state != eGateData || t.lc == 0 || len(out) != t.lc {
			return nil, vusb.ErrStall
		}
		t.run(append(t.head[:], out...))
		return nil, nil
	case usb.Setup{RequestType: usb.VendorDeviceIn, Request: 0x81}:
		return t.read(length)
	}
	return nil, vusb.ErrStall
}

func (t *EGate) status(length int) ([]byte, error) {
	if length != 1 {
		return nil, vusb.ErrStall
	}
	if t.busy > 0 {
		t.busy--
		return []byte{eGateBusy | t.Low}, nil
	}
	return []byte{t.state | t.Low}, nil
}

// header takes the header of a command, and runs it if no data comes with it.
func (t *EGate) header(h []byte) error {
	if t.state != eGateReady || len(h) != 5 {
		return vusb.ErrStall
	}
	t.head = [5]byte(h)
	if t.lc = t.chip.Expects(t.head); t.lc > 0 {
		t.state, t.busy = eGateData, t.Busy
		return nil
	}
	t.run(h)
	return nil
}

// run gives the card its command and keeps the response.
func (t *EGate) run(tpdu []byte) {
	resp := t.chip.TPDU(tpdu)
	n := len(resp) - 2
	t.data, t.sw, t.lc, t.busy = resp[:n], resp[n:], 0, t.Busy
	t.state = eGateSW
	if n > 0 {
		t.state = eGateData
	}
}

// read hands out what the phase has.
func (t *EGate) read(length int) ([]byte, error) {
	switch {
	case t.state == eGateData && len(t.data) > 0 && length > 0:
		n := min(length, len(t.data))
		if t.Split > 0 {
			n = min(n, t.Split)
		}
		b := t.data[:n]
		if t.data = t.data[n:]; len(t.data) == 0 {
			t.state = eGateSW
		}
		return b, nil
	case t.state == eGateSW && length == 2:
		t.state = eGateReady
		return t.sw, nil
	}
	return nil, vusb.ErrStall
}
