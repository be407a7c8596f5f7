package main

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"

	"openct/internal/driver"
)

// targets are all files that are made from the table.
func targets() []target {
	return []target{
		{"README.md", between("<!-- devices -->\n", "<!-- /devices -->\n", markdown)},
		{"man/ifdhandler.8", between(".\\\" devices\n", ".\\\" /devices\n", mdoc)},
		{"compat/ifd/ids.tsv", whole(bundleIDs)},
		{"compat/ifd/ccid.tsv", whole(ccidBundleIDs)},
		{"udev/60-openct.rules", whole(udev)},
		{"internal/driver/hardware.go", whole(hardware)},
		{"packaging/mdev/openct.mdev", whole(mdev)},
	}
}

func whole(render func([]driver.Entry) []byte) func([]byte, []driver.Entry) ([]byte, error) {
	return func(_ []byte, table []driver.Entry) ([]byte, error) { return render(table), nil }
}

var errMarks = errors.New("the lines that mark the list are missing")

// between replaces what stands between two lines.
func between(begin, end string, render func([]driver.Entry) []byte) func([]byte, []driver.Entry) ([]byte, error) {
	return func(old []byte, table []driver.Entry) ([]byte, error) {
		head, rest, ok := bytes.Cut(old, []byte(begin))
		_, tail, ok2 := bytes.Cut(rest, []byte(end))
		if !ok || !ok2 {
			return nil, errMarks
		}
		return bytes.Join([][]byte{head, []byte(begin), render(table), []byte(end), tail}, nil), nil
	}
}

// class is what lists say of a driver that takes a whole class of devices.
const class = "readers of the USB smart card class (CCID)"

// markdown is the table for README.md, which leaves the many ids of a class
// to the manual page.
func markdown(table []driver.Entry) []byte {
	var b bytes.Buffer
	b.WriteString("| USB id | Device | Driver | Verified by |\n|---|---|---|---|\n")
	row := func(id, device string, e driver.Entry) {
		fmt.Fprintf(&b, "| %s | %s | `%s` | %s |\n", id, strings.ReplaceAll(device, "|", "\\|"), e.Name, e.VerifiedBy())
	}
	for _, e := range table {
		if e.Class != nil {
			row("class 0b", fmt.Sprintf("%s, %d of them by their id", class, len(e.IDs)), e)
			continue
		}
		for _, id := range e.IDs {
			row(fmt.Sprintf("%04x:%04x", id.Vendor, id.Product), id.Model, e)
		}
		switch {
		case len(e.IDs) == 0:
			row(elsewhere(e), e.Reader, e)
		case e.OpenPath != nil:
			row(elsewhere(e), e.IDs[0].Model, e)
		}
	}
	return b.Bytes()
}

// mdoc is the list for a manual page: an item for each driver, to stand in a
// list of tags.
func mdoc(table []driver.Entry) []byte {
	var b bytes.Buffer
	for _, e := range table {
		fmt.Fprintf(&b, ".It Cm %s\n", e.Name)
		for _, id := range e.IDs {
			fmt.Fprintf(&b, "%04x:%04x %s\n.br\n", id.Vendor, id.Product, roff(id.Model))
		}
		if e.Class != nil {
			fmt.Fprintf(&b, "%s\n.br\n", class)
		}
		switch {
		case len(e.IDs) == 0:
			fmt.Fprintf(&b, "%s, device type %s\n.br\n", roff(e.Reader), elsewhere(e))
		case e.OpenPath != nil && e.Class == nil:
			fmt.Fprintf(&b, "%s, device type %s\n.br\n", roff(e.IDs[0].Model), elsewhere(e))
		}
		fmt.Fprintf(&b, "verified by %s\n", roff(e.VerifiedBy()))
	}
	return b.Bytes()
}

// elsewhere are the device types of a driver's readers that have no id.
func elsewhere(e driver.Entry) string {
	types := e.Types()
	if len(types) > 1 {
		types = slices.DeleteFunc(types, func(t string) bool { return t == "usb" })
	}
	return strings.Join(types, ", ")
}

// roff is text as roff prints it as it is. It never begins a line.
func roff(s string) string {
	return strings.NewReplacer(`\`, `\e`, "-", `\-`).Replace(s)
}

// bundleIDs is the list from which compat/Makefile makes the PC/SC bundle's
// Info.plist. Readers of the smart card class are not in it: pcscd has a driver
// for those, and a bundle that lists them goes before it.
func bundleIDs(table []driver.Entry) []byte { return pcscIDs(table, "openct-ifd.bundle", false) }

// ccidBundleIDs is the list of a second bundle, with readers of the smart card class, for
// users who set "ccid = on".
func ccidBundleIDs(table []driver.Entry) []byte { return pcscIDs(table, "openct-ccid.bundle", true) }

func pcscIDs(table []driver.Entry, bundle string, class bool) []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, "# USB devices that pcscd gives to %s: vendor, product (hex), name;\n"+
		"# tab-separated. Made from the driver table by \"go generate\"; do not edit.\n", bundle)
	for _, e := range table {
		if (e.Class != nil) != class {
			continue
		}
		for _, id := range e.IDs {
			fmt.Fprintf(&b, "%04x\t%04x\t%s\n", id.Vendor, id.Product, cmp.Or(id.PCSC, e.Reader))
		}
	}
	return b.Bytes()
}
