package daemon

import (
	"fmt"
	"log/slog"

	"openct/internal/ccid"
	"openct/internal/config"
	"openct/internal/driver"
	"openct/internal/usb"
	"openct/internal/usb/gousbdev"
	"openct/internal/vusb"
)

// Device says which reader to serve, and how it was named.
type Device struct {
	Type string // "usb", "virtual"
	Path string // "/dev/bus/usb/001/004"; for a virtual token the card in it
	// Driver is a name from the driver table; empty: whoever takes the device.
	Driver string
	// Vendor and Product are what the caller believes is there, 0 if it does
	// not know. Between plug and start another device may have got the path.
	Vendor, Product uint16
}

func (d Device) String() string { return d.Type + ":" + d.Path }

// open opens the device and settles its driver.
func (d Device) open(c *config.Config, log *slog.Logger) (usb.Device, driver.Entry, error) {
	var entry driver.Entry
	if d.Driver != "" {
		var ok bool
		if entry, ok = driver.ByName(d.Driver); !ok {
			return nil, entry, fmt.Errorf("driver %q: %w", d.Driver, ErrUnknownDriver)
		}
	}
	dev, err := d.openType(log)
	if err != nil {
		return nil, entry, err
	}
	if err := d.expected(dev.Descriptor()); err != nil {
		dev.Close()
		return nil, entry, err
	}
	if d.Driver == "" {
		if entry, err = pick(dev.Descriptor(), c); err != nil {
			dev.Close()
			return nil, entry, err
		}
	}
	return dev, entry, nil
}

func (d Device) openType(log *slog.Logger) (usb.Device, error) {
	switch d.Type {
	case "usb":
		return gousbdev.Open(d.Path, log)
	case "virtual":
		m, err := vusb.New(d.Driver, d.Path)
		if err != nil {
			return nil, err
		}
		return vusb.Plug(d.String(), m).Open()
	}
	return nil, fmt.Errorf("%s: device type %q: %w", d.Path, d.Type, ErrUnknownType)
}

func (d Device) expected(desc *usb.Descriptor) error {
	if d.Vendor == 0 || d.Vendor == desc.Vendor && d.Product == desc.Product {
		return nil
	}
	return fmt.Errorf("%s is %s now, not %04x:%04x: %w", d.Path, desc.ID(), d.Vendor, d.Product, ErrOtherDevice)
}

// pick finds the driver for a device: the configuration's ids first, then the
// table's, then the CCID class.
func pick(desc *usb.Descriptor, c *config.Config) (driver.Entry, error) {
	if name, ok := c.DriverFor(desc.Vendor, desc.Product, desc.Release); ok {
		if e, ok := driver.ByName(name); ok {
			return e, nil
		}
		return driver.Entry{}, fmt.Errorf("%s is given to driver %q by openct.conf: %w", desc.ID(), name, ErrUnknownDriver)
	}
	if e, ok := driver.ByID(desc.Vendor, desc.Product); ok {
		return e, nil
	}
	if e, ok := driver.ByName("ccid"); ok && ccid.Is(desc) {
		return e, nil
	}
	return driver.Entry{}, fmt.Errorf("%s: %w", desc.ID(), ErrNoDriver)
}
