package ccid

import (
	"errors"
	"fmt"

	"openct/internal/ifd"
	"openct/internal/proto"
	"openct/internal/usb"
)

// bError, why a command failed (CCID 1.1, table 6.2-2). 01h to 7Fh are the
// offset of the first byte the reader dislikes.
const (
	codeNotSupported     = 0x00
	codeBadLength        = 0x01
	codeBadSlot          = 0x05
	codeLastOffset       = 0x7F
	codeBadPowerSelect   = 0x07
	codeSlotBusy         = 0xE0
	codePINCancelled     = 0xEF
	codePINTimeout       = 0xF0
	codeBusyAutoSequence = 0xF2
	codeDeactivated      = 0xF3
	codeProcedureByte    = 0xF4
	codeBadClass         = 0xF5
	codeBadProtocol      = 0xF6
	codeBadTCK           = 0xF7
	codeBadTS            = 0xF8
	codeHardware         = 0xFB
	codeOverrun          = 0xFC
	codeParity           = 0xFD
	codeMute             = 0xFE
	codeAborted          = 0xFF
)

// Vendor codes of Gemplus firmware.
const (
	codeShortCircuit  = 0xA2 // and powered off
	codeATRTooLong    = 0xA3
	codeNoData        = 0xAB
	codeEMVTooLong    = 0xB0
	codeEMVProtocol   = 0xBB // the reader insists on EMV and the card on ISO
	codeCardErrorT1   = 0xBD
	codeBadAPDULength = 0xBE
)

// Failures without a name in ifd. Only this package branches on them.
var (
	errAborted     = errors.New("command was aborted")
	errRejected    = errors.New("the reader rejects a value in the command")
	errBadSlot     = errors.New("reader does not know this slot")
	errDeactivated = errors.New("reader has deactivated the protocol")
	errVendor      = errors.New("the reader reports a vendor-specific error")
	errParity      = fmt.Errorf("parity error: %w", ifd.ErrComm)
	errHardware    = fmt.Errorf("hardware error of the reader: %w", ifd.ErrComm)
	errBusy        = fmt.Errorf("slot stays busy: %w", usb.ErrTimeout)
)

// failure translates a failed answer to m. What the slot holds decides before
// the code does: readers send the same code for a card that stays silent and
// one that is not there.
func failure(m message, r response) error {
	switch r.code {
	case codeNotSupported:
		return ifd.ErrNotSupported
	case codeBadSlot:
		return errBadSlot
	case codePINCancelled:
		return ifd.ErrUserAbort
	case codePINTimeout:
		return ifd.ErrUserTimeout
	case codeSlotBusy, codeBusyAutoSequence:
		return errBusy
	case codeAborted:
		return errAborted
	}
	if r.icc() == iccAbsent {
		return ifd.ErrNoCard
	}
	switch r.code {
	case codeMute:
		if m.typ == msgIccPowerOn {
			return ifd.ErrNoATR
		}
		return fmt.Errorf("card does not answer: %w", ifd.ErrComm)
	case codeBadTS, codeBadTCK, codeATRTooLong:
		return ifd.ErrNoATR
	case codeParity:
		return errParity
	case codeHardware, codeShortCircuit:
		return errHardware
	case codeBadProtocol, codeBadClass:
		return ifd.ErrIncompatible
	case codeDeactivated:
		return errDeactivated
	case codeOverrun, codeProcedureByte, codeNoData, codeEMVTooLong, codeEMVProtocol, codeCardErrorT1, codeBadAPDULength:
		return ifd.ErrComm
	}
	if r.code <= codeLastOffset {
		if m.typ == msgXfrBlock {
			return proto.ErrInvalidAPDU
		}
		return errRejected
	}
	return errVendor
}
