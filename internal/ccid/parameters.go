package ccid

import "fmt"

// cardParameters is the protocol data structure of both protocols (CCID 1.1,
// 6.1.7).
type cardParameters struct {
	t         int  // 0 or 1
	fidi      byte // bmFindexDindex, coded as TA1
	crc       bool // T=1: blocks end in a CRC
	inverse   bool // inverse convention
	guard     byte // bGuardTime, TC1
	wi        byte // T=0: bWaitingInteger
	bwiCwi    byte // T=1: bmWaitingIntegers
	clockStop byte // 0 not allowed, 1 low, 2 high, 3 either
	ifsc      byte // T=1
}

// Bits of bmTCCKST0 and bmTCCKST1 (CCID 1.1, 6.1.7).
const (
	tcckT1      = 0x10
	tcckCRC     = 0x01
	tcckInverse = 0x02
)

func (p cardParameters) encode() []byte {
	var flags byte
	if p.inverse {
		flags |= tcckInverse
	}
	if p.t == 0 {
		return []byte{p.fidi, flags, p.guard, p.wi, p.clockStop}
	}
	flags |= tcckT1
	if p.crc {
		flags |= tcckCRC
	}
	return []byte{p.fidi, flags, p.guard, p.bwiCwi, p.clockStop, p.ifsc, 0}
}

// parseParameters reads the data of a Parameters answer. Readers of before
// revision 1.1 leave bytes off the end; what is missing stays zero.
func parseParameters(r response) (cardParameters, error) {
	want := 5
	if r.param == 1 {
		want = 7
	}
	if r.param > 1 || len(r.data) < want {
		return cardParameters{}, fmt.Errorf("%w: parameters of %d bytes for T=%d", errMalformed, len(r.data), r.param)
	}
	p := cardParameters{
		t:         int(r.param),
		fidi:      r.data[0],
		inverse:   r.data[1]&tcckInverse != 0,
		guard:     r.data[2],
		clockStop: r.data[4],
	}
	if p.t == 0 {
		p.wi = r.data[3]
		return p, nil
	}
	p.crc = r.data[1]&tcckCRC != 0
	p.bwiCwi, p.ifsc = r.data[3], r.data[5]
	return p, nil
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

// getParameters asks how the reader talks to the card (CCID 1.1, 6.1.5).
func getParameters() message {
	return message{typ: msgGetParameters, answer: msgParameters}
}

// resetParameters makes the reader forget them (CCID 1.1, 6.1.6).
func resetParameters() message {
	return message{typ: msgResetParameters, answer: msgParameters}
}
