//go:build cgo

package gousbdev

import (
	"errors"
	"fmt"
	"strconv"

	"github.com/google/gousb"

	"openct/internal/machine"
	"openct/internal/usb"
)

// classVendor is bInterfaceClass "vendor specific" (USB class codes, usb.org).
const classVendor = 0xFF

// Claim implements usb.Device. A kernel driver that holds a vendor-class
// interface (some serial adapters' ids are tokens' ids) has to leave it, and
// gets it back on Release and Close; drivers of other classes, a keyboard's
// above all, stay, and the claim is refused.
func (d *device) Claim(number, alt uint8) error {
	return d.withLibusb(fmt.Sprintf("claim interface %d", number), func() error { return d.claimLocked(number, alt) })
}

func (d *device) claimLocked(number, alt uint8) error {
	setting := d.setting(number, alt)
	if setting == nil {
		return fmt.Errorf("%w: the device has no interface %d with alternate setting %d", usb.ErrNotFound, number, alt)
	}
	if d.claims[number] != nil {
		return fmt.Errorf("%w by this handle already", usb.ErrBusy)
	}
	if err := d.configureLocked(); err != nil {
		return err
	}
	iface, err := d.config.Interface(int(number), int(alt))
	if code, ok := codeOfClaim(err); !ok || code != gousb.ErrorBusy {
		if err == nil {
			d.claims[number] = &claim{iface: iface}
		}
		return mapError(err)
	}

	busy := busy(machine.Here, d.dir, d.path, number)
	driver := machine.InterfaceDriver(d.dir, number)
	if !mayDetach(driver, setting.Class) {
		return busy
	}
	iface, err = d.withDetach(func() (*gousb.Interface, error) {
		return d.config.Interface(int(number), int(alt))
	})
	if err != nil {
		return fmt.Errorf("%w, which cannot be detached: %w", busy, mapError(err))
	}
	d.log.Info("interface taken from its kernel driver", "interface", number, "driver", driver)
	d.claims[number] = &claim{iface: iface, detached: driver}
	return nil
}

func codeOfClaim(err error) (gousb.Error, bool) {
	if err == nil {
		return 0, false
	}
	return codeOf(err)
}

// mayDetach says whether an interface of that class may be taken from driver.
func mayDetach(driver string, class uint8) bool {
	switch driver {
	case "", "usbfs", "usbhid":
		return false
	}
	return class == classVendor
}

// withDetach runs f while libusb detaches and attaches kernel drivers by
// itself. gousb would detach those of all interfaces when it takes the
// configuration; it has that already, so only f's interface is concerned.
func (d *device) withDetach(f func() (*gousb.Interface, error)) (*gousb.Interface, error) {
	if err := d.dev.SetAutoDetach(true); err != nil {
		return nil, err
	}
	iface, err := f()
	return iface, errors.Join(err, d.dev.SetAutoDetach(false))
}

func (d *device) setting(number, alt uint8) *usb.Interface {
	for i := range d.desc.Interfaces {
		if s := &d.desc.Interfaces[i]; s.Number == number && s.Alt == alt {
			return s
		}
	}
	return nil
}

// configureLocked takes the active configuration, or the first one of a
// device that has none active.
func (d *device) configureLocked() error {
	if d.config != nil {
		return nil
	}
	number, _ := strconv.Atoi(machine.Attribute(d.dir, "bConfigurationValue")) // empty where none is active
	if _, ok := d.dev.Desc.Configs[number]; !ok {
		number = int(d.node.Descriptors[18+5]) // bConfigurationValue of the first
	}
	config, err := d.dev.Config(number)
	if err != nil {
		return mapError(err)
	}
	config.Desc.Interfaces = byNumber(config.Desc.Interfaces)
	d.config = config
	return nil
}

// byNumber puts every interface at the index that is its number. gousb takes
// the one for the other, and a device whose only interface is number 1 makes
// it panic. The gaps have a number that nobody asks for.
func byNumber(interfaces []gousb.InterfaceDesc) []gousb.InterfaceDesc {
	var padded []gousb.InterfaceDesc
	for _, i := range interfaces {
		for len(padded) <= i.Number {
			padded = append(padded, gousb.InterfaceDesc{Number: -1})
		}
		padded[i.Number] = i
	}
	return padded
}

// Reset implements usb.Resetter.
func (d *device) Reset() error {
	return d.withLibusb("reset", func() error {
		if len(d.claims) > 0 {
			return fmt.Errorf("%w: an interface is claimed", usb.ErrBusy)
		}
		if d.config != nil { // gousb resets no device whose configuration is taken
			if err := d.config.Close(); err != nil {
				return mapError(err)
			}
			d.config = nil
		}
		return mapError(d.dev.Reset())
	})
}

// Release implements usb.Device.
func (d *device) Release(number uint8) error {
	return d.withLibusb(fmt.Sprintf("release interface %d", number), func() error {
		d.releaseLocked(number)
		return nil
	})
}

func (d *device) releaseLocked(number uint8) {
	c := d.claims[number]
	if c == nil {
		return
	}
	delete(d.claims, number)
	if c.detached == "" {
		c.iface.Close()
		return
	}
	_, err := d.withDetach(func() (*gousb.Interface, error) {
		c.iface.Close()
		return nil, nil
	})
	if err != nil {
		d.log.Warn("interface not given back to its kernel driver", "interface", number, "driver", c.detached, "error", err)
	}
}
