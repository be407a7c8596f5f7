package ccid

import (
	"encoding/binary"
	"fmt"
)

// One constructor for each message to the reader, with the constants of its
// fields. Those with more to them have files of their own: parameters.go and
// secure.go.

// voltage is bPowerSelect (CCID 1.1, 6.1.1).
type voltage byte

const (
	voltageAuto voltage = 0
	voltage5V   voltage = 1
	voltage3V   voltage = 2
	voltage1V8  voltage = 3
)

func (v voltage) String() string {
	return [...]string{"auto", "5 V", "3 V", "1.8 V"}[v&3]
}

// iccPowerOn activates or resets a card (CCID 1.1, 6.1.1). The answer's data
// is the ATR.
func iccPowerOn(v voltage) message {
	return message{typ: msgIccPowerOn, param: [3]byte{byte(v)}, answer: msgDataBlock}
}

// iccPowerOff deactivates a card (CCID 1.1, 6.1.2).
func iccPowerOff() message {
	return message{typ: msgIccPowerOff, answer: msgSlotStatus}
}

// getSlotStatus asks what a slot holds (CCID 1.1, 6.1.3). The answer is a
// SlotStatus; every other answer carries the same two status bits.
func getSlotStatus() message {
	return message{typ: msgGetSlotStatus, answer: msgSlotStatus}
}

// wLevelParameter of a chained extended APDU (CCID 1.1, 6.1.4). At TPDU and
// short APDU level it is levelWhole.
const (
	levelWhole     uint16 = 0x0000 // begins and ends here
	levelBegins    uint16 = 0x0001 // more follow
	levelEnds      uint16 = 0x0002 // continues and ends
	levelContinues uint16 = 0x0003 // continues, more follow
	levelFetch     uint16 = 0x0010 // empty: asks for the next block of the response
)

// bChainParameter of a DataBlock (CCID 1.1, 6.2.1).
const (
	chainWhole     = 0x00
	chainBegins    = 0x01 // more of the response follows
	chainEnds      = 0x02
	chainContinues = 0x03
	chainGoOn      = 0x10 // empty: asks for the next block of the command
)

// xfrBlock sends a TPDU, an APDU or a part of one (CCID 1.1, 6.1.4). bwi
// multiplies the block waiting time for this one exchange, 0 leaves it. The
// answer's data is the card's answer.
func xfrBlock(bwi byte, level uint16, data []byte) message {
	return message{
		typ:    msgXfrBlock,
		param:  [3]byte{bwi, byte(level), byte(level >> 8)},
		data:   data,
		answer: msgDataBlock,
	}
}

// escape passes a vendor command to the reader itself (CCID 1.1, 6.1.8). Some
// of them rewrite its firmware.
func escape(data []byte) message {
	return message{typ: msgEscape, data: data, answer: msgEscapeAnswer}
}

// mechEject is bFunction of Mechanical (CCID 1.1, 6.1.12).
const mechEject = 2

// mechanical moves a card, where the reader has a motor for it.
func mechanical(function byte) message {
	return message{typ: msgMechanical, param: [3]byte{function}, answer: msgSlotStatus}
}

// abortMessage is the second half of aborting a command (CCID 1.1, 6.1.13).
// The first is the class request of the same name, and both carry the sequence
// number of the command they end.
func abortMessage() message {
	return message{typ: msgAbort, answer: msgSlotStatus}
}

// setRateAndClock sets a slot's data rate in bit/s and its clock in kHz by
// hand, for readers that do not derive them from the parameters (CCID 1.1,
// 6.1.14).
func setRateAndClock(clockKHz, bps uint32) message {
	data := binary.LittleEndian.AppendUint32(nil, clockKHz)
	data = binary.LittleEndian.AppendUint32(data, bps)
	return message{typ: msgSetRateAndClock, data: data, answer: msgRateAndClock}
}

// parseRateAndClock reads what the reader really set (CCID 1.1, 6.2.5).
func parseRateAndClock(r response) (clockKHz, bps uint32, err error) {
	if len(r.data) < 8 {
		return 0, 0, fmt.Errorf("%w: clock and rate of %d bytes", errMalformed, len(r.data))
	}
	return binary.LittleEndian.Uint32(r.data), binary.LittleEndian.Uint32(r.data[4:]), nil
}
