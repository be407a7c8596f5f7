package ccid

import "strings"

// Features is dwFeatures (CCID 1.1, table 5.1-1): what the reader does by
// itself, and at which level it exchanges data.
type Features uint32

const (
	AutoParameters  Features = 0x00000002 // takes parameters from the ATR; they are sent all the same
	AutoActivation  Features = 0x00000004 // powers the card up on insertion
	AutoVoltage     Features = 0x00000008
	AutoClock       Features = 0x00000010 // changes the clock with the parameters
	AutoRate        Features = 0x00000020 // changes the data rate with the parameters
	AutoNegotiation Features = 0x00000040 // negotiates all by itself: no PPS, no parameters
	AutoPPS         Features = 0x00000080 // makes the PPS for the parameters it is given
	ClockStop       Features = 0x00000100 // can stop the card's clock
	AcceptsNAD      Features = 0x00000200 // NAD other than 00
	AutoIFSD        Features = 0x00000400 // announces IFSD as the first T=1 exchange
	LevelTPDU       Features = 0x00010000
	LevelShortAPDU  Features = 0x00020000
	LevelExtAPDU    Features = 0x00040000
	WakeUp          Features = 0x00100000 // wakes the host on insertion and removal

	// usbICC in the low word marks a USB token of ISO/IEC 7816-12: there are
	// no contacts, so nothing to negotiate, and nothing to take out.
	usbICC     Features = 0x00000840
	usbICCMask Features = 0x0000FFFF
)

// Has says whether all of f are declared.
func (fs Features) Has(f Features) bool { return fs&f == f }

// IsToken says whether this is a USB token rather than a reader.
func (fs Features) IsToken() bool { return fs&usbICCMask == usbICC }

func (fs Features) String() string {
	var names []string
	for _, f := range []struct {
		bit  Features
		name string
	}{
		{AutoParameters, "auto parameters"},
		{AutoActivation, "auto activation"},
		{AutoVoltage, "auto voltage"},
		{AutoClock, "auto clock"},
		{AutoRate, "auto rate"},
		{AutoNegotiation, "auto negotiation"},
		{AutoPPS, "auto PPS"},
		{ClockStop, "clock stop"},
		{AcceptsNAD, "NAD"},
		{AutoIFSD, "auto IFSD"},
		{LevelTPDU, "TPDU"},
		{LevelShortAPDU, "short APDU"},
		{LevelExtAPDU, "extended APDU"},
		{WakeUp, "wake-up"},
	} {
		if fs.Has(f.bit) {
			names = append(names, f.name)
		}
	}
	if len(names) == 0 {
		return "none"
	}
	return strings.Join(names, ", ")
}
