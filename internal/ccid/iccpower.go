package ccid

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
