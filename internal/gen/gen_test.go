package main

import (
	"bytes"
	"errors"
	"os"
	"testing"

	"github.com/google/go-cmp/cmp"

	"openct/internal/driver"
	"openct/internal/ifd"
	"openct/internal/usb"
)

// What is checked in is what the table says.
func TestCurrent(t *testing.T) {
	for _, target := range targets() {
		t.Run(target.file, func(t *testing.T) {
			has, want, err := target.contents("../..")
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(want), string(has)); diff != "" {
				t.Errorf("%s is stale, run \"make generate\" (-want +got):\n%s", target.file, diff)
			}
		})
	}
}

func table() []driver.Entry {
	return []driver.Entry{
		{
			Name: "one", Reader: "One Reader", Verified: driver.Recorded,
			IDs: []driver.ID{{Vendor: 0x0529, Product: 0x0600, Model: `A-B\C`}, {Vendor: 0xABCD, Product: 1, Model: "D|E", PCSC: "Old Name"}},
		},
		{
			Name: "two", Reader: "Two Reader", Verified: driver.Emulated,
			IDs:   []driver.ID{{Vendor: 0x08E6, Product: 0x3437, Model: "E"}},
			Class: func(*usb.Descriptor) bool { return true },
		},
		{
			Name: "three", Reader: "Three-Reader", Verified: driver.Emulated,
			OpenPath: map[string]func(string, ifd.Options) (ifd.Reader, error){"serial": nil},
		},
	}
}

func TestRender(t *testing.T) {
	tests := []struct {
		name   string
		render func([]driver.Entry) []byte
		want   string
	}{
		{"markdown", markdown, `| USB id | Device | Driver | Verified by |
|---|---|---|---|
| 0529:0600 | A-B\C | ` + "`one`" + ` | recorded exchange, emulation |
| abcd:0001 | D\|E | ` + "`one`" + ` | recorded exchange, emulation |
| class 0b | readers of the USB smart card class (CCID), 1 of them by their id | ` + "`two`" + ` | emulation |
| serial | Three-Reader | ` + "`three`" + ` | emulation |
`},
		{"mdoc", mdoc, `.It Cm one
0529:0600 A\-B\eC
.br
abcd:0001 D|E
.br
verified by recorded exchange, emulation
.It Cm two
08e6:3437 E
.br
readers of the USB smart card class (CCID)
.br
verified by emulation
.It Cm three
Three\-Reader, device type serial
.br
verified by emulation
`},
		{"bundle ids leave the class to pcscd", bundleIDs, `# USB devices that pcscd gives to openct-ifd.bundle: vendor, product (hex), name;
# tab-separated. Made from the driver table by "go generate"; do not edit.
0529	0600	One Reader
abcd	0001	Old Name
`},
		{"ids of the class's own bundle", ccidBundleIDs, `# USB devices that pcscd gives to openct-ccid.bundle: vendor, product (hex), name;
# tab-separated. Made from the driver table by "go generate"; do not edit.
08e6	3437	Two Reader
`},
		{"mdev's lines leave the class alone", mdev, mdevHeader + "# one\n" +
			"DEVTYPE=usb_device;PRODUCT=529/600/.*;bus/usb/.* root:openctd 0660 @[ ! -e /run/openct/status ] || /usr/sbin/openct-control attach /dev/$MDEV\n" +
			"DEVTYPE=usb_device;PRODUCT=abcd/1/.*;bus/usb/.* root:openctd 0660 @[ ! -e /run/openct/status ] || /usr/sbin/openct-control attach /dev/$MDEV\n"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if diff := cmp.Diff(tt.want, string(tt.render(table()))); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func TestBetween(t *testing.T) {
	f := between("<\n", ">\n", func([]driver.Entry) []byte { return []byte("new\n") })
	tests := []struct {
		name, old, want string
		err             error
	}{
		{"replaces a part", "a\n<\nold\nold\n>\nb\n", "a\n<\nnew\n>\nb\n", nil},
		{"fills an empty part", "<\n>\n", "<\nnew\n>\n", nil},
		{"no beginning", "a\n>\n", "", errMarks},
		{"no end", "a\n<\nb\n", "", errMarks},
		{"wrong order", ">\n<\n", "", errMarks},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := f([]byte(tt.old), nil)
			if string(got) != tt.want || !errors.Is(err, tt.err) {
				t.Errorf("got %q, %v; want %q, %v", got, err, tt.want, tt.err)
			}
		})
	}
}

// README's map has a line for each package, with the tests' helpers left out.
func TestMapNamesEveryPackage(t *testing.T) {
	readme, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	dirs, err := os.ReadDir("..")
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range dirs {
		if name := "internal/" + d.Name() + "/"; d.Name() != "hextest" && !bytes.Contains(readme, []byte(" "+name+" ")) {
			t.Errorf("%s is not in README.md, \"Where things are\"", name)
		}
	}
}
