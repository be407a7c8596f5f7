package devname

import (
	"errors"
	"io/fs"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/google/go-cmp/cmp"
)

var compareID = cmp.AllowUnexported(ID{})

// sysfs has one device with an interface, one with garbage in it, and a hub
// controller that is no USB device.
var sysfs = fstest.MapFS{
	"sys/devices/pci0000:00/0000:00:14.0/usb1/1-2/busnum":           {Data: []byte("1\n")},
	"sys/devices/pci0000:00/0000:00:14.0/usb1/1-2/devnum":           {Data: []byte("4\n")},
	"sys/devices/pci0000:00/0000:00:14.0/usb1/1-2/1-2:1.0/modalias": {Data: []byte("x\n")},
	"sys/devices/pci0000:00/0000:00:14.0/vendor":                    {Data: []byte("0x8086\n")},
	"sys/devices/odd/1-9/busnum":                                    {Data: []byte("one\n")},
	"sys/devices/odd/1-9/devnum":                                    {Data: []byte("4\n")},
	"sys/devices/odd/1-8/busnum":                                    {Data: []byte("1\n")},
	"sys/devices/odd/1-8/devnum":                                    {Data: []byte("700\n")},
}

func usbTarget(bus, dev int) Target {
	t, err := USB(bus, dev)
	if err != nil {
		panic(err)
	}
	return t
}

func TestParse(t *testing.T) {
	classic := usbTarget(2, 3)
	classic.ID = USBID(0x0529, 0x0600, 0x0100)
	named := usbTarget(2, 3)
	named.Driver = "etoken64"
	plug := usbTarget(1, 4)
	const syspath = "sys/devices/pci0000:00/0000:00:14.0/usb1/1-2"

	tests := []struct {
		name string
		args []string
		want Target
	}{
		{"our rule, unescaped", []string{"001/004"}, plug},
		{"our rule, escaped", []string{"001-004"}, plug},
		{"without leading zeros", []string{"1/4"}, plug},
		{"classic rule, one argument", []string{"usb:0529/0600/0100 usb /dev/bus/usb/002/003"}, classic},
		{"classic rule, three arguments", []string{"usb:0529/0600/0100", "usb", "/dev/bus/usb/002/003"}, classic},
		{"classic rule, escaped", []string{`usb:0529-0600-0100\x20usb\x20-dev-bus-usb-002-003`}, classic},
		{"hotplug helper's PRODUCT style", []string{"usb:529/600/100", "usb", "/dev/bus/usb/002/003"}, classic},
		{"driver by name", []string{"etoken64", "usb", "/dev/bus/usb/002/003"}, named},
		{"usbfs of old", []string{"etoken64", "usb", "/proc/bus/usb/002/003"}, named},
		{"syspath", []string{syspath}, plug},
		{"syspath with its slash", []string{"/" + syspath}, plug},
		{"syspath, escaped", []string{`sys-devices-pci0000:00-0000:00:14.0-usb1-1\x2d2`}, plug},
		{"syspath of the interface", []string{syspath + "/1-2:1.0"}, plug},
		{"node", []string{"/dev/bus/usb/001/004"}, plug},
		{"node without its slash", []string{"dev/bus/usb/001/004"}, plug},
		{"node, escaped", []string{"dev-bus-usb-001-004"}, plug},
		{"node, escaped with its slash", []string{"-dev-bus-usb-001-004"}, plug},
		{"configured device", []string{"usb:/dev/bus/usb/001/004"}, plug},
		{"virtual token, three arguments", []string{"etoken64", "virtual", "piv"},
			Target{Driver: "etoken64", Type: "virtual", Path: "piv"}},
		{"virtual token, one argument", []string{"etoken64 virtual piv"},
			Target{Driver: "etoken64", Type: "virtual", Path: "piv"}},
		{"virtual token, escaped", []string{`etoken64\x20virtual\x20piv`},
			Target{Driver: "etoken64", Type: "virtual", Path: "piv"}},
		{"serial reader", []string{"ccid", "serial", "/dev/ttyS1"},
			Target{Driver: "ccid", Type: "serial", Path: "/dev/ttyS1"}},
		{"PCMCIA reader", []string{"ccid", "pcmcia_block", "/dev/cmx0"},
			Target{Driver: "ccid", Type: "pcmcia_block", Path: "/dev/cmx0"}},
		{"driver called like the type", []string{"serial", "serial", "/dev/ttyS1"},
			Target{Driver: "serial", Type: "serial", Path: "/dev/ttyS1"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := Parse(tt.args, sysfs)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.want, got, compareID); diff != "" {
				t.Errorf("target (-want +got):\n%s", diff)
			}
		})
	}
}

