// Package smartboard is a virtual SmartBoard, the reader in a Cherry keyboard at
// a serial line (doc/devices/smartboard.md).
package smartboard

import (
	"openct/internal/atr"
	"openct/internal/proto"
	"openct/internal/serial"
	"openct/internal/vusb/card"
	"openct/internal/vusb/serialline"
)

// Reader is the reader. It understands what comes at its own speed and parity.
type Reader struct {
	// AnyLine takes any speed and parity for right: of a line that does not
	// tell them, such as a pseudo-terminal.
	AnyLine bool

	// Again is how many of the next commands the reader wants once more. Busy
	// is how often it tells that the card is at work before each of its
	// answers.
	Again, Busy int

	// Mangle, if set, sees each frame that is about to leave, and returns what
	// leaves.
	Mangle func(frame []byte) []byte

	line    serial.Params
	card    card.Card // nil: none
	t0      *card.T0
	t1      *card.T1
	powered bool
	speaks  proto.ID
	event   byte   // 0: none
	in      []byte // of a frame, so far
}

var _ serialline.Reader = (*Reader)(nil)

// Codes of frames to and from the reader.
const (
	cmdInit     = 0x60
	cmdParams   = 0x61
	cmdPowerOn  = 0x62
	cmdStatus   = 0x65
	cmdExchange = 0x67
	cmdShutdown = 0x6A

	ansInit   = 0x60
	ansState  = 0x61
	ansDone   = 0x62
	ansBusy   = 0x63
	ansData   = 0x64
	evInsert  = 0x65
	evRemove  = 0x66
	ansAgain  = 0x67
	maxAnswer = 254 // bytes of data in a frame
)

// identification is what a reader says of itself.
const identification = "SMARTBOARD"

// New makes a reader with a card in it; nil is none.
func New(c card.Card) *Reader {
	r := &Reader{line: serial.Default}
	r.Insert(c)
	r.event = 0
	return r
}

// Insert puts a card in, Remove takes it out.
func (r *Reader) Insert(c card.Card) {
	r.card, r.powered, r.event = c, false, evRemove
	if c != nil {
		r.t0, r.t1, r.event = card.NewT0(c), card.NewT1(c, card.T1Options{}), evInsert
	}
}

// Remove takes the card out.
func (r *Reader) Remove() { r.Insert(nil) }

// Chips are the card's sides of T=0 and T=1, for tests that make it misbehave.
func (r *Reader) Chips() (*card.T0, *card.T1) { return r.t0, r.t1 }

// Inputs implements serialline.Reader: it drives none.
func (r *Reader) Inputs() serial.Inputs { return serial.Inputs{} }

// Set implements serialline.Reader.
func (r *Reader) Set(p serial.Params) { r.line = p }

// SetLines implements serialline.Reader: without DTR it has no power.
func (r *Reader) SetLines(dtr, _ bool) []serialline.Char {
	if !dtr {
		r.powered, r.in = false, nil
	}
	return nil
}

// fits says whether the line's speed and parity are the reader's.
func (r *Reader) fits() bool {
	speed := float64(r.line.Speed) / 115200
	return r.AnyLine || speed > 0.97 && speed < 1.03 && r.line.Parity == serial.Even
}

// Send implements serialline.Reader.
func (r *Reader) Send(b byte) []serialline.Char {
	if !r.fits() {
		return nil
	}
	r.in = append(r.in, b)
	switch {
	case r.in[0] != 0:
		r.in = nil // waits for the start of a frame
		return nil
	case len(r.in) < 2 || len(r.in) < 2+int(r.in[1]):
		return nil
	case r.in[1] == 0:
		r.in = nil
		return nil
	}
	code, data := r.in[2], r.in[3:]
	r.in = nil
	return r.run(code, data)
}

// run runs a command.
func (r *Reader) run(code byte, data []byte) []serialline.Char {
	if r.Again > 0 {
		r.Again--
		return r.frame(ansAgain, nil)
	}
	var out []serialline.Char
	if r.event != 0 {
		event := r.event
		r.event = 0
		out = r.frame(event, nil)
		if code == cmdStatus {
			return out
		}
	}
	switch code {
	case cmdShutdown:
		r.powered = false
		return append(out, r.frame(ansInit, nil)...)
	case cmdInit:
		r.powered = false
		return append(out, r.frame(ansInit, []byte(identification))...)
	case cmdStatus:
		return append(out, r.frame(ansState, r.state())...)
	case cmdPowerOn:
		return append(out, r.frame(ansData, r.powerOn())...)
	case cmdParams:
		// 10 stands first for T=1.
		r.speaks = proto.T0
		if len(data) > 0 && data[0] == 0x10 {
			r.speaks = proto.T1
		}
		return append(out, r.frame(ansDone, nil)...)
	case cmdExchange:
		for range r.Busy {
			out = append(out, r.frame(ansBusy, nil)...)
		}
		return append(out, r.frame(ansData, r.exchange(data))...)
	}
	return out // nobody knows what it does with other ones
}

func (r *Reader) state() []byte {
	switch {
	case r.card == nil:
		return []byte{0x00, 0x00, 0x00, 0x01}
	case r.powered:
		return []byte{0x19, 0x01, 0x00, 0x04}
	}
	return []byte{0x08, 0x00, 0x00, 0x02}
}

// powerOn is a reset of the card, which answers.
func (r *Reader) powerOn() []byte {
	if r.card == nil {
		return nil
	}
	r.t0.Reset()
	r.t1.Reset()
	raw := r.card.ATR()
	r.powered, r.speaks = true, proto.T0
	if a, err := atr.Parse(raw); a != nil && (err == nil || len(a.Groups) > 0) {
		r.speaks = a.Default()
	}
	return raw
}

// exchange gives the card a TPDU or a block. A response that does not fit into a
// frame gives 6700.
func (r *Reader) exchange(b []byte) []byte {
	if !r.powered {
		return nil
	}
	if r.speaks == proto.T1 {
		return r.t1.Block(b)
	}
	resp := r.t0.TPDU(b)
	if len(resp) > maxAnswer {
		return []byte{0x67, 0x00}
	}
	return resp
}

// frame is what the host receives of an answer or event.
func (r *Reader) frame(code byte, data []byte) []serialline.Char {
	b := append([]byte{0, byte(1 + len(data)), code}, data...)
	if r.Mangle != nil {
		b = r.Mangle(b)
	}
	chars := make([]serialline.Char, len(b))
	for i, c := range b {
		chars[i] = serialline.Char{Byte: c}
	}
	return chars
}
