package ccid

import "encoding/binary"

// bPINOperation (CCID 1.1, 6.1.11).
const (
	pinVerify = 0
	pinModify = 1
)

// bmFormatString (CCID 1.1, 6.1.11.1): bit 7 counts the position in bytes,
// bits 6..3 are the position after Lc, bit 2 justifies right, bits 1..0 the
// coding.
const (
	formatBytes  = 0x80
	formatBinary = 0
	formatBCD    = 1
	formatASCII  = 2
)

// bEntryValidationCondition (CCID 1.1, 6.1.11.1): what ends the input.
const (
	endAtMax     = 0x01
	endAtKey     = 0x02
	endAtTimeout = 0x04
)

// bConfirmPIN (CCID 1.1, 6.1.11.2).
const (
	confirmNew = 0x01 // the new PIN is typed twice
	askCurrent = 0x02 // the current PIN is typed first
)

// bNumberMessage: the reader's default.
const messagesDefault = 0xFF

// langEnglish is wLangId for English (United States) in the USB list of
// language identifiers.
const langEnglish = 0x0409

// pinEntry is what Secure's two PIN operations have in common.
type pinEntry struct {
	timeout      byte // bTimeOut, seconds; 0 is the reader's default
	format       byte // bmFormatString
	block        byte // bmPINBlockString
	lengthFormat byte // bmPINLengthFormat
	min, max     byte // digits
	validation   byte // bEntryValidationCondition
	messages     byte // bNumberMessage
	lang         uint16
	prologue     [3]byte // bTeoPrologue: NAD PCB LEN at T=1 TPDU level
	apdu         []byte
}

// digits appends wPINMaxExtraDigit: a word, min in the high byte.
func (p pinEntry) digits(dst []byte) []byte {
	return binary.LittleEndian.AppendUint16(dst, uint16(p.min)<<8|uint16(p.max))
}

// secureVerify makes the user type a PIN and sends the command with it to the
// card (CCID 1.1, 6.1.11.1). The answer's data is the card's.
func secureVerify(p pinEntry) message {
	b := []byte{pinVerify, p.timeout, p.format, p.block, p.lengthFormat}
	b = p.digits(b)
	b = append(b, p.validation, p.messages)
	b = binary.LittleEndian.AppendUint16(b, p.lang)
	b = append(b, 0) // bMsgIndex
	b = append(b, p.prologue[:]...)
	return message{typ: msgSecure, data: append(b, p.apdu...), answer: msgDataBlock}
}

// pinModification is what a change of PIN has in addition (CCID 1.1,
// 6.1.11.2).
type pinModification struct {
	pinEntry
	offsetOld, offsetNew byte // after the byte that format's position means
	confirm              byte // bConfirmPIN
	indexes              int  // message indexes that follow, 1 to 3
}

// modifyIndexes is how many of bMsgIndex1..3 follow for a bNumberMessage: one
// always, the second unless it is 0, the third from 3 on.
func modifyIndexes(messages byte) int {
	switch {
	case messages == 0:
		return 1
	case messages < 3:
		return 2
	}
	return 3
}

// secureModify makes the user type the old and the new PIN.
func secureModify(p pinModification) message {
	b := []byte{pinModify, p.timeout, p.format, p.block, p.lengthFormat, p.offsetOld, p.offsetNew}
	b = p.digits(b)
	b = append(b, p.confirm, p.validation, p.messages)
	b = binary.LittleEndian.AppendUint16(b, p.lang)
	for i := 0; i < p.indexes; i++ {
		b = append(b, byte(i)) // bMsgIndex1..3: the reader's prompts in order
	}
	b = append(b, p.prologue[:]...)
	return message{typ: msgSecure, data: append(b, p.apdu...), answer: msgDataBlock}
}
