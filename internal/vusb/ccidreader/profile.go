package ccidreader

import "openct/internal/vusb"

import "encoding/binary"

// Profile is what a virtual CCID reader says of itself. The zero value of
// a field stands for what most readers say.
type Profile struct {
	Name                     string
	Vendor, Product, Release uint16 // default FFF0:0001 0100, which no quirk knows

	Class          uint8  // default 0B; FF for the readers from before the class
	Protocol       uint8  // bInterfaceProtocol
	DescriptorType uint8  // default 21
	BCD            uint16 // bcdCCID, default 0110

	Slots     int    // default 1
	Busy      int    // bMaxCCIDBusySlots, default 1
	Voltages  uint8  // default 07
	Protocols uint32 // default T=0 and T=1
	Clock     uint32 // kHz, default and maximum, default 4000
	MaxRate   uint32 // bit/s, default 344086
	Rates     []uint32
	NumRates  uint8 // bNumDataRatesSupported where it is not len(Rates)
	IFSD      uint32
	Features  uint32 // dwFeatures, default 000404BA with IFSD 254
	Message   uint32 // dwMaxCCIDMessageLength, default 271
	LCD       uint16
	PIN       uint8

	Packet      int    // bulk packet size, default 64; 512 makes a high speed device
	Readers     int    // CCID interfaces, default 1
	Keyboard    bool   // a HID interface comes first
	NoInterrupt bool   // two endpoints
	Misplaced   bool   // the class descriptor follows the last endpoint
	Leading     []byte // another class descriptor ahead of it
	Cut         int    // so many bytes are missing at its end
	Length      uint8  // its bLength, where that is not its length
	NoBulkOut   bool
}

// dwFeatures of the profiles (CCID 1.1, table 5.1-1).
const (
	autoVoltage       = 0x00000008
	autoActivation    = 0x00000004
	autoRate          = 0x00000020
	autoNegotiation   = 0x00000040
	autoPPS           = 0x00000080
	autoIFSD          = 0x00000400
	levelTPDU         = 0x00010000
	levelShortAPDU    = 0x00020000
	levelExtendedAPDU = 0x00040000
	noRate            = ^uint32(0)
)

// Profiles are the readers that tests name: by number and, where one
// number has several, a letter.
func Profiles() []Profile {
	return []Profile{
		{Name: "P1 TPDU, everything by hand", Features: 0x00010030, IFSD: 254},
		{Name: "P2 TPDU, automatic", Features: 0x000100BA, IFSD: 252},
		{Name: "P2b TPDU, automatic, 263", Features: 0x000100BA, IFSD: 252, Message: 263},
		{Name: "P3 short APDU", Features: 0x000204BA, IFSD: 254},
		{Name: "P4 extended APDU, chaining", Features: 0x000404BE, IFSD: 254},
		{Name: "P4b extended APDU, one message", Features: 0x000404BE, IFSD: 254, Message: 65554},
		{Name: "P5 extended APDU, negotiates itself", Features: 0x0004047E, IFSD: 254},
		{Name: "P6 character level", Features: 0x00000030, IFSD: 254},
		{Name: "P7 token", Features: 0x00020840, NoInterrupt: true},
		{Name: "P8 vendor class", Features: 0x00010030, IFSD: 254, Class: 0xFF},
		{Name: "P8b vendor class and type", Features: 0x00010030, IFSD: 254, Class: 0xFF, DescriptorType: 0xFF},
		{Name: "P9 misplaced descriptor", Features: 0x00010030, IFSD: 254, Misplaced: true},
		{Name: "P10 five slots", Features: 0x00010030, IFSD: 254, Slots: 5, Busy: 1},
		{Name: "P10b five slots at once", Features: 0x00010030, IFSD: 254, Slots: 5, Busy: 5},
		{Name: "P11 PIN pad", Features: 0x000100BA, IFSD: 254, LCD: 0x0210, PIN: 3},
		{Name: "P11b PIN pad, short APDU", Features: 0x000204BA, IFSD: 254, LCD: 0x0210, PIN: 3},
		{Name: "P12 odd", Features: 0x00010030, IFSD: 0, BCD: 0x1000, Keyboard: true, Readers: 2,
			Leading: []byte{0x05, 0x24, 0x00, 0x10, 0x01}},
		{Name: "P13 rate table", Features: 0x00010030, IFSD: 254, Rates: []uint32{10752, 86021, 344086}},
		{Name: "P13b rate table refused", Features: 0x00010030, IFSD: 254, NumRates: 3},
		{Name: "P14 rate by hand", Features: 0x00010000, IFSD: 254},
	}
}

// ProfileNamed finds a profile by its number, "P1" or "P10b"; ok is false
// if there is none.
func ProfileNamed(number string) (p Profile, ok bool) {
	for _, p := range Profiles() {
		if len(p.Name) > len(number) && p.Name[:len(number)+1] == number+" " {
			return p, true
		}
	}
	return Profile{}, false
}

