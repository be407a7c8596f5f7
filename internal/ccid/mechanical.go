package ccid

// bFunction of Mechanical (CCID 1.1, 6.1.12).
const (
	mechAccept  = 1
	mechEject   = 2
	mechCapture = 3
	mechLock    = 4
	mechUnlock  = 5
)

// mechanical moves a card, where the reader has a motor for it.
func mechanical(function byte) message {
	return message{typ: msgMechanical, param: [3]byte{function}, answer: msgSlotStatus}
}
