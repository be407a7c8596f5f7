package verify

import (
	"slices"

	"openct/internal/atr"
	"openct/internal/serial/record"
)

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
	c.done()
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
	data    int  // bytes of data that are due in T=0
	begun   bool // a command of T=0 has its header
	header  [5]byte
}

// done puts back what is masked.
func (c *contactMask) done() {
	c.endRun()
	c.finish()
	for _, p := range c.runs {
		p.back()
	}
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
	case c.answers && c.step.Do != Transmit:
		c.answers = false
		keepATR(b, c.atr)
	case c.step.Do == Reset && c.atrDue(b): // of a card on a line without RTS
		keepATR(b, c.atr)
	case c.step.Do == Protocol && c.t1 && b[0] != 0xFF:
		c.addStream(b, block{mask: maskResponse}) // a length is agreed upon
	case c.step.Do == Protocol:
		maskPPS(b)
	case c.step.Do != Transmit:
		clear(b)
	case c.t1:
		c.addStream(b, block{mask: maskResponse})
	default:
		c.t0(b)
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
