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
)

// openDevice opens the device a target names and settles its driver. The device
// is nil for one that is not on USB.
func openDevice(t devname.Target, c *config.Config, log *slog.Logger) (usb.Device, driver.Entry, error) {
	entry, err := named(t.Driver)
	if err != nil {
		return nil, entry, err
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
		entry, err = Pick(desc, c)
	}
	if err != nil {
		dev.Close()
		return nil, entry, err
	}
	return dev, entry, nil
}

// named finds a driver asked for by name; without one the result is empty.
func named(name string) (driver.Entry, error) {
	e, ok := driver.ByName(name)
	if !ok && name != "" {
		return e, fmt.Errorf("driver %q: %w", name, ErrUnknownDriver)
	}
	return e, nil
}

func openType(t devname.Target, log *slog.Logger) (usb.Device, error) {
	switch t.Type {
	case "usb":
		return gousbdev.Open(t.Path, log)
	case "virtual":
		m, err := vusb.New(t.Driver, t.Path)
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

// Pick finds the driver for a device: the configuration's ids first, then the
// table's, then the smart card class.
func Pick(desc *usb.Descriptor, c *config.Config) (driver.Entry, error) {
	is := devname.USBID(desc.Vendor, desc.Product, desc.Release)
	if name, ok := c.DriverFor(desc.Vendor, desc.Product, desc.Release); ok {
		e, err := named(name)
		if err != nil {
			err = fmt.Errorf("openct.conf gives %v to %w", is, err)
		}
		return e, err
	}
	if e, ok := driver.ByID(desc.Vendor, desc.Product); ok {
		return e, nil
	}
	if e, ok := driver.ByClass(desc); ok {
		return e, nil
	}
	return driver.Entry{}, fmt.Errorf("%v: %w", is, ErrNoDriver)
}
