// Package apdulog is the only code that turns APDUs and blocks into text for
// logs, and it never shows what is in them.
//
// There is no list of dangerous commands, because a list has gaps: VERIFY and its
// kin carry PINs, but so do proprietary instructions, the second half of a chained
// command, commands for a reader's PIN pad, PERFORM SECURITY OPERATION, GENERAL
// AUTHENTICATE, and plain answers (READ BINARY of a file somebody keeps a password
// in). So of a command only the four header bytes are shown, which say what is
// asked for and not with what, and the lengths; of a response only the status word
// and the length; of anything that is not a well-formed command, the length. That
// holds at every log level: a log of this program can be pasted anywhere.
package apdulog

import (
	"fmt"
	"strings"
)

// Command describes a command APDU (ISO/IEC 7816-4, 5): header, the name of the
// instruction where it has one, and how many bytes go in and are asked for.
// The body is never part of it.
//
//	00 A4 04 00 SELECT, 9 bytes of data, Le 256
func Command(apdu []byte) string {
	lc, le, ok := lengths(apdu)
	if !ok {
		// Without the shape of a command, its first bytes may be anything:
		// a PIN, for a client that forgot the header.
		return fmt.Sprintf("malformed command, %s", count(len(apdu)))
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
	if le > 0 {
		fmt.Fprintf(&b, ", Le %d", le)
	}
	return b.String()
}

// Response describes the response APDU to a command: status word and length. The
// last two bytes are shown only where they are a status word: after a well-formed
// command, and in the range that 7816-4, 5.3.4, gives to status words.
//
//	9000, 24 bytes
func Response(command, response []byte) string {
	n := len(response)
	_, _, ok := lengths(command)
	if !ok || n < 2 || (response[n-2]&0xF0 != 0x60 && response[n-2]&0xF0 != 0x90) {
		return fmt.Sprintf("no status word, %s", count(n))
	}
	sw := fmt.Sprintf("%X", response[n-2:])
	if n == 2 {
		return sw
	}
	return fmt.Sprintf("%s, %s", sw, count(n-2))
}

// Block describes what travels below APDUs or instead of them: T=1 blocks, CCID
// messages, PIN pad requests, memory card contents.
func Block(b []byte) string { return count(len(b)) }

func count(n int) string {
	if n == 1 {
		return "1 byte"
	}
	return fmt.Sprintf("%d bytes", n)
}

// lengths splits a command into its parts (7816-4, 5.1): lc bytes of data, le
// bytes asked for, 0 for none. Commands that carry a PIN by their instruction
// are not well-formed without data, so that a client's mistake (a PIN where the
// length belongs) shows nothing.
func lengths(apdu []byte) (lc, le int, ok bool) {
	if len(apdu) < 4 {
		return 0, 0, false
	}
	body := apdu[4:]
	switch n := len(body); {
	case n == 0:
		return 0, 0, true
	case n == 1:
		if carriesPIN(apdu[0], apdu[1]) {
			return 0, 0, false
		}
		return 0, expected(int(body[0]), 256), true
	case body[0] != 0:
		lc = int(body[0])
		switch n {
		case 1 + lc:
			return lc, 0, true
		case 2 + lc:
			return lc, expected(int(body[n-1]), 256), true
		}
	case n == 3:
		if carriesPIN(apdu[0], apdu[1]) {
			return 0, 0, false
		}
		return 0, expected(int(body[1])<<8|int(body[2]), 65536), true
	case n > 3:
		lc = int(body[1])<<8 | int(body[2])
		switch {
		case lc == 0:
		case n == 3+lc:
			return lc, 0, true
		case n == 5+lc:
			return lc, expected(int(body[n-2])<<8|int(body[n-1]), 65536), true
		}
	}
	return 0, 0, false
}

// expected is Le: 0 stands for the maximum.
func expected(le, maximum int) int {
	if le == 0 {
		return maximum
	}
	return le
}
