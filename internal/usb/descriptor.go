package usb

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// Descriptor is the identity and the layout of a device: the standard
// descriptors of USB 2.0, 9.6, with class-specific ones kept as raw bytes.
type Descriptor struct {
	Bus, Address int    // usbfs numbers, /dev/bus/usb/BBB/DDD; 0 for a virtual device
	Port         string // physical port path as sysfs names it ("1-2.3"), empty if unknown

	Vendor, Product, Release            uint16 // idVendor, idProduct, bcdDevice
	Manufacturer, ProductString, Serial string // string descriptors, empty if the device has none

	// Interfaces of the first configuration, every alternate setting in
	// descriptor order.
	Interfaces []Interface
}

// ID returns vendor and product as "0529:0600".
func (d *Descriptor) ID() string { return fmt.Sprintf("%04x:%04x", d.Vendor, d.Product) }

// Interface is one alternate setting of one interface (USB 2.0, 9.6.5).
type Interface struct {
	Number, Alt               uint8
	Class, SubClass, Protocol uint8
	Endpoints                 []Endpoint

	// Extra holds the class- and vendor-specific descriptors, unparsed: first
	// those right after the interface descriptor, then those that follow its
	// endpoints (some readers put theirs there).
	Extra []byte
}

// Endpoint is one endpoint descriptor (USB 2.0, 9.6.6).
type Endpoint struct {
	Address   uint8  // bEndpointAddress: bit 7 set for IN
	Type      uint8  // bmAttributes bits 1..0: 0 control, 1 isochronous, 2 bulk, 3 interrupt
	MaxPacket uint16 // bytes
}

// Endpoint types (USB 2.0, table 9-13).
const (
	EndpointBulk      = 2
	EndpointInterrupt = 3
)

// Descriptor types (USB 2.0, table 9-5).
const (
	typeDevice    = 1
	typeConfig    = 2
	typeInterface = 4
	typeEndpoint  = 5
)

// ErrDescriptor says that a device's descriptors contradict themselves.
var ErrDescriptor = errors.New("invalid descriptor")

// ParseDescriptors reads the device descriptor and the first configuration
// from raw, which is what a read of a usbfs node returns: 18 bytes, then each
// configuration in full. Strings and bus position are not part of it.
func ParseDescriptors(raw []byte) (*Descriptor, error) {
	if len(raw) < 18 || raw[0] != 18 || raw[1] != typeDevice {
		return nil, fmt.Errorf("device descriptor of %d bytes: %w", len(raw), ErrDescriptor)
	}
	d := &Descriptor{
		Vendor:  binary.LittleEndian.Uint16(raw[8:]),
		Product: binary.LittleEndian.Uint16(raw[10:]),
		Release: binary.LittleEndian.Uint16(raw[12:]),
	}
	config := raw[18:]
	if len(config) == 0 {
		return d, nil // unconfigured: nothing to claim, but it has an identity
	}
	if len(config) < 9 || config[1] != typeConfig {
		return nil, fmt.Errorf("configuration descriptor: %w", ErrDescriptor)
	}
	if total := int(binary.LittleEndian.Uint16(config[2:])); total < len(config) {
		config = config[:total]
	}
	return d, d.parseInterfaces(config)
}

// parseInterfaces reads what follows the configuration descriptor. Behind the
// first interface, what is no descriptor ends the reading, and what was read is
// kept, as the kernel does (drivers/usb/core/config.c): devices pad their
// configuration with zero bytes.
func (d *Descriptor) parseInterfaces(config []byte) error {
	var cur *Interface
	for rest := config; len(rest) > 0; {
		n := int(rest[0])
		if n < 2 || n > len(rest) {
			if cur != nil {
				return nil
			}
			return fmt.Errorf("descriptor of %d bytes with %d left: %w", n, len(rest), ErrDescriptor)
		}
		desc := rest[:n]
		rest = rest[n:]
		switch desc[1] {
		case typeConfig:
		case typeInterface:
			if n < 9 {
				return fmt.Errorf("interface descriptor of %d bytes: %w", n, ErrDescriptor)
			}
			d.Interfaces = append(d.Interfaces, Interface{
				Number: desc[2], Alt: desc[3],
				Class: desc[5], SubClass: desc[6], Protocol: desc[7],
			})
			cur = &d.Interfaces[len(d.Interfaces)-1]
		case typeEndpoint:
			if n < 7 || cur == nil {
				return fmt.Errorf("endpoint descriptor of %d bytes: %w", n, ErrDescriptor)
			}
			cur.Endpoints = append(cur.Endpoints, Endpoint{
				Address:   desc[2],
				Type:      desc[3] & 3,
				MaxPacket: binary.LittleEndian.Uint16(desc[4:]) & 0x7FF,
			})
		default:
			if cur != nil {
				cur.Extra = append(cur.Extra, desc...)
			}
		}
	}
	return nil
}
