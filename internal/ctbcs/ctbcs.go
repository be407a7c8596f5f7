// Package ctbcs has the commands of CT-BCS, the Card Terminal Basic Command
// Set (part 4 of the MKT specification, version 1.0): what a card terminal
// itself is asked to do, as a command APDU whose CLA is 20. Each function names
// its command as CT-BCS does.
package ctbcs

import (
	"fmt"
	"time"

	"openct/internal/ifd"
	"openct/internal/proto"
)

// Functional units of a terminal, P1 of a command and the list that GET STATUS
// returns (CT-BCS, functional units). The slots come first: ICC1 is the first
// one. C OpenCT's ifd-kaan.c takes 40 for the keypad and 50 for the display; the
// command OUTPUT, in C OpenCT and in CT-BCS, names the display with 40.
const (
	Terminal = 0x00
	ICC1     = 0x01
	ICC14    = 0x0E // the last slot that has a number
	Display  = 0x40
	Keypad   = 0x50
)

// CLA and INS (CT-BCS, command coding).
const (
	cla = 0x20

	insReset   = 0x11 // RESET CT, of the terminal and of a slot
	insRequest = 0x12
	insStatus  = 0x13
	insEject   = 0x15
	insOutput  = 0x17
	insVerify  = 0x18
	insModify  = 0x19
)

// P2 of REQUEST ICC and RESET CT, and of GET STATUS.
const (
	p2CompleteATR = 0x01
	p2ICCStatus   = 0x80
	p2Units       = 0x81
)

// Data objects of commands and responses (CT-BCS, tags).
const (
	tagTimeout   = 0x80 // in a command: seconds, one byte
	tagICCStatus = 0x80 // in a response
	tagUnits     = 0x81
	tagText      = 0x50 // for the display
	tagPerform   = 0x52 // command to perform
)

// Limits of a command.
const (
	// maxText is what C OpenCT sends of a text (ctbcs.c): what a display of
	// two lines shows.
	maxText = 32

	maxSeconds = 255

	// maxPerform is the longest value whose length is one byte in BER-TLV
	// (ISO/IEC 7816-4, 5.2.2.2).
	maxPerform = 127
)

// noText stands in C OpenCT's programs for a command without a text (ctbcs.c):
// they could not leave it out.
const noText = "@"

// ResetCT is RESET CT: the terminal itself begins anew, all cards are powered
// down. The answer is a status word.
func ResetCT() []byte { return []byte{cla, insReset, Terminal, 0x00} }

// ResetICC is RESET CT of a slot. See ATR for the answer.
func ResetICC(unit byte) []byte { return []byte{cla, insReset, unit, p2CompleteATR, 0x00} }

// RequestICC is REQUEST ICC: the terminal asks for a card, waits for it and
// resets it. A timeout of 0 leaves the wait to the terminal. See ATR for the
// answer.
func RequestICC(unit byte, timeout time.Duration, text string) []byte {
	c := newCommand(insRequest, unit, p2CompleteATR).timeout(timeout).text(text)
	return append(c.bytes(), 0x00) // Le
}

// EjectICC is EJECT ICC: the terminal powers the card down and, with a timeout,
// waits until it is taken out. See Ejected for the answer.
func EjectICC(unit byte, timeout time.Duration, text string) []byte {
	return newCommand(insEject, unit, 0x00).timeout(timeout).text(text).bytes()
}

// GetICCStatus is GET STATUS of a slot, or of all of them for Terminal. See
// Present for the answer.
func GetICCStatus(unit byte) []byte { return []byte{cla, insStatus, unit, p2ICCStatus, 0x00} }

// GetUnits is GET STATUS of the terminal's functional units. See Units for the
// answer.
func GetUnits() []byte { return []byte{cla, insStatus, Terminal, p2Units, 0x00} }

// Output is OUTPUT: the display shows text. An empty one clears it. The answer
// is a status word.
func Output(text string) []byte {
	c := newCommand(insOutput, Display, 0x00)
	if text == "" || text == noText {
		return c.add(tagText, nil).bytes()
	}
	return c.text(text).bytes()
}

// Verify is PERFORM VERIFICATION: the user types a PIN, and the terminal sends
// it to the card in r.APDU. See PINResponse for the answer.
func Verify(unit byte, r ifd.PINRequest) ([]byte, error) {
	return pinCommand(insVerify, unit, r)
}

// Modify is MODIFY VERIFICATION. The first byte of r.APDU is the position of the
// new PIN, and the command follows it. See PINResponse for the answer.
func Modify(unit byte, r ifd.PINRequest) ([]byte, error) {
	if len(r.APDU) < 1 {
		return nil, fmt.Errorf("PIN change without a position of the new PIN: %w", proto.ErrInvalidAPDU)
	}
	return pinCommand(insModify, unit, r)
}

// AsksPIN says that a command has the user type a PIN: run twice, it would count two
// wrong PINs, or refuse the old PIN after it was changed.
func AsksPIN(apdu []byte) bool {
	return len(apdu) > 1 && apdu[0] == cla && (apdu[1] == insVerify || apdu[1] == insModify)
}

// pinCommand puts the "command to perform" together: control byte, position or
// positions, command. A command of four bytes gets Lc and PIN from the terminal.
func pinCommand(ins, unit byte, r ifd.PINRequest) ([]byte, error) {
	positions := 1
	if ins == insModify {
		positions = 2
	}
	perform := append([]byte{r.Control, r.Offset}, r.APDU...)
	if n := len(perform) - 1 - positions; n < 4 || len(perform) > maxPerform {
		return nil, fmt.Errorf("PIN command of %d bytes; a terminal accepts 4 to %d: %w", n, maxPerform-1-positions, proto.ErrInvalidAPDU)
	}
	return newCommand(ins, unit, 0x00).timeout(r.Timeout).text(r.Message).add(tagPerform, perform).bytes(), nil
}

// command is a command APDU that is put together.
type command struct {
	header [4]byte
	data   []byte
}

func newCommand(ins, p1, p2 byte) command { return command{header: [4]byte{cla, ins, p1, p2}} }

func (c command) add(tag byte, value []byte) command {
	c.data = append(append(c.data, tag, byte(len(value))), value...)
	return c
}

// timeout adds whole seconds, rounded up. 0 is the terminal's own time, for
// which nothing is added.
func (c command) timeout(d time.Duration) command {
	if d <= 0 {
		return c
	}
	return c.add(tagTimeout, []byte{Seconds(d)})
}

// Seconds is a timeout as a terminal takes it: at least one second, at most 255.
func Seconds(d time.Duration) byte {
	s := d / time.Second
	if d%time.Second != 0 {
		s++
	}
	return byte(min(max(s, 1), maxSeconds))
}

// text adds a text, cut to what a display shows. Its bytes go out as they are.
func (c command) text(s string) command {
	if s == "" || s == noText {
		return c
	}
	return c.add(tagText, []byte(s[:min(len(s), maxText)]))
}

// bytes is the command; Lc is there when there are data. The longest has a
// timeout, a text and a command to perform, 3 + 34 + 129 bytes.
func (c command) bytes() []byte {
	b := append([]byte{}, c.header[:]...)
	if len(c.data) == 0 {
		return b
	}
	return append(append(b, byte(len(c.data))), c.data...)
}
