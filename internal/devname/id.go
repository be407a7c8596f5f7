package devname

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"unicode"
)

// ErrID: the text is not a device id.
var ErrID = errors.New("cannot parse device ID")

const maxParts = 5

// ID is a kind of device: for USB vendor, product and, optionally, release.
// The zero ID is none. IDs can be compared with ==.
type ID struct {
	Bus   string // "usb", "pcmcia", or "" for others
	parts [maxParts]uint32
	n     int
}

// USBID is the ID of a USB device with these descriptor fields.
func USBID(vendor, product, release uint16) ID {
	return ID{Bus: "usb", parts: [maxParts]uint32{uint32(vendor), uint32(product), uint32(release)}, n: 3}
}

// ParseID reads [BUS:]HEX[/HEX...] with up to five parts, in any case, with or
// without leading zeros or 0x (openct.conf(5)). The bus is a whole word.
func ParseID(s string) (ID, error) {
	fail := func(why string) (ID, error) { return ID{}, fmt.Errorf("%w %s: %s", ErrID, printable(s), why) }
	bus, hex, ok := strings.Cut(s, ":")
	if !ok {
		bus, hex = "", s
	} else if bus != "usb" && bus != "pcmcia" {
		return fail("the bus is not usb or pcmcia")
	}
	id := ID{Bus: bus}
	for part := range strings.SplitSeq(hex, "/") {
		if id.n == maxParts {
			return fail("more than 5 parts")
		}
		digits := part
		if len(digits) > 2 && (digits[:2] == "0x" || digits[:2] == "0X") {
			digits = digits[2:]
		}
		bits := 32
		if bus == "usb" {
			bits = 16
		}
		n, err := strconv.ParseUint(digits, 16, bits)
		if errors.Is(err, strconv.ErrRange) {
			return fail(fmt.Sprintf("%q is too large", part))
		}
		if err != nil {
			return fail(fmt.Sprintf("%q is not a hexadecimal number", part))
		}
		id.parts[id.n] = uint32(n)
		id.n++
	}
	return id, nil
}

// Match says whether a device with the id dev is of this kind: same bus, and dev
// begins with all parts that id has.
func (id ID) Match(dev ID) bool {
	if id.Bus != dev.Bus || id.n == 0 || id.n > dev.n {
		return false
	}
	for i := range id.n {
		if id.parts[i] != dev.parts[i] {
			return false
		}
	}
	return true
}

// IsZero says that there is no id.
func (id ID) IsZero() bool { return id.n == 0 }

// USB returns the vendor and product of a USB id that has both.
func (id ID) USB() (vendor, product uint16, ok bool) {
	if id.Bus != "usb" || id.n < 2 {
		return 0, 0, false
	}
	return uint16(id.parts[0]), uint16(id.parts[1]), true
}

func (id ID) String() string {
	var b strings.Builder
	if id.Bus != "" {
		b.WriteString(id.Bus + ":")
	}
	for i := range id.n {
		if i > 0 {
			b.WriteByte('/')
		}
		fmt.Fprintf(&b, "%04x", id.parts[i])
	}
	return b.String()
}

// printable is s as it is or, when a terminal might choke on it, quoted.
func printable(s string) string {
	if strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) }) {
		return strconv.Quote(s)
	}
	return s
}
