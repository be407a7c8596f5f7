// Package kaan is a virtual card terminal of Kobil's on a serial line: a KAAN
// Professional or a B1. It is written from doc/devices/kaan.md, and its T=1 is
// the card's side of package card.
package kaan

import (
	"slices"
	"time"

	"openct/internal/atr"
	"openct/internal/serial"
	"openct/internal/vusb/card"
	"openct/internal/vusb/serialline"
)

// Terminal is the terminal. Its settings are changed before it is used. It is
// strict: what a terminal need not understand it does not.
type Terminal struct {
	B1 bool // DTR feeds it, and DSR tells that it is on

	// Old firmware does not know RESET CT with INS 10, tells a card's status
	// without a tag, and has neither keypad nor display.
	Old bool

	// MemorySW is the answer to the reset of a memory card; 0 is 9000, which
	// says that the terminal knows it.
	MemorySW uint16

	// PIN is what the user types when no Keys were given.
	PIN string

	// AnyLine takes any speed and parity for right: of a line that does not
	// tell them, such as a pseudo-terminal.
	AnyLine bool

	slots   []*slot
	t1      *card.T1
	line    serial.Params
	dtr     bool
	in      []byte    // of a block, so far
	last    time.Time // when a byte came
	nad     byte      // of the command under way
	file    [2]byte   // selected
	frozen  bool
	event   bool // a card moved while it was frozen
	display string
	keys    []Keys
	entries int
}

// Keys is what the user does at the keypad for one PIN entry.
type Keys struct {
	PIN, New string
	Cancel   bool // the red key
	Nothing  bool // no key at all, until the terminal's time is up
	Mismatch bool // the two new PINs differ
}

// slot is a place for a card.
type slot struct {
	card     card.Card
	t0       *card.T0
	on       bool
	protocol byte // the terminal's number, 0: none
}

var (
	_ serialline.Reader = (*Terminal)(nil)
	_ card.Card         = (*Terminal)(nil)
)

// New makes a terminal with a slot for each of the cards, which may be nil.
func New(cards ...card.Card) *Terminal {
	t := &Terminal{line: serial.Default}
	for range cards {
		t.slots = append(t.slots, &slot{})
	}
	for i, c := range cards {
		t.Insert(i, c)
	}
	t.t1 = card.NewT1(t, card.T1Options{MaxINF: 32, AnyNAD: true})
	return t
}

// Insert puts a card into a slot; nil takes it out.
func (t *Terminal) Insert(i int, c card.Card) {
	*t.slots[i] = slot{card: c}
	if c != nil {
		t.slots[i].t0 = card.NewT0(c)
	}
	t.event = t.frozen
}

// Chip is the terminal's side of T=1, for tests that make it misbehave.
func (t *Terminal) Chip() *card.T1 { return t.t1 }

// Display is what the display shows.
func (t *Terminal) Display() string { return t.display }

// Type is what the user will do at the next PIN entries.
func (t *Terminal) Type(k ...Keys) { t.keys = append(t.keys, k...) }

// Entries is how many PINs were asked for.
func (t *Terminal) Entries() int { return t.entries }

// Powered says whether a slot's card has power.
func (t *Terminal) Powered(i int) bool { return t.slots[i].on }

// Set implements serialline.Reader.
func (t *Terminal) Set(p serial.Params) { t.line = p }

// SetLines implements serialline.Reader.
func (t *Terminal) SetLines(dtr, _ bool) []serialline.Char {
	if t.B1 && !dtr && t.dtr {
		t.off()
	}
	t.dtr = dtr
	return nil
}

// off is what the terminal forgets without power.
func (t *Terminal) off() {
	t.t1.Reset()
	t.in, t.frozen, t.event, t.display = nil, false, false, ""
	for _, s := range t.slots {
		s.on = false
	}
}

// Inputs implements serialline.Reader. DSR tells news while the terminal is
// frozen, and a B1 tells with it otherwise that it is on.
func (t *Terminal) Inputs() serial.Inputs {
	on := t.B1 && t.dtr && !t.frozen
	return serial.Inputs{DSR: on || t.frozen && t.event}
}

// Send implements serialline.Reader. There is no echo.
func (t *Terminal) Send(b byte) []serialline.Char {
	if t.B1 && !t.dtr && !t.AnyLine || !t.fits() {
		return nil
	}
	const gap = time.Second // of silence ends what was begun
	now := time.Now()
	if now.Sub(t.last) > gap {
		t.in = nil
	}
	t.last = now
	t.in = append(t.in, b)
	if len(t.in) < 3 || len(t.in) < 4+int(t.in[2]) {
		return nil
	}
	block := t.in
	t.in = nil
	t.frozen, t.event = false, false
	if block[1]&0x80 == 0 {
		t.nad = block[0]
	}
	var out []serialline.Char
	for _, b := range t.t1.Block(block) {
		out = append(out, serialline.Char{Byte: b})
	}
	return out
}

