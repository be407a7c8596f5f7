package card

// T=1 blocks as the card sees them (ISO/IEC 7816-3, 11.3). This codec is deliberately not the host's: a mistake in one must not
// be hidden by the same mistake in the other.

// Protocol control bytes.
const (
	pcbNS   = 0x40 // I-block: N(S)
	pcbMore = 0x20 // I-block: more to come
	pcbR    = 0x80
	pcbNR   = 0x10 // R-block: N(R)
	pcbS    = 0xC0

	sResynch  = 0xC0
	sIFS      = 0xC1
	sAbort    = 0xC2
	sWTX      = 0xC3
	sResponse = 0x20 // added to the four above
)

// What an R-block complains of.
const (
	errNone  = 0
	errEDC   = 1
	errOther = 2
)

const (
	initialIFS = 32  // IFSC and IFSD without an agreement
	maxIFS     = 254 // FF is reserved
)

// crc16 is the checksum of T=1 with CRC: reflected CCITT, polynomial 8408,
// initial FFFF, no complement (C OpenCT, checksum.c).
func crc16(b []byte) uint16 {
	crc := uint16(0xFFFF)
	for _, v := range b {
		crc ^= uint16(v)
		for range 8 {
			low := crc & 1
			crc >>= 1
			if low != 0 {
				crc ^= 0x8408
			}
		}
	}
	return crc
}

// edcLen is the length of the checksum.
func edcLen(crc bool) int {
	if crc {
		return 2
	}
	return 1
}

// appendEDC completes a block.
func appendEDC(block []byte, crc bool) []byte {
	if crc {
		v := crc16(block)
		return append(block, byte(v>>8), byte(v))
	}
	var lrc byte
	for _, v := range block {
		lrc ^= v
	}
	return append(block, lrc)
}

// edcOK checks the checksum at the end of a block of at least 3+edcLen bytes.
func edcOK(block []byte, crc bool) bool {
	n := len(block) - edcLen(crc)
	if crc {
		return crc16(block[:n]) == uint16(block[n])<<8|uint16(block[n+1])
	}
	var lrc byte
	for _, v := range block {
		lrc ^= v
	}
	return lrc == 0
}

// validPCB tells whether a control byte and its LEN are what ISO defines. It
// leaves out N(S), N(R) and the values in S-blocks.
func validPCB(pcb byte, length int) bool {
	switch {
	case length > maxIFS:
		return false
	case pcb&0x80 == 0:
		return pcb&0x1F == 0
	case pcb&0xC0 == pcbR:
		return pcb&0x2C == 0 && pcb&3 != 3 && length == 0
	}
	switch pcb &^ sResponse {
	case sResynch, sAbort:
		return length == 0
	case sIFS, sWTX:
		return length == 1
	}
	return false
}
