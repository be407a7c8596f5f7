package vusb

import (
	"context"
	"encoding/binary"
)

// noEndpoints is the part of a Model that a token without endpoints shares
// with all of its kind.
type noEndpoints struct{}

func (noEndpoints) Out(context.Context, uint8, []byte) error       { return ErrStall }
func (noEndpoints) In(context.Context, uint8, int) ([]byte, error) { return nil, ErrStall }

// vendorToken describes a token that speaks through endpoint 0 alone: one
// vendor-class interface without endpoints (spec/usb-emulation.md, 1.4).
func vendorToken(vendor, product, release uint16, speed Speed, milliamps int, manufacturer, name string) Descriptors {
	dev := []byte{
		18, 1, 0x00, 0x01, 0xFF, 0x00, 0x00, 8, // bcdUSB 1.00, class FF, bMaxPacketSize0 8
		0, 0, 0, 0, 0, 0, 1, 2, 0, 1, // strings 1 and 2, no serial, one configuration
	}
	binary.LittleEndian.PutUint16(dev[8:], vendor)
	binary.LittleEndian.PutUint16(dev[10:], product)
	binary.LittleEndian.PutUint16(dev[12:], release)
	return Descriptors{
		Device: dev,
		Config: []byte{
			9, 2, 18, 0, 1, 1, 0, 0x80, byte(milliamps / 2), // 18 bytes in all, bus powered
			9, 4, 0, 0, 0, 0xFF, 0, 0, 0,
		},
		Strings: []string{manufacturer, name},
		Speed:   speed,
	}
}
