package acs

import (
	"context"
	"encoding/hex"
	"strings"
	"sync"

	"openct/internal/proto"
	"openct/internal/serial"
	"openct/internal/usb"
	"openct/internal/vusb"
	"openct/internal/vusb/card"
	"openct/internal/vusb/serialline"
)

// acr30 is the reader behind its connection: text in, text out.
type acr30 struct {
	reader
	notify bool
	text   []byte // of the command so far
	inside bool
}

func newACR30(c card.Card) acr30 {
	a := acr30{reader: reader{model: "ACR30 VIRT"}, notify: true}
	a.insert(c)
	return a
}

// send takes a byte and returns the answer if it ends a command.
func (a *acr30) send(b byte) []byte {
	switch {
	case b == 0x02:
		a.text, a.inside = a.text[:0], true
	case b == 0x03 && a.inside:
		a.inside = false
		return a.command()
	case a.inside && len(a.text) < 2048:
		a.text = append(a.text, b)
	}
	return nil
}

// command runs what came between STX and ETX. What is no command of an ACR30
// gets the status word for a wrong instruction.
func (a *acr30) command() []byte {
	msg, err := hex.DecodeString(string(a.text))
	if err != nil || len(msg) < 4 || msg[0] != 0x01 || xor(msg) != 0 {
		return frame(0x6005, nil)
	}
	n, data := int(msg[2]), msg[3:len(msg)-1]
	if n == 0xFF && len(data) >= 2 {
		n, data = int(data[0])<<8|int(data[1]), data[2:]
	}
	if n != len(data) {
		return frame(0x6703, nil)
	}
	switch ins := msg[1]; ins {
	case insNotify:
		a.notify = len(data) == 1 && data[0] == 0x01
		return frame(0x9000, nil)
	case insT0:
		// Lc and Le are both there.
		if len(data) < 6 || len(data) != 6+int(data[4]) {
			return frame(0x6703, nil)
		}
		if data[4] == 0 {
			data = append(data[:4:4], data[5])
		} else {
			data = data[:len(data)-1]
		}
		return a.answer(ins, data)
	default:
		return a.answer(ins, data)
	}
}

func (a *acr30) answer(ins byte, data []byte) []byte {
	answer, r := a.run(ins, data)
	sw := map[result]uint16{
		done: 0x9000, noCard: 0x6002, noPower: 0x6004, unknown: 0x6005, wrong: 0x6712, badBytes: 0x6703,
	}[r]
	if r == done && ins == insReset && a.speaks == proto.T1 {
		sw = 0x9001
	}
	if r == done && len(answer) == 0 && (ins == insT0 || ins == insT1) {
		sw = 0x6020 // the card is silent
	}
	return frame(sw, answer)
}

// frame is a message of the reader.
func frame(sw uint16, data []byte) []byte {
	msg := []byte{0x01, byte(sw >> 8), byte(sw)}
	if n := len(data); n < 0xFF {
		msg = append(msg, byte(n))
	} else {
		msg = append(msg, 0xFF, byte(n>>8), byte(n))
	}
	msg = append(msg, data...)
	text := strings.ToUpper(hex.EncodeToString(append(msg, xor(msg))))
	return append(append([]byte{0x02}, text...), 0x03)
}

func xor(b []byte) (sum byte) {
	for _, c := range b {
		sum ^= c
	}
	return sum
}

// news is what the reader tells when a card has come or gone.
func (a *acr30) news() []byte {
	switch {
	case !a.notify:
		return nil
	case a.card != nil:
		return frame(0xFF01, nil)
	}
	return frame(0xFF02, nil)
}

// ACR30 is an ACR30 on USB (072f:0001): commands in vendor requests, answers in
// packets of 8 bytes on the interrupt endpoint, filled up with zeros.
type ACR30 struct {
	desc vusb.Descriptors

	mu    sync.Mutex
	acr30 acr30
	out   vusb.Queue
}

var _ vusb.Model = (*ACR30)(nil)

const (
	acr30Packet   = 8
	acr30Endpoint = 0x81
)

// NewACR30 makes one with a card in it, or none (nil).
func NewACR30(c card.Card) *ACR30 {
	return &ACR30{
		desc: describe(0x0001, 8, vusb.LowSpeed, "ACR30 Virtual",
			vusb.Endpoint(acr30Endpoint, usb.EndpointInterrupt, acr30Packet)),
		acr30: newACR30(c),
		out:   vusb.NewQueue(acr30Packet),
	}
}

// Chip is the card's side of T=1, for tests that make it misbehave.
func (a *ACR30) Chip() *card.T1 { return a.acr30.t1 }

// Insert puts a card in, or takes it out (nil).
func (a *ACR30) Insert(c card.Card) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.acr30.insert(c)
	a.say(a.acr30.news())
}

// Descriptors implements vusb.Model.
func (a *ACR30) Descriptors() vusb.Descriptors { return a.desc }

// Reset implements vusb.Model.
func (a *ACR30) Reset() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.acr30.power()
	a.acr30.notify, a.acr30.inside = true, false
	a.out.Packets = nil
}

// say sends a message.
func (a *ACR30) say(text []byte) {
	for len(text)%acr30Packet != 0 {
		text = append(text, 0)
	}
	for ; len(text) > 0; text = text[acr30Packet:] {
		a.out.Add(text[:acr30Packet], false)
	}
}

// Control implements vusb.Model.
func (a *ACR30) Control(_ context.Context, s usb.Setup, out []byte, _ int) ([]byte, error) {
	if s != (usb.Setup{RequestType: usb.VendorDeviceOut}) {
		return nil, vusb.ErrStall
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, b := range out {
		a.say(a.acr30.send(b))
	}
	return nil, nil
}

// Out implements vusb.Model.
func (a *ACR30) Out(context.Context, uint8, []byte) error { return vusb.ErrStall }

// In implements vusb.Model.
func (a *ACR30) In(ctx context.Context, ep uint8, _ int) ([]byte, error) {
	if ep != acr30Endpoint {
		return nil, vusb.ErrStall
	}
	return a.out.Read(ctx, &a.mu, acr30Packet)
}

// ACR30S is an ACR30 on a serial line, at 9600 8N1.
type ACR30S struct {
	acr30 acr30
	line  serial.Params
}

var _ serialline.Reader = (*ACR30S)(nil)

// NewACR30S makes one with a card in it, or none (nil).
func NewACR30S(c card.Card) *ACR30S { return &ACR30S{acr30: newACR30(c), line: serial.Default} }

// Insert puts a card in, or takes it out (nil). The host is not told: on a
// serial line this reader speaks when it is spoken to.
func (a *ACR30S) Insert(c card.Card) { a.acr30.insert(c) }

// Chip is the card's side of T=1, for tests that make it misbehave.
func (a *ACR30S) Chip() *card.T1 { return a.acr30.t1 }

// Set implements serialline.Reader.
func (a *ACR30S) Set(p serial.Params) { a.line = p }

// SetLines implements serialline.Reader: DTR feeds the reader.
func (a *ACR30S) SetLines(dtr, _ bool) []serialline.Char {
	if !dtr {
		a.acr30.power()
	}
	return nil
}

// Inputs implements serialline.Reader.
func (a *ACR30S) Inputs() serial.Inputs { return serial.Inputs{} }

// Send implements serialline.Reader.
func (a *ACR30S) Send(b byte) (chars []serialline.Char) {
	if a.line.Speed != 9600 || a.line.Parity != serial.None {
		return nil
	}
	for _, c := range a.acr30.send(b) {
		chars = append(chars, serialline.Char{Byte: c})
	}
	return chars
}
