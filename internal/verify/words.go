package verify

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

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

// kindOf tells an error by its kind. A wait of the checks that ends is one for the
// device.
func kindOf(err error) string {
	for _, k := range kinds {
		if !errors.Is(err, k) {
			continue
		}
		if k == context.DeadlineExceeded {
			k = device.ErrTimeout
		}
		return k.Error()
	}
	return noKind
}

const noKind = "an error of another kind"

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

// isResponseText says whether a text is one of ResponseText.
func isResponseText(text string) bool {
	word, rest, _ := strings.Cut(text, ", ")
	digits, ok := strings.CutSuffix(rest, " bytes")
	n, err := strconv.ParseUint(digits, 10, 17) // as long as an extended response (ISO/IEC 7816-4, 5.1)
	if !ok || err != nil || digits != strconv.FormatUint(n, 10) {
		return false
	}
	sw, err := hex.DecodeString(word)
	return word == "no status word" || err == nil && len(sw) == 2 && isStatus(sw[0]) && fmt.Sprintf("%X", sw) == word
}

// unknown is the result in place of one that no run of the checks has.
const unknown = "unknown"

// maskResult keeps a result that the step can have. People can edit a report, and may
// write anything there.
func (s *Step) maskResult() {
	known := false
	if kind, is := strings.CutPrefix(s.Result, failed); is {
		known = kind == noKind || slices.ContainsFunc(kinds, func(k error) bool { return k.Error() == kind })
		if !known {
			s.Result = failed + noKind
		}
		return
	}
	switch s.Do {
	case Open, Close:
		known = s.Result == Success
	case Status:
		known = s.Result == StatusText(ifd.Status{Present: true}) || s.Result == StatusText(ifd.Status{})
	case Reset:
		if raw := s.atr(); raw != nil {
			s.Result = atrText(raw)
			known = true
		}
	case Protocol:
		known = slices.ContainsFunc(proto.Names(), func(n proto.Name) bool { return n.Name == s.Result })
	case Transmit:
		known = isResponseText(s.Result)
	}
	if !known {
		s.Result = unknown
	}
}

// StatusText is the result of a call that looks for the card.
func StatusText(st ifd.Status) string {
	if st.Present {
		return "card"
	}
	return "no card"
}

// ResetText is the result of a reset. In a report, what is not the ATR is masked.
func ResetText(raw []byte) string { return atrWord + hexText(raw) }
