package verify

import (
	"context"
	"errors"
	"fmt"

	"openct/internal/atr"
	"openct/internal/device"
	"openct/internal/ifd"
	"openct/internal/proto"
	"openct/internal/serial"
	"openct/internal/usb"
)

// kinds are the errors that a report tells apart. The text of the sentinel is a
// constant; what wraps it may hold bytes of the device.
var kinds = []error{
	usb.ErrUnplugged, usb.ErrStall, usb.ErrOverflow, usb.ErrBusy, usb.ErrAccess, usb.ErrNotFound, usb.ErrClosed,
	ifd.ErrNoCard, ifd.ErrNoATR, ifd.ErrInvalidATR, ifd.ErrBusy, ifd.ErrNotSupported, ifd.ErrIncompatible, ifd.ErrComm,
	atr.ErrPPS, atr.ErrInvalid, atr.ErrFlawed, proto.ErrInvalidAPDU, proto.ErrProtocol, proto.ErrCorrupted, proto.ErrTooLong, proto.ErrAborted, serial.ErrParity, serial.ErrUnsupported,
	device.ErrTimeout, context.DeadlineExceeded, context.Canceled, device.ErrIO, proto.ErrResetRequired,
}

// kindOf tells an error by its kind.
func kindOf(err error) string {
	for _, k := range kinds {
		if errors.Is(err, k) {
			return k.Error()
		}
	}
	return "an error of another kind"
}

func hexText(b []byte) string { return fmt.Sprintf("% X", b) }

// ResponseText is a response in a report: status word and length.
func ResponseText(resp []byte) string {
	n := len(resp)
	if n < 2 || !isStatus(resp[n-2]) {
		return fmt.Sprintf("no status word, %d bytes", n)
	}
	return fmt.Sprintf("%X, %d bytes", resp[n-2:], n-2)
}

// Success is the result of a call that has no other.
const Success = "ok"

// StatusText is the result of a call that looks for the card.
func StatusText(st ifd.Status) string {
	if st.Present {
		return "card"
	}
	return "no card"
}

// ResetText is the result of a reset. In a report, what is not the ATR is masked.
func ResetText(raw []byte) string { return atrWord + hexText(raw) }