func TestParseErrors(t *testing.T) {
	const shared = "accepted are 001/004"
	tests := []struct {
		name string
		args []string
		is   error
		text string
	}{
		{"nothing", nil, ErrName, "0 words"},
		{"two words", []string{"ccid", "serial:/dev/ttyS0"}, ErrName, "2 words"},
		{"two words in one", []string{"ccid /dev/ttyS0"}, ErrName, "not three words"},
		{"empty", []string{""}, ErrName, shared},
		{"a driver", []string{"etoken64"}, ErrName, shared},
		{"a kind of device", []string{"usb:0529/0600"}, ErrName, "names a kind of device"},
		{"bus 0", []string{"000/004"}, ErrName, "from 001"},
		{"device 128", []string{"001/128"}, ErrName, "to 127"},
		{"outside the USB tree", []string{"/dev/bus/usb/../../sda/1"}, ErrName, shared},
		{"not a USB node", []string{"etoken64", "usb", "/dev/null"}, ErrName, "not a USB device's node"},
		{"empty driver", []string{"", "usb", "/dev/bus/usb/001/004"}, ErrName, "DRIVER"},
		{"empty type", []string{"usb:529", "", "/dev/bus/usb/001/004"}, ErrName, "TYPE"},
		{"empty device", []string{"ccid", "serial", ""}, ErrName, "DEVICE"},
		{"id that is none", []string{"usb:zzz", "usb", "/dev/bus/usb/001/004"}, ErrID, "cannot parse device ID usb:zzz"},
		{"id without parts", []string{"usb:", "usb", "/dev/bus/usb/001/004"}, ErrID, "cannot parse device ID usb:"},
		{"id for another bus", []string{"pcmcia:1/2", "usb", "/dev/bus/usb/001/004"}, ErrID, "not for a device of type usb"},
		{"USB id for a serial port", []string{"usb:1/2", "serial", "/dev/ttyS0"}, ErrID, "not for a device of type serial"},
		{"no such syspath", []string{"sys/devices/nothing"}, fs.ErrNotExist, "not a USB device in sysfs"},
		{"syspath of a PCI device", []string{"sys/devices/pci0000:00/0000:00:14.0"}, fs.ErrNotExist, "not a USB device in sysfs"},
		{"climbing out of sysfs", []string{"sys/../etc/passwd"}, ErrName, shared},
		{"sysfs with garbage", []string{"sys/devices/odd/1-9"}, nil, "busnum"},
		{"sysfs with an impossible number", []string{"sys/devices/odd/1-8"}, ErrName, "to 127"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := Parse(tt.args, sysfs)
			if err == nil {
				t.Fatalf("accepted as %+v", got)
			}
			if tt.is != nil && !errors.Is(err, tt.is) {
				t.Errorf("%v is not %v", err, tt.is)
			}
			if !strings.Contains(err.Error(), tt.text) {
				t.Errorf("%q does not say %q", err, tt.text)
			}
		})
	}
}

func TestParseDevice(t *testing.T) {
	long := "serial:/dev/serial/by-path/pci-0000:00:14.0-usb-0:2:1.0-port0"
	got, err := ParseDevice("ccid", long)
	if err != nil {
		t.Fatal(err)
	}
	if got.Type != "serial" || got.Path != strings.TrimPrefix(long, "serial:") || got.String() != long {
		t.Errorf("got %+v", got)
	}
	if _, err := ParseDevice("ccid", "/dev/ttyS0"); !errors.Is(err, ErrName) || !strings.Contains(err.Error(), "TYPE:DEVICE") {
		t.Errorf("without a type: %v", err)
	}
}

