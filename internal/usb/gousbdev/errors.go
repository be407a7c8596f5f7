//go:build cgo

package gousbdev

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/google/gousb"

	"openct/internal/usb"
)

// sentinels maps libusb's error codes to this project's. What is not here is
// usb.ErrIO.
var sentinels = map[gousb.Error]error{
	gousb.ErrorNoDevice: usb.ErrUnplugged,
	gousb.ErrorPipe:     usb.ErrStall,
	gousb.ErrorTimeout:  usb.ErrTimeout,
	gousb.ErrorAccess:   usb.ErrAccess,
	gousb.ErrorBusy:     usb.ErrBusy,
}

// codeInText is how gousb.Error begins its code, behind which is "]"; Config and
// Interface wrap it with %v, so it has to be read from there.
const codeInText = "[code "

// codeOf finds libusb's error code in an error of gousb.
func codeOf(err error) (gousb.Error, bool) {
	var code gousb.Error
	if errors.As(err, &code) {
		return code, true
	}
	text, closed := strings.CutSuffix(err.Error(), "]")
	at := strings.LastIndex(text, codeInText)
	if !closed || at < 0 {
		return 0, false
	}
	n, err := strconv.ParseInt(text[at+len(codeInText):], 10, 32)
	return gousb.Error(n), err == nil && n < 0
}

// mapError gives err one of usb's sentinels; libusb's own words are kept where
// they say more.
func mapError(err error) error {
	if err == nil {
		return nil
	}
	if code, ok := codeOf(err); ok {
		if s, ok := sentinels[code]; ok {
			return s
		}
	}
	return fmt.Errorf("%w: %w", usb.ErrIO, err)
}
