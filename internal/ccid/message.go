package ccid

import "encoding/binary"

// headerSize is the length of every message's header, both ways (CCID 1.1,
// 6.1 and 6.2): bMessageType, dwLength, bSlot, bSeq and three bytes whose
// meaning depends on the message.
const headerSize = 10

// Message types, host to reader (CCID 1.1, table 6.1-1).
const (
	msgSetParameters    = 0x61
	msgIccPowerOn       = 0x62
	msgIccPowerOff      = 0x63
	msgGetSlotStatus    = 0x65
	msgSecure           = 0x69
	msgEscape           = 0x6B
	msgXfrBlock         = 0x6F
	msgMechanical       = 0x71
	msgAbort            = 0x72
	msgSetRateAndClock  = 0x73
	firstAnswerType     = 0x80 // every reader-to-host type has the top bit set
	msgDataBlock        = 0x80
	msgSlotStatus       = 0x81
	msgParameters       = 0x82
	msgEscapeAnswer     = 0x83
	msgRateAndClock     = 0x84
	msgNotifySlotChange = 0x50 // interrupt endpoint (CCID 1.1, table 6.3-1)
	msgHardwareError    = 0x51
)

// message is one host-to-reader message before it has a slot and a sequence
// number. The constructors beside it make them.
type message struct {
	typ    byte
	param  [3]byte // bytes 7 to 9
	data   []byte  // what follows the header; not copied
	answer byte    // the type the reader answers with
}

// needsCard says whether the command is the card's to carry out: without a card
// its answer is not worth waiting for.
func (m message) needsCard() bool {
	switch m.typ {
	case msgIccPowerOn, msgXfrBlock, msgSecure, msgSetParameters:
		return true
	}
	return false
}

// append writes the message for slot and sequence number seq to dst.
func (m message) append(dst []byte, slot, seq byte) []byte {
	dst = append(dst, m.typ)
	dst = binary.LittleEndian.AppendUint32(dst, uint32(len(m.data)))
	dst = append(dst, slot, seq, m.param[0], m.param[1], m.param[2])
	return append(dst, m.data...)
}

// name is the message's name in the specification, for errors and logs.
func (m message) name() string {
	switch m.typ {
	case msgSetParameters:
		return "SetParameters"
	case msgIccPowerOn:
		return "IccPowerOn"
	case msgIccPowerOff:
		return "IccPowerOff"
	case msgGetSlotStatus:
		return "GetSlotStatus"
	case msgSecure:
		return "Secure"
	case msgEscape:
		return "Escape"
	case msgXfrBlock:
		return "XfrBlock"
	case msgMechanical:
		return "Mechanical"
	case msgAbort:
		return "Abort"
	case msgSetRateAndClock:
		return "SetDataRateAndClockFrequency"
	}
	return "message"
}
