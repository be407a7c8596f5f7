package card

import (
	"bytes"

	"openct/internal/proto"
)

// Memory is a synchronous memory card. A virtual reader addresses it as the
// kind that it is: Read and Write are what its bus can do, and beside them a
// card with a PSC has its security memory. As Card it takes the commands that a
// terminal translates for it (MKT specification, part 7): READ BINARY, UPDATE
// BINARY, VERIFY and CHANGE VERIFICATION DATA.
//
// Byte i is (7 i + 1) mod 256, but for the header of a 2-wire or 3-wire card. A
// write that the card does not allow changes nothing and is no error: the bus has
// no way to say so.
type Memory struct {
	kind   proto.ID
	data   []byte
	psc    []byte // nil: the card has none and can be written
	bits   byte   // of the error counter, all set
	writes int    // bytes that somebody tried to write

	counter byte // a bit for each try left
	tried   bool // a bit was cleared, a comparison may follow
	matched []bool
	open    bool // the PSC was right
}

var _ Card = (*Memory)(nil)

// New24C makes an I2C card of so many bytes: one byte of address up to 2048
// (24C02: 256, 24C16: 2048), two bytes above (24C32: 4096).
func New24C(size int) *Memory {
	kind := proto.I2CShort
	if size > 2048 {
		kind = proto.I2CLong
	}
	return newMemory(kind, size)
}

// NewSLE4432 makes a 2-wire card of 256 bytes without a PSC.
func NewSLE4432() *Memory { return newMemory(proto.TwoWire, 256, 0xA2, 0x13, 0x10, 0x91) }

// NewSLE4442 makes one that is written after its PSC, FF FF FF, three tries.
func NewSLE4442() *Memory { return NewSLE4432().protect(0x07, 0xFF, 0xFF, 0xFF) }

// NewSLE4418 makes a 3-wire card of 1024 bytes without a PSC.
func NewSLE4418() *Memory { return newMemory(proto.ThreeWire, 1024, 0x92, 0x23, 0x10, 0x91) }

// NewSLE4428 makes one that is written after its PSC, FF FF, eight tries. Its
// security memory is the end of its memory.
func NewSLE4428() *Memory { return NewSLE4418().protect(0xFF, 0xFF, 0xFF) }

// sle4428Security is the address of its error counter; the PSC follows (Siemens
// data sheet).
const sle4428Security = 1021

// NewEurochip makes a card that counts, such as a telephone's: 32 bytes, of which
// five are counted down, a bit at a time (SLE 4406, SLE 4436).
func NewEurochip() *Memory { return newMemory(proto.Eurochip, 32, 0xD0, 0x3A, 0x01, 0x17) }

// Addresses of a Eurochip's counter.
const (
	eurochipCounter = 8
	eurochipEnd     = 13
)

func newMemory(kind proto.ID, size int, header ...byte) *Memory {
	m := &Memory{kind: kind, data: make([]byte, size)}
	for i := range m.data {
		m.data[i] = byte(7*i + 1)
	}
	copy(m.data, header)
	return m
}

func (m *Memory) protect(bits byte, psc ...byte) *Memory {
	m.psc, m.bits, m.counter = psc, bits, bits
	m.Reset()
	return m
}

// Kind is how the card must be addressed.
func (m *Memory) Kind() proto.ID { return m.kind }

// Size is the number of its bytes.
func (m *Memory) Size() int { return len(m.data) }

// Bytes are the card's contents, for tests.
func (m *Memory) Bytes() []byte { return m.data }

// Writes is how many bytes somebody tried to write, for tests.
func (m *Memory) Writes() int { return m.writes }

// ATR implements Card: the header (ISO/IEC 7816-10), which an I2C card lacks.
func (m *Memory) ATR() []byte {
	if m.kind == proto.I2CShort || m.kind == proto.I2CLong {
		return nil
	}
	return bytes.Clone(m.data[:4])
}

// Reset implements Card: without power the card forgets that it saw its PSC.
func (m *Memory) Reset() {
	m.open, m.tried = false, false
	m.matched = make([]bool, len(m.psc))
	m.show()
}

// show puts the security memory to where a SLE 4428 has it.
func (m *Memory) show() {
	if m.kind == proto.ThreeWire && m.psc != nil {
		copy(m.data[sle4428Security:], m.Security())
	}
}

