// Package towitoko is a virtual Towitoko Chipdrive or Kartenzwerg at the end of
// a serial line, for asynchronous and memory cards.
package towitoko

import (
	"bytes"
	"math/bits"

	"openct/internal/atr"
	"openct/internal/proto"
	"openct/internal/serial"
	"openct/internal/vusb/card"
	"openct/internal/vusb/phoenix"
	"openct/internal/vusb/serialline"
)

// Types of readers, their answer to the first command.
const (
	Micro         = 0x61
	KartenzwergII = 0x64
	Kartenzwerg   = 0x80 // memory cards alone
	External      = 0x84
	Twin          = 0x88 // two slots
	Internal      = 0x90
)

const firmware = 0x10

// Reader is the reader.
type Reader struct {
	kind  byte
	slots []*slot

	// Change, if set, sees what the reader is about to send with its number,
	// counted from 0, and returns what leaves instead. What a card answers
	// counts like a reply.
	Change func(n int, out []byte) []byte
	sent   int

	// Deaf makes the reader miss the first question after a card was moved.
	Deaf bool

	line serial.Params
	in   []byte // of a command, so far
	raw  int    // bytes for the card that are to come
	to   *slot
}

var _ serialline.Reader = (*Reader)(nil)

// slot is one card slot.
type slot struct {
	seed    byte
	card    card.Card // nil: none
	contact *phoenix.Reader
	memory  *card.Memory // the card, if it is one
	changed bool
	deaf    bool
	power   bool
	odd     bool // parity to the card
	red     bool

	// What the next read and the next write are for.
	addr  int
	what  byte
	valid bool // addressed as the kind of card that it is
}

// New makes a reader of a type with a card in its first slot; nil is none.
func New(kind byte, c card.Card) *Reader {
	r := &Reader{kind: kind, slots: []*slot{{}}, line: serial.Default}
	if kind == Twin {
		r.slots = append(r.slots, &slot{seed: 1})
	}
	r.Insert(0, c)
	for _, s := range r.slots {
		s.changed = false
	}
	return r
}

// Insert puts a card into a slot; nil takes it out.
func (r *Reader) Insert(i int, c card.Card) {
	s := r.slots[i]
	*s = slot{seed: s.seed, card: c, changed: true, deaf: r.Deaf, red: s.red}
	s.memory, _ = c.(*card.Memory)
	if c != nil && s.memory == nil {
		s.contact = phoenix.New(c)
		s.contact.AnyLine = true
	}
}

// Chips are the sides of T=0 and T=1 of the card in a slot, for tests that make it
// misbehave; nil where there is none.
func (r *Reader) Chips(i int) (*card.T0, *card.T1) {
	if r.slots[i].contact == nil {
		return nil, nil
	}
	return r.slots[i].contact.Chips()
}

// Red says whether a slot's LED is on.
func (r *Reader) Red(i int) bool { return r.slots[i].red }

// Inputs implements serialline.Reader.
func (r *Reader) Inputs() serial.Inputs { return serial.Inputs{} }

// Set implements serialline.Reader.
func (r *Reader) Set(p serial.Params) { r.line = p }

// SetLines implements serialline.Reader: DTR feeds the reader.
func (r *Reader) SetLines(dtr, _ bool) []serialline.Char {
	if !dtr {
		r.in, r.raw = nil, 0
		for _, s := range r.slots {
			s.off()
		}
	}
	return nil
}

func (s *slot) off() {
	s.power, s.valid = false, false
	if s.card != nil {
		s.card.Reset()
	}
}

// Send implements serialline.Reader.
func (r *Reader) Send(b byte) []serialline.Char {
	if r.line.Speed != 9600 {
		return nil
	}
	if r.raw > 0 {
		r.raw--
		if p := r.line.Parity; p != serial.None && (p == serial.Odd) != r.to.odd {
			return nil // the card gets every byte with a wrong parity
		}
		return r.out(r.to.send(b))
	}
	r.in = append(r.in, b)
	n := length(r.in)
	if n < 0 {
		r.in = nil
		return nil
	}
	if n == 0 || len(r.in) <= n {
		return nil
	}
	cmd, sum := r.in[:n], r.in[n]
	r.in = nil
	for _, s := range r.slots {
		if Sum(s.seed, cmd) == sum {
			return r.out(r.run(s, cmd))
		}
	}
	return nil
}

func (r *Reader) out(b []byte) []serialline.Char {
	if len(b) > 0 && r.Change != nil {
		b = r.Change(r.sent, bytes.Clone(b))
		r.sent++
	}
	chars := make([]serialline.Char, len(b))
	for i, c := range b {
		chars[i] = serialline.Char{Byte: c}
	}
	return chars
}

// Sum is the checksum of a command, which begins with the slot's number, or of
// a reply, which begins with 1.
func Sum(seed byte, b []byte) byte {
	for _, c := range b {
		seed = bits.RotateLeft8(seed^c, 1) ^ 1
	}
	return seed
}

