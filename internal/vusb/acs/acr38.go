package acs

import (
	"context"
	"sync"

	"openct/internal/usb"
	"openct/internal/vusb"
	"openct/internal/vusb/card"
)

// ACR38 is an ACR38 that is no CCID reader (072f:9000): messages over bulk
// endpoints, and an interrupt endpoint for news of cards.
type ACR38 struct {
	desc vusb.Descriptors

	// Padded has the reader fill its answers up to whole packets. Set it
	// before plugging.
	Padded bool

	mu     sync.Mutex
	reader reader
	out    vusb.Queue
	news   vusb.Queue
}

var _ vusb.Model = (*ACR38)(nil)

const (
	acr38Packet = 64
	acr38Out    = 0x02
	acr38In     = 0x82
	acr38News   = 0x81
)

// NewACR38 makes one with a card in it, or none (nil).
func NewACR38(c card.Card) *ACR38 {
	a := &ACR38{
		desc: describe(0x9000, 64, vusb.FullSpeed, "ACR38 Virtual",
			vusb.Endpoint(acr38News, usb.EndpointInterrupt, 8),
			vusb.Endpoint(acr38Out, usb.EndpointBulk, acr38Packet),
			vusb.Endpoint(acr38In, usb.EndpointBulk, acr38Packet)),
		reader: reader{model: "ACR38 VIRT"},
		out:    vusb.NewQueue(acr38Packet),
		news:   vusb.NewQueue(8),
	}
	a.reader.insert(c)
	return a
}

// Chip is the card's side of T=1, for tests that make it misbehave.
func (a *ACR38) Chip() *card.T1 { return a.reader.t1 }

// Insert puts a card in, or takes it out (nil).
func (a *ACR38) Insert(c card.Card) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.reader.insert(c)
	what := byte(0xC0)
	if c != nil {
		what = 0xC1
	}
	a.news.Add([]byte{0x01, what, 0, 0}, false)
}

// Descriptors implements vusb.Model.
func (a *ACR38) Descriptors() vusb.Descriptors { return a.desc }

// Reset implements vusb.Model.
func (a *ACR38) Reset() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.reader.power()
	a.out.Packets, a.news.Packets = nil, nil
}

// Control implements vusb.Model.
func (a *ACR38) Control(context.Context, usb.Setup, []byte, int) ([]byte, error) {
	return nil, vusb.ErrStall
}

// Out implements vusb.Model. A message that is not filled up to whole packets
// is not noticed.
func (a *ACR38) Out(_ context.Context, ep uint8, data []byte) error {
	if ep != acr38Out {
		return vusb.ErrStall
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(data) < 4 || len(data)%acr38Packet != 0 || data[0] != 0x01 {
		return nil
	}
	n := int(data[2])<<8 | int(data[3])
	if n > len(data)-4 {
		a.say(0xF6, nil)
		return nil
	}
	ins := data[1]
	answer, r := a.reader.run(ins, data[4:4+n])
	status := map[result]byte{done: 0, noCard: 0xFA, noPower: 0xF9, unknown: 0xFF, wrong: 0xFF, badBytes: 0xF6}[r]
	switch {
	case r != done:
	case len(answer) == 0 && (ins == insT0 || ins == insT1):
		status = 0xFE // the card is silent
	case ins == insReset && a.reader.emv && (len(answer) < 2 || answer[1]&0x60 != 0x60):
		a.reader.powered, answer, status = false, nil, 0xF8
	}
	a.say(status, answer)
	return nil
}

// say sends a message.
func (a *ACR38) say(status byte, data []byte) {
	msg := append([]byte{0x01, status, byte(len(data) >> 8), byte(len(data))}, data...)
	for a.Padded && len(msg)%acr38Packet != 0 {
		msg = append(msg, 0)
	}
	a.out.Add(msg, !a.Padded)
}

// In implements vusb.Model.
func (a *ACR38) In(ctx context.Context, ep uint8, max int) ([]byte, error) {
	switch ep {
	case acr38In:
		return a.out.Read(ctx, &a.mu, max)
	case acr38News:
		return a.news.Read(ctx, &a.mu, max)
	}
	return nil, vusb.ErrStall
}