func (p Profile) withDefaults() Profile {
	or := func(v *uint16, d uint16) {
		if *v == 0 {
			*v = d
		}
	}
	or(&p.Vendor, 0xFFF0)
	or(&p.Product, 0x0001)
	or(&p.Release, 0x0100)
	or(&p.BCD, 0x0110)
	if p.Class == 0 {
		p.Class = 0x0B
	}
	if p.DescriptorType == 0 {
		p.DescriptorType = 0x21
	}
	if p.Features == 0 {
		p.Features, p.IFSD = 0x000404BA, max(p.IFSD, 254)
	}
	if p.Slots == 0 {
		p.Slots = 1
	}
	if p.Busy == 0 {
		p.Busy = 1
	}
	if p.Voltages == 0 {
		p.Voltages = 7
	}
	if p.Protocols == 0 {
		p.Protocols = 3
	}
	if p.Clock == 0 {
		p.Clock = 4000
	}
	if p.MaxRate == 0 {
		p.MaxRate = 344086
	}
	if p.NumRates == 0 {
		p.NumRates = uint8(len(p.Rates))
	}
	if p.Message == 0 {
		p.Message = 271
	}
	if p.Packet == 0 {
		p.Packet = 64
	}
	if p.Readers == 0 {
		p.Readers = 1
	}
	return p
}

// class is the class descriptor (CCID 1.1, table 5.1-1).
func (p Profile) class() []byte {
	le := binary.LittleEndian
	b := make([]byte, 54)
	b[0], b[1] = 54, p.DescriptorType
	if p.Length != 0 {
		b[0] = p.Length
	}
	le.PutUint16(b[2:], p.BCD)
	b[4], b[5] = byte(p.Slots-1), p.Voltages
	le.PutUint32(b[6:], p.Protocols)
	le.PutUint32(b[10:], p.Clock)
	le.PutUint32(b[14:], p.Clock)
	le.PutUint32(b[19:], uint32((uint64(p.Clock)*1000+186)/372))
	le.PutUint32(b[23:], p.MaxRate)
	b[27] = p.NumRates
	le.PutUint32(b[28:], p.IFSD)
	le.PutUint32(b[40:], p.Features)
	le.PutUint32(b[44:], p.Message)
	b[48], b[49] = 0xFF, 0xFF
	le.PutUint16(b[50:], p.LCD)
	b[52], b[53] = p.PIN, byte(p.Busy)
	return b[:len(b)-p.Cut]
}

// Endpoints of the n-th CCID interface.
func inEndpoint(n int) uint8        { return 0x81 + 3*uint8(n) }
func outEndpoint(n int) uint8       { return 0x02 + 3*uint8(n) }
func interruptEndpoint(n int) uint8 { return 0x83 + 3*uint8(n) }

// keyboardEndpoint is the HID interface's.
const keyboardEndpoint = 0x8E

// firstInterface is the bInterfaceNumber of the first CCID interface.
func (p Profile) firstInterface() uint8 {
	if p.Keyboard {
		return 1
	}
	return 0
}

func (p Profile) descriptors() vusb.Descriptors {
	var body []byte
	count := p.Readers
	if p.Keyboard {
		count++
		body = append(body,
			9, 4, 0, 0, 1, 3, 1, 1, 0,
			9, 0x21, 0x11, 0x01, 0, 1, 0x22, 63, 0,
			7, 5, keyboardEndpoint, 3, 8, 0, 10)
	}
	class := append(append([]byte(nil), p.Leading...), p.class()...)
	for n := range p.Readers {
		var eps [][]byte
		packet := []byte{byte(p.Packet), byte(p.Packet >> 8)}
		eps = append(eps, []byte{7, 5, inEndpoint(n), 2, packet[0], packet[1], 0})
		if !p.NoBulkOut {
			eps = append(eps, []byte{7, 5, outEndpoint(n), 2, packet[0], packet[1], 0})
		}
		if !p.NoInterrupt {
			eps = append(eps, []byte{7, 5, interruptEndpoint(n), 3, 8, 0, 16})
		}
		body = append(body, 9, 4, p.firstInterface()+byte(n), 0, byte(len(eps)), p.Class, 0, p.Protocol, 0)
		if !p.Misplaced {
			body = append(body, class...)
		}
		for _, e := range eps {
			body = append(body, e...)
		}
		if p.Misplaced {
			body = append(body, class...)
		}
	}
	total := 9 + len(body)
	speed := vusb.FullSpeed
	if p.Packet > 64 {
		speed = vusb.HighSpeed
	}
	dev := []byte{18, 1, 0x00, 0x02, 0, 0, 0, 64, 0, 0, 0, 0, 0, 0, 1, 2, 0, 1}
	binary.LittleEndian.PutUint16(dev[8:], p.Vendor)
	binary.LittleEndian.PutUint16(dev[10:], p.Product)
	binary.LittleEndian.PutUint16(dev[12:], p.Release)
	name := p.Name
	if name == "" {
		name = "CCID reader"
	}
	return vusb.Descriptors{
		Device:  dev,
		Config:  append([]byte{9, 2, byte(total), byte(total >> 8), byte(count), 1, 0, 0x80, 50}, body...),
		Strings: []string{"OpenCT virtual", name},
		Speed:   speed,
	}
}
