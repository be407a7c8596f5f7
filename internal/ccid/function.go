package ccid

import (
	"fmt"
	"slices"

	"openct/internal/ifd"
	"openct/internal/usb"
)

// Interface class and protocols (CCID 1.1, 5.2; ISO/IEC 7816-12 for the
// protocols of tokens without bulk endpoints, "ICCD").
const (
	classSmartCard = 0x0B
	classVendor    = 0xFF

	protocolICCDA = 0x01
	protocolICCDB = 0x02
)

// function is a reader within a USB device: one interface with its endpoints
// and its class descriptor.
type function struct {
	iface, alt uint8
	in, out    uint8 // bulk endpoints
	packet     int   // wMaxPacketSize of in, bytes
	interrupt  uint8 // 0: none
	intPacket  int
	desc       *ClassDescriptor
}

// findFunctions returns the readers of a device, in descriptor order. An
// interface is one by its class, or by the vendor class if the device is known
// or the interface shows nothing but a CCID descriptor and a bulk endpoint
// each way. Other interfaces, of keyboards and disks, are left alone.
// The error wraps ifd.ErrIncompatible and says what is missing.
func findFunctions(d *usb.Descriptor) ([]function, error) {
	var found []function
	why := fmt.Errorf("%s has no smart card interface: %w", d.ID(), ifd.ErrIncompatible)
	for _, i := range d.Interfaces {
		vendor := i.Class == classVendor
		if i.Class != classSmartCard && !vendor {
			continue
		}
		if slices.ContainsFunc(found, func(f function) bool { return f.iface == i.Number }) {
			continue // another setting of an interface that is fine as it is
		}
		f, err := asFunction(i)
		switch {
		case err == nil && vendor && !quirkOf(d).vendorClass && !hasVendorDescriptor(i.Extra):
			continue
		case err != nil && vendor && !quirkOf(d).vendorClass:
			continue
		case err != nil:
			why = fmt.Errorf("%s, interface %d: %w", d.ID(), i.Number, err)
			continue
		}
		found = append(found, f)
	}
	if found == nil {
		return nil, why
	}
	return found, nil
}

func asFunction(i usb.Interface) (function, error) {
	f := function{iface: i.Number, alt: i.Alt}
	for _, e := range i.Endpoints {
		isIn := e.Address&0x80 != 0
		switch {
		case e.Type == usb.EndpointBulk && isIn && f.in == 0:
			f.in, f.packet = e.Address, int(e.MaxPacket)
		case e.Type == usb.EndpointBulk && !isIn && f.out == 0:
			f.out = e.Address
		case e.Type == usb.EndpointInterrupt && isIn && f.interrupt == 0:
			f.interrupt, f.intPacket = e.Address, int(e.MaxPacket)
		}
	}
	if f.in == 0 || f.out == 0 {
		if i.Protocol == protocolICCDA || i.Protocol == protocolICCDB {
			return f, fmt.Errorf("the token supports ICCD (protocol %d) on the control pipe only: %w", i.Protocol, ifd.ErrIncompatible)
		}
		return f, fmt.Errorf("bulk endpoints are missing: %w", ifd.ErrIncompatible)
	}
	if f.packet < headerSize {
		f.packet = minPacket // no USB speed has bulk packets this small
	}
	desc, err := findClassDescriptor(i.Extra)
	if err != nil {
		return f, fmt.Errorf("%w: %w", ifd.ErrIncompatible, err)
	}
	f.desc = desc
	return f, nil
}

// minPacket is the size of a full speed device's bulk packets.
const minPacket = 64

// Is says whether a device is, or has in it, a reader for this driver.
func Is(d *usb.Descriptor) bool {
	fns, err := findFunctions(d)
	return err == nil && len(fns) > 0
}