// length is how many bytes a command has that begins like this, without its
// checksum: 0 if that is not known yet, -1 for none that the reader knows.
func length(b []byte) int {
	at := func(i int) int {
		if i < len(b) {
			return int(b[i])
		}
		return -1
	}
	switch first := b[0]; {
	case first == 0x00, first == 0x03, first >= 0x10 && first <= 0x1E:
		return 1
	case first == 0x60, first == 0x61:
		return 2
	case first == 0x80, first == 0xA0:
		return 4
	case first >= 0x40 && first <= 0x4E:
		return int(first&0x0F) + 3
	case first == 0x72:
		return 6
	case first == 0x73, first == 0x7F:
		return 7
	case first == 0x6F:
		return choose(at(2), 0x05, 3, 0x6A, 4)
	case first == 0x70:
		return choose(at(1), 0x64, 8, 0xA0, 9)
	case first == 0x7C:
		return choose(at(2), 0x41, 9, 0x42, 10)
	case first == 0x7E:
		return choose(at(1), 0x10, 2, 0x66, 7)
	}
	return -1
}

func choose(b, is1, n1, is2, n2 int) int {
	switch b {
	case -1:
		return 0
	case is1:
		return n1
	case is2:
		return n2
	}
	return -1
}

func reply(data ...byte) []byte { return append(data, Sum(1, data)) }

// run does a command.
func (r *Reader) run(s *slot, c []byte) []byte {
	switch c[0] {
	case 0x00:
		return reply(r.kind, firmware)
	case 0x03:
		if s.deaf {
			s.deaf = false
			return nil
		}
		return reply(s.status())
	case 0x60:
		s.power = true
	case 0x61:
		s.off()
	case 0x80, 0xA0:
		if r.kind == Kartenzwerg || c[0] == 0xA0 || !s.power || s.contact == nil {
			return nil
		}
		return text(s.contact.Reset())
	case 0x6F:
		if c[2] == 0x05 {
			r.raw, r.to = int(c[1]), s
			return nil
		}
		s.set(c[1])
	case 0x7E:
		if len(c) == 2 {
			return reply(0x10)
		}
		s.at(proto.I2CShort, int(c[4]>>1&7)<<8|int(c[3]), 0x38)
	case 0x7F:
		s.at(proto.I2CLong, int(c[4])<<8|int(c[3]), 0x38)
	case 0x7C:
		if len(c) == 9 {
			s.at(proto.I2CShort, int(c[3]>>1&7)<<8|int(c[4]), 0x30)
		} else {
			s.at(proto.I2CLong, int(c[4])<<8|int(c[5]), 0x30)
		}
	case 0x70:
		if len(c) == 8 {
			s.at(proto.TwoWire, int(c[4]), c[3])
		} else {
			s.at3(c[3], c[4])
		}
	case 0x72:
		s.at(proto.TwoWire, int(c[2]), c[3])
	case 0x73:
		s.at3(c[4], c[3])
	default:
		if c[0]&0xF0 == 0x10 {
			return reply(s.read(int(c[0]&0x0F) + 1)...)
		}
		s.write(c[1 : len(c)-1])
	}
	return reply()
}

func (s *slot) status() (b byte) {
	if s.card != nil {
		b |= 0x40
	}
	if s.changed {
		b |= 0x80
	}
	s.changed = false
	return b
}

// set is the LED, 0 to 3, or the parity.
func (s *slot) set(code byte) {
	switch {
	case code&0x40 != 0:
		s.odd = false
	case code&0x80 != 0:
		s.odd = true
	default:
		s.red = code&1 != 0
	}
}

// send gives the card a byte.
func (s *slot) send(b byte) []byte {
	if s.contact == nil || !s.power {
		return nil
	}
	if a := s.card.ATR(); len(a) == 0 || s.odd != (a[0] == atr.TSInverse) {
		return nil
	}
	return text(s.contact.Send(b)[1:]) // without the echo of a bare line
}

func text(chars []serialline.Char) []byte {
	b := make([]byte, len(chars))
	for i, c := range chars {
		b[i] = c.Byte
	}
	return b
}

// at addresses a memory card; what is the command of a 2-wire card (SLE 4442
// data sheet), and 30 or 38 for the others.
func (s *slot) at(kind proto.ID, addr int, what byte) {
	s.addr, s.what = addr, what
	s.valid = s.power && s.memory != nil && s.memory.Kind() == kind
}

// at3 addresses a 3-wire card with its own command (SLE 4428 data sheet), whose
// upper two bits are the address's. Bytes of security memory are counted from the
// error counter.
func (s *slot) at3(cmd, lo byte) {
	const security = 1021
	addr := int(cmd>>6)<<8 | int(lo)
	switch cmd & 0x3F {
	case 0x0E:
		s.at(proto.ThreeWire, addr, 0x30)
	case 0x33:
		s.at(proto.ThreeWire, addr, 0x38)
	case 0x32:
		s.at(proto.ThreeWire, addr-security, 0x39)
	case 0x0D:
		s.at(proto.ThreeWire, addr-security, 0x33)
	default:
		s.valid = false
	}
}

func (s *slot) read(n int) []byte {
	b := bytes.Repeat([]byte{0xFF}, n)
	switch {
	case !s.valid:
	case s.what == 0x31:
		security := s.memory.Security()
		copy(b, security[min(s.addr, len(security)):])
	default:
		copy(b, s.memory.Read(s.addr, n))
	}
	s.addr += n
	return b
}

func (s *slot) write(b []byte) {
	for _, c := range b {
		switch {
		case !s.valid:
		case s.what == 0x38:
			s.memory.Write(s.addr, []byte{c})
		case s.what == 0x39:
			s.memory.WriteSecurity(s.addr, c)
		case s.what == 0x33:
			s.memory.Compare(s.addr, c)
		}
		s.addr++
	}
}
