package proto

import "fmt"

// command is a command APDU taken apart (ISO/IEC 7816-4, 5.1).
type command struct {
	header   [4]byte // CLA INS P1 P2
	data     []byte  // command data; nil in cases 1 and 2
	le       int     // bytes of response data allowed, 0 for none
	extended bool    // Lc and Le have the long form
}

// parseAPDU tells the four cases of a command APDU apart, short and extended.
func parseAPDU(apdu []byte) (command, error) {
	n := len(apdu)
	if n < 4 {
		return command{}, fmt.Errorf("%w: %d bytes, need 4", ErrInvalidAPDU, n)
	}
	c := command{header: [4]byte(apdu)}
	switch {
	case n == 4: // case 1
		return c, nil
	case n == 5: // case 2
		c.le = orMax(int(apdu[4]), 0x100)
		return c, nil
	}

	lc, body, leLen, maxLe := int(apdu[4]), apdu[5:], 1, 0x100
	if lc == 0 { // the long form
		if n < 7 {
			return command{}, badLc(n)
		}
		c.extended = true
		lc, body, leLen, maxLe = int(apdu[5])<<8|int(apdu[6]), apdu[7:], 2, 0x10000
		if n == 7 { // case 2: what looks like Lc is Le
			c.le = orMax(lc, maxLe)
			return c, nil
		}
		if lc == 0 {
			return command{}, badLc(n)
		}
	}
	switch len(body) {
	case lc: // case 3
	case lc + leLen: // case 4
		le := 0
		for _, b := range body[lc:] {
			le = le<<8 | int(b)
		}
		c.le = orMax(le, maxLe)
	default:
		return command{}, badLc(n)
	}
	c.data = body[:lc:lc]
	return c, nil
}

// badLc does not say what Lc is: a client may have sent a PIN without a header.
func badLc(n int) error {
	return fmt.Errorf("%w: its %d bytes do not fit its Lc", ErrInvalidAPDU, n)
}

// orMax decodes an Le in which 0 stands for the maximum.
func orMax(le, maximum int) int {
	if le == 0 {
		return maximum
	}
	return le
}