func (t *Terminal) fits() bool {
	return t.AnyLine || t.line.Speed == 9600 && t.line.Parity == serial.Even && t.line.StopBits == 1
}

// ATR implements card.Card; a terminal has none.
func (t *Terminal) ATR() []byte { return nil }

// Reset implements card.Card.
func (t *Terminal) Reset() {}

// Status words.
var (
	ok         = []byte{0x90, 0x00}
	reset      = []byte{0x90, 0x01} // an asynchronous card
	ended      = []byte{0x62, 0x82} // the file does
	notInTime  = []byte{0x62, 0x00}
	nothing    = []byte{0x64, 0x00}
	cancelled  = []byte{0x64, 0x01}
	mismatch   = []byte{0x64, 0x02}
	noCard     = []byte{0x64, 0xA1}
	wrongLen   = []byte{0x67, 0x00}
	notAllowed = []byte{0x69, 0x00}
	noFile     = []byte{0x6A, 0x82}
	wrongP1P2  = []byte{0x6B, 0x00}
	unknownINS = []byte{0x6D, 0x00}
	unknownCLA = []byte{0x6E, 0x00}
)

// Transmit implements card.Card: a command to the terminal or to a card.
func (t *Terminal) Transmit(apdu []byte) []byte {
	i := 0
	switch t.nad {
	case 0x12:
		return t.command(apdu)
	case 0x02:
	default:
		i = int(t.nad>>4) - 2
	}
	if i < 0 || i >= len(t.slots) || t.slots[i].card == nil || !t.slots[i].on {
		return noCard
	}
	return t.slots[i].transmit(apdu)
}

// transmit is a command to a card, whose protocol the terminal must have been
// told. In T=0 it takes TPDUs.
func (s *slot) transmit(apdu []byte) []byte {
	switch s.protocol {
	case 0x01:
		return s.t0.TPDU(apdu)
	case 0x02, 0x80, 0x81, 0x82, 0x93:
		return s.card.Transmit(apdu)
	}
	return notAllowed
}

// command is one to the terminal itself.
func (t *Terminal) command(apdu []byte) []byte {
	c, good := parse(apdu)
	if !good {
		return wrongLen
	}
	switch {
	case c.cla == 0x20:
		return t.ctbcs(c)
	case c.cla == 0x80 && c.ins == 0x60:
		return t.setProtocol(c)
	case c.cla == 0x80 && c.ins == 0x70:
		return t.freeze(c)
	case c.cla == 0x00 && c.ins == 0xA4:
		return t.selectFile(c)
	case c.cla == 0x00 && c.ins == 0xB0:
		return t.readFile(c)
	case c.cla == 0x00, c.cla == 0x80:
		return unknownINS
	}
	return unknownCLA
}

// cmd is a command taken apart.
type cmd struct {
	cla, ins, p1, p2 byte
	data             []byte
}

func parse(b []byte) (c cmd, good bool) {
	if len(b) < 4 {
		return c, false
	}
	c = cmd{cla: b[0], ins: b[1], p1: b[2], p2: b[3]}
	if len(b) <= 5 {
		return c, true
	}
	n := int(b[4])
	if n == 0 || len(b) != 5+n && len(b) != 5+n+1 {
		return c, false
	}
	c.data = b[5 : 5+n]
	return c, true
}

// objects are the data objects of a command.
func (c cmd) objects() (map[byte][]byte, bool) {
	o := make(map[byte][]byte)
	for b := c.data; len(b) > 0; {
		if len(b) < 2 || len(b) < 2+int(b[1]) || o[b[0]] != nil {
			return nil, false
		}
		n := 2 + int(b[1])
		o[b[0]], b = b[2:n], b[n:]
	}
	return o, true
}

