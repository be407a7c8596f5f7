package ccid

// escape passes a vendor command to the reader itself (CCID 1.1, 6.1.8). Some
// of them rewrite its firmware.
func escape(data []byte) message {
	return message{typ: msgEscape, data: data, answer: msgEscapeAnswer}
}
