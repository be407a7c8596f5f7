package proto

// A T=1 block is NAD PCB LEN INF[LEN] EDC (ISO/IEC 7816-3, 11.3).
const (
	t1Header   = 3   // NAD PCB LEN
	t1MaxInf   = 254 // LEN FF is reserved
	t1MaxBlock = t1Header + t1MaxInf + 2
)

// The protocol control byte (ISO/IEC 7816-3, 11.3.2.2).
const (
	pcbI       = 0x00 // 0 S M 00000
	pcbISeq    = 0x40
	pcbIMore   = 0x20
	pcbR       = 0x80 // 100 N 00ee
	pcbRSeq    = 0x10
	pcbRError  = 0x0F
	pcbS       = 0xC0 // 11 R ttttt
	pcbSAnswer = 0x20

	sResynch = pcbS
	sIFS     = pcbS | 1
	sAbort   = pcbS | 2
	sWTX     = pcbS | 3
)

// Error bits of an R-block.
const (
	rEDC   = 1 // checksum or parity
	rOther = 2
)

// A t1Fault is why a block cannot be accepted, and the error bits that tell
// the card so.
type t1Fault struct {
	code byte
	text string
}

func (f *t1Fault) Error() string { return f.text }

// framing says that the end of the block is in doubt.
func (f *t1Fault) framing() bool { return f.code == rEDC || f == faultReserved }

var (
	faultCorrupted = &t1Fault{rEDC, "block arrived corrupted"}
	faultShort     = &t1Fault{rEDC, "block is too short"}
	faultEDC       = &t1Fault{rEDC, "wrong checksum"}
	faultReserved  = &t1Fault{rOther, "reserved length FF"}
	faultNAD       = &t1Fault{rOther, "block is for another address"}
	faultLen       = &t1Fault{rOther, "length does not suit the block"}
	faultPCB       = &t1Fault{rOther, "no such kind of block"}
	faultSeq       = &t1Fault{rOther, "block number out of sequence"}
	faultEarly     = &t1Fault{rOther, "answer before the command was complete"}
	faultS         = &t1Fault{rOther, "supervisory block out of place"}
	faultValue     = &t1Fault{rOther, "supervisory block with a reserved value"}
	faultRepeat    = &t1Fault{rOther, "card keeps asking for a repetition"}
	faultEmpty     = &t1Fault{rOther, "too many blocks without progress"}
	faultResynch   = &t1Fault{rOther, "no answer to resynchronisation"}
)

// t1Block is a valid block; inf lies in the buffer it was decoded from.
type t1Block struct {
	pcb byte
	inf []byte
}

func (b t1Block) isI() bool   { return b.pcb&0x80 == 0 }
func (b t1Block) isR() bool   { return b.pcb&0xC0 == pcbR }
func (b t1Block) more() bool  { return b.pcb&pcbIMore != 0 }
func (b t1Block) bad() byte   { return b.pcb & pcbRError }
func (b t1Block) iSeq() uint8 { return b.pcb & pcbISeq / pcbISeq }
func (b t1Block) rSeq() uint8 { return b.pcb & pcbRSeq / pcbRSeq }

// t1Format is what sender and receiver of blocks agree upon.
type t1Format struct {
	nad byte // of the host's blocks: DAD in the high, SAD in the low nibble
	crc bool
}

// edcLen is the length of the checksum.
func (f t1Format) edcLen() int {
	if f.crc {
		return 2
	}
	return 1
}

// encode writes a block into buf, which has room for t1MaxBlock bytes.
func (f t1Format) encode(buf []byte, pcb byte, inf []byte) []byte {
	buf = append(buf[:0], f.nad, pcb, byte(len(inf)))
	buf = append(buf, inf...)
	if f.crc {
		sum := crc16(buf)
		return append(buf, byte(sum>>8), byte(sum))
	}
	return append(buf, lrc(buf))
}

// decode checks the bytes of one answer and cuts off what follows the block:
// some tokens fill up with junk. ifsd is the longest information field the
// card may send.
func (f t1Format) decode(raw []byte, ifsd int) (t1Block, *t1Fault) {
	if len(raw) < t1Header+f.edcLen() {
		return t1Block{}, faultShort
	}
	n := int(raw[2])
	if n > t1MaxInf {
		return t1Block{}, faultReserved
	}
	if len(raw) < t1Header+n+f.edcLen() {
		return t1Block{}, faultShort
	}
	raw = raw[:t1Header+n+f.edcLen()]
	if !f.intact(raw) {
		return t1Block{}, faultEDC
	}
	if raw[0] != f.nad<<4|f.nad>>4 {
		return t1Block{}, faultNAD
	}
	b := t1Block{pcb: raw[1], inf: raw[t1Header : t1Header+n]}
	switch {
	case b.isI():
		if b.pcb&0x1F != 0 {
			return b, faultPCB
		}
		if n > ifsd {
			return b, faultLen
		}
	case b.isR():
		if b.pcb&0x2F > rOther {
			return b, faultPCB
		}
		if n != 0 {
			return b, faultLen
		}
	default:
		switch b.pcb &^ pcbSAnswer {
		case sResynch, sAbort:
			if n != 0 {
				return b, faultLen
			}
		case sIFS, sWTX:
			if n != 1 {
				return b, faultLen
			}
		default:
			return b, faultPCB
		}
	}
	return b, nil
}

// intact checks the checksum at the end of a whole block.
func (f t1Format) intact(block []byte) bool {
	if f.crc {
		n := len(block) - 2
		return crc16(block[:n]) == uint16(block[n])<<8|uint16(block[n+1])
	}
	return lrc(block) == 0
}

// lrc is the exclusive or of all bytes.
func lrc(b []byte) (sum byte) {
	for _, c := range b {
		sum ^= c
	}
	return sum
}

// crc16 is the reflected CCITT polynomial (8408) from FFFF without a final
// complement, sent high byte first: OpenCT's reading of the standard
// (checksum.c). No card is known that uses it.
func crc16(b []byte) uint16 {
	sum := uint16(0xFFFF)
	for _, c := range b {
		sum ^= uint16(c)
		for range 8 {
			if sum&1 != 0 {
				sum = sum>>1 ^ 0x8408
			} else {
				sum >>= 1
			}
		}
	}
	return sum
}