// ctbcs is a command of CT-BCS.
func (t *Terminal) ctbcs(c cmd) []byte {
	o, good := c.objects()
	if !good {
		return wrongLen
	}
	var s *slot
	if n := int(c.p1) - 1; n >= 0 && n < len(t.slots) {
		s = t.slots[n]
	}
	switch {
	case (c.ins == 0x10 && !t.Old || c.ins == 0x11) && c.p1 == 0 && c.p2 == 0:
		t.display = ""
		for _, s := range t.slots {
			s.on = false
		}
		return ok
	case c.ins == 0x10 && c.p1 == 0:
		return wrongP1P2
	case c.ins == 0x13 && c.p1 == 0 && c.p2 == 0x81:
		return append(t.units(), ok...)
	case c.ins == 0x17 && c.p1 == 0x40 && !t.Old:
		text, given := o[0x50]
		if !given || len(text) > 32 {
			return wrongLen
		}
		t.display = string(text)
		return ok
	case s == nil || (c.ins == 0x18 || c.ins == 0x19) && t.Old:
		return wrongP1P2
	}
	switch c.ins {
	case 0x10, 0x11:
		return t.reset(s)
	case 0x12:
		if s.card == nil {
			t.display = string(o[0x50])
		}
		return t.reset(s)
	case 0x13:
		status := byte(0)
		switch {
		case s.card != nil && s.on:
			status = 5
		case s.card != nil:
			status = 3
		}
		if t.Old {
			return append([]byte{status}, ok...)
		}
		return append([]byte{0x80, 0x01, status}, ok...)
	case 0x15:
		s.on = false
		return ok
	case 0x18, 0x19:
		return t.pin(s, c.ins == 0x19, o[0x52])
	}
	return unknownINS
}

// units is what the terminal has.
func (t *Terminal) units() []byte {
	var list []byte
	for i := range t.slots {
		list = append(list, byte(1+i))
	}
	if !t.Old {
		list = append(list, 0x40, 0x50)
	}
	return append([]byte{0x81, byte(len(list))}, list...)
}

// reset powers a card up. A terminal would wait for one some seconds.
func (t *Terminal) reset(s *slot) []byte {
	s.on, s.protocol = false, 0
	if s.card == nil {
		return notInTime
	}
	s.on = true
	answer := slices.Clone(s.t0.Reset())
	if _, memory := s.card.(*card.Memory); !memory {
		return append(answer, reset...)
	}
	sw := t.MemorySW
	if sw == 0 {
		sw = 0x9000
		s.protocol = s.kind()
	}
	return append(answer, byte(sw>>8), byte(sw))
}

// kind is the terminal's number for the card that is in.
func (s *slot) kind() byte {
	if m, memory := s.card.(*card.Memory); memory {
		return memoryKinds[m.Kind()]
	}
	a, err := atr.Parse(s.card.ATR())
	if err != nil || a.Default() != 1 {
		return 0x01
	}
	return 0x02
}

// setProtocol is how a card is talked to from now on.
func (t *Terminal) setProtocol(c cmd) []byte {
	o, good := c.objects()
	n := int(c.p1) - 1
	if !good || len(o[0x22]) != 1 || n < 0 || n >= len(t.slots) {
		return wrongP1P2
	}
	s := t.slots[n]
	if !s.on {
		return noCard
	}
	want := o[0x22][0]
	m, memory := s.card.(*card.Memory)
	switch {
	case memory && want == memoryKinds[m.Kind()]:
	case !memory && (want == 0x01 || want == 0x02):
	default:
		return notAllowed
	}
	s.protocol = want
	return ok
}

// freeze makes the terminal silent until a card moves.
func (t *Terminal) freeze(c cmd) []byte {
	o, good := c.objects()
	if !good || len(o[0x30]) != len(t.slots) {
		return wrongLen
	}
	t.frozen, t.event = true, false
	return ok
}

// selectFile goes down the terminal's files: 3F00, 7F7x, 7x21.
func (t *Terminal) selectFile(c cmd) []byte {
	if len(c.data) != 2 {
		return wrongLen
	}
	id := [2]byte(c.data)
	slot := int(id[0] & 0x0F)
	switch {
	case id == [2]byte{0x3F, 0x00}:
	case t.file == [2]byte{0x3F, 0x00} && id[0] == 0x7F && id[1]>>4 == 7 && int(id[1]&0x0F) < len(t.slots):
	case t.file[0] == 0x7F && id[0]>>4 == 7 && id[1] == 0x21 && slot == int(t.file[1]&0x0F):
	default:
		return noFile
	}
	t.file = id
	return append([]byte{0x00, 0x20}, ok...)
}

// readFile reads the file about a slot.
func (t *Terminal) readFile(c cmd) []byte {
	if t.file[0]>>4 != 7 || t.file[1] != 0x21 || c.p1 != 0 || c.p2 != 0 {
		return notAllowed
	}
	n := t.file[0] & 0x0F
	s := t.slots[n]
	b := []byte{0x20, 0x01, 1 + n, 0x21, 0x01, 0x00, 0x22, 0x01, 0x00}
	if s.card != nil {
		b[5] = 1
		if s.on {
			b[5] = 2
		}
		if b[8] = s.protocol; t.MemorySW == 0 {
			b[8] = s.kind()
		}
	}
	return append(b, ended...)
}
