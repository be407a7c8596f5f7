package token

import (
	"bytes"
	"context"
	"sync"

	"openct/internal/usb"
	"openct/internal/vusb"
	"openct/internal/vusb/card"
)

// CyberJack is a Reiner SCT cyberJack: a reader with a keypad, which speaks T=1
// with the host and its card's protocol with the card (doc/devices/cyberjack.md).
// Who types is Keys.
type CyberJack struct {
	desc vusb.Descriptors

	// Keys is what the user types when asked for a PIN. Answer, where it is
	// not 0, is the reader's status word in place of the card's response, as
	// when the user gives up.
	Keys   string
	Answer uint16

	// Mute makes the reader refuse to tell what it has. End makes it send an
	// empty packet behind a frame that fills its last one.
	Mute, End bool

	mu      sync.Mutex
	card    card.Card // nil: none
	t1      *card.T1  // of reader and card together
	nad     byte      // of the command under way
	powered bool
	text    string // on the display
	before  [][]byte
	in      vusb.Queue
}

const (
	cyberOut       = 0x02
	cyberIn        = 0x82
	cyberInterrupt = 0x81 // announces data, which no driver waits for
	cyberPacket    = 64
)

// NewCyberJack makes a cyberJack (0c4b:0100).
func NewCyberJack(c card.Card) *CyberJack {
	r := &CyberJack{
		desc: vendorToken(0x0C4B, 0x0100, 0x0100, vusb.FullSpeed, 100, "REINER SCT", "CyberJack e-com/pinpad",
			vusb.Endpoint(cyberInterrupt, usb.EndpointInterrupt, 8),
			vusb.Endpoint(cyberOut, usb.EndpointBulk, cyberPacket), vusb.Endpoint(cyberIn, usb.EndpointBulk, cyberPacket)),
		Keys: "123456",
		card: c,
		in:   vusb.NewQueue(cyberPacket),
	}
	r.t1 = card.NewT1(cyberUnit{r}, card.T1Options{AnyNAD: true})
	return r
}

// Chip is the side of T=1, for tests that make it misbehave.
func (r *CyberJack) Chip() *card.T1 { return r.t1 }

// Text is what the display shows.
func (r *CyberJack) Text() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.text
}

// Insert puts a card in, Remove takes it out. The reader tells so.
func (r *CyberJack) Insert(c card.Card) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.card, r.powered = c, false
	r.send([]byte{0x2E, 0xE5, 0x00, 0x2E ^ 0xE5})
}

// Remove takes the card out.
func (r *CyberJack) Remove() { r.Insert(nil) }

// Descriptors implements Model.
func (r *CyberJack) Descriptors() vusb.Descriptors { return r.desc }

// Reset implements Model.
func (r *CyberJack) Reset() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.powered, r.in.Packets = false, nil
	r.t1.Reset()
}

// Control implements Model. The reader has no requests of its own.
func (r *CyberJack) Control(context.Context, usb.Setup, []byte, int) ([]byte, error) {
	return nil, vusb.ErrStall
}

