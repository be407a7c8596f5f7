package token

import (
	"context"
	"encoding/binary"
	"slices"
	"sync"

	"openct/internal/usb"
	"openct/internal/vusb"
	"openct/internal/vusb/card"
)

// EPass3000 is a Feitian ePass3000: frames with T=0 commands on two bulk
// endpoints (doc/devices/epass3000.md). The status in its frames, 0000, and
// what is in its descriptors beside the endpoints is made up.
type EPass3000 struct {
	desc vusb.Descriptors

	// Variants, set before plugging. Direct is newer firmware, which fetches
	// responses by itself. Split cuts its answers into packets of so many
	// bytes. NoEnd leaves out the empty packet behind an answer that fills
	// its last one.
	Direct bool
	Split  int
	NoEnd  bool

	mu    sync.Mutex
	chip  *card.T0
	in    vusb.Queue
	ready bool // the card was reset
}

const (
	ePassOut    = 0x02
	ePassIn     = 0x81
	ePassPacket = 64
	ePassHeader = 6
	ePassTag    = 0x5236
)

// NewEPass3000 makes an ePass3000 (096e:0401). The card's ATR must offer T=0.
func NewEPass3000(c card.Card) *EPass3000 {
	return &EPass3000{
		desc: vendorToken(0x096E, 0x0401, 0x0100, vusb.FullSpeed, 100, "", "FT SCR2000A", vusb.Endpoint(ePassOut, usb.EndpointBulk, ePassPacket), vusb.Endpoint(ePassIn, usb.EndpointBulk, ePassPacket)),
		chip: card.NewT0(c),
		in:   vusb.NewQueue(ePassPacket),
	}
}

// Chip is the card's side of T=0, for tests that make it misbehave.
func (t *EPass3000) Chip() *card.T0 { return t.chip }

// Descriptors implements Model.
func (t *EPass3000) Descriptors() vusb.Descriptors { return t.desc }

// Reset implements Model.
func (t *EPass3000) Reset() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.ready, t.in.Packets = false, nil
}

// Control implements Model. The token has no requests of its own.
func (t *EPass3000) Control(context.Context, usb.Setup, []byte, int) ([]byte, error) {
	return nil, vusb.ErrStall
}

// Out implements Model. A frame must be whole, and the answer to the one
// before it must have been read, but for an empty packet at its end.
func (t *EPass3000) Out(_ context.Context, ep uint8, frame []byte) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	unread := func(packet []byte) bool { return len(packet) > 0 }
	if ep != ePassOut || len(frame) < ePassHeader || slices.ContainsFunc(t.in.Packets, unread) ||
		binary.BigEndian.Uint16(frame) != ePassTag || int(binary.BigEndian.Uint16(frame[4:])) != len(frame)-ePassHeader {
		return vusb.ErrStall
	}
	value := frame[ePassHeader:]
	switch command := binary.BigEndian.Uint16(frame[2:]); {
	case command == 1 && len(value) == 0:
		t.ready = true
		t.answer(append(append([]byte{0xA1, 0xA2}, t.chip.Reset()...), 0xB1, 0xB2, 0xB3))
	case command == 2 && t.ready && len(value) >= 5:
		t.answer(t.run(value))
	default:
		return vusb.ErrStall
	}
	return nil
}

// run runs a TPDU, and newer firmware what follows from it.
func (t *EPass3000) run(tpdu []byte) []byte {
	resp := t.chip.TPDU(tpdu)
	if t.Direct && len(resp) == 2 && resp[0] == 0x61 {
		resp = t.chip.TPDU([]byte{tpdu[0], 0xC0, 0, 0, resp[1]})
	}
	return resp
}

// answer queues a frame.
func (t *EPass3000) answer(value []byte) {
	frame := []byte{ePassTag >> 8, ePassTag & 0xFF, 0, 0, byte(len(value) >> 8), byte(len(value))}
	frame = append(frame, value...)
	for t.Split > 0 && t.Split < ePassPacket && len(frame) > t.Split {
		t.in.Add(frame[:t.Split], false)
		frame = frame[t.Split:]
	}
	t.in.Add(frame, !t.NoEnd)
}

// In implements Model.
func (t *EPass3000) In(ctx context.Context, ep uint8, max int) ([]byte, error) {
	if ep != ePassIn {
		return nil, vusb.ErrStall
	}
	return t.in.Read(ctx, &t.mu, max)
}
