//go:build !cgo

package gousbdev

import (
	"fmt"
	"log/slog"

	"openct/internal/usb"
)

// Open fails: libusb needs cgo.
func Open(path string, _ *slog.Logger) (usb.Device, error) {
	return nil, usb.Wrap("open", path, fmt.Errorf("%w: this program was built without cgo", ErrNoUSB))
}
