package daemon

import (
	"errors"
	"log/slog"
	"testing"

	"openct/internal/config"
	"openct/internal/devname"
	"openct/internal/usb"
	"openct/internal/vusb"
	"openct/internal/vusb/card"
	"openct/internal/vusb/token"
)

// closing tells that a device was closed.
type closing struct {
	usb.Device
	closed bool
}

func (c *closing) Close() error {
	c.closed = true
	return c.Device.Close()
}

// A device that is not the one the caller believes to be there is left alone,
// whatever driver is asked for: another one may have got its number meanwhile.
func TestAnotherDeviceInItsPlace(t *testing.T) {
	for _, tt := range []struct {
		name   string
		id     devname.ID
		driver string
		want   error
	}{
		{"no id", devname.ID{}, "", nil},
		{"its id", devname.USBID(0x0529, 0x0600, 0x0100), "", nil},
		{"other product", devname.USBID(0x0529, 0x0514, 0x0100), "", errOtherDevice},
		{"other vendor", devname.USBID(0x073D, 0x0600, 0x0100), "", errOtherDevice},
		{"other product, driver by name", devname.USBID(0x0529, 0x0514, 0x0100), "etoken64", errOtherDevice},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var dev *closing
			open := func() (usb.Device, error) {
				d, err := vusb.Plug("virtual", token.NewEToken64(card.NewEcho())).Open()
				dev = &closing{Device: d}
				return dev, err
			}
			target := devname.Target{Type: "virtual", Path: "test", ID: tt.id, Driver: tt.driver}
			got, entry, err := OpenDevice(target, openers(open), config.Default(), slog.New(slog.DiscardHandler))
			if !errors.Is(err, tt.want) {
				t.Fatalf("got %v, want %v", err, tt.want)
			}
			if dev.closed != (tt.want != nil) {
				t.Errorf("device is closed: %t", dev.closed)
			}
			if err == nil {
				if entry.Name != "etoken64" {
					t.Errorf("driver %q", entry.Name)
				}
				got.Close()
			}
		})
	}
}
