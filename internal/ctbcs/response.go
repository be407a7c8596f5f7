package ctbcs

import (
	"fmt"

	"openct/internal/ifd"
)

// Status words of a terminal (CT-BCS, the table of each command).
const (
	swOK           = 0x9000 // also: a synchronous card was reset
	swAsynchronous = 0x9001 // an asynchronous card was reset; EJECT ICC: the card was taken out
	swNotInTime    = 0x6200 // no card, or none taken out, within the time
	swActive       = 0x6201 // the card is there and powered already
	swFailed       = 0x6400 // the reset failed; with a PIN: the user typed nothing
	swCancelled    = 0x6401
	swMismatch     = 0x6402 // the two new PINs differ
	swNoCard       = 0x64A1
	swNoCommand    = 0x6D00 // ISO/IEC 7816-4, 5.1.3: unknown INS
	swWrongP1P2    = 0x6A00
	swBadP1P2      = 0x6B00
)

// Split takes a response APDU apart. Its error wraps ifd.ErrComm.
func Split(resp []byte) (data []byte, sw uint16, err error) {
	n := len(resp) - 2
	if n < 0 {
		return nil, 0, fmt.Errorf("terminal answered %d bytes without a status word: %w", len(resp), ifd.ErrComm)
	}
	return resp[:n:n], uint16(resp[n])<<8 | uint16(resp[n+1]), nil
}

// Done checks the answer to a command whose only success is 9000. what names
// the command.
func Done(what string, resp []byte) error {
	_, sw, err := Split(resp)
	if err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	if sw != swOK {
		return refused(what, sw)
	}
	return nil
}

// refused is the error for a status word that says that a command was not done.
func refused(what string, sw uint16) error {
	state := ifd.ErrComm
	switch sw {
	case swNoCommand, swBadP1P2, swWrongP1P2:
		state = ifd.ErrNotSupported
	case swCancelled:
		state = ifd.ErrUserAbort
	}
	return fmt.Errorf("%s: terminal answers %04x: %w", what, sw, state)
}

// Unknown says that the terminal does not know a command, so that another one
// may be tried.
func Unknown(resp []byte) bool {
	_, sw, err := Split(resp)
	return err == nil && (sw == swNoCommand || sw == swBadP1P2)
}

// Active says that the answer to REQUEST ICC is that the card is in and powered
// already: the terminal did not reset it.
func Active(resp []byte) bool {
	_, sw, err := Split(resp)
	return err == nil && sw == swActive
}

// ATR is what RESET CT of a slot and REQUEST ICC return: the answer to reset
// and the status word, which tells the kind of card. Every status word 90xx and
// 62Ax is a card that was reset (C OpenCT's ifd-kaan.c for the latter), 9001
// an asynchronous one, the others synchronous ones. data stays the card's own
// answer: the status word is not part of it.
//
// The errors wrap ifd.ErrNoCard, ifd.ErrNoATR, ifd.ErrUserAbort, ifd.ErrNotSupported
// or ifd.ErrComm.
func ATR(resp []byte) (data []byte, sw uint16, err error) {
	data, sw, err = Split(resp)
	if err != nil {
		return nil, 0, fmt.Errorf("card reset: %w", err)
	}
	switch {
	case sw == swOK, sw == swAsynchronous, sw&0xFFF0 == 0x62A0:
		return data, sw, nil
	case sw == swNotInTime, sw == swNoCard:
		return nil, sw, fmt.Errorf("card reset: terminal answers %04x: %w", sw, ifd.ErrNoCard)
	case sw == swFailed:
		return nil, sw, fmt.Errorf("card reset: terminal answers %04x: %w", sw, ifd.ErrNoATR)
	}
	return nil, sw, refused("card reset", sw)
}

// Asynchronous says whether the status word of ATR tells a card that has a
// transmission protocol.
func Asynchronous(sw uint16) bool { return sw == swAsynchronous }

// Present is what GET STATUS of a slot returns: bit 0 of a status byte, which
// newer terminals put into a data object (C OpenCT's ifd-kaan.c has both). The
// error wraps ifd.ErrComm.
func Present(resp []byte) (bool, error) {
	status, err := iccStatus(resp)
	return status&1 != 0, err
}

// Off says whether GET STATUS of a slot returns that a card is in it that has no
// power: the next two bits, which are 0 in a terminal that does not tell (CT-BCS, GET
// STATUS).
func Off(resp []byte) bool {
	status, err := iccStatus(resp)
	return err == nil && status&7 == 3
}

func iccStatus(resp []byte) (status byte, err error) {
	const what = "card status"
	data, sw, err := Split(resp)
	if err != nil {
		return 0, fmt.Errorf("%s: %w", what, err)
	}
	if sw != swOK {
		return 0, refused(what, sw)
	}
	if len(data) > 2 && data[0] == tagICCStatus {
		if int(data[1]) != len(data)-2 {
			return 0, fmt.Errorf("%s: answer of %d bytes says %d: %w", what, len(data), data[1], ifd.ErrComm)
		}
		data = data[2:]
	}
	if len(data) != 1 {
		return 0, fmt.Errorf("%s: answer of %d bytes: %w", what, len(data), ifd.ErrComm)
	}
	return data[0], nil
}

// Features are a terminal's functional units.
type Features struct {
	Slots   int // 1 to 14
	Display bool
	Keypad  bool
}

// Units is what GET STATUS of the functional units returns. A terminal that does
// not tell has one slot and nothing else, like one that tells nonsense.
func Units(resp []byte) Features {
	f := Features{Slots: 1}
	data, sw, err := Split(resp)
	if err != nil || sw != swOK || len(data) < 2 || data[0] != tagUnits || int(data[1]) != len(data)-2 {
		return f
	}
	for _, unit := range data[2:] {
		switch {
		case unit >= ICC1 && unit <= ICC14:
			f.Slots = max(f.Slots, int(unit))
		case unit == Display:
			f.Display = true
		case unit == Keypad:
			f.Keypad = true
		}
	}
	return f
}

// Ejected checks the answer to EJECT ICC. A card that was not taken out in time
// is powered down all the same, which is ifd.ErrUserTimeout.
func Ejected(resp []byte) error {
	const what = "eject"
	_, sw, err := Split(resp)
	switch {
	case err != nil:
		return fmt.Errorf("%s: %w", what, err)
	case sw == swOK, sw == swAsynchronous:
		return nil
	case sw == swNotInTime:
		return fmt.Errorf("%s: the card has no power, and was not removed in time: %w", what, ifd.ErrUserTimeout)
	}
	return refused(what, sw)
}

// PINResponse is what PERFORM VERIFICATION and MODIFY VERIFICATION return: the
// card's response, unless the user did not type, cancelled, or typed two
// different new PINs.
func PINResponse(resp []byte) ([]byte, error) {
	_, sw, err := Split(resp)
	if err != nil {
		return nil, fmt.Errorf("PIN entry: %w", err)
	}
	switch sw {
	case swFailed:
		return nil, ifd.ErrUserTimeout
	case swCancelled:
		return nil, ifd.ErrUserAbort
	case swMismatch:
		return nil, ifd.ErrPINMismatch
	}
	return resp, nil
}
