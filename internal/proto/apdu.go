package proto

import "fmt"

// Command is a command APDU taken apart (ISO/IEC 7816-4, 5.1).
type Command struct {
	Header   [4]byte // CLA INS P1 P2
	Data     []byte  // command data; nil in cases 1 and 2
	Le       int     // bytes of response data allowed, 0 for none
	Extended bool    // Lc and Le have the long form
}

// ParseCommand tells the four cases of a command APDU apart, short and extended.
func ParseCommand(apdu []byte) (Command, error) {
	n := len(apdu)
	if n < 4 {
		return Command{}, fmt.Errorf("%w: %d bytes, need 4", ErrInvalidAPDU, n)
	}
	c := Command{Header: [4]byte(apdu)}
	switch {
	case n == 4: // case 1
		return c, nil
	case n == 5: // case 2
		c.Le = orMax(int(apdu[4]), 0x100)
		return c, nil
	}

	lc, body, leLen, maxLe := int(apdu[4]), apdu[5:], 1, 0x100
	if lc == 0 { // the long form
		if n < 7 {
			return Command{}, badLc(n)
		}
		c.Extended = true
		lc, body, leLen, maxLe = int(apdu[5])<<8|int(apdu[6]), apdu[7:], 2, 0x10000
		if n == 7 { // case 2: what looks like Lc is Le
			c.Le = orMax(lc, maxLe)
			return c, nil
		}
		if lc == 0 {
			return Command{}, badLc(n)
		}
	}
	switch len(body) {
	case lc: // case 3
	case lc + leLen: // case 4
		le := 0
		for _, b := range body[lc:] {
			le = le<<8 | int(b)
		}
		c.Le = orMax(le, maxLe)
	default:
		return Command{}, badLc(n)
	}
	c.Data = body[:lc:lc]
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
