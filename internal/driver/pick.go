package driver

import (
	"errors"
	"fmt"

	"openct/internal/usb"
)

// Why a device gets no driver.
var (
	ErrUnknownDriver = errors.New("no such driver; ifdhandler -i lists them")
	ErrNoDriver      = errors.New("no driver for this device; openct.conf can assign its id to one")
)

// Config is what openct.conf says about devices and drivers.
type Config interface {
	// DriverFor is the name of the driver that it gives a device to.
	DriverFor(vendor, product, release uint16) (name string, ok bool)

	// ClassReaders says whether OpenCT serves readers of the smart card class
	// that DriverFor does not name.
	ClassReaders() bool
}

// Choice is the driver for a device.
type Choice struct {
	Entry Entry
	Why   Why

	// Left is the program that serves the device in place of OpenCT; empty
	// when OpenCT does. Somebody who attaches the device by hand gets Entry.
	Left string
}

// Ours says whether OpenCT serves the device without being asked to.
func (c Choice) Ours() bool { return c.Left == "" }

// Why is the reason for a choice.
type Why int

const (
	WhyConfig Why = iota + 1 // openct.conf gives the device to the driver
	WhyID                    // the driver lists the device's id
	WhyClass                 // the device is of the driver's class
)

// PCSCD is PC/SC's daemon. It has a driver of its own for readers of the smart
// card class.
const PCSCD = "pcscd"

// Pick chooses the driver for a device: the one that openct.conf names comes
// first, then the one that lists the device's id, then the one for its class.
// Its errors wrap ErrNoDriver or ErrUnknownDriver.
func Pick(desc *usb.Descriptor, c Config) (Choice, error) {
	name, named := c.DriverFor(desc.Vendor, desc.Product, desc.Release)
	if named {
		e, err := Named(name)
		if err != nil {
			return Choice{}, fmt.Errorf("openct.conf assigns %s to %w", kind(desc), err)
		}
		return Choice{Entry: e, Why: WhyConfig}, nil
	}
	choice := Choice{Why: WhyID}
	var ok bool
	if choice.Entry, ok = ByID(desc.Vendor, desc.Product); !ok {
		if choice.Entry, ok = byClass(desc); !ok {
			return Choice{}, fmt.Errorf("%s: %w", kind(desc), ErrNoDriver)
		}
		choice.Why = WhyClass
	}
	if choice.Entry.Class != nil && !c.ClassReaders() {
		choice.Left = PCSCD
	}
	return choice, nil
}

// kind is the device's id as openct.conf writes it.
func kind(d *usb.Descriptor) string {
	return fmt.Sprintf("usb:%04x/%04x/%04x", d.Vendor, d.Product, d.Release)
}

// Named finds a driver by its exact name. Its error wraps ErrUnknownDriver.
func Named(name string) (Entry, error) {
	e, ok := ByName(name)
	if !ok {
		return e, fmt.Errorf("driver %q: %w", name, ErrUnknownDriver)
	}
	return e, nil
}