func TestParseID(t *testing.T) {
	tests := []struct {
		in, want string // want empty: error
	}{
		{"usb:0529/0600", "usb:0529/0600"},
		{"usb:46a/10/100", "usb:046a/0010/0100"},
		{"usb:0x46A/0X10", "usb:046a/0010"},
		{"usb:529", "usb:0529"},
		{"usb:0", "usb:0000"},
		{"pcmcia:1/2/3/4/5", "pcmcia:0001/0002/0003/0004/0005"},
		{"pcmcia:12345678", "pcmcia:12345678"},
		{"046a/0010", "046a/0010"},
		{"usb:1/2/3/4/5/6", ""},
		{"usb:", ""},
		{"usb:1/", ""},
		{"usb:0x", ""},
		{"usb:zzz", ""},
		{"usb:-1", ""},
		{"usb:+1", ""},
		{"usb:1_0", ""},
		{"usb: 1", ""},
		{"usb:10529/600", ""},
		{"pcmcia:123456789", ""},
		{"u:1/2", ""},
		{":1/2", ""},
		{"usbx:1/2", ""},
		{"pci:1/2", ""},
		{"", ""},
	}
	for _, tt := range tests {
		t.Run(tt.in, func(t *testing.T) {
			id, err := ParseID(tt.in)
			if tt.want == "" {
				if !errors.Is(err, ErrID) || !id.IsZero() {
					t.Errorf("got %v, %v, want ErrID", id, err)
				}
				return
			}
			if err != nil || id.String() != tt.want {
				t.Errorf("got %v, %v, want %s", id, err, tt.want)
			}
		})
	}
}

func TestMatch(t *testing.T) {
	tests := []struct {
		table, device string
		want          bool
	}{
		{"usb:046a/0010", "usb:46a/10/100", true},
		{"usb:046a/0010", "usb:46a/10", true},
		{"usb:046a", "usb:46a/10", true},
		{"usb:046a/0010/0100", "usb:46a/10", false},
		{"usb:046a/0010/0100", "usb:46a/10/200", false},
		{"usb:046a/0010", "pcmcia:46a/10", false},
		{"usb:046a/0011", "usb:46a/10", false},
	}
	for _, tt := range tests {
		t.Run(tt.table+" for "+tt.device, func(t *testing.T) {
			table, err := ParseID(tt.table)
			if err != nil {
				t.Fatal(err)
			}
			device, err := ParseID(tt.device)
			if err != nil {
				t.Fatal(err)
			}
			if got := table.Match(device); got != tt.want {
				t.Errorf("got %v", got)
			}
		})
	}
	if (ID{}).Match(ID{}) {
		t.Error("no id matches no id")
	}
	if v, p, ok := USBID(0x529, 0x600, 0).USB(); v != 0x529 || p != 0x600 || !ok {
		t.Errorf("USB: %x %x %v", v, p, ok)
	}
	if _, _, ok := (ID{Bus: "usb", n: 1}).USB(); ok {
		t.Error("a vendor alone is no product")
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{
		"001/004", "001-004", `usb:0529-0600-0100\x20usb\x20-dev-bus-usb-002-003`,
		"usb:0529/0600/0100 usb /dev/bus/usb/002/003", `sys-devices-pci0000:00-0000:00:14.0-usb1-1\x2d2`,
		"dev-bus-usb-001-004", "etoken64 virtual piv", `\x`, `\x2`, `\xff`, "-", "sys/../x", "\x00",
	} {
		f.Add(s, "", "")
	}
	f.Add("usb:529/600/100", "usb", "/dev/bus/usb/002/003")
	f.Add("ccid", "serial", "/dev/ttyS1")
	f.Fuzz(func(t *testing.T, a, b, c string) {
		args := []string{a}
		if b != "" || c != "" {
			args = []string{a, b, c}
		}
		got, err := Parse(args, sysfs)
		if err != nil {
			if strings.ContainsAny(err.Error(), "\n\x00") {
				t.Errorf("error %q is more than a line", err)
			}
			return
		}
		if got.Path == "" || got.Type == "" || (got.Driver != "" && !got.ID.IsZero()) {
			t.Errorf("incomplete or ambiguous: %+v", got)
		}
		if got.Type == "usb" {
			again, err := Parse([]string{got.Path}, sysfs)
			if err != nil || again.Bus != got.Bus || again.Dev != got.Dev || got.Dev > maxDev {
				t.Errorf("%+v is read again as %+v, %v", got, again, err)
			}
		}
	})
}
