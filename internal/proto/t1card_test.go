package proto

import (
	"context"
	"time"
)

// cardT1 is the card's side of T=1, as short as the standard allows: it never
// starts anything but waiting time extensions and changes of IFSC. The line to
// it damages blocks.
type cardT1 struct {
	answer func(apdu []byte) []byte
	ifsc   int     // what the card announces once, 0 for nothing
	ifsd   int     // longest information field to send
	wtx    int     // extensions to ask for before each response
	faults []uint8 // gaps between damaged blocks; damage stops with the list
	left   int     // damage still allowed

	ns, nr  byte
	command []byte
	resp    []byte // still to be sent, with the block under way in front
	sent    int    // length of the block under way
	sending bool
	waits   int
	last    []byte // block last sent
	reply   []byte // last, perhaps damaged
	blocks  int
}

var t1Plain t1Format

func (c *cardT1) damage(block []byte) []byte {
	block = append([]byte(nil), block...)
	if len(c.faults) == 0 || c.left == 0 {
		return block
	}
	if c.faults[0] > 0 {
		c.faults[0]--
		return block
	}
	c.faults = c.faults[1:]
	c.left--
	block[len(block)-1] ^= 0x55
	return block
}

func (c *cardT1) Send(_ context.Context, block []byte) error {
	c.blocks++
	c.receive(c.damage(block))
	c.reply = c.damage(c.last)
	return nil
}

func (c *cardT1) Recv(_ context.Context, buf []byte, _ time.Duration) (int, error) {
	return copy(buf, c.reply), nil
}

func (c *cardT1) send(pcb byte, inf []byte) {
	c.last = t1Plain.encode(make([]byte, t1MaxBlock), pcb, inf)
}

func (c *cardT1) receive(block []byte) {
	b, fault := t1Plain.decode(block, t1MaxInf)
	switch {
	case fault != nil:
		c.send(pcbR|c.nr*pcbRSeq|fault.code, nil)
	case b.pcb == sResynch:
		c.ns, c.nr, c.command, c.resp, c.sending = 0, 0, nil, nil, false
		c.send(sResynch|pcbSAnswer, nil)
	case b.isI() && b.iSeq() != c.nr:
		c.send(pcbR|c.nr*pcbRSeq|rOther, nil)
	case b.isI():
		if c.sending { // the last block of the response has arrived
			c.ns ^= 1
			c.sending, c.command = false, nil
		}
		c.nr ^= 1
		c.command = append(c.command, b.inf...)
		if b.more() {
			if c.ifsc != 0 {
				c.send(sIFS, []byte{byte(c.ifsc)})
				c.ifsc = 0
				return
			}
			c.send(pcbR|c.nr*pcbRSeq, nil)
			return
		}
		c.resp, c.waits = c.answer(c.command), c.wtx
		c.think()
	case b.pcb == sIFS|pcbSAnswer:
		c.send(pcbR|c.nr*pcbRSeq, nil)
	case b.pcb == sWTX|pcbSAnswer:
		c.think()
	case b.isR() && c.sending && b.rSeq() != c.ns && c.sent < len(c.resp): // acknowledged
		c.ns ^= 1
		c.resp = c.resp[c.sent:]
		c.piece()
	case b.isR(): // repeat what was sent last, which is still in c.last
	default:
		c.send(pcbR|c.nr*pcbRSeq|rOther, nil)
	}
}

// think asks for time, or answers.
func (c *cardT1) think() {
	if c.waits > 0 {
		c.waits--
		c.send(sWTX, []byte{1})
		return
	}
	c.sending = true
	c.piece()
}

func (c *cardT1) piece() {
	c.sent = min(len(c.resp), c.ifsd)
	pcb := c.ns * pcbISeq
	if c.sent < len(c.resp) {
		pcb |= pcbIMore
	}
	c.send(pcb, c.resp[:c.sent])
}
