package verify

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"slices"

	usbrecord "openct/internal/usb/record"
)

// Readers of Advanced Card Systems (driver/acs.go, acr30message.go,
// pertosmart1038.go): messages with an instruction to the reader, and its answers.
const (
	acsHeader = 0x01

	acsStatus = 0x01
	acsReset  = 0x80
	acsT0     = 0xA0
	acsT1     = 0xA1

	acsStatusLen = 16 // its last byte is the state of the card
	acsCardBits  = 0x03
)

// acs masks the data of an answer to an instruction.
func (m *masker) acs(ins byte, data []byte) {
	switch {
	case ins == acsStatus && len(data) == acsStatusLen:
		clear(data[:acsStatusLen-1])
		data[acsStatusLen-1] &= acsCardBits
	case ins == acsReset:
		keepATR(data, m.atr)
	case ins == acsT0:
		maskResponse(data)
	case ins == acsT1:
		m.add(data)
	default:
		clear(data)
	}
}

// Messages of an ACR30 are hexadecimal digits between STX and ETX; zeros fill a
// packet up.
const (
	acr30STX = 0x02
	acr30ETX = 0x03

	noise        = 0xFF // what is no part of a message
	noDigit byte = '-'
)

// acr30States are the reader's status words and its news of cards.
var acr30States = []uint16{0x9000, 0x9001, 0x9010, 0x6002, 0x6004, 0x6005, 0x6020, 0xFF01, 0xFF02}

const acr30AnyState = 0x6FFF // stands for any other

// acr30 masks a step of a reader on USB or on a serial line.
func (m *masker) acr30(s *Step) {
	m.runs(s, isInterrupt, func(run []byte) {
		for len(run) > 0 {
			end := bytes.IndexByte(run, acr30ETX)
			switch {
			case run[0] == acr30STX && end > 0:
				m.acr30Message(run[1:end])
				run = run[end+1:]
				continue
			case run[0] == acr30STX: // its end did not come
				m.acr30Message(run[1:])
				return
			case run[0] != 0:
				run[0] = noise
			}
			run = run[1:]
		}
	}, nil)
}

// acr30Message masks a message between STX and ETX.
func (m *masker) acr30Message(digits []byte) {
	msg := make([]byte, hex.DecodedLen(len(digits)))
	data, ok := []byte(nil), false
	if _, err := hex.Decode(msg, digits); err == nil {
		data, ok = acr30Data(msg)
	}
	if !ok {
		for i := range digits {
			digits[i] = noDigit // none, as before
		}
		return
	}
	if sw := binary.BigEndian.Uint16(msg[1:]); !slices.Contains(acr30States, sw) {
		binary.BigEndian.PutUint16(msg[1:], acr30AnyState)
	}
	m.acs(m.acr30Sent(), data)
	m.after = append(m.after, func() {
		n := len(msg) - 1
		msg[n] = xor(msg[:n])
		copy(digits, bytes.ToUpper([]byte(hex.EncodeToString(msg))))
	})
}

// acr30Data is the data in a whole message 01 SW1 SW2 LEN data XOR, where LEN may be
// FF and two bytes.
func acr30Data(msg []byte) ([]byte, bool) {
	const long = 0xFF
	if len(msg) < 5 || msg[0] != acsHeader || xor(msg) != 0 {
		return nil, false
	}
	n, data := int(msg[3]), msg[4:len(msg)-1]
	if n == long && len(data) >= 2 {
		n, data = int(binary.BigEndian.Uint16(data)), data[2:]
	}
	return data, n == len(data)
}

// acr30Sent is the instruction of the message that the driver sent last.
func (m *masker) acr30Sent() byte {
	b := m.sent.data
	var head [2]byte
	if len(b) < 5 || b[0] != acr30STX {
		return 0
	}
	if _, err := hex.Decode(head[:], b[1:5]); err != nil {
		return 0
	}
	return head[1]
}

// acr38 masks a step of an ACR38: 01 STATUS LENhi LENlo data, in packets.
func (m *masker) acr38(s *Step) {
	const header, removed, inserted = 4, 0xC0, 0xC1
	m.runs(s, isBulk, func(run []byte) {
		if len(run) < header || run[0] != acsHeader {
			clear(run)
			return
		}
		n := header + int(binary.BigEndian.Uint16(run[2:]))
		if n > len(run) {
			clear(run[header:])
			return
		}
		clear(run[n:])
		ins := byte(0)
		if len(m.sent.data) > 1 {
			ins = m.sent.data[1]
		}
		m.acs(ins, run[header:n])
	}, func(op *usbrecord.IO) {
		if len(op.R) < 2 || op.R[0] != acsHeader || op.R[1] != removed && op.R[1] != inserted {
			clear(op.R)
			return
		}
		clear(op.R[2:])
	})
}
