package daemon

import (
	"fmt"
	"log/slog"

	"openct/internal/config"
	"openct/internal/devname"
	"openct/internal/driver"
	"openct/internal/usb"
	"openct/internal/usb/gousbdev"
	"openct/internal/vusb"
	"openct/internal/vusb/model"
)

// openDevice opens the device a target names and chooses its driver. The device
// is nil for one that is not on USB.
func openDevice(t devname.Target, c *config.Config, log *slog.Logger) (usb.Device, driver.Entry, error) {
	var entry driver.Entry
	if t.Driver != "" {
		var err error
		if entry, err = driver.Named(t.Driver); err != nil {
			return nil, entry, err
		}
	}
	if entry.OpenPath[t.Type] != nil {
		return nil, entry, nil // the driver opens it by itself
	}
	dev, err := openType(t, log)
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

func openType(t devname.Target, log *slog.Logger) (usb.Device, error) {
	switch t.Type {
	case "usb":
		return gousbdev.Open(t.Path, log)
	case "virtual":
		m, err := model.New(t.Driver, t.Path)
		if err != nil {
			return nil, err
		}
		return vusb.Plug("virtual:"+t.Path, m).Open()
	}
	return nil, fmt.Errorf("%s:%s: device type %q: %w", t.Type, t.Path, t.Type, ErrUnknownType)
}

// Expected compares the device with what the caller believes is there: between
// the plug and now another one may have got its number.
func Expected(t devname.Target, desc *usb.Descriptor) error {
	is := devname.USBID(desc.Vendor, desc.Product, desc.Release)
	if t.ID.IsZero() || t.ID.Match(is) {
		return nil
	}
	return fmt.Errorf("%s is %v now, not %v: %w", t.Path, is, t.ID, ErrOtherDevice)
}
