package daemon

import (
	"fmt"
	"log/slog"
	"strings"

	"openct/internal/config"
	"openct/internal/devname"
	"openct/internal/driver"
	"openct/internal/ifd"
	"openct/internal/usb"
)

// Opener opens the USB device, real or emulated, that a target names.
type Opener func(t devname.Target, log *slog.Logger) (usb.Device, error)

// OpenDevice opens the device a target names and chooses its driver. The device
// is nil for one that is not on USB.
func OpenDevice(t devname.Target, openers map[string]Opener, c *config.Config, log *slog.Logger) (usb.Device, driver.Entry, error) {
	var entry driver.Entry
	if t.Driver != "" {
		var err error
		if entry, err = driver.Named(t.Driver); err != nil {
			return nil, entry, err
		}
	}
	if entry.OpenPath[t.Type] != nil || entry.Connect[t.Type] != nil {
		return nil, entry, nil // the driver opens it by itself
	}
	open := openers[t.Type]
	if open == nil || entry.Name != "" && entry.Open == nil {
		err := fmt.Errorf("%v: %w %q", t, errUnknownType, t.Type)
		if entry.Name != "" {
			err = fmt.Errorf("%w: driver %s opens devices of type %s", err, entry.Name, strings.Join(entry.Types(), ", "))
		}
		return nil, entry, err
	}
	dev, err := open(t, log)
	if err != nil {
		return nil, entry, err
	}
	desc := dev.Descriptor()
	err = Expected(t, desc)
	if err == nil && entry.Name == "" {
		var choice driver.Choice
		choice, err = driver.Pick(desc, c)
		entry = choice.Entry
	}
	if err != nil {
		dev.Close()
		return nil, entry, err
	}
	return dev, entry, nil
}

// ReaderOptions are what a driver is told of the device that a target names.
func ReaderOptions(e driver.Entry, t devname.Target, c *config.Config, log *slog.Logger) ifd.Options {
	o := ifd.Options{Name: e.Reader, Log: log, Escape: c.Escape}
	if r, ok := c.ReaderAt(t); ok {
		o.Line = ifd.Line{Clock: r.Clock, Speed: r.Speed, NoSwitch: r.NoSwitch}
	}
	return o
}

// Expected compares the device with what the caller believes is there: between
// the plug and now another one may have got its number.
func Expected(t devname.Target, desc *usb.Descriptor) error {
	is := devname.USBID(desc.Vendor, desc.Product, desc.Release)
	if t.ID.IsZero() || t.ID.Match(is) {
		return nil
	}
	return fmt.Errorf("%s is %v now, not %v: %w", t.Path, is, t.ID, errOtherDevice)
}
