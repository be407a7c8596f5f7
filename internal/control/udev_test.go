package control

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"openct/internal/cli"
	"openct/internal/config"
	"openct/internal/machine"
)

// devices makes the parts of a file system that tell about USB devices: an
// eToken at 1-2, a reader of the smart card class at 1-3, a mouse at 1-4.
func devices(t *testing.T) string {
	t.Helper()
	root := t.TempDir()
	write := func(name, text string) {
		t.Helper()
		path := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for _, d := range []struct {
		name, vendor, product, devnum, class string
		descriptors                          []byte // device, configuration, interface (USB 2.0, 9.6)
	}{
		{"1-2", "0529", "0600", "4", "ff", []byte("\x12\x01\x10\x01\xff\x00\x00\x08\x29\x05\x00\x06\x00\x01\x00\x00\x00\x01" +
			"\x09\x02\x12\x00\x01\x01\x00\x80\x1e" + "\x09\x04\x00\x00\x00\xff\x00\x00\x00")},
		{"1-3", "04e6", "ffff", "5", "0b", []byte("\x12\x01\x10\x01\x00\x00\x00\x08\xe6\x04\xff\xff\x00\x01\x00\x00\x00\x01" +
			"\x09\x02\x56\x00\x01\x01\x00\x80\x1e" + "\x09\x04\x00\x00\x02\x0b\x00\x00\x00" +
			// The class's own descriptor (CCID 1.1, 5.1), and bulk endpoints.
			"\x36\x21\x10\x01\x00\x07\x03\x00\x00\x00\xa0\x0f\x00\x00\xa0\x0f\x00\x00\x00\x80\x25\x00\x00\x80\x25\x00\x00" +
			"\x00\xfe\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\xba\x00\x01\x00\x0f\x01\x00\x00\xff\xff\x00\x00\x00\x01" +
			"\x07\x05\x01\x02\x40\x00\x00" + "\x07\x05\x82\x02\x40\x00\x00")},
		{"1-4", "046d", "c077", "6", "03", []byte("\x12\x01\x10\x01\x00\x00\x00\x08\x6d\x04\x77\xc0\x00\x01\x00\x00\x00\x01" +
			"\x09\x02\x12\x00\x01\x01\x00\x80\x1e" + "\x09\x04\x00\x00\x00\x03\x00\x00\x00")},
	} {
		dir := "sys/devices/pci0000:00/0000:00:14.0/usb1/" + d.name
		write(dir+"/idVendor", d.vendor+"\n")
		write(dir+"/idProduct", d.product+"\n")
		write(dir+"/busnum", "1\n")
		write(dir+"/devnum", d.devnum+"\n")
		write(dir+"/descriptors", string(d.descriptors))
		write(dir+"/"+d.name+":1.0/bInterfaceNumber", "00\n")
		write(dir+"/"+d.name+":1.0/bInterfaceClass", d.class+"\n")
		address, err := strconv.Atoi(d.devnum)
		if err != nil {
			t.Fatal(err)
		}
		for _, link := range []struct{ name, up string }{
			{"sys/bus/usb/devices/" + d.name, "../../../../"},
			{fmt.Sprintf("sys/dev/char/189:%d", address-1), "../../../"},
		} {
			name := filepath.Join(root, link.name)
			if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.Symlink(filepath.Join(link.up, dir), name); err != nil {
				t.Fatal(err)
			}
		}
	}
	return root
}

// With openct-ccid.bundle, pcscd asks us for the readers that it lists: those of
// the driver table, by id.
func TestUdevReadersThatPCSCDAsksFor(t *testing.T) {
	tests := []struct {
		name, product, bundle, conf, want string
	}{
		{"bundle", "e003", "usr/lib/pcsc/drivers", "ccid = on;", "OPENCT_DRIVER=ccid\n"},
		{"bundle elsewhere", "e003", "usr/lib/x86_64-linux-gnu/pcsc/drivers", "ccid = on;", "OPENCT_DRIVER=ccid\n"},
		{"no bundle", "e003", "", "ccid = on;", "OPENCT_DRIVER=ccid\nPCSCLITE_IGNORE=1\n"},
		{"pcscd is to leave them alone", "e003", "usr/lib/pcsc/drivers", "ccid = on; pcsc = ignore;", "OPENCT_DRIVER=ccid\nPCSCLITE_IGNORE=1\n"},
		{"readers of the class are not asked for", "e003", "usr/lib/pcsc/drivers", "ccid = off;", "OPENCT_DRIVER=none\n"},
		{"an id that the bundle does not list", "ffff", "usr/lib/pcsc/drivers", "ccid = on;", "OPENCT_DRIVER=ccid\nPCSCLITE_IGNORE=1\n"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			root := devices(t)
			if tt.bundle != "" {
				if err := os.MkdirAll(filepath.Join(root, tt.bundle, "openct-ccid.bundle"), 0o755); err != nil {
					t.Fatal(err)
				}
			}
			setProduct(t, root, "1-3", tt.product)
			cfg, _ := config.Parse("openct.conf", []byte(tt.conf), nil)
			var out bytes.Buffer
			c := &Control{Config: cfg, Out: &out, Err: io.Discard, Root: machine.Root(root)}
			if err := c.Udev("001-005"); err != nil {
				t.Fatal(err)
			}
			if got := out.String(); got != tt.want {
				t.Errorf("printed %q, want %q", got, tt.want)
			}
		})
	}
}

