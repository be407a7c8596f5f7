// Package gempc is a virtual GemPC 410, a reader on a serial line
// (doc/devices/gempc.md).
package gempc

import (
	"bytes"

	"openct/internal/atr"
	"openct/internal/proto"
	"openct/internal/serial"
	"openct/internal/vusb/card"
	"openct/internal/vusb/serialline"
)

// Reader is the reader. It understands what comes at its own speed, which is 9600
// bit/s until the host changes it.
type Reader struct {
	// Firmware is what it says of itself.
	Firmware string

	// AnyLine takes any speed for right: of a line that does not tell it, such as
	// a pseudo-terminal.
	AnyLine bool

	// Refuse are ways of power-up, by their second byte, 00 for none, after which
	// the card is silent.
	Refuse []byte

	// Mangle, if set, sees each block that is about to leave, and returns what
	// leaves. A block that is asked for again is seen again.
	Mangle func(block []byte) []byte

	speed   uint32
	line    serial.Params
	card    card.Card // nil: none
	t0      *card.T0
	t1      *card.T1
	powered bool
	speaks  proto.ID
	seq     byte
	in      []byte // of a block, so far
	last    []byte // block that was sent
	tail    []byte // of a command whose rest comes next
	rest    []byte // of a response
}

var _ serialline.Reader = (*Reader)(nil)

const (
	nadHost, nadReader = 0x42, 0x24

	fragment = 253 // bytes of a response in one block, and the status

	stOK, stUnknown, stArgument, stMore = 0x00, 0x01, 0x03, 0x1B
	stMute, stNot9000, stAbsent         = 0xA2, 0xE7, 0xFB
)

// New makes a reader with a card in it; nil is none.
func New(c card.Card) *Reader {
	r := &Reader{Firmware: "GemCore-R1.21-GM", line: serial.Default, speed: 9600}
	r.Insert(c)
	return r
}

// Insert puts a card in, Remove takes it out.
func (r *Reader) Insert(c card.Card) {
	r.card, r.powered, r.tail, r.rest = c, false, nil, nil
	if c != nil {
		r.t0, r.t1 = card.NewT0(c), card.NewT1(c, card.T1Options{})
	}
}

// Remove takes the card out.
func (r *Reader) Remove() { r.Insert(nil) }

// Chip is the card's side of T=0, for tests that make it misbehave.
func (r *Reader) Chip() *card.T0 { return r.t0 }

// Powered says whether the card has power.
func (r *Reader) Powered() bool { return r.powered }

// Inputs implements serialline.Reader: it drives none.
func (r *Reader) Inputs() serial.Inputs { return serial.Inputs{} }

// Set implements serialline.Reader.
func (r *Reader) Set(p serial.Params) { r.line = p }

// SetLines implements serialline.Reader: the reader does not look at them.
func (r *Reader) SetLines(bool, bool) []serialline.Char { return nil }

// Send implements serialline.Reader.
func (r *Reader) Send(b byte) []serialline.Char {
	if !r.AnyLine && r.line.Speed != r.speed {
		return nil
	}
	r.in = append(r.in, b)
	if r.in[0] != nadHost {
		r.in = nil // waits for the begin of a block
		return nil
	}
	if len(r.in) < 4 || len(r.in) < 4+int(r.in[2]) {
		return nil
	}
	block := r.in
	r.in = nil
	out := r.block(block)
	if r.Mangle != nil {
		out = r.Mangle(bytes.Clone(out))
	}
	chars := make([]serialline.Char, len(out))
	for i, c := range out {
		chars[i] = serialline.Char{Byte: c}
	}
	return chars
}

func (r *Reader) block(b []byte) []byte {
	n := len(b) - 1
	pcb, inf := b[1], b[3:n]
	switch {
	case xor(b) != 0:
		return frame(0x80|r.seq<<4|1, nil)
	case pcb == 0xC0:
		r.seq, r.last, r.tail, r.rest = 0, nil, nil, nil
		return frame(0xE0, nil)
	case pcb&0xE0 == 0x80:
		if r.last == nil {
			return frame(0x80|r.seq<<4|2, nil)
		}
		return r.last
	case pcb&^0x40 != 0 || len(inf) == 0:
		return frame(0x80|r.seq<<4|2, nil)
	case pcb>>6 == r.seq^1 && r.last != nil: // the one before: its answer got lost
		return r.last
	case pcb>>6 != r.seq:
		return frame(0x80|r.seq<<4|2, nil)
	}
	r.last = frame(pcb, r.run(inf))
	r.seq ^= 1
	return r.last
}

