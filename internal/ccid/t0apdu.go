package ccid

// t0APDU tells which class bytes the reader uses when it fetches or sends
// more of a T=0 APDU by itself (CCID 1.1, 6.1.10). changes: bit 0 the class of
// GET RESPONSE, bit 1 that of ENVELOPE; FF as class echoes the command's.
func t0APDU(changes, getResponse, envelope byte) message {
	return message{typ: msgT0APDU, param: [3]byte{changes, getResponse, envelope}, answer: msgSlotStatus}
}
