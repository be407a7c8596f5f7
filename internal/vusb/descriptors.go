package vusb

import (
	"context"
	"encoding/binary"

	"openct/internal/usb"
)

// noEndpoints is the part of a Model that a token without endpoints shares
// with all of its kind.
type noEndpoints struct{}

func (noEndpoints) Out(context.Context, uint8, []byte) error       { return ErrStall }
func (noEndpoints) In(context.Context, uint8, int) ([]byte, error) { return nil, ErrStall }

// vendorToken describes a token that speaks through endpoint 0 alone: one
// vendor-class interface without endpoints (spec/usb-emulation.md, 1.4). An
// empty manufacturer is none.
func vendorToken(vendor, product, release uint16, speed Speed, milliamps int, manufacturer, name string) Descriptors {
	dev := []byte{
		18, 1, 0x00, 0x01, 0xFF, 0x00, 0x00, 8, // bcdUSB 1.00, class FF, bMaxPacketSize0 8
		0, 0, 0, 0, 0, 0, 1, 2, 0, 1, // strings 1 and 2, no serial, one configuration
	}
	binary.LittleEndian.PutUint16(dev[8:], vendor)
	binary.LittleEndian.PutUint16(dev[10:], product)
	binary.LittleEndian.PutUint16(dev[12:], release)
	strings := []string{manufacturer, name}
	if manufacturer == "" {
		dev[14], dev[15], strings = 0, 1, strings[1:]
	}
	return Descriptors{
		Device: dev,
		Config: []byte{
			9, 2, 18, 0, 1, 1, 0, 0x80, byte(milliamps / 2), // 18 bytes in all, bus powered
			9, 4, 0, 0, 0, 0xFF, 0, 0, 0,
		},
		Strings: strings,
		Speed:   speed,
	}
}

// with adds descriptors to the interface: class-specific ones, endpoints.
func (d Descriptors) with(more ...[]byte) Descriptors {
	for _, m := range more {
		if m[1] == 5 {
			d.Config[9+4]++ // bNumEndpoints
		}
		d.Config = append(d.Config, m...)
	}
	binary.LittleEndian.PutUint16(d.Config[2:], uint16(len(d.Config)))
	return d
}

// endpoint describes an endpoint. kind is 2 for bulk, 3 for interrupt with an
// interval of 10 ms (USB 2.0, table 9-13).
func endpoint(address, kind uint8, packet uint16) []byte {
	e := []byte{7, 5, address, kind, byte(packet), byte(packet >> 8), 0}
	if kind == usb.EndpointInterrupt {
		e[6] = 10
	}
	return e
}

// classDescriptor is as long as a CCID's and says nothing. Two tokens without
// that class are known to carry one.
func classDescriptor() []byte {
	d := make([]byte, 54)
	d[0], d[1] = 54, 0x21
	return d
}
