package ccid

import (
	"encoding/binary"
	"fmt"
)

// iccClock stops or restarts a card's clock (CCID 1.1, 6.1.9).
func iccClock(stop bool) message {
	m := message{typ: msgIccClock, answer: msgSlotStatus}
	if stop {
		m.param[0] = 1
	}
	return m
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
