//go:build cgo

package gousbdev

import (
	"errors"
	"fmt"
	"regexp"
	"strconv"

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

// codeInText is how gousb.Error prints its code; Config and Interface wrap it
// with %v, so it has to be read from there.
var codeInText = regexp.MustCompile(`\[code (-\d+)\]$`)

// codeOf finds libusb's error code in an error of gousb.
func codeOf(err error) (gousb.Error, bool) {
	var code gousb.Error
	if errors.As(err, &code) {
		return code, true
	}
	m := codeInText.FindStringSubmatch(err.Error())
	if m == nil {
		return 0, false
	}
	n, err := strconv.ParseInt(m[1], 10, 32)
	return gousb.Error(n), err == nil
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
