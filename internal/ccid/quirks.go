package ccid

import (
	"time"

	"openct/internal/usb"
)

// quirk is what is known of a model and not to be seen from its class
// descriptor. The facts are those that libccid (ccid_usb.c, ccid.c, commands.c,
// ifdhandler.c) and C OpenCT (ifd-ccid.c) learned from devices; none was checked
// on one here.
type quirk struct {
	vendorClass bool // its interface is of the vendor class

	firstProbe time.Duration // slow starters: the wait for the first answer ...
	nextProbe  time.Duration // ... and for the next; 0: the usual
	initEscape []byte        // sent when the reader is opened; it may refuse
	isoEscape  []byte        // leaves EMV mode, when power-on fails over it
	offFirst   bool          // power off before every power on
	muteIsNone bool          // reports a card always; a failed power-on means none
	onlySlot0  bool          // the other slots speak a vendor protocol
	escapeSlot bool          // C OpenCT has a virtual slot for escape commands behind the real ones

	extended  bool          // declares short APDUs, but chains
	shortOnly bool          // declares extended APDUs, but only short ones work
	splitAt64 bool          // loses answers that fill a packet at character level
	noPPS     bool          // never a PPS: the ATR's first protocol at the default rate
	maxRate   uint32        // bit/s; more does not work
	ifsd      uint32        // instead of dwMaxIFSD
	noIFS     bool          // announcing IFSD upsets the card
	t1Extra   time.Duration // added to T=1 waits
	cycles    int           // so often the card is powered off and on when SetParameters fails

	noPINPad      bool          // bPINSupport is not to be trusted
	keyDelay      time.Duration // wait until the user's last key is up
	swapDigits    bool          // wPINMaxExtraDigit has its bytes swapped
	onlyKeyEnds   bool          // bEntryValidationCondition must be 02
	verifyMessage *byte         // bNumberMessage of verify
	modifyMessage *byte         // bNumberMessage of modify
	allIndexes    bool          // modify carries all three message indexes
	modifyDefault bool          // modify: bNumberMessage FF instead of 00
	maxPIN        byte          // digits
	bareEscape    []byte        // ahead of a verify without a block to fill

	minRelease uint16 // bcdDevice of the first firmware that works
}

type deviceID struct{ vendor, product uint16 }

// quirkRow is one fact about some models; from and to bound bcdDevice, to 0
// means no bound.
type quirkRow struct {
	ids      []deviceID
	from, to uint16
	set      func(*quirk)
}

func number(b byte) *byte { return &b }

