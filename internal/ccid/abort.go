package ccid

// abortMessage is the second half of aborting a command (CCID 1.1, 6.1.13).
// The first is the class request of the same name, and both carry the sequence
// number of the command they end.
func abortMessage() message {
	return message{typ: msgAbort, answer: msgSlotStatus}
}
