// Package driver has the table of reader drivers and the small drivers
// themselves, a file each. A driver knows one family of USB devices: how to
// reset the card in it and how to carry blocks or APDUs there and back. It
// knows nothing of what lies above (protocols, slots, sockets) and below (usbfs, libusb).
//
// The table is data: udev rules, the PC/SC bundle's id list and the manual
// page's list are generated from it (go generate ./...).
package driver

import (
	"fmt"
	"slices"
	"strings"

	"openct/internal/ccid"
	"openct/internal/devname"
	"openct/internal/ifd"
	"openct/internal/remote"
	"openct/internal/usb"
)

// Entry is one driver: a line of the table.
type Entry struct {
	// Name is what openct.conf and command lines call it. Case matters:
	// "ePass3000" is C OpenCT's spelling.
	Name string

	// Reader is the reader's name for people and in the status file, at most
	// 63 bytes.
	Reader string

	// IDs are the devices it takes by vendor and product.
	IDs []ID

	// Class tells whether the driver takes a device for what it is, not for
	// its id; nil: it does not.
	Class func(*usb.Descriptor) bool

	// Verified is what the authors checked the driver against. They never had a
	// device, and the table says so.
	Verified Verification

	// Seen are the devices with which users checked it (hardware.go). Table fills it
	// in.
	Seen []Hardware

	// Open takes a device that was opened for it, without card traffic. On
	// success the reader owns the device and closes it. nil: none of its
	// readers is on USB.
	Open func(usb.Device, ifd.Options) (ifd.Reader, error)

	// OpenPath opens a reader that is not on USB, by device type.
	OpenPath map[string]func(path string, o ifd.Options) (ifd.Reader, error)

	// Connect makes the way to a reader that another handler serves, by device type.
	Connect map[string]func(path string, o ifd.Options) (ifd.Connector, error)
}

// Types are the types of devices that the driver opens, in alphabetical order.
func (e Entry) Types() []string {
	var types []string
	if e.Open != nil {
		types = append(types, "usb")
	}
	for t := range e.OpenPath {
		types = append(types, t)
	}
	for t := range e.Connect {
		types = append(types, t)
	}
	slices.Sort(types)
	return types
}

// ID is a USB vendor and product.
type ID struct {
	Vendor, Product uint16
	Model           string // what is sold under this id

	// PCSC is the reader's name in PC/SC: that of C OpenCT's Info.plist, spelling
	// included, for it stands in programs' settings; empty: Entry.Reader.
	PCSC string
}

// Hardware is a device that a user has checked with openct-control verify. The
// recording in its report is played against the driver of today.
type Hardware struct {
	Firmware string // the device's release, "1.00"; empty where it has none
	Report   string // file in testdata/hardware
}

// VerifiedBy is all that the driver was checked against, for lists.
func (e Entry) VerifiedBy() string {
	var by []string
	for _, h := range e.Seen {
		if h.Firmware == "" {
			by = append(by, fmt.Sprintf("hardware (%s)", h.Report))
			continue
		}
		by = append(by, fmt.Sprintf("hardware (firmware %s, %s)", h.Firmware, h.Report))
	}
	if len(by) == 0 || e.Verified != Untested {
		by = append(by, string(e.Verified))
	}
	return strings.Join(by, ", ")
}

// Verification says how far a driver can be trusted.
type Verification string

const (
	// Recorded: its transfers were compared byte for byte with an exchange
	// recorded from C OpenCT's driver.
	Recorded Verification = "recorded exchange, emulation"

	// Emulated: it was run against a virtual device written from the same
	// specification.
	Emulated Verification = "emulation"

	// Untested: nobody has run it against anything. A driver begins so, and has
	// no virtual device yet.
	Untested Verification = "nothing yet"
)

// Table returns all drivers in the order in which they are tried.
func Table() []Entry {
	table := drivers()
	for i := range table {
		table[i].Seen = seen[table[i].Name]
	}
	return table
}

