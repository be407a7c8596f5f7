// Package phoenix is a virtual Phoenix or SmartMouse reader: a card whose
// contact I/O is on both data lines of a serial line, its reset on RTS.
package phoenix

import (
	"slices"

	"openct/internal/atr"
	"openct/internal/proto"
	"openct/internal/serial"
	"openct/internal/vusb/card"
	"openct/internal/vusb/serialline"
)

// Reader is the reader. What reaches the card is decided as in a real one: the
// line's speed must be the card's, and its parity that of the card's
// convention.
type Reader struct {
	hold bool // RTS while the card is held in reset

	// Clock of the card, in Hz; it is set before the reader is used.
	Clock int

	// AnyLine takes any speed and parity for right: of a line that does not
	// tell them, such as a pseudo-terminal.
	AnyLine bool

	line     serial.Params
	dtr, rts bool
	card     card.Card // nil: none
	atr      []byte
	inverse  bool

	on      bool // out of reset, and powered
	begun   bool // something was sent since
	rate    atr.Rate
	t0      *card.T0
	t1      *card.T1
	speaks  proto.ID
	offered *atr.ATR
	in      []byte // of a PPS or a block, so far
	pps     bool
}

var _ serialline.Reader = (*Reader)(nil)

// New makes a Phoenix reader, in which RTS set holds the card in reset.
func New(c card.Card) *Reader { return newReader(c, true) }

// NewSmartMouse makes a SmartMouse reader, in which RTS not set does.
func NewSmartMouse(c card.Card) *Reader { return newReader(c, false) }

func newReader(c card.Card, hold bool) *Reader {
	r := &Reader{hold: hold, Clock: atr.DefaultClock, line: serial.Default}
	r.Insert(c)
	return r
}

// Insert puts a card in, Remove takes it out.
func (r *Reader) Insert(c card.Card) {
	r.card, r.on = c, false
	if c == nil {
		return
	}
	r.t0, r.t1 = card.NewT0(c), card.NewT1(c, card.T1Options{})
}

// Remove takes the card out.
func (r *Reader) Remove() { r.Insert(nil) }

// Chips are the card's sides of T=0 and T=1, for tests that make it misbehave.
func (r *Reader) Chips() (*card.T0, *card.T1) { return r.t0, r.t1 }

// Inputs implements serialline.Reader: CTS is low while a card is in.
func (r *Reader) Inputs() serial.Inputs { return serial.Inputs{CTS: r.card == nil} }

// Set implements serialline.Reader.
func (r *Reader) Set(p serial.Params) { r.line = p }

// SetLines implements serialline.Reader.
func (r *Reader) SetLines(dtr, rts bool) []serialline.Char {
	r.dtr, r.rts = dtr, rts
	if !dtr || rts == r.hold || r.card == nil {
		r.on = false
		return nil
	}
	if r.on {
		return nil
	}
	return r.Reset()
}

// Reset is a reset of the card, which answers.
func (r *Reader) Reset() []serialline.Char {
	if r.card == nil {
		return nil
	}
	r.t0.Reset()
	r.t1.Reset()
	r.atr = slices.Clone(r.card.ATR())
	r.on, r.begun, r.pps, r.in = true, false, false, nil
	r.inverse = len(r.atr) > 0 && r.atr[0] == atr.TSInverse
	r.rate = atr.Rate{Clock: r.Clock}
	r.speaks, r.offered = proto.T0, nil
	if a, err := atr.Parse(r.atr); a != nil && (err == nil || len(a.Groups) > 0) {
		r.offered, r.speaks = a, a.Default()
	}
	return r.encode(r.atr)
}

// fits says whether the line's speed is the card's.
func (r *Reader) fits() bool {
	if r.AnyLine {
		return true
	}
	bit := r.rate.ETU().Seconds() * float64(r.line.Speed)
	return bit > 0.97 && bit < 1.03
}

// parityFits says whether the line's parity is that of the card's convention.
func (r *Reader) parityFits() bool {
	switch {
	case r.AnyLine:
		return true
	case r.inverse:
		return r.line.Parity == serial.Odd
	}
	return r.line.Parity == serial.Even
}

// encode is what the host receives of what the card sends.
func (r *Reader) encode(b []byte) []serialline.Char {
	b = slices.Clone(b)
	if r.inverse {
		atr.Invert(b)
	}
	chars := make([]serialline.Char, len(b))
	for i, c := range b {
		chars[i] = serialline.Char{Byte: c, Bad: r.line.Parity != serial.None && !r.parityFits()}
		if !r.fits() {
			chars[i] = serialline.Char{Byte: 0, Bad: true}
		}
	}
	return chars
}

// Send implements serialline.Reader.
func (r *Reader) Send(b byte) []serialline.Char {
	echo := serialline.Char{Byte: b}
	if !r.on || r.card == nil || !r.fits() {
		return []serialline.Char{echo}
	}
	if !r.parityFits() {
		// The card pulls the line down where its stop bits should be, which
		// T=0 calls an error signal (ISO/IEC 7816-3, 7.3).
		echo.Bad = r.speaks == proto.T0
		return []serialline.Char{echo}
	}
	v := []byte{b}
	if r.inverse {
		atr.Invert(v)
	}
	return append([]serialline.Char{echo}, r.take(v[0])...)
}

// take gives the card a byte.
func (r *Reader) take(b byte) []serialline.Char {
	if !r.begun {
		r.begun, r.pps = true, b == 0xFF
	}
	switch {
	case r.pps:
		return r.takePPS(b)
	case r.speaks == proto.T1:
		r.in = append(r.in, b)
		if len(r.in) < 3 || len(r.in) < 3+int(r.in[2])+1 {
			return nil
		}
		block := r.in
		r.in = nil
		return r.encode(r.t1.Block(block))
	}
	return r.encode(r.t0.Stream([]byte{b}))
}

// takePPS gives the card a byte of a PPS request (ISO/IEC 7816-3, 9). It
// confirms a protocol that it offers, and factors up to TA1's.
func (r *Reader) takePPS(b byte) []serialline.Char {
	r.in = append(r.in, b)
	if atr.NeedPPS(r.in) > 0 {
		return nil
	}
	req := r.in
	r.in, r.pps = nil, false
	t := proto.ID(req[1] & 0x0F)
	if r.offered == nil || !r.offered.Offers(t) || xor(req) != 0 {
		r.on = false // silent until the next reset
		return nil
	}
	rate := atr.Rate{Clock: r.Clock}
	resp := []byte{0xFF, req[1] & 0x0F}
	if req[1]&0x10 != 0 {
		fi, okF := atr.Fi(req[2] >> 4)
		di, okD := atr.Di(req[2] & 0x0F)
		f, d := r.offered.FiDi()
		if okF && okD && fi <= f && di <= d {
			rate.F, rate.D = fi, di
			resp[1] |= 0x10
			resp = append(resp, req[2])
		}
	}
	out := r.encode(append(resp, xor(resp)))
	r.speaks, r.rate = t, rate // from the next byte on
	return out
}

func xor(b []byte) (sum byte) {
	for _, c := range b {
		sum ^= c
	}
	return sum
}
