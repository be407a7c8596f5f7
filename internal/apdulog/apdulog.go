// Package apdulog is the only code that turns APDUs into text for
// logs, and it never shows what is in them.
//
// There is no list of dangerous commands, because a list has gaps: VERIFY and its
// kin carry PINs, but so do proprietary instructions, the second half of a chained
// command, commands for a reader's PIN pad, PERFORM SECURITY OPERATION, GENERAL
// AUTHENTICATE, and plain answers (READ BINARY of a file somebody keeps a password
// in). So of a command only the four header bytes are shown, which say what is
// asked for and not with what, and how much data is with it; of a response only the
// status word and the length. And the header is shown only where it is known to be
// one: a client that sends a PIN without a header, or a digit where a length
// belongs, shows the number of bytes. That holds at every log level: a log of this
// program can be pasted anywhere.
package apdulog

import (
	"fmt"
	"strings"

	"openct/internal/proto"
)

// Command describes a command APDU (ISO/IEC 7816-4, 5.1): header, the name of the
// instruction where it has one, how many bytes of data are with it, and whether it
// has Le. The body is never part of it, and neither is a length that the body
// does not bear out.
//
//	00 A4 04 00 SELECT, 9 bytes of data, with Le
func Command(apdu []byte) string {
	c, err := proto.ParseCommand(apdu)
	lc := len(c.Data)
	switch {
	case err != nil:
		return fmt.Sprintf("malformed command, %s", count(len(apdu)))
	case !isHeader(apdu, lc):
		return fmt.Sprintf("unknown command, %s", count(len(apdu)))
	}
	var b strings.Builder
	fmt.Fprintf(&b, "% X", apdu[:4])
	if name := instruction(apdu[0], apdu[1]); name != "" {
		b.WriteString(" " + name)
	}
	if apdu[0]&0x90 == 0x10 { // 7816-4, 5.4.1: not the last command of a chain
		b.WriteString(", chained")
	}
	if lc > 0 {
		fmt.Fprintf(&b, ", %s of data", count(lc))
	}
	if c.Le > 0 {
		b.WriteString(", with Le")
	}
	return b.String()
}

// isHeader says whether the first four bytes of a command with lc bytes of data
// are known to be a header, and cannot be the beginning of something secret.
func isHeader(apdu []byte, lc int) bool {
	cla, ins, p1, p2 := apdu[0], apdu[1], apdu[2], apdu[3]
	named := instruction(cla, ins) != ""
	switch {
	case cla == 0xFF: // no class (7816-4, 5.4.1)
		return false
	case cla&0xE0 == 0x20: // reserved (7816-4, 5.4.1); digits in ASCII are there
		return cla == classReader && named && lc > 0
	case cla < 0x80 && !named:
		return false
	case all(apdu[:4], printable): // a password
		return false
	case lc > 0:
		return named || !all(apdu[:5], digits)
	case carriesPIN(cla, ins): // does it need a PIN still?
		return len(apdu) == 4 && p1 == 0 && !all(apdu, digits)
	}
	return !all(apdu, digits) || named && p1 == 0 && p2 == 0
}

// digits says whether a byte may be two digits of a PIN: packed BCD, one digit as
// a number, or one in ASCII.
func digits(b byte) bool { return b>>4 <= 9 && b&0x0F <= 9 }

func printable(b byte) bool { return b >= 0x20 && b < 0x7F }

func all(bytes []byte, is func(byte) bool) bool {
	for _, b := range bytes {
		if !is(b) {
			return false
		}
	}
	return true
}

// Response describes the response APDU to a command: status word and length. The
// last two bytes are shown only where they are a status word: after a well-formed
// command, and in the range that 7816-4, 5.3.4, gives to status words.
//
//	9000, 24 bytes
func Response(command, response []byte) string {
	n := len(response)
	_, err := proto.ParseCommand(command)
	if err != nil || n < 2 || (response[n-2]&0xF0 != 0x60 && response[n-2]&0xF0 != 0x90) {
		return fmt.Sprintf("no status word, %s", count(n))
	}
	sw := fmt.Sprintf("%X", response[n-2:])
	if n == 2 {
		return sw
	}
	return fmt.Sprintf("%s, %s", sw, count(n-2))
}

func count(n int) string {
	if n == 1 {
		return "1 byte"
	}
	return fmt.Sprintf("%d bytes", n)
}
