package verify

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