var quirkTable = []quirkRow{
	// Readers from before the class existed.
	{ids: []deviceID{
		{0x046A, 0x003E}, {0x04E6, 0x0003}, {0x04E6, 0x5111}, {0x04E6, 0x511A}, {0x04E6, 0x5120}, {0x04E6, 0x5121},
		{0x04E6, 0x512B}, {0x04E6, 0x512C}, {0x04E6, 0x5291}, {0x04E6, 0x5292}, {0x04E6, 0xE003},
		{0x076B, 0x532A}, {0x076B, 0x5340}, {0x08E6, 0x1359}, {0x08E6, 0x2202}, {0x08E6, 0xACE0},
		{0x0973, 0x0003}, {0x09BE, 0x0002}, {0x0C4B, 0x0300}, {0x0C4B, 0x0500}, {0x1A74, 0x6354},
		{0x1A74, 0x6356}, {0x1DB2, 0x0600}, {0x1DB2, 0x0604}, {0x413C, 0x2100},
	}, set: func(q *quirk) { q.vendorClass = true }},

	// Slow starters.
	{ids: []deviceID{{0x09D8, 0x0427}, {0x09D8, 0x0428}, {0x072F, 0x2200}},
		set: func(q *quirk) { q.nextProbe = time.Second }},
	{ids: []deviceID{{0x04E6, 0x5293}, {0x04E6, 0x5790}, {0x04E6, 0x5791}, {0x04E6, 0x5724}},
		set: func(q *quirk) { q.nextProbe = 400 * time.Millisecond }},
	{ids: []deviceID{{0x0B81, 0x0200}},
		set: func(q *quirk) { q.firstProbe, q.nextProbe = time.Minute, time.Minute }},

	// Firmware modes. GemCore readers leave EMV for ISO mode with 1F 01.
	{ids: []deviceID{{0x08E6, 0x3437}},
		set: func(q *quirk) { q.initEscape = []byte{0x1F, 0x01} }},
	{ids: []deviceID{{0x08E6, 0x4433}, {0x046A, 0x0005}},
		set: func(q *quirk) { q.isoEscape = []byte{0x1F, 0x01} }},

	// Power.
	{ids: []deviceID{{0x0D46, 0x301D}}, set: func(q *quirk) { q.offFirst = true }},
	{ids: []deviceID{{0x08E6, 0x3480}}, to: 0x01FF, set: func(q *quirk) { q.muteIsNone = true }},

	// Slots.
	{ids: []deviceID{{0x04E6, 0x5111}, {0x04E6, 0x5120}, {0x04E6, 0x5121}},
		set: func(q *quirk) { q.onlySlot0 = true }},
	{ids: []deviceID{{0x076B, 0x5121}}, set: func(q *quirk) { q.escapeSlot = true }},

	// Exchange levels that are not what they say.
	{ids: []deviceID{
		{0x076B, 0x3A21}, {0x076B, 0x3031}, {0x076B, 0x6632}, {0x046A, 0x00A7},
		{0x0BF8, 0x1024}, {0x2F7C, 0x6007},
	}, set: func(q *quirk) { q.extended = true }},
	{ids: []deviceID{{0x046A, 0x00A1}}, from: 0x0100, to: 0x0100, set: func(q *quirk) { q.extended = true }},
	{ids: []deviceID{{0x0D46, 0x3010}}, set: func(q *quirk) { q.shortOnly = true }},

	// Rates and parameters.
	{ids: []deviceID{{0x0B97, 0x7762}, {0x0B97, 0x7772}},
		set: func(q *quirk) { q.noPPS, q.splitAt64, q.maxRate = true, true, 9600 }},
	{ids: []deviceID{{0x058F, 0x9540}},
		set: func(q *quirk) { q.maxRate, q.cycles = 200000, 2 }},
	{ids: []deviceID{{0x09BE, 0x0002}}, set: func(q *quirk) { q.ifsd = 254 }},
	{ids: []deviceID{{0x0529, 0x0620}}, from: 0x0012, to: 0x0013, set: func(q *quirk) { q.noIFS = true }},
	{ids: []deviceID{{0x08E6, 0x34D2}}, set: func(q *quirk) { q.t1Extra = 5 * time.Minute }},

	// PIN pads that leak what is typed, or are none.
	{ids: []deviceID{
		{0x03F0, 0x1024}, {0x03F0, 0x0036}, {0x0BF8, 0x1017}, {0x04F2, 0x1469}, {0x0783, 0x0006},
		{0x076B, 0x3A21}, {0x076B, 0x3031}, {0x076B, 0x6632}, {0x046A, 0x00A7}, {0x0BF8, 0x1024},
		{0x25DD, 0x3111},
	}, set: func(q *quirk) { q.noPINPad = true }},

	// PIN pads that take some fields only so.
	{ids: []deviceID{{0x08E6, 0x3478}, {0x0982, 0x0008}},
		set: func(q *quirk) { q.onlyKeyEnds, q.verifyMessage = true, number(1) }},
	{ids: []deviceID{{0x08E6, 0x3478}, {0x0982, 0x0008}}, set: func(q *quirk) { q.maxPIN = 8 }},
	{ids: []deviceID{{0x04E6, 0xE003}}, set: func(q *quirk) { q.bareEscape = []byte{0x80, 0x02, 0x00} }},
	{ids: []deviceID{{0x08E6, 0x3478}, {0x0982, 0x0008}, {0x08E6, 0x34C7}, {0x08E6, 0x3479}},
		set: func(q *quirk) { q.allIndexes = true }},
	{ids: []deviceID{{0x04E6, 0xE003}, {0x046A, 0x003E}},
		set: func(q *quirk) { q.allIndexes, q.modifyMessage = true, number(0) }},
	{ids: []deviceID{{0x046A, 0x0010}}, set: func(q *quirk) { q.modifyMessage = number(3) }},
	{ids: []deviceID{{0x046A, 0x00A1}}, set: func(q *quirk) { q.modifyDefault = true }},
	{ids: []deviceID{{0x413C, 0x2100}, {0x413C, 0x2101}},
		set: func(q *quirk) {
			q.verifyMessage, q.modifyMessage = number(0), number(0)
			q.keyDelay = 250 * time.Millisecond
		}},
	{ids: []deviceID{{0x413C, 0x2100}}, set: func(q *quirk) { q.swapDigits = true }},

	// Firmware that does not work.
	{ids: []deviceID{{0x04E6, 0xE001}}, set: func(q *quirk) { q.minRelease = 0x0516 }},
	{ids: []deviceID{{0x04E6, 0x5111}}, set: func(q *quirk) { q.minRelease = 0x0620 }},
	{ids: []deviceID{{0x04E6, 0xE003}}, set: func(q *quirk) { q.minRelease = 0x0510 }},
	{ids: []deviceID{{0x0D46, 0x3001}, {0x0D46, 0x3002}}, set: func(q *quirk) { q.minRelease = 0x0037 }},
	{ids: []deviceID{{0x09C3, 0x0008}}, set: func(q *quirk) { q.minRelease = 0x0203 }},
	{ids: []deviceID{{0x0DC3, 0x1004}}, set: func(q *quirk) { q.minRelease = 0x0502 }},
	{ids: []deviceID{{0x0DC3, 0x1102}}, set: func(q *quirk) { q.minRelease = 0x0607 }},
	{ids: []deviceID{{0x058F, 0x9520}}, set: func(q *quirk) { q.minRelease = 0x0102 }},
	{ids: []deviceID{{0x072F, 0x2200}}, set: func(q *quirk) { q.minRelease = 0x0206 }},
	{ids: []deviceID{{0x08C3, 0x0401}, {0x08C3, 0x0402}}, set: func(q *quirk) { q.minRelease = 0x5000 }},
	{ids: []deviceID{{0x0B0C, 0x0050}}, set: func(q *quirk) { q.minRelease = 0x0101 }},
	{ids: []deviceID{{0x0DC3, 0x0900}}, set: func(q *quirk) { q.minRelease = 0x0200 }},
	{ids: []deviceID{{0x03F0, 0x0036}}, set: func(q *quirk) { q.minRelease = 0x0124 }},
	{ids: []deviceID{{0x062D, 0x0001}}, set: func(q *quirk) { q.minRelease = 0x0102 }},
	{ids: []deviceID{{0x04E6, 0x5291}}, set: func(q *quirk) { q.minRelease = 0x0112 }},
}

// quirkOf gathers what is known of a device; the zero quirk if nothing is.
func quirkOf(d *usb.Descriptor) quirk {
	var q quirk
	for _, row := range quirkTable {
		if d.Release < row.from || row.to != 0 && d.Release > row.to {
			continue
		}
		for _, id := range row.ids {
			if id == (deviceID{d.Vendor, d.Product}) {
				row.set(&q)
			}
		}
	}
	return q
}
