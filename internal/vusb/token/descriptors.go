package token

import (
	"context"
	"encoding/binary"

	"openct/internal/vusb"
)

// noEndpoints is the part of a Model that a token without endpoints shares
// with all of its kind.
type noEndpoints struct{}

func (noEndpoints) Out(context.Context, uint8, []byte) error       { return vusb.ErrStall }
func (noEndpoints) In(context.Context, uint8, int) ([]byte, error) { return nil, vusb.ErrStall }

// vendorToken describes a token with one vendor-class interface, to which more
// descriptors may belong: class-specific ones and endpoints. An empty
// manufacturer is none.
func vendorToken(vendor, product, release uint16, speed vusb.Speed, milliamps int, manufacturer, name string, more ...[]byte) vusb.Descriptors {
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
	config := []byte{
		9, 2, 0, 0, 1, 1, 0, 0x80, byte(milliamps / 2), // bus powered
		9, 4, 0, 0, 0, 0xFF, 0, 0, 0,
	}
	for _, m := range more {
		if m[1] == 5 {
			config[9+4]++ // bNumEndpoints
		}
		config = append(config, m...)
	}
	binary.LittleEndian.PutUint16(config[2:], uint16(len(config))) // wTotalLength
	return vusb.Descriptors{Device: dev, Config: config, Strings: strings, Speed: speed}
}

// classDescriptor is as long as a CCID's and says nothing. Two tokens without
// that class are known to carry one.
func classDescriptor() []byte {
	d := make([]byte, 54)
	d[0], d[1] = 54, 0x21
	return d
}
