package usb

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"openct/internal/hextest"
)

// An eToken PRO's descriptors (USB 2.0, 9.6).
const eTokenRaw = `
	12 01 00 01 FF 00 00 08 29 05 0C 05 00 01 01 02 00 01
	09 02 12 00 01 01 00 80 1E  09 04 00 00 00 FF 00 00 00`

// A composite key: keyboard at interface 0, card reader at 2 with its class
// descriptor, and one more behind the endpoints, as some readers have it.
const compositeRaw = `
	12 01 00 02 00 00 00 40 50 10 07 04 00 05 01 02 03 01
	09 02 3B 00 02 01 00 80 1E
	09 04 00 00 01 03 01 01 00  07 05 81 03 08 00 0A
	09 04 02 00 01 0B 00 00 00  04 21 AA BB  07 05 02 02 40 00 00  05 24 01 02 03`

func TestParseDescriptors(t *testing.T) {
	tests := []struct {
		name string
		raw  string
		want *Descriptor
	}{
		{"eToken PRO", eTokenRaw, &Descriptor{
			Vendor: 0x0529, Product: 0x050C, Release: 0x0100,
			Interfaces: []Interface{{Class: 0xFF}},
		}},
		{"composite", compositeRaw, &Descriptor{
			Vendor: 0x1050, Product: 0x0407, Release: 0x0500,
			Interfaces: []Interface{
				{Class: 3, SubClass: 1, Protocol: 1, Endpoints: []Endpoint{{Address: 0x81, Type: 3, MaxPacket: 8}}},
				{Number: 2, Class: 0x0B, Endpoints: []Endpoint{{Address: 2, Type: 2, MaxPacket: 64}},
					Extra: []byte{4, 0x21, 0xAA, 0xBB, 5, 0x24, 1, 2, 3}},
			},
		}},
		{"unconfigured", "12 01 00 01 FF 00 00 08 29 05 00 06 00 01 01 02 00 01",
			&Descriptor{Vendor: 0x0529, Product: 0x0600, Release: 0x0100}},
		{"padded with zero bytes", `
			12 01 00 01 FF 00 00 08 29 05 0C 05 00 01 01 02 00 01
			09 02 22 00 01 01 00 80 1E  09 04 00 00 00 FF 00 00 00  00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00`,
			&Descriptor{Vendor: 0x0529, Product: 0x050C, Release: 0x0100, Interfaces: []Interface{{Class: 0xFF}}}},
		{"cut short behind the interface", `
			12 01 00 01 FF 00 00 08 29 05 0C 05 00 01 01 02 00 01
			09 02 19 00 01 01 00 80 1E  09 04 00 00 00 FF 00 00 00  07 05 81`,
			&Descriptor{Vendor: 0x0529, Product: 0x050C, Release: 0x0100, Interfaces: []Interface{{Class: 0xFF}}}},
		{"second configuration is left alone", eTokenRaw + "09 02 12 00 01 02 00 80 1E 09 04 00 00 00 0B 00 00 00",
			&Descriptor{Vendor: 0x0529, Product: 0x050C, Release: 0x0100, Interfaces: []Interface{{Class: 0xFF}}}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := ParseDescriptors(hextest.Bytes(t, tt.raw))
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
		})
	}
}

func TestParseDescriptorsRefuses(t *testing.T) {
	dev := "12 01 00 01 FF 00 00 08 29 05 0C 05 00 01 01 02 00 01"
	tests := []struct{ name, raw string }{
		{"nothing", ""},
		{"short device descriptor", "12 01 00 01"},
		{"not a device descriptor", "12 02" + strings.Repeat("00", 16)},
		{"short configuration", dev + "09 02 12"},
		{"not a configuration", dev + "09 04 00 00 00 FF 00 00 00"},
		{"descriptor of length 0", dev + "09 02 20 00 01 01 00 80 1E 00 04"},
		{"descriptor longer than the rest", dev + "09 02 20 00 01 01 00 80 1E 09 04 00"},
		{"short interface", dev + "09 02 20 00 01 01 00 80 1E 04 04 00 00"},
		{"endpoint before any interface", dev + "09 02 20 00 01 01 00 80 1E 07 05 81 03 08 00 0A"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if _, err := ParseDescriptors(hextest.Bytes(t, tt.raw)); !errors.Is(err, ErrDescriptor) {
				t.Errorf("got %v, want %v", err, ErrDescriptor)
			}
		})
	}
}

func FuzzParseDescriptors(f *testing.F) {
	f.Add(hextest.Bytes(f, eTokenRaw))
	f.Add(hextest.Bytes(f, compositeRaw))
	f.Fuzz(func(t *testing.T, b []byte) {
		d, err := ParseDescriptors(b)
		if err != nil {
			if !errors.Is(err, ErrDescriptor) {
				t.Fatalf("error without its sentinel: %v", err)
			}
			return
		}
		size := 0
		for _, i := range d.Interfaces {
			size += 9 + len(i.Extra) + 7*len(i.Endpoints)
		}
		if size > len(b) {
			t.Fatalf("%d bytes of descriptors out of %d", size, len(b))
		}
	})
}

func TestErrorText(t *testing.T) {
	err := Wrap("claim interface 0", "/dev/bus/usb/001/004", &BusyError{Holders: []Holder{{PID: 812, Name: "pcscd"}, {Name: "usbhid"}}})
	if !errors.Is(err, ErrBusy) {
		t.Error("a BusyError is not ErrBusy")
	}
	const want = "/dev/bus/usb/001/004: claim interface 0: device is in use by pcscd (pid 812), kernel driver usbhid"
	if err.Error() != want {
		t.Errorf("got  %s\nwant %s", err, want)
	}
	if Wrap("x", "y", nil) != nil {
		t.Error("no error was wrapped")
	}
}