// setProduct gives a device of the machine another product id, hexadecimal.
func setProduct(t *testing.T, root, name, product string) {
	t.Helper()
	dir := filepath.Join(root, "sys/bus/usb/devices", name)
	id, err := strconv.ParseUint(product, 16, 16)
	if err != nil {
		t.Fatal(err)
	}
	descriptors, err := os.ReadFile(filepath.Join(dir, "descriptors"))
	if err != nil {
		t.Fatal(err)
	}
	descriptors[10], descriptors[11] = byte(id), byte(id>>8) // idProduct
	for file, content := range map[string]string{"descriptors": string(descriptors), "idProduct": product + "\n"} {
		if err := os.WriteFile(filepath.Join(dir, file), []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

func TestUdev(t *testing.T) {
	root := devices(t)
	tests := []struct {
		name, instance, conf, want string
	}{
		{"token", "001-004", "", "OPENCT_DRIVER=etoken64\n"},
		{"token, by its node", "/dev/bus/usb/001/004", "", "OPENCT_DRIVER=etoken64\n"},
		{"pcscd is to leave tokens alone", "001-004", "pcsc = ignore;", "OPENCT_DRIVER=etoken64\nPCSCLITE_IGNORE=1\n"},
		{"readers of the class are not asked for", "001-005", "ccid = off;", "OPENCT_DRIVER=none\n"},
		{"readers of the class are asked for", "001-005", "ccid = on;", "OPENCT_DRIVER=ccid\nPCSCLITE_IGNORE=1\n"},
		{"an id for the class's driver asks for nothing", "001-005", "ccid = off; driver ccid { ids = { usb:04e6/ffff, }; };",
			"OPENCT_DRIVER=none\n"},
		{"unless the class's readers are asked for", "001-005", "ccid = on; driver ccid { ids = { usb:04e6/ffff, }; };",
			"OPENCT_DRIVER=ccid\nPCSCLITE_IGNORE=1\n"},
		{"something else", "001-006", "", "OPENCT_DRIVER=none\n"},
		{"something else is given to a driver", "001-006", "driver etoken { ids = { usb:046d/c077, }; };", "OPENCT_DRIVER=etoken\n"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			cfg, _ := config.Parse("openct.conf", []byte(tt.conf), nil)
			var out bytes.Buffer
			c := &Control{Config: cfg, Out: &out, Err: io.Discard, Root: machine.Root(root)}
			if err := c.Udev(tt.instance); err != nil {
				t.Fatal(err)
			}
			if got := out.String(); got != tt.want {
				t.Errorf("printed %q, want %q", got, tt.want)
			}
		})
	}
}

// lend gives a device to the driver by which the kernel lends it to another machine.
func lend(t *testing.T, root, name string) {
	t.Helper()
	if err := os.Symlink("../../../../../bus/usb/drivers/usbip-host", filepath.Join(root, "sys/devices/pci0000:00/0000:00:14.0/usb1", name, "driver")); err != nil {
		t.Fatal(err)
	}
}

// A device that is lent to another machine by USB/IP is served there, and here
// neither when it is asked for nor at the start.
func TestLent(t *testing.T) {
	t.Setenv("NOTIFY_SOCKET", "")
	root := devices(t)
	lend(t, root, "1-2")
	program := filepath.Join(root, "handler")
	if err := os.WriteFile(program, []byte("#!/bin/sh\necho \"$*\" >>"+root+"/ran\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	cfg, _ := config.Parse("openct.conf", []byte("ccid = off;"), nil)
	cfg.Program = program
	var out, says bytes.Buffer
	c := &Control{Root: machine.Root(root), Dir: root, Config: cfg, ConfigFile: cli.ConfigFile, Out: &out, Err: &says}
	if err := c.Udev("001-004"); err != nil || out.String() != "OPENCT_DRIVER=none\n" {
		t.Errorf("udev: %v, %q", err, &out)
	}
	err := c.Attach([]string{"001/004"})
	var hint *cli.Hint
	if !errors.Is(err, errLent) || !errors.As(err, &hint) || hint.Hint != "usbip unbind --busid=1-2 takes it back" {
		t.Errorf("attach: %v, %+v", err, hint)
	}
	if err := c.coldplug(); err != nil || says.Len() > 0 {
		t.Errorf("coldplug: %v, %q", err, &says)
	}
	if ran, err := os.ReadFile(filepath.Join(root, "ran")); err == nil {
		t.Errorf("a handler was started: %s", ran)
	}
}

// What udev gets on a failure is nothing: the rule's own default stands.
func TestUdevFails(t *testing.T) {
	root := devices(t)
	tests := []struct{ name, instance, conf string }{
		{"no device there", "001-099", ""},
		{"no device name", "001", ""},
		{"openct.conf names a driver that is not there", "001-004", "driver nonesuch { ids = { usb:0529/0600, }; };"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			cfg, _ := config.Parse("openct.conf", []byte(tt.conf), nil)
			var out bytes.Buffer
			c := &Control{Config: cfg, Out: &out, Err: io.Discard, Root: machine.Root(root)}
			if err := c.Udev(tt.instance); err == nil {
				t.Error("no error")
			}
			if out.Len() > 0 {
				t.Errorf("printed %q", out.String())
			}
		})
	}
}

func TestHandedToSystemd(t *testing.T) {
	token := machine.Device{Name: "1-2", Bus: 1, Address: 4, Vendor: 0x0529, Product: 0x0600}
	tests := []struct {
		name, record string
		want         []string
	}{
		{"no record", "", nil},
		{"no wants", "E:ID_MODEL=token\nG:systemd\n", nil},
		{"our rule", "E:SYSTEMD_WANTS=smartcard.target openct-handler@001-004.service\n", []string{"openct-handler@001-004.service"}},
		{"our rule, after a change", "E:SYSTEMD_WANTS=smartcard.target\nE:OPENCT_UNIT=openct-handler@001-004.service\n",
			[]string{"openct-handler@001-004.service"}},
		{"our rule, both", "E:OPENCT_UNIT=openct-handler@001-004.service\nE:SYSTEMD_WANTS=openct-handler@001-004.service\n",
			[]string{"openct-handler@001-004.service"}},
		{"no more than every reader wants", "E:SYSTEMD_WANTS=smartcard.target\n", nil},
		{"classic", `E:SYSTEMD_WANTS=openct@usb:0529-0600-0100\x20usb\x20-dev-bus-usb-001-004.service` + "\n",
			[]string{`openct@usb:0529-0600-0100\x20usb\x20-dev-bus-usb-001-004.service`}},
		{"template without an instance", "E:SYSTEMD_WANTS=openct@.service\n",
			[]string{`openct@sys-devices-pci0000:00-0000:00:14.0-usb1-1\x2d2.service`}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			root := devices(t)
			for _, dir := range []string{"run/systemd/system", "run/udev/data"} {
				if err := os.MkdirAll(filepath.Join(root, dir), 0o755); err != nil {
					t.Fatal(err)
				}
			}
			// Bus 1, device 4: minor 3.
			if err := os.WriteFile(filepath.Join(root, "run/udev/data/c189:3"), []byte(tt.record), 0o644); err != nil {
				t.Fatal(err)
			}
			c := &Control{Root: machine.Root(root)}
			if diff := cmp.Diff(tt.want, c.handedToSystemd(token)); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			if err := os.RemoveAll(filepath.Join(root, "run/systemd")); err != nil {
				t.Fatal(err)
			}
			if got := c.handedToSystemd(token); got != nil {
				t.Errorf("without systemd: %v", got)
			}
		})
	}
}

// At boot, init comes to a token before udev does.
func TestColdplugBeforeUdev(t *testing.T) {
	const unit = "openct-handler@001-004.service"
	tests := []struct {
		name    string
		systemd bool
		record  string // udev's, when init looks for the first time: the initramfs's
		then    string // udev's, when it is through
		busy    bool   // udev takes too long
		runs    []string
		says    string
	}{
		{"udev hands it to systemd meanwhile", true, "", "E:SYSTEMD_WANTS=" + unit, false,
			[]string{"udevadm settle --timeout=30", "systemctl start --no-block -- " + unit}, ""},
		{"so does the one of the system, after the initramfs's", true, "E:ID_MODEL=token", "E:SYSTEMD_WANTS=" + unit, false,
			[]string{"udevadm settle --timeout=30", "systemctl start --no-block -- " + unit}, ""},
		{"udev has done so before", true, "E:SYSTEMD_WANTS=" + unit, "", false,
			[]string{"systemctl start --no-block -- " + unit}, ""},
		{"udev leaves it to init", true, "", "E:ID_MODEL=token", false,
			[]string{"udevadm settle --timeout=30", "ifdhandler -H etoken64 usb /dev/bus/usb/001/004"}, ""},
		{"udev takes too long", true, "", "", true,
			[]string{"udevadm settle --timeout=30", "ifdhandler -H etoken64 usb /dev/bus/usb/001/004"}, "Error: udev: still processing devices"},
		{"no systemd", false, "", "", false,
			[]string{"ifdhandler -H etoken64 usb /dev/bus/usb/001/004"}, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			root := devices(t)
			bin, log := filepath.Join(root, "bin"), filepath.Join(root, "log")
			dirs := []string{bin, filepath.Join(root, "run/udev/data")}
			if tt.systemd {
				dirs = append(dirs, filepath.Join(root, "run/systemd/system"), filepath.Join(root, "run/udev/control"))
			}
			for _, dir := range dirs {
				if err := os.MkdirAll(dir, 0o755); err != nil {
					t.Fatal(err)
				}
			}
			record := filepath.Join(root, "run/udev/data/c189:3")
			if tt.record != "" {
				if err := os.WriteFile(record, []byte(tt.record+"\n"), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			for name, does := range map[string]string{
				"systemctl":  "",
				"ifdhandler": "",
				"udevadm":    fmt.Sprintf("if %t; then echo timed out >&2; exit 1; fi; echo '%s' >%s", tt.busy, tt.then, record),
			} {
				script := fmt.Sprintf("#!/bin/sh\necho \"%s $*\" >>%s\n%s\n", name, log, does)
				if err := os.WriteFile(filepath.Join(bin, name), []byte(script), 0o755); err != nil {
					t.Fatal(err)
				}
			}
			t.Setenv("PATH", bin+":"+os.Getenv("PATH"))
			cfg, _ := config.Parse("openct.conf", []byte("ccid = off;"), nil)
			cfg.Program = filepath.Join(bin, "ifdhandler")
			var said bytes.Buffer
			c := &Control{Root: machine.Root(root), Dir: root, Config: cfg, ConfigFile: cli.ConfigFile, Err: &said}
			if err := c.coldplug(); err != nil {
				t.Fatal(err)
			}
			got, err := os.ReadFile(log)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(strings.Join(tt.runs, "\n")+"\n", string(got)); diff != "" {
				t.Errorf("ran (-want +got):\n%s", diff)
			}
			if !strings.Contains(said.String(), tt.says) || tt.says == "" && said.Len() > 0 {
				t.Errorf("said %q, want %q in it", &said, tt.says)
			}
		})
	}
}

// Starting must not wait: the units themselves wait for init.
func TestStartUnits(t *testing.T) {
	dir := t.TempDir()
	log := filepath.Join(dir, "log")
	script := "#!/bin/sh\necho \"$*\" >>" + log + "\ncase $* in *refused*) echo no such unit >&2; exit 5;; esac\n"
	if err := os.WriteFile(filepath.Join(dir, "systemctl"), []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	if err := startUnits(nil); err != nil {
		t.Fatal(err)
	}
	if err := startUnits([]string{"a@1.service", "b@2.service"}); err != nil {
		t.Fatal(err)
	}
	err := startUnits([]string{"refused@1.service"})
	if err == nil || !strings.Contains(err.Error(), "no such unit") {
		t.Errorf("refused: got %v", err)
	}
	got, err := os.ReadFile(log)
	if err != nil {
		t.Fatal(err)
	}
	want := "start --no-block -- a@1.service b@2.service\nstart --no-block -- refused@1.service\n"
	if string(got) != want {
		t.Errorf("called %q, want %q", got, want)
	}
}

// attach without a driver's name finds it in /sys and opens no node: here there
// is none.
func TestAttachFindsTheDriver(t *testing.T) {
	tests := []struct {
		name, conf string
		operands   []string
		want       string
		err        string
	}{
		{"by number", "", []string{"001/004"}, "-H etoken64 usb /dev/bus/usb/001/004", ""},
		{"as openct.conf says", "driver etoken { ids = { usb:0529/0600, }; };", []string{"001/004"}, "-H etoken usb /dev/bus/usb/001/004", ""},
		{"with the id that it has", "", []string{"usb:0529/0600", "usb", "/dev/bus/usb/001/004"}, "-H etoken64 usb /dev/bus/usb/001/004", ""},
		{"with another id", "", []string{"usb:0529/0700", "usb", "/dev/bus/usb/001/004"}, "", "another device is at this place now"},
		{"a reader of the class, asked for by hand", "ccid = off;", []string{"001/005"}, "-H ccid usb /dev/bus/usb/001/005", ""},
		{"a mouse", "", []string{"001/006"}, "", "no driver for this device"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Setenv("NOTIFY_SOCKET", "")
			root := devices(t)
			program := filepath.Join(root, "handler")
			if err := os.WriteFile(program, []byte("#!/bin/sh\necho \"$*\" >"+root+"/ran\n"), 0o755); err != nil {
				t.Fatal(err)
			}
			cfg, _ := config.Parse("openct.conf", []byte(tt.conf), nil)
			cfg.Program = program
			c := &Control{Root: machine.Root(root), Dir: root, Config: cfg, ConfigFile: cli.ConfigFile, Err: io.Discard}
			err := c.Attach(tt.operands)
			if (err == nil) != (tt.err == "") || err != nil && !strings.Contains(err.Error(), tt.err) {
				t.Fatalf("error %v, want %q", err, tt.err)
			}
			ran, _ := os.ReadFile(filepath.Join(root, "ran"))
			if got := strings.TrimSpace(string(ran)); got != tt.want {
				t.Errorf("ran %q, want %q", got, tt.want)
			}
		})
	}
}

func TestAttachGone(t *testing.T) {
	for _, tt := range []struct {
		name     string
		operands []string
		unit     bool // systemd has started it
		ok       bool
		says     string
	}{
		{"by systemd, node", []string{"/dev/bus/usb/001/099"}, true, true, "/dev/bus/usb/001/099: the device was unplugged before its handler was ready"},
		{"by systemd, classic operands", []string{"usb:0529/0600/0100 usb /dev/bus/usb/001/099"}, true, true, "the device was unplugged before its handler was ready"},
		{"by systemd, sysfs path", []string{"/sys/devices/pci0000:00/0000:00:14.0/usb1/1-9"}, true, true, "the device was unplugged"},
		{"by hand, node", []string{"/dev/bus/usb/001/099"}, false, false, ""},
		{"by hand, sysfs path", []string{"/sys/devices/pci0000:00/0000:00:14.0/usb1/1-9"}, false, false, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Setenv("NOTIFY_SOCKET", "")
			pid := "1" // another process's, inherited
			if tt.unit {
				pid = strconv.Itoa(os.Getpid())
			}
			t.Setenv("SYSTEMD_EXEC_PID", pid)
			var said bytes.Buffer
			c := &Control{Root: machine.Root(devices(t)), Config: config.Default(), Err: &said}
			if err := c.Attach(tt.operands); (err == nil) != tt.ok {
				t.Errorf("error %v, want success: %v", err, tt.ok)
			}
			if !strings.Contains(said.String(), tt.says) || tt.says == "" && said.Len() > 0 {
				t.Errorf("said %q, want %q in it", &said, tt.says)
			}
		})
	}
}
