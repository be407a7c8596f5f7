package verify

import (
	"bytes"
	"encoding/binary"
	"slices"

	"openct/internal/atr"
	"openct/internal/proto"
	"openct/internal/serial/record"
	usbrecord "openct/internal/usb/record"
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

// characters says whether a CCID reader exchanges single characters: none of the
// levels of exchange is in dwFeatures (CCID 1.1, table 5.1-1).
func (r *Report) characters() bool {
	const features, levels = 40, 0x00070000
	if r.Device == nil {
		return false
	}
	for _, i := range r.Device.Interfaces {
		for rest := i.Extra; len(rest) >= 2 && int(rest[0]) >= 2 && int(rest[0]) <= len(rest); rest = rest[rest[0]:] {
			if rest[0] == ccidLength {
				return binary.LittleEndian.Uint32(rest[features:])&levels == 0
			}
		}
	}
	return false
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

// Blocks of T=1 (ISO/IEC 7816-3, 11.3): NAD PCB LEN INF EDC.
const (
	t1Overhead = 4 // with an LRC
	t1Reserved = 0xFF
	t1MaxLen   = 0xFE
)

// resynchronised is the answer to a block that begins anew: S(RESYNCH response).
var resynchronised = []byte{0x00, 0xE0, 0x00, 0xE0}

// maskBlocks masks the card's answers in one exchange of T=1. Each of blocks is one
// answer; what follows the block in it is filling.
func maskBlocks(blocks [][]byte) {
	var before *byte // the last byte of the information field that is continued
	var beforeEDC *byte
	var was byte
	for _, b := range blocks {
		n := len(b)
		if n < t1Overhead || b[2] == t1Reserved || n < t1Overhead+int(b[2]) {
			// What is no block stays none, for the same reason.
			reserved := n >= 3 && b[2] == t1Reserved
			clear(b)
			switch {
			case reserved:
				b[2] = t1Reserved
			case n >= 3:
				b[2] = byte(min(t1MaxLen, max(n, 1)))
			}
			continue
		}
		clear(b[t1Overhead+int(b[2]):])
		b = b[:t1Overhead+int(b[2])]
		edc, inf := &b[len(b)-1], b[3:len(b)-1]
		intact := xor(b) == 0
		if b[0] != 0 {
			b[0] = 0xFF
		}
		pcb := b[1]
		switch {
		case pcb&0x9F == 0 && intact: // I-block; 20 says that another one follows
			var last byte
			if len(inf) > 0 {
				last = inf[len(inf)-1]
			}
			switch {
			case pcb&0x20 != 0:
				clear(inf)
			case len(inf) == 1 && before != nil && isStatus(was):
				*before, *beforeEDC = was, *beforeEDC^was
			default:
				maskResponse(inf)
			}
			before = nil
			if pcb&0x20 != 0 && len(inf) > 0 {
				before, beforeEDC, was = &inf[len(inf)-1], edc, last
			}
		case pcb&0x9F == 0: // damaged
			clear(inf)
		case pcb&0xEC == 0x80 && pcb&3 != 3: // R-block
			clear(inf)
		case (pcb&^0x20 == 0xC1 || pcb&^0x20 == 0xC3) && len(inf) == 1 && intact: // S-block: a length, a factor
		case pcb&^0x20 >= 0xC0 && pcb&^0x20 <= 0xC3: // S-block
			clear(inf)
		default:
			b[1] = 0x01 // no block has this
			clear(inf)
		}
		*edc = xor(b[:len(b)-1])
		if !intact {
			*edc ^= 1
		}
	}
}

func xor(b []byte) (sum byte) {
	for _, c := range b {
		sum ^= c
	}
	return sum
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

// Messages of CCID 1.1, 6, and requests of CCID 1.1, 5.3.
const (
	ccidLength     = 54 // of the class descriptor
	ccidHeader     = 10
	ccidPowerOn    = 0x62
	ccidXfrBlock   = 0x6F
	ccidDataBlock  = 0x80
	ccidParameters = 0x82
	ccidRateClock  = 0x84
	ccidSlotChange = 0x50
	ccidHardware   = 0x51
	ccidClocks     = 0x02
	ccidRates      = 0x03
)

// ccid masks a step of a CCID reader.
func (m *masker) ccid(s *Step) {
	var all []*pieces
	var now *pieces // a message of which a part has come
	var blocks [][]byte
	missing := 0
	line := contactMask{masker: m, step: s}
	end := func() {
		if now != nil && m.characters && m.exchange(now.whole) {
			line.take(now.whole[ccidHeader:])
			all = append(all, now)
		} else if now != nil {
			blocks = append(blocks, m.message(s, now.whole)...)
			all = append(all, now)
		}
		now, missing = nil, 0
	}
	for i := range s.USB {
		op := &s.USB[i]
		r := op.R
		switch {
		case op.Kind == usbrecord.Bulk && !op.In():
			end()
			m.sent = op.W
			if len(op.W) > ccidHeader && op.W[0] == ccidXfrBlock {
				line.endRun()
				line.written = append(line.written, op.W[ccidHeader:]...)
			}
		case op.Kind == usbrecord.Bulk && now != nil:
			n := min(missing, len(r))
			now.add(r[:n])
			clear(r[n:])
			if missing -= n; missing == 0 {
				end()
			}
		case op.Kind == usbrecord.Bulk && len(r) < ccidHeader:
			clear(r)
		case op.Kind == usbrecord.Bulk:
			n := uint64(binary.LittleEndian.Uint32(r[1:])) + ccidHeader
			have := int(min(n, uint64(len(r))))
			clear(r[have:])
			now, missing = &pieces{}, int(min(n, MaxReport))-have
			now.add(r[:have])
			if missing == 0 {
				end()
			}
		case op.Kind == usbrecord.Interrupt:
			if len(r) == 0 || (r[0] != ccidSlotChange || len(r) > 9) && (r[0] != ccidHardware || len(r) != 4) {
				clear(r)
			}
		case op.Kind == usbrecord.Control:
			if q := op.Setup; q.RequestType != 0xA1 || q.Request != ccidClocks && q.Request != ccidRates {
				clear(r)
			}
		}
	}
	end()
	line.endRun()
	maskBlocks(append(blocks, line.blocks...))
	for _, p := range append(line.runs, all...) {
		p.back()
	}
}

// exchange says whether a message is what the card said.
func (m *masker) exchange(msg []byte) bool {
	return msg[0] == ccidDataBlock && len(m.sent) >= ccidHeader && m.sent[0] == ccidXfrBlock
}

// message masks what follows the header of a message. A block of T=1 in it is left
// to the caller, who has all of them.
func (m *masker) message(s *Step, msg []byte) (blocks [][]byte) {
	body := msg[ccidHeader:]
	switch typ := msg[0]; {
	case typ < ccidDataBlock || typ > ccidRateClock:
		clear(msg)
		msg[0] = 0xFF // no message has this
	case typ == ccidParameters && (len(body) == 5 || len(body) == 7): // CCID 1.1, 6.2.3
	case typ == ccidRateClock && len(body) == 8: // CCID 1.1, 6.2.5
	case typ != ccidDataBlock || len(m.sent) < ccidHeader || len(body) == 0:
		clear(body)
	case m.sent[0] == ccidPowerOn:
		clear(body[atrLength(body):])
	case m.sent[0] != ccidXfrBlock:
		clear(body)
	case m.t1 && isBlock(m.sent[ccidHeader:]) && !bytes.Equal(m.sent[ccidHeader:], s.Command):
		return [][]byte{body}
	case s.Do != Transmit:
		maskPPS(body)
	case msg[9] == 1 || msg[9] == 3: // the response goes on (CCID 1.1, 6.2.1, bChainParameter)
		clear(body)
	default:
		maskResponse(body)
	}
	return nil
}

// isBlock says whether these bytes of the host are a block of T=1.
func isBlock(b []byte) bool {
	return len(b) >= t1Overhead && len(b) == t1Overhead+int(b[2]) && xor(b) == 0
}

// contact masks a step on a line that is the card's contact I/O.
func (m *masker) contact(s *Step) {
	inverse := len(m.atr) > 0 && m.atr[0] == atr.TSInverse
	c := contactMask{masker: m, step: s}
	for i := range s.Serial {
		st := &s.Serial[i]
		switch st.Kind {
		case record.Write:
			c.endRun()
			w := slices.Clone(st.Data)
			if inverse {
				atr.Invert(w)
			}
			c.echo = append(c.echo, w...)
			c.written = append(c.written, w...)
		case record.Lines, record.Break:
			c.endRun()
			c.echo, c.answers = nil, true
		case record.Answer:
			if inverse {
				atr.Invert(st.Data)
			}
			c.take(st.Data)
		}
	}
	c.endRun()
	maskBlocks(c.blocks)
	for _, p := range c.runs {
		p.back()
	}
	if !inverse {
		return
	}
	for i := range s.Serial {
		if s.Serial[i].Kind == record.Answer {
			atr.Invert(s.Serial[i].Data)
		}
	}
}

// contactMask is the masking of one step on such a line.
type contactMask struct {
	*masker
	step    *Step
	echo    []byte // what was written and has not come back yet
	written []byte // since the last answer that ended a command of T=0
	answers bool   // a reset was the last thing done: the ATR is due
	run     *pieces
	runs    []*pieces
	blocks  [][]byte
	data    int  // bytes of data that are due in T=0
	begun   bool // a command of T=0 has its header
	header  [5]byte
}

// take splits what came into the echo and what the card said.
func (c *contactMask) take(b []byte) {
	for len(b) > 0 && len(c.echo) > 0 {
		if b[0] != c.echo[0] {
			b[0] = ^c.echo[0] // a collision stays one
		}
		b, c.echo = b[1:], c.echo[1:]
	}
	if len(b) == 0 {
		return
	}
	if c.run == nil {
		c.run = &pieces{}
		c.runs = append(c.runs, c.run)
	}
	c.run.add(b)
}

// endRun masks what the card said without a word of the host in between.
func (c *contactMask) endRun() {
	if c.run == nil {
		return
	}
	b := c.run.whole
	c.run = nil
	switch {
	case c.answers && (c.step.Do != Transmit):
		c.answers = false
		if n := len(c.atr); n == 0 || !bytes.HasPrefix(b, c.atr) {
			clear(b)
		} else {
			clear(b[n:])
		}
	case c.step.Do == Reset && bytes.HasPrefix(b, c.atr) && len(c.atr) > 0: // of a card on a line without RTS
		clear(b[len(c.atr):])
	case c.step.Do == Protocol && c.t1 && b[0] != 0xFF:
		c.t1Blocks(b) // a length is agreed upon
	case c.step.Do == Protocol:
		maskPPS(b)
	case c.step.Do != Transmit:
		clear(b)
	case c.t1:
		c.t1Blocks(b)
	default:
		c.t0(b)
	}
}

func (c *contactMask) t1Blocks(b []byte) {
	for len(b) > 0 {
		n := len(b)
		if n >= t1Overhead && b[2] != t1Reserved {
			n = min(n, t1Overhead+int(b[2]))
		}
		c.blocks = append(c.blocks, b[:n])
		b = b[n:]
	}
}

// t0 masks what the card says in T=0 (ISO/IEC 7816-3, 10.3.3): procedure bytes,
// data, a status word.
func (c *contactMask) t0(b []byte) {
	if !c.begun {
		if len(c.written) < len(c.header) {
			clear(b)
			return
		}
		c.begun = true
		copy(c.header[:], c.written)
	}
	for len(b) > 0 {
		if c.data > 0 {
			n := min(c.data, len(b))
			clear(b[:n])
			b, c.data = b[n:], c.data-n
			continue
		}
		ins := c.header[1]
		switch p := b[0]; {
		case p == 0x60: // NULL: wait
			b = b[1:]
		case p == ins, p == ins^1: // all that remains
			b = b[1:]
			if len(b) > 0 { // the card sends: the host has written nothing
				c.data = int(c.header[4])
				if c.data == 0 {
					c.data = 256
				}
			}
		case p == ^ins, p == ^(ins ^ 1): // the next byte
			b = b[1:]
			if len(b) > 0 {
				c.data = 1
			}
		case isStatus(p):
			clear(b[min(2, len(b)):])
			c.begun, c.written = false, nil
			return
		default:
			clear(b)
			return
		}
	}
}
