package verify

// Blocks of T=1 (ISO/IEC 7816-3, 11.3): NAD PCB LEN INF EDC.
const (
	t1Overhead = 4 // with an LRC
	t1Reserved = 0xFF
	t1MaxLen   = 0xFE

	t1More = 0x20 // in the PCB of an I-block: another one follows
	t1Seq  = 0x40 // its number

	notPCB = 0x01 // no block has this PCB
	notNAD = 0xFF // nor this NAD
)

// block is a block that a device sent, and whatever follows it in the same answer.
type block struct {
	b []byte

	// mask is for the information that a chain of blocks brings.
	mask func([]byte)

	// reader: the host speaks with the reader, whose node addresses are its own.
	reader bool

	// gbp: it is a block of GBP, whose information begins with the reader's status.
	gbp bool
}

// add leaves a block of the card to finish.
func (m *masker) add(b []byte) { m.blocks = append(m.blocks, block{b: b, mask: maskResponse}) }

// addStream is add for blocks one after the other.
func (m *masker) addStream(b []byte, like block) {
	for len(b) > 0 {
		n := len(b)
		if n >= t1Overhead && (b[2] != t1Reserved || like.gbp) {
			n = min(n, t1Overhead+int(b[2]))
		}
		like.b = b[:n]
		m.blocks = append(m.blocks, like)
		b = b[n:]
	}
}

// chain is the information of I-blocks that belong together.
type chain struct {
	parts [][]byte
	seq   int // number of the last one
}

// add appends the information of a block. A block with the number of the one before
// is that one again.
func (c *chain) add(seq byte, inf []byte) {
	if n := len(c.parts); n > 0 && c.seq == int(seq) {
		clear(c.parts[n-1])
		c.parts = c.parts[:n-1]
	}
	c.parts, c.seq = append(c.parts, inf), int(seq)
}

// mask masks it as a whole, and forgets it.
func (c *chain) mask(mask func([]byte)) {
	p := pieces{}
	for _, part := range c.parts {
		p.add(part)
	}
	mask(p.whole)
	p.back()
	c.parts = nil
}

func clearAll(b []byte) { clear(b) }

// maskBlocks masks what a device said in one step.
func maskBlocks(blocks []block) {
	var c chain
	type sum struct {
		b      []byte
		intact bool
	}
	var sums []sum
	for _, k := range blocks {
		b := k.b
		n := len(b)
		reserved := n >= 3 && b[2] == t1Reserved && !k.gbp
		if n < t1Overhead || reserved || n < t1Overhead+int(b[2]) {
			// What is no block stays none, for the same reason.
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
		inf, pcb, intact := b[3:len(b)-1], b[1], xor(b) == 0
		sums = append(sums, sum{b, intact})
		if b[0] != 0 && !(k.reader && b[0]>>4 == hostNode) {
			b[0] = notNAD
		}
		switch {
		case pcb&0x9F == 0 && intact: // I-block
			more := pcb&t1More != 0
			if k.gbp && len(inf) > 0 {
				more, inf = inf[0] == gemMore, inf[1:]
			}
			c.add(pcb&t1Seq, inf)
			if !more {
				c.mask(k.mask)
			}
		case pcb&0x9F == 0: // damaged
			clear(inf)
		case pcb&0xEC == 0x80 && pcb&3 != 3: // R-block
			clear(inf)
		case (pcb&^0x20 == 0xC1 || pcb&^0x20 == 0xC3 || pcb >= 0xC0 && k.reader) && len(inf) == 1 && intact: // S-block: a length, a factor
		case pcb&^0x20 >= 0xC0 && pcb&^0x20 <= 0xC3 || pcb >= 0xC0 && k.reader: // S-block
			clear(inf)
		default:
			b[1] = notPCB
			clear(inf)
		}
	}
	c.mask(clearAll) // its end did not come
	for _, s := range sums {
		n := len(s.b) - 1
		s.b[n] = xor(s.b[:n])
		if !s.intact {
			s.b[n] ^= 1
		}
	}
}

// isBlock says whether these bytes of the host are a block.
func isBlock(b []byte) bool {
	return len(b) >= t1Overhead && len(b) == t1Overhead+int(b[2]) && xor(b) == 0
}

// hostNode is the node address of the host where a reader has one (C OpenCT's
// ifd-kaan.c, ifd-cyberjack.c, proto-gbp.c).
const hostNode = 2

// hostBlocks is what the host's blocks to a reader bring.
type hostBlocks struct {
	head    int // bytes before a block on its way
	nad     byte
	command []byte
	more    bool // of the command
}

// take notes what the host sent: blocks one after the other.
func (h *hostBlocks) take(b []byte) {
	b = b[min(h.head, len(b)):]
	for len(b) >= t1Overhead && len(b) >= t1Overhead+int(b[2]) {
		one := b[:t1Overhead+int(b[2])]
		b = b[len(one):]
		if one[1]&0x80 != 0 {
			continue // no I-block
		}
		if !h.more {
			h.command = nil
		}
		h.nad, h.more = one[0], one[1]&t1More != 0
		h.command = append(h.command, one[3:len(one)-1]...)
	}
}
