package config

import (
	"cmp"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"unicode"

	"openct/internal/devname"
	"openct/internal/printable"
)

// Alias is a name that stays with a USB device wherever its bus and device number
// change: "reader NAME { id, serial, port = ...; };" without a device. What is not
// set fits any device.
type Alias struct {
	Name   string
	ID     devname.ID
	Serial string // as the device tells it, cut as serialText does
	Port   string // as sysfs names it: 1-2.3
	Where  string // FILE:LINE
}

// Plugged is a USB device that is there.
type Plugged struct {
	ID           devname.ID // with the release
	Serial, Port string
}

// fits says whether the device is one that has the alias.
func (a Alias) fits(d Plugged) bool {
	return (a.ID.IsZero() || a.ID.Match(d.ID)) && (a.Serial == "" || a.Serial == serialText(d.Serial)) && (a.Port == "" || a.Port == d.Port)
}

// covers says whether a fits every device that b fits.
func (a Alias) covers(b Alias) bool {
	return (a.ID.IsZero() || a.ID == b.ID || a.ID.Match(b.ID)) && (a.Serial == "" || a.Serial == b.Serial) && (a.Port == "" || a.Port == b.Port)
}

// String is what an alias asks for, as openct.conf writes it.
func (a Alias) String() string {
	var parts []string
	if !a.ID.IsZero() {
		parts = append(parts, "id "+a.ID.String())
	}
	if a.Serial != "" {
		parts = append(parts, "serial "+a.Serial)
	}
	if a.Port != "" {
		parts = append(parts, "port "+a.Port)
	}
	return strings.Join(parts, ", ")
}

// AliasOf is the name of a USB device by the first statement that fits it; empty:
// it has none.
func (c *Config) AliasOf(d Plugged) string {
	for _, a := range c.Aliases {
		if a.fits(d) {
			return a.Name
		}
	}
	return ""
}

// maxSerial is the longest serial number: a string descriptor has 255 bytes, and
// UTF-16 (USB 2.0, 9.6.7).
const maxSerial = 126

// serialText is a serial number as commands show it, and as one copies it into
// openct.conf: printable, without blanks around it.
func serialText(s string) string { return strings.TrimSpace(printable.Line(s)) }

// maxAlias is the longest alias. It stands before the model in the status file, which
// has room for 63 bytes.
const maxAlias = 32

// checkAlias says why a name cannot be an alias. Whoever names a reader on a command
// line may write a number or a device in its place, 0 or 001/004 or
// /dev/bus/usb/001/004: an alias is none of these.
func checkAlias(name string) error {
	first := []rune(name + "?")[0]
	_, err := strconv.ParseUint(name, 0, 64)
	switch {
	case name == "":
		return errors.New("the statement has no name")
	case len(name) > maxAlias:
		return fmt.Errorf("the name is longer than %d bytes", maxAlias)
	case !unicode.IsLetter(first) || err == nil:
		return errors.New("the name does not begin with a letter")
	case strings.ContainsAny(name, "/:") || printable.Line(name) != name || strings.TrimSpace(name) != name:
		return errors.New("the name contains a slash, a colon or a control character, or a blank at its end")
	}
	return nil
}

// portName reads a USB device's port as sysfs names it: BUS-PORT[.PORT...]
// (Documentation/ABI/testing/sysfs-bus-usb).
func portName(v string) (string, error) {
	bus, ports, ok := strings.Cut(v, "-")
	for _, n := range append(strings.Split(ports, "."), bus) {
		if _, err := strconv.ParseUint(n, 10, 16); err != nil || n != strings.TrimLeft(n, "0+") {
			ok = false
		}
	}
	if !ok {
		return "", fmt.Errorf("%s is not a port such as 1-2 or 1-2.3, as openct-control status --json prints it", show(v))
	}
	return v, nil
}

func serialNumber(v string) (string, error) {
	if s := serialText(v); s == "" || s != v || len(v) > maxSerial {
		return "", fmt.Errorf("%s is not a serial number as openct-control status --json prints it", show(v))
	}
	return v, nil
}

func usbID(v string) (devname.ID, error) {
	id, err := devname.ParseID(v)
	if _, _, ok := id.USB(); err == nil && !ok {
		err = fmt.Errorf("%s is not a USB id such as usb:0529/0600", show(v))
	}
	return id, err
}

// readAlias takes a statement that names a device and does not tell how to reach it.
// One with a key that cannot be read is skipped: it would name other devices as well.
func (r *collector) readAlias(n *node, a Alias, reader Reader) error {
	for _, key := range n.group {
		is := map[string]bool{"id": !a.ID.IsZero(), "serial": a.Serial != "", "port": a.Port != ""}
		if read, ok := is[key.name]; ok && !read {
			return fmt.Errorf("the value of %s is not valid", key.name)
		}
	}
	if err := checkAlias(a.Name); err != nil {
		return fmt.Errorf("%s: %w", show(a.Name), err)
	}
	if reader.Driver != "" || reader.Clock != 0 || reader.Speed != 0 || reader.NoSwitch {
		return errors.New("a statement with id, serial or port names a USB device, and takes neither driver nor device; a driver statement assigns ids to a driver")
	}
	for _, other := range r.config.Aliases {
		switch {
		case other.Name == a.Name:
			return fmt.Errorf("the statement at %s gives this name to another device", other.Where)
		case other.covers(a):
			return fmt.Errorf("every device that the statement matches has the name %s from the statement at %s", show(other.Name), other.Where)
		}
	}
	r.config.Aliases = append(r.config.Aliases, a)
	r.aliasLines = append(r.aliasLines, n.line)
	return nil
}

// aliasesApart takes aliases away that are a configured reader's name, which may
// stand after them.
func (r *collector) aliasesApart() {
	all, lines := r.config.Aliases, r.aliasLines
	r.config.Aliases = nil
	for i, a := range all {
		if at := r.readerCalled(a.Name); at != "" {
			r.warn(lines[i], fmt.Errorf("reader: the reader at %[2]s has the name %[1]s already; the statement is skipped", show(a.Name), at))
			continue
		}
		r.config.Aliases = append(r.config.Aliases, a)
	}
}

// readerCalled is where the configured reader of a name stands.
func (r *collector) readerCalled(name string) string {
	for _, reader := range r.config.Readers {
		if reader.Name == name {
			return cmp.Or(reader.Where, r.file)
		}
	}
	return ""
}
