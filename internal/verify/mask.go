package verify

import (
	"bytes"
	"slices"

	"openct/internal/atr"
	"openct/internal/proto"
	"openct/internal/serial/record"
)

// A device's bytes pass through here before they get into a report. There is no
// list of what must not be seen, because such a list has gaps. Each form of
// exchange has a function that knows it, and keeps what the form makes harmless:
// headers, lengths, status words, parameters, the ATR. It puts a zero in place of
// everything else, and computes checksums anew, so that a driver can take the
// bytes for an exchange.

// packing is how a driver's device packs what the card says.
type packing int

const (
	// unknownForm: nothing is kept but the ATR and answers of a single byte. What is
	// left cannot be played.
	unknownForm packing = iota

	// t1Form: each answer to an APDU's transfers is a block of T=1.
	t1Form

	// ccidForm: messages of CCID 1.1.
	ccidForm

	// contactForm: the serial line is the card's contact I/O, what is sent comes back.
	contactForm
)

// forms of the drivers' devices; unknownForm for those left out.
var forms = map[string]packing{
	"etoken64":   t1Form,
	"etoken":     t1Form,
	"starkey":    t1Form,
	"ccid":       ccidForm,
	"phoenix":    contactForm,
	"smartmouse": contactForm,
}

// Playable says whether a driver can take what is left of the recording for an
// exchange with a device.
func (r *Report) Playable() bool {
	if forms[r.Driver] == unknownForm || (forms[r.Driver] == contactForm) != (r.Device == nil) {
		return false
	}
	for i := range r.Steps {
		// The checksum that no card uses is not computed anew.
		if a, _ := atr.Parse(r.Steps[i].atr()); a != nil && a.Offers(proto.T1) && a.CRC() {
			return false
		}
	}
	return true
}

// Mask removes from the report whatever is not known to be harmless. A second
// call changes nothing.
func (r *Report) Mask() {
	if d := r.Device; d != nil {
		d.Manufacturer, d.ProductString, d.Serial, d.Port, d.Bus, d.Address = "", "", "", "", 0, 0
		for i := range d.Interfaces {
			maskDescriptors(d.Interfaces[i].Extra)
		}
	}
	m := masker{form: forms[r.Driver], characters: r.characters()}
	for i := range r.Steps {
		m.step(&r.Steps[i])
	}
}

// maskDescriptors keeps types and lengths of class- and vendor-specific
// descriptors, and the class descriptor of CCID (CCID 1.1, 5.1), which is a table of
// numbers that say what the reader can do.
func maskDescriptors(extra []byte) {
	const ccidType, vendorType = 0x21, 0xFF
	for rest := extra; len(rest) > 0; {
		n := int(rest[0])
		if n < 2 || n > len(rest) {
			clear(rest)
			return
		}
		if n != ccidLength || rest[1] != ccidType && rest[1] != vendorType {
			clear(rest[2:n])
		}
		rest = rest[n:]
	}
}

// masker goes through the steps of a recording.
type masker struct {
	form packing
	atr  []byte // of the last reset, as far as it is one
	t1   bool   // the protocol of the last step that chose one
	sent []byte // the last message to a CCID reader

	characters bool // the CCID reader exchanges single characters
}

func (m *masker) step(s *Step) {
	switch s.Do {
	case Reset:
		m.atr = nil
		if raw := s.atr(); raw != nil {
			m.atr = slices.Clone(raw[:atrLength(raw)])
			s.Result = atrText(raw)
		}
	case Protocol:
		m.t1 = s.Result == proto.T1.String()
	}
	switch m.form {
	case ccidForm:
		m.ccid(s)
	case contactForm:
		m.contact(s)
	}
	if m.form == unknownForm || m.form == t1Form || m.form == contactForm {
		m.transfers(s)
	}
	if m.form != contactForm {
		for i := range s.Serial {
			if s.Serial[i].Kind == record.Answer {
				clear(s.Serial[i].Data)
			}
		}
	}
	for i := range s.Serial {
		s.Serial[i].Echo = nil
	}
}

// atrText is the result of a reset: the ATR, and zeros in place of what follows it.
func atrText(raw []byte) string {
	b := make([]byte, len(raw))
	copy(b, raw[:atrLength(raw)])
	return ResetText(b)
}

// atrLength is how long the ATR is that raw begins with: 0 where it is none. Bytes
// that follow it are not its.
func atrLength(raw []byte) int {
	if len(raw) == 0 || raw[0] != atr.TSDirect && raw[0] != atr.TSInverse {
		return 0
	}
	for n := 2; n <= min(len(raw), atr.MaxLen); n++ {
		if atr.Complete(raw[:n]) {
			return n
		}
	}
	return 0
}

// transfers masks a step of a device that has requests of its own.
func (m *masker) transfers(s *Step) {
	var blocks [][]byte
	for i := range s.USB {
		switch r := s.USB[i].R; {
		case s.Do == Transmit && m.form == t1Form:
			if len(r) > 0 {
				blocks = append(blocks, r)
			}
		case s.Do == Transmit:
			clear(r)
		default:
			m.answer(r)
		}
	}
	maskBlocks(blocks)
}

// answer keeps an answer of one byte, such as a status, and the ATR with a byte
// before it that is its length.
func (m *masker) answer(r []byte) {
	if len(r) <= 1 {
		return
	}
	i := -1
	if len(m.atr) > 0 {
		i = bytes.Index(r, m.atr)
	}
	switch {
	case i < 0 && m.form == t1Form && bytes.HasPrefix(r, resynchronised):
		clear(r[len(resynchronised):])
		return
	case i < 0:
		clear(r)
		return
	}
	prefix := i > 0 && int(r[i-1]) >= len(m.atr) && int(r[i-1]) <= len(r)-i
	if prefix {
		clear(r[:i-1])
	} else {
		clear(r[:i])
	}
	clear(r[i+len(m.atr):])
}

// isStatus says whether a byte begins a status word (ISO/IEC 7816-4, 5.3.4).
func isStatus(sw1 byte) bool { return sw1&0xF0 == 0x60 || sw1&0xF0 == 0x90 }

// maskResponse keeps the status word of a response APDU.
func maskResponse(b []byte) {
	if n := len(b); n >= 2 && isStatus(b[n-2]) {
		clear(b[:n-2])
		return
	}
	clear(b)
}

// pieces is what was sent in several pieces. It is masked as a whole, and then
// put back.
type pieces struct {
	parts [][]byte
	whole []byte
}

func (p *pieces) add(b []byte) {
	p.parts = append(p.parts, b)
	p.whole = append(p.whole, b...)
}

// back puts what was masked in its places.
func (p *pieces) back() {
	rest := p.whole
	for _, part := range p.parts {
		rest = rest[copy(part, rest):]
	}
}

// maskPPS keeps a PPS response (ISO/IEC 7816-3, 9): the protocol and its speed.
func maskPPS(b []byte) {
	if len(b) < 3 || len(b) > 6 || b[0] != 0xFF || xor(b) != 0 {
		clear(b)
	}
}
