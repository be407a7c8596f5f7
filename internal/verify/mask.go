package verify

import (
	"bytes"
	"fmt"
	"slices"

	"openct/internal/atr"
	"openct/internal/proto"
)

// A device's bytes pass through here before they get into a report. There is no
// list of what must not be seen, because such a list has gaps. Each form of
// exchange has a function that knows it, and keeps what the form makes harmless:
// headers, lengths, status words, parameters, the ATR without what a card's issuer
// may write there. It puts a zero in place of everything else, and computes
// checksums anew, so that a driver can take the bytes for an exchange.

// form masks what a device sent in a step.
type form func(m *masker, s *Step)

// forms are those of a driver's devices, on USB and on a serial line. An exchange
// without a form is left out of the report.
type forms struct{ usb, line form }

func formsOf(driver string) forms {
	switch driver {
	case "etoken64", "etoken":
		return forms{usb: (*masker).eToken}
	case "ikey2k", "ikey3k":
		return forms{usb: (*masker).iKey}
	case "starkey":
		return forms{usb: (*masker).starKey}
	case "eutron":
		return forms{usb: (*masker).eutron}
	case "egate":
		return forms{usb: (*masker).eGate}
	case "rutoken":
		return forms{usb: (*masker).rutoken}
	case "ePass3000":
		return forms{usb: (*masker).ePass}
	case "cardman":
		return forms{usb: (*masker).cardMan}
	case "pertosmart1030", "acr30u":
		return forms{usb: (*masker).acr30, line: (*masker).acr30}
	case "pertosmart1038":
		return forms{usb: (*masker).acr38}
	case "cyberjack":
		return forms{usb: (*masker).cyberJack}
	case "ccid":
		return forms{usb: (*masker).ccid}
	case "phoenix", "smartmouse":
		return forms{line: (*masker).contact}
	case "towitoko":
		return forms{line: (*masker).towitoko}
	case "smartboard":
		return forms{line: (*masker).smartBoard}
	case "gempc":
		return forms{line: (*masker).gemPC}
	case "kaan", "b1":
		return forms{line: (*masker).kaan}
	}
	return forms{}
}

func (r *Report) form() form {
	f := formsOf(r.Driver)
	if r.Device == nil {
		return f.line
	}
	return f.usb
}

// Unplayable says why a driver cannot take what is left of the recording for an
// exchange with a device; empty: it can.
func (r *Report) Unplayable() string {
	if r.form() == nil {
		at := "on a serial line"
		switch {
		case r.Device != nil:
			at = "on USB"
		case r.Driver == "cm4000":
			at = "in a PCMCIA slot"
		}
		return fmt.Sprintf("the exchange is left out: verify does not know where in the answers of driver %s %s the card's data is, and so cannot remove the data", r.Driver, at)
	}
	for i := range r.Steps {
		// The checksum that no card uses is not computed anew.
		if a, _ := atr.Parse(r.Steps[i].atr()); a != nil && a.Offers(proto.T1) && a.CRC() {
			return "the card uses CRC checksums, which verify cannot compute for blocks whose card data is removed"
		}
	}
	return ""
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
	m := masker{form: r.form(), characters: r.characters()}
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
	form  form
	atr   []byte // of the last reset, as far as it is one
	t1    bool   // the protocol of the last step that chose one
	sent  sent   // the last thing that the driver sent
	state byte   // of a token that has phases: the last one that it told

	host hostBlocks // of a reader that the driver speaks T=1 or GBP with

	blocks []block  // of the step, not masked yet
	after  []func() // to be done when they are

	characters bool // the CCID reader exchanges single characters
}

// sent is what a driver sent to the device.
type sent struct {
	request uint8 // of a control transfer
	data    []byte
}

func (m *masker) step(s *Step) {
	switch s.Do {
	case Reset:
		m.atr = nil
		if raw := s.atr(); raw != nil {
			m.atr = slices.Clone(raw[:atrLength(raw)])
		}
	case Protocol:
		m.t1 = s.Result == proto.T1.String()
	}
	s.maskResult()
	if m.form == nil {
		s.USB, s.Serial = nil, nil
		return
	}
	m.form(m, s)
	for i := range s.Serial {
		s.Serial[i].Echo = nil
	}
}

// finish masks the blocks of a step.
func (m *masker) finish() {
	maskBlocks(m.blocks)
	for _, do := range m.after {
		do()
	}
	m.blocks, m.after = nil, nil
}

// atrText is the result of a reset: the ATR as a report has it, and zeros in place
// of what follows it.
func atrText(raw []byte) string {
	b := bytes.Clone(raw)
	keepATR(b, nil)
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

// keepATR keeps an ATR: the one that is known, or the one with which b begins.
func keepATR(b, known []byte) {
	n := len(known)
	if n == 0 || !bytes.HasPrefix(b, known) {
		n = atrLength(b)
	}
	maskATR(b[:n])
	clear(b[n:])
}

// Historical bytes (ISO/IEC 7816-4, 8.1.1): after the category 80 come objects in
// COMPACT-TLV, a tag and a length in a byte, then the value.
const (
	categoryCompact = 0x80

	tagService      = 3 // how the card selects
	tagCapabilities = 7
	tagLifeCycle    = 8 // and a status word
)

// maskATR keeps the interface bytes. Of the historical bytes it keeps the objects
// that say what the card can do; the others may have the number of a card or of
// its holder. TCK is computed anew.
func maskATR(raw []byte) {
	a, _ := atr.Parse(raw)
	if a == nil {
		clear(raw)
		return
	}
	n := len(raw)
	if a.TCK != atr.Absent {
		n--
	}
	intact := a.TCK != atr.Absent && xor(raw[1:]) == 0
	hist := raw[n-len(a.Historical) : n]
	if len(hist) > 0 && hist[0] == categoryCompact {
		hist = hist[1:]
		for len(hist) > 0 {
			tag, size := hist[0]>>4, int(hist[0]&0x0F)
			most, harmless := map[byte]int{tagService: 1, tagCapabilities: 3, tagLifeCycle: 3}[tag]
			if !harmless || size > most || 1+size > len(hist) {
				break
			}
			hist = hist[1+size:]
		}
	}
	clear(hist)
	if a.TCK == atr.Absent {
		return
	}
	raw[n] = xor(raw[1:n])
	if !intact {
		raw[n] ^= 1
	}
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

// maskPPS keeps a PPS response (ISO/IEC 7816-3, 9): the protocol and its speed.
func maskPPS(b []byte) {
	if !isPPS(b) {
		clear(b)
	}
}

func isPPS(b []byte) bool { return len(b) >= 3 && len(b) <= 6 && b[0] == 0xFF && xor(b) == 0 }

func xor(b []byte) (sum byte) {
	for _, c := range b {
		sum ^= c
	}
	return sum
}