// Read reads; behind its last byte a card goes on with its first.
func (m *Memory) Read(addr, n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = m.data[(addr+i)%len(m.data)]
	}
	return b
}

// Write writes what the card allows.
func (m *Memory) Write(addr int, b []byte) {
	m.writes += len(b)
	if m.psc != nil && !m.open {
		return
	}
	for i := range b {
		at := (addr + i) % len(m.data)
		switch {
		case m.kind == proto.ThreeWire && m.psc != nil && at >= sle4428Security:
			m.WriteSecurity(at-sle4428Security, b[i])
		case m.kind != proto.Eurochip:
			m.data[at] = b[i]
		case at >= eurochipCounter && at < eurochipEnd:
			m.data[at] &= b[i]
		}
	}
}

// Security is the security memory as it can be read: error counter, and the PSC
// once it was right (SLE 4442, read security memory). A card without a PSC has
// none.
func (m *Memory) Security() []byte {
	if m.psc == nil {
		return nil
	}
	b := make([]byte, 1+len(m.psc))
	b[0] = m.counter
	if m.open {
		copy(b[1:], m.psc)
	}
	return b
}

// WriteSecurity writes a byte of the security memory. Without the PSC, bits of
// the error counter can be cleared and nothing else.
func (m *Memory) WriteSecurity(addr int, b byte) {
	defer m.show()
	switch {
	case m.psc == nil:
	case addr == 0 && m.open:
		m.counter = b & m.bits
	case addr == 0:
		m.tried = m.counter&^b != 0
		m.counter &= b
		m.matched = make([]bool, len(m.psc))
	case m.open && addr <= len(m.psc):
		m.psc[addr-1] = b
	}
}

// Compare compares byte addr of the PSC, counted from 1. It does so after a bit
// of the error counter was cleared; with the last one right the card is open.
func (m *Memory) Compare(addr int, b byte) {
	if !m.tried || addr < 1 || addr > len(m.psc) {
		return
	}
	m.matched[addr-1] = m.psc[addr-1] == b
	for _, ok := range m.matched {
		if !ok {
			return
		}
	}
	m.open = true
	m.show()
}

// Transmit implements Card.
func (m *Memory) Transmit(apdu []byte) []byte {
	c, ok := parseCommand(apdu)
	if !ok {
		return status(swWrongLength)
	}
	addr := int(c.p1)<<8 | int(c.p2)
	switch {
	case c.cla != 0:
		return status(swUnknownCLA)
	case c.ins == insSelect:
		return status(swOK)
	case c.ins == insReadBinary && addr < len(m.data):
		return withStatus(m.Read(addr, min(c.le, len(m.data)-addr)), swOK)
	case c.ins == insUpdateBinary && addr+len(c.data) <= len(m.data):
		m.Write(addr, c.data)
		if !bytes.Equal(m.Read(addr, len(c.data)), c.data) {
			return status(swMemoryFailure)
		}
		return status(swOK)
	case c.ins == insReadBinary, c.ins == insUpdateBinary:
		return status(swWrongOffset)
	case c.ins == insVerify && m.psc != nil:
		return status(m.verify(c.data))
	case c.ins == insChangeReferenceData && m.psc != nil:
		half := len(m.psc)
		if len(c.data) != 2*half {
			return status(swWrongLength)
		}
		sw := m.verify(c.data[:half])
		if sw == swOK {
			for i, b := range c.data[half:] {
				m.WriteSecurity(1+i, b)
			}
		}
		return status(sw)
	}
	return status(swUnknownINS)
}

// verify is what a terminal does with a card to verify its PSC.
func (m *Memory) verify(psc []byte) uint16 {
	switch {
	case len(psc) != len(m.psc):
		return swWrongLength
	case m.counter == 0:
		return swBlocked
	}
	m.open = false
	m.WriteSecurity(0, m.counter&(m.counter-1))
	for i, b := range psc {
		m.Compare(1+i, b)
	}
	if m.open {
		m.WriteSecurity(0, 0xFF)
		return swOK
	}
	left := uint16(0)
	for c := m.counter; c != 0; c &= c - 1 {
		left++
	}
	return swWrongPIN | left
}