func drivers() []Entry {
	return []Entry{
		{
			Name: "etoken64", Reader: "Aladdin eToken PRO 64k", Verified: Recorded, Open: openEToken64,
			IDs: []ID{
				{0x0529, 0x0600, "Aladdin eToken PRO 64k (4.2)", "Aladdin eToken PRO 64"},
				{0x0529, 0x0700, "Aladdin eToken NG-OTP", "Aladdin eToken PRO NG OTP"},
			},
		},
		{
			Name: "etoken", Reader: "Aladdin eToken PRO", Verified: Recorded, Open: openEToken,
			IDs: []ID{
				{0x0529, 0x050C, "Aladdin eToken PRO (4.1.5)", "Aladdin eToken PRO"},
				{0x0529, 0x0514, "Aladdin eToken PRO (4.2.5)", "Aladdin eToken PRO"},
			},
		},
		{
			Name: "ikey2k", Reader: "Rainbow iKey 2032", Verified: Recorded, Open: openIKey2k,
			IDs: []ID{{0x04B9, 0x1202, "Rainbow iKey 2032", "Rainbow iKey 2000"}},
		},
		{
			Name: "ikey3k", Reader: "Rainbow iKey 3000", Verified: Recorded, Open: openIKey3k,
			IDs: []ID{{0x04B9, 0x1300, "Rainbow iKey 3000", "Rainbow iKey 3000"}},
		},
		{
			Name: "ePass3000", Reader: "FT SCR2000A", Verified: Emulated, Open: openEPass3000,
			IDs: []ID{{0x096E, 0x0401, "Feitian ePass3000", ""}},
		},
		{
			Name: "egate", Reader: "Schlumberger E-Gate", Verified: Recorded, Open: openEGate,
			IDs: []ID{{0x0973, 0x0001, "Schlumberger e-gate", "Axalto/Schlumberger/Gemalo egate token"}},
		},
		{
			Name: "eutron", Reader: "Eutron CryptoIdendity", Verified: Recorded, Open: openEutron, // sic
			IDs: []ID{{0x073D, 0x0005, "Eutron CryptoIdentity IT-SEC", "Eutron CryptoIdendity"}},
		},
		{
			Name: "starkey", Reader: "G&D Starkey 100", Verified: Emulated, Open: openStarKey,
			IDs: []ID{{0x096E, 0x0005, "G&D StarKey 100", "G&D Starkey 100"}},
		},
		{
			Name: "rutoken", Reader: "Rutoken S driver", Verified: Recorded, Open: openRutoken,
			IDs: []ID{
				{0x0A89, 0x0020, "Aktiv Rutoken S", "Aktiv Rutoken S"},
				{0x0A89, 0x0012, "Aktiv uaToken S", "Aktiv uaToken S"},
			},
		},
		{
			Name: "cardman", Reader: "OMNIKEY CardMan 2020/6020/6120", Verified: Recorded, Open: openCardMan,
			IDs: []ID{
				{0x076B, 0x0596, "OMNIKEY CardMan 2020", ""},
				{0x076B, 0x1784, "OMNIKEY CardMan 6020", ""},
				{0x08D4, 0x0009, "Fujitsu Siemens SCR USB", ""},
			},
		},
		{
			Name: "pertosmart1030", Reader: "PertoSmart (AC1030, USB)", Verified: Recorded, Open: openPertoSmart1030,
			IDs: []ID{
				{0x072F, 0x0001, "PertoSmart AC1030, ACS ACR30", ""},
				{0x072F, 0x8009, "PertoSmart AC1030", ""},
			},
			OpenPath: map[string]func(string, ifd.Options) (ifd.Reader, error){"serial": openPertoSmart1030At},
		},
		{
			// The same reader; openct.conf may ask for it by this name.
			Name: "acr30u", Reader: "ACS ACR30U", Verified: Recorded, Open: openACR30U,
		},
		{
			Name: "pertosmart1038", Reader: "PertoSmart EMV (AC1038, USB)", Verified: Recorded, Open: openPertoSmart1038,
			IDs: []ID{
				{0x072F, 0x9000, "PertoSmart EMV AC1038, ACS ACR38", ""},
				{0x072F, 0x9006, "ACS CryptoMate", ""},
				{0x072F, 0x9007, "ACS ACR100 SIMFlash", ""},
				{0x072F, 0x90D0, "PertoSmart EMV AC1038", ""},
			},
		},
		{
			Name: "cyberjack", Reader: "cyberjack reader", Verified: Recorded, Open: openCyberJack, // C OpenCT's name
			IDs: []ID{{0x0C4B, 0x0100, "Reiner SCT cyberJack e-com, pinpad", ""}},
		},
		{
			Name: "phoenix", Reader: "Phoenix reader", Verified: Recorded,
			OpenPath: map[string]func(string, ifd.Options) (ifd.Reader, error){"serial": openPhoenixAt},
		},
		{
			Name: "smartmouse", Reader: "SmartMouse reader", Verified: Recorded,
			OpenPath: map[string]func(string, ifd.Options) (ifd.Reader, error){"serial": openSmartMouseAt},
		},
		{
			Name: "smartboard", Reader: "Cherry Smartboard", Verified: Recorded,
			OpenPath: map[string]func(string, ifd.Options) (ifd.Reader, error){"serial": openSmartBoardAt},
		},
		{
			Name: "towitoko", Reader: "Towitoko", Verified: Recorded,
			OpenPath: map[string]func(string, ifd.Options) (ifd.Reader, error){"serial": openTowitokoAt},
		},
		{
			Name: "gempc", Reader: "Gemplus GemPC 410", Verified: Recorded,
			OpenPath: map[string]func(string, ifd.Options) (ifd.Reader, error){"serial": openGemPCAt},
		},
		{
			Name: "kaan", Reader: "Kobil Kaan PRO", Verified: Recorded,
			OpenPath: map[string]func(string, ifd.Options) (ifd.Reader, error){"serial": openKaanAt},
		},
		{
			Name: "b1", Reader: "DTAG/T-TeleSec B1 standard", Verified: Recorded,
			OpenPath: map[string]func(string, ifd.Options) (ifd.Reader, error){"serial": openB1At},
		},
		{
			Name: "cm4000", Reader: "OMNIKEY CardMan 4000", Verified: Recorded,
			OpenPath: map[string]func(string, ifd.Options) (ifd.Reader, error){"pcmcia": openCM4000At},
		},
		{
			Name: "openct", Reader: "reader of another OpenCT", Verified: Emulated,
			Connect: map[string]func(string, ifd.Options) (ifd.Connector, error){
				devname.TypeRemote: remote.SSH,
				devname.TypeUnix:   remote.Unix,
			},
		},
		{
			Name: "ccid", Reader: "CCID Compatible", Verified: Emulated, Open: ccid.Open, Class: ccid.Is,
			OpenPath: map[string]func(string, ifd.Options) (ifd.Reader, error){
				"pcmcia_block": ccid.OpenBlock,
				"serial":       ccid.OpenSerial,
			},
			IDs: ccidIDs(),
		},
	}
}

// Names are the drivers' names, in the table's order.
func Names() []string {
	var names []string
	for _, e := range Table() {
		names = append(names, e.Name)
	}
	return names
}

// ByName finds a driver by its exact name.
func ByName(name string) (Entry, bool) {
	for _, e := range Table() {
		if e.Name == name {
			return e, true
		}
	}
	return Entry{}, false
}

// ByID finds the driver that lists a device.
func ByID(vendor, product uint16) (Entry, bool) {
	for _, e := range Table() {
		for _, id := range e.IDs {
			if id.Vendor == vendor && id.Product == product {
				return e, true
			}
		}
	}
	return Entry{}, false
}

// byClass finds the driver for devices of the smart card class, whatever their
// id.
func byClass(desc *usb.Descriptor) (Entry, bool) {
	for _, e := range Table() {
		if e.Class != nil && e.Class(desc) {
			return e, true
		}
	}
	return Entry{}, false
}
