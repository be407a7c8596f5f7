package serial

// received is a byte as it came.
type received struct {
	b   byte
	bad bool // with a wrong parity or without its stop bit
}

// marks reads what the kernel makes of a line with CheckParity (PARMRK,
// termios(3)): FF 00 XX is the byte XX with an error, FF FF the byte FF.
type marks struct {
	seen int // bytes of a mark so far
}

// add appends what b completes, if anything.
func (m *marks) add(in []received, b byte) []received {
	switch {
	case m.seen == 0 && b == 0xFF:
		m.seen = 1
		return in
	case m.seen == 1 && b == 0x00:
		m.seen = 2
		return in
	case m.seen == 1 && b != 0xFF: // no mark at all, which the kernel never does
		in = append(in, received{b: 0xFF})
	}
	in = append(in, received{b: b, bad: m.seen == 2})
	m.seen = 0
	return in
}