// run runs a command and returns status byte and data.
func (r *Reader) run(c []byte) []byte {
	switch {
	case len(c) == 2 && c[0] == 0x0A:
		speed, ok := map[byte]uint32{4: 9600, 3: 19200, 2: 38400}[c[1]]
		if !ok {
			return []byte{stArgument}
		}
		r.speed = speed
		return []byte{stOK}
	case bytes.Equal(c, []byte{0x01, 0x00, 0x08}), bytes.Equal(c, []byte{0x17, 0x00, 0x47}):
		return []byte{stOK}
	case bytes.Equal(c, []byte{0x22, 0x05, 0x3F, 0xE0, 0x10}):
		return append([]byte{stOK}, r.Firmware...)
	case len(c) == 1 && c[0] == 0x17:
		return []byte{stOK, r.state()}
	case len(c) == 1 && c[0] == 0x11:
		r.powered = false
		return []byte{stOK}
	case len(c) <= 2 && c[0] == 0x12:
		return r.powerUp(append(c, 0)[1])
	case c[0] >= 0x13 && c[0] <= 0x15 && len(c) >= 5:
		return r.exchange(c[0], c[1:])
	}
	return []byte{stUnknown}
}

func (r *Reader) state() byte {
	switch {
	case r.card == nil:
		return 0x00
	case r.powered:
		return 0x06
	}
	return 0x04
}

func (r *Reader) powerUp(way byte) []byte {
	r.tail, r.rest = nil, nil
	switch {
	case r.card == nil:
		return []byte{stAbsent}
	case bytes.IndexByte(r.Refuse, way) >= 0:
		return []byte{stMute}
	}
	r.t0.Reset()
	r.t1.Reset()
	raw := r.card.ATR()
	r.powered, r.speaks = true, proto.T0
	if a, err := atr.Parse(raw); err == nil {
		r.speaks = a.Default()
	}
	return append([]byte{stOK}, raw...)
}

// exchange gives the card a command. 13 brings data and 14 does not, both in T=0; 15 is
// for T=1.
func (r *Reader) exchange(kind byte, c []byte) []byte {
	further := bytes.Equal(c[:4], []byte{0xFF, 0xFF, 0xFF, 0xFF})
	switch {
	case r.card == nil:
		return []byte{stAbsent}
	case !r.powered:
		return []byte{stMute}
	case kind == 0x15 != (r.speaks == proto.T1):
		return []byte{stArgument}
	case further && len(c) == 5 && c[4] == 0xFF:
		return r.deliver()
	case further && kind != 0x13 && len(c) > 5 && int(c[4]) == len(c)-5:
		r.tail = bytes.Clone(c[5:])
		return []byte{stOK}
	case kind == 0x14 && len(c) > 248 || len(c) > 254:
		return []byte{stArgument}
	}
	command := append(bytes.Clone(c), r.tail...)
	r.tail = nil
	switch {
	case kind == 0x15:
		r.rest = r.card.Transmit(command)
	case kind == 0x13 && len(command) != 5, kind == 0x14 && len(command) != 5+int(command[4]):
		return []byte{stArgument}
	case kind == 0x14 && command[4] == 0: // case 1
		r.rest = r.t0.TPDU(command[:4])
	default:
		r.rest = r.t0.TPDU(command)
	}
	r.rest = bytes.Clone(r.rest)
	return r.deliver()
}

// deliver hands out the next part of a response.
func (r *Reader) deliver() []byte {
	b := r.rest
	r.rest = nil
	switch n := len(b); {
	case n > fragment:
		r.rest = b[fragment:]
		return append([]byte{stMore}, b[:fragment]...)
	case n >= 2 && (b[n-2] != 0x90 || b[n-1] != 0x00):
		return append([]byte{stNot9000}, b...)
	case n == 0:
		return []byte{stNot9000}
	}
	return append([]byte{stOK}, b...)
}

func frame(pcb byte, inf []byte) []byte {
	b := append([]byte{nadReader, pcb, byte(len(inf))}, inf...)
	return append(b, xor(b))
}

func xor(b []byte) (sum byte) {
	for _, c := range b {
		sum ^= c
	}
	return sum
}
