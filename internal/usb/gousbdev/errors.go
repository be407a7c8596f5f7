//go:build cgo

package gousbdev

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"strconv"

	"github.com/google/gousb"

	"openct/internal/usb"
)

// sentinels maps libusb's error codes, and the status of an endpoint transfer,
// to this project's. What is not here is usb.ErrIO.
var (
	sentinels = map[gousb.Error]error{
		gousb.ErrorNoDevice: usb.ErrUnplugged,
		gousb.ErrorPipe:     usb.ErrStall,
		gousb.ErrorTimeout:  usb.ErrTimeout,
		gousb.ErrorOverflow: usb.ErrOverflow,
		gousb.ErrorAccess:   usb.ErrAccess,
		gousb.ErrorBusy:     usb.ErrBusy,
	}
	statuses = map[gousb.TransferStatus]error{
		gousb.TransferNoDevice: usb.ErrUnplugged,
		gousb.TransferStall:    usb.ErrStall,
		gousb.TransferTimedOut: usb.ErrTimeout,
		gousb.TransferOverflow: usb.ErrOverflow,
	}
)

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
// they say more. An error of a device that is gone is that it is gone: kernel
// and libusb report a stall or an I/O error when they meet the unplug half way.
func mapError(err error, gone bool) error {
	if err == nil {
		return nil
	}
	if gone {
		return usb.ErrUnplugged
	}
	var status gousb.TransferStatus
	if errors.As(err, &status) {
		if s, ok := statuses[status]; ok {
			return s
		}
		return fmt.Errorf("%w: %w", usb.ErrIO, err)
	}
	if code, ok := codeOf(err); ok {
		if s, ok := sentinels[code]; ok {
			return s
		}
	}
	return fmt.Errorf("%w: %w", usb.ErrIO, err)
}

// waitError is the error of a transfer that ended because ctx did.
func waitError(ctx context.Context) error {
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return fmt.Errorf("%w: %w", usb.ErrTimeout, ctx.Err())
	}
	return ctx.Err()
}
