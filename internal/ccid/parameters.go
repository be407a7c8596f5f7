package ccid

import "openct/internal/proto"

// cardParameters is the protocol data structure of both protocols (CCID 1.1,
// 6.1.7).
type cardParameters struct {
	t         proto.ID // T0 or T1
	fidi      byte     // bmFindexDindex, coded as TA1
	crc       bool     // T=1: blocks end in a CRC
	inverse   bool     // inverse convention
	guard     byte     // bGuardTime, TC1
	wi        byte     // T=0: bWaitingInteger
	bwiCwi    byte     // T=1: bmWaitingIntegers
	clockStop byte     // 0 not allowed, 1 low, 2 high, 3 either
	ifsc      byte     // T=1
}

// Bits of bmTCCKST0 and bmTCCKST1 (CCID 1.1, 6.1.7).
const (
	tcckT1      = 0x10
	tcckCRC     = 0x01
	tcckInverse = 0x02
)

// offsetFiDi is the offset of bmFindexDindex in the message, by which a reader
// names it in bError (CCID 1.1, 6.1.7 and table 6.2-2).
const offsetFiDi = headerSize

func (p cardParameters) encode() []byte {
	var flags byte
	if p.inverse {
		flags |= tcckInverse
	}
	if p.t == proto.T0 {
		return []byte{p.fidi, flags, p.guard, p.wi, p.clockStop}
	}
	flags |= tcckT1
	if p.crc {
		flags |= tcckCRC
	}
	return []byte{p.fidi, flags, p.guard, p.bwiCwi, p.clockStop, p.ifsc, 0}
}

// setParameters tells the reader how to talk to the card (CCID 1.1, 6.1.7).
func setParameters(p cardParameters) message {
	return message{
		typ:    msgSetParameters,
		param:  [3]byte{byte(p.t)},
		data:   p.encode(),
		answer: msgParameters,
	}
}