// Out implements Model.
func (r *CyberJack) Out(_ context.Context, ep uint8, frame []byte) error {
	if ep != cyberOut {
		return vusb.ErrStall
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(frame) < 3+4 || frame[0] != 0 || int(frame[1])|int(frame[2])<<8 != len(frame)-3 {
		return nil // it makes no sense to the reader
	}
	block := frame[3:]
	switch {
	case block[0] == 0xE2 && block[1] != 0xC0:
		return nil // begin of the link, or the answer to a block of the reader's own
	case block[1] == 0xE3 && block[2] == 0:
		return nil
	}
	r.nad, r.before = block[0], nil
	answer := r.block(block)
	for _, b := range r.before {
		r.send(b)
	}
	if len(answer) > 0 {
		r.send(answer)
	}
	return nil
}

// block gives a block to the side of T=1. The link's node addresses are none of
// ISO/IEC 7816-3, 11.3.2.1, which the card's side insists on.
func (r *CyberJack) block(block []byte) []byte {
	block = bytes.Clone(block)
	const change = 0xE2 ^ 0x12
	link := block[0] == 0xE2
	if link {
		block[0] ^= change
		block[len(block)-1] ^= change
	}
	answer := bytes.Clone(r.t1.Block(block))
	if link && len(answer) > 1 {
		answer[0] ^= change>>4 | change<<4&0xFF
		answer[len(answer)-1] ^= change>>4 | change<<4&0xFF
	}
	return answer
}

// send queues a frame.
func (r *CyberJack) send(block []byte) {
	r.in.Add(append([]byte{0, byte(len(block)), byte(len(block) >> 8)}, block...), r.End)
}

// In implements Model.
func (r *CyberJack) In(ctx context.Context, ep uint8, max int) ([]byte, error) {
	switch ep {
	case cyberIn:
		return r.in.Read(ctx, &r.mu, max)
	case cyberInterrupt:
		<-ctx.Done()
		return nil, ctx.Err()
	}
	return nil, vusb.ErrStall
}

// cyberUnit is reader and card behind T=1: the node address tells which of them a
// command is for.
type cyberUnit struct{ r *CyberJack }

func (u cyberUnit) ATR() []byte { return nil }
func (u cyberUnit) Reset()      {}

func (u cyberUnit) Transmit(apdu []byte) []byte {
	r := u.r
	if r.nad == 0x02 {
		if !r.powered || r.card == nil {
			return []byte{0x64, 0xA1}
		}
		return r.card.Transmit(apdu)
	}
	if len(apdu) < 4 || apdu[0] != 0x20 {
		return []byte{0x6E, 0x00}
	}
	var data []byte
	if len(apdu) > 5 && len(apdu) >= 5+int(apdu[4]) {
		data = apdu[5:][:apdu[4]]
	}
	return r.command(apdu[1], apdu[2], apdu[3], data)
}

// command runs one of the reader's own commands (CT-BCS).
func (r *CyberJack) command(ins, p1, p2 byte, data []byte) []byte {
	ok := []byte{0x90, 0x00}
	switch {
	case ins == 0x11 && p1 == 0, ins == 0x15 && p1 == 1:
		r.powered = false
		return ok
	case ins == 0x13 && p2 == 0x80:
		if r.card == nil {
			return append([]byte{0x80, 1, 0x00}, ok...)
		}
		return append([]byte{0x80, 1, 0x03}, ok...)
	case ins == 0x13 && p2 == 0x81 && !r.Mute:
		return append([]byte{0x81, 3, 0x01, 0x40, 0x50}, ok...)
	case ins == 0x12 && p1 == 1:
		return r.request()
	case ins == 0x17 && p1 == 0x40:
		r.text = string(object(data, 0x50))
		return ok
	case ins == 0x18 && p1 == 1:
		r.text = string(object(data, 0x50))
		return r.verify(object(data, 0x52))
	}
	return []byte{0x6D, 0x00}
}

func (r *CyberJack) request() []byte {
	switch {
	case r.card == nil: // a real one waits
		return []byte{0x62, 0x00}
	case r.powered:
		return []byte{0x62, 0x01}
	}
	r.card.Reset()
	r.powered = true
	return append(bytes.Clone(r.card.ATR()), 0x90, 0x01)
}

// object is the value of a data object.
func object(data []byte, tag byte) []byte {
	for len(data) >= 2 && len(data) >= 2+int(data[1]) {
		value := data[2:][:data[1]]
		if data[0] == tag {
			return value
		}
		data = data[2+len(value):]
	}
	return nil
}

// verify has the user type a PIN. perform is control byte, position, command;
// the PIN's digits are T.50 characters whatever the control byte says.
func (r *CyberJack) verify(perform []byte) []byte {
	switch {
	case len(perform) < 6:
		return []byte{0x6A, 0x00}
	case !r.powered || r.card == nil:
		return []byte{0x64, 0xA1}
	}
	key := func(pcb byte) { r.before = append(r.before, []byte{0x2E, pcb, 0x00, 0x2E ^ pcb}) }
	for range r.Keys {
		key(0xC4)
	}
	key(0xF4)
	wtx := []byte{0x21, 0xC3, 0x00, 0x21 ^ 0xC3}
	r.before = append(r.before, wtx)
	if r.Answer != 0 {
		return []byte{byte(r.Answer >> 8), byte(r.Answer)}
	}
	at, apdu := int(perform[1])-1, bytes.Clone(perform[2:])
	if len(apdu) == 4 { // the reader adds Lc and PIN
		apdu = append(append(apdu, byte(len(r.Keys))), r.Keys...)
	} else if at >= 5 && at+len(r.Keys) <= len(apdu) {
		copy(apdu[at:], r.Keys)
	}
	return r.card.Transmit(apdu)
}
