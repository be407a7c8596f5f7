package ccid

// getSlotStatus asks what a slot holds (CCID 1.1, 6.1.3). The answer is a
// SlotStatus; every other answer carries the same two status bits.
func getSlotStatus() message {
	return message{typ: msgGetSlotStatus, answer: msgSlotStatus}
}
