package ccid

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// descriptorSize is the class descriptor's length (CCID 1.1, table 5.1-1).
const descriptorSize = 54

// Descriptor types the class descriptor comes under: 21h by CCID 1.1, table
// 5.1-1, which is the number of a HID descriptor as well; FFh on readers of
// before the class existed.
const (
	descriptorType       = 0x21
	descriptorTypeVendor = 0xFF
)

// ClassDescriptor is a reader's own account of what it can do (CCID 1.1,
// table 5.1-1). Nothing of it is trusted: decide (plan.go) makes something usable of it.
type ClassDescriptor struct {
	Release          uint16 // bcdCCID; says little, 0100 to 1001 occur
	Slots            int    // bMaxSlotIndex + 1
	Voltages         byte   // bit 0 5 V, bit 1 3 V, bit 2 1.8 V
	Protocols        uint32 // bit 0 T=0, bit 1 T=1
	DefaultClock     uint32 // kHz
	MaxClock         uint32 // kHz
	NumClocks        int    // 0: every clock between the two
	DefaultRate      uint32 // bit/s
	MaxRate          uint32 // bit/s
	NumRates         int    // length of the GET_DATA_RATES table; 0: every rate
	MaxIFSD          uint32 // T=1, bytes
	SynchProtocols   uint32 // 2-wire, 3-wire, I2C
	Mechanical       uint32 // bit 0 accept, 1 eject, 2 capture, 3 lock
	Features         Features
	MaxMessage       uint32 // dwMaxCCIDMessageLength, header included, bytes
	ClassGetResponse byte   // FF: that of the command
	ClassEnvelope    byte   // FF: that of the command
	LCDLines         int
	LCDColumns       int
	PINSupport       byte // bit 0 verify, bit 1 modify
	BusySlots        int  // slots that may work at the same time
}

// Bits of the class descriptor (CCID 1.1, table 5.1-1).
const (
	protocolT0 = 1 << 0
	protocolT1 = 1 << 1

	mechanicalEject = 1 << 1

	pinSupportVerify = 1 << 0
	pinSupportModify = 1 << 1
)

// errNoDescriptor: there is no class descriptor among these bytes.
var errNoDescriptor = errors.New("no CCID class descriptor")

// parseClassDescriptor reads one class descriptor. b may be longer. It is
// refused only when it is too short to be one.
func parseClassDescriptor(b []byte) (*ClassDescriptor, error) {
	if len(b) < descriptorSize {
		return nil, fmt.Errorf("%w: %d bytes, need %d", errNoDescriptor, len(b), descriptorSize)
	}
	if b[0] < descriptorSize {
		return nil, fmt.Errorf("%w: bLength is %d, need %d", errNoDescriptor, b[0], descriptorSize)
	}
	if b[1] != descriptorType && b[1] != descriptorTypeVendor {
		return nil, fmt.Errorf("%w: type %02X", errNoDescriptor, b[1])
	}
	le := binary.LittleEndian
	return &ClassDescriptor{
		Release:          le.Uint16(b[2:]),
		Slots:            int(b[4]) + 1,
		Voltages:         b[5],
		Protocols:        le.Uint32(b[6:]),
		DefaultClock:     le.Uint32(b[10:]),
		MaxClock:         le.Uint32(b[14:]),
		NumClocks:        int(b[18]),
		DefaultRate:      le.Uint32(b[19:]),
		MaxRate:          le.Uint32(b[23:]),
		NumRates:         int(b[27]),
		MaxIFSD:          le.Uint32(b[28:]),
		SynchProtocols:   le.Uint32(b[32:]),
		Mechanical:       le.Uint32(b[36:]),
		Features:         Features(le.Uint32(b[40:])),
		MaxMessage:       le.Uint32(b[44:]),
		ClassGetResponse: b[48],
		ClassEnvelope:    b[49],
		LCDColumns:       int(b[50]),
		LCDLines:         int(b[51]),
		PINSupport:       b[52],
		BusySlots:        int(b[53]),
	}, nil
}

// findClassDescriptor looks for the class descriptor among an interface's
// class and vendor descriptors, wherever it stands: other descriptors may
// come before it, and some firmware puts it behind an endpoint. A descriptor whose
// length cannot be right ends the search.
func findClassDescriptor(extra []byte) (*ClassDescriptor, error) {
	for rest := extra; len(rest) >= 2; {
		n := int(rest[0])
		if n < 2 || n > len(rest) {
			return nil, fmt.Errorf("%w: a descriptor of %d bytes with %d left", errNoDescriptor, n, len(rest))
		}
		if d, err := parseClassDescriptor(rest[:n]); err == nil {
			return d, nil
		}
		rest = rest[n:]
	}
	return nil, fmt.Errorf("%w among %d bytes of class and vendor descriptors", errNoDescriptor, len(extra))
}

// hasVendorDescriptor says whether extra holds a class descriptor and nothing
// else: what an interface of the vendor class must show to be taken for a
// reader.
func hasVendorDescriptor(extra []byte) bool {
	if len(extra) != descriptorSize || extra[0] != descriptorSize {
		return false
	}
	_, err := parseClassDescriptor(extra)
	return err == nil
}
