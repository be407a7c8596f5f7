//go:build cgo

package gousbdev

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/gousb"

	"openct/internal/machine"
	"openct/internal/usb"
)

func TestMapError(t *testing.T) {
	wrapped := func(code gousb.Error) error { // as Config.Interface does
		return fmt.Errorf("failed to claim interface 0: %v", code)
	}
	tests := []struct {
		name string
		err  error
		want error
	}{
		{"nil", nil, nil},
		{"no device", gousb.ErrorNoDevice, usb.ErrUnplugged},
		{"stall", gousb.ErrorPipe, usb.ErrStall},
		{"timeout", gousb.ErrorTimeout, usb.ErrTimeout},
		{"access", gousb.ErrorAccess, usb.ErrAccess},
		{"busy in text", wrapped(gousb.ErrorBusy), usb.ErrBusy},
		{"no device in text", wrapped(gousb.ErrorNoDevice), usb.ErrUnplugged},
		{"i/o", gousb.ErrorIO, usb.ErrIO},
		{"unknown code", gousb.Error(-77), usb.ErrIO},
		{"plain text", errors.New("bad"), usb.ErrIO},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := mapError(tt.err); !errors.Is(got, tt.want) {
				t.Errorf("got %v, want %v", got, tt.want)
			}
		})
	}
}

func TestByNumber(t *testing.T) {
	iface := func(n int) gousb.InterfaceDesc {
		return gousb.InterfaceDesc{Number: n, AltSettings: []gousb.InterfaceSetting{{Number: n}}}
	}
	for _, tt := range []struct {
		name string
		have []int
		want []int
	}{
		{"none", nil, nil},
		{"in order", []int{0, 1}, []int{0, 1}},
		{"only number 1", []int{1}, []int{-1, 1}},
		{"out of order, with a gap", []int{3, 0}, []int{0, -1, -1, 3}},
		{"the last number", []int{255}, append(slicesRepeat(-1, 255), 255)},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var have []gousb.InterfaceDesc
			for _, n := range tt.have {
				have = append(have, iface(n))
			}
			var got []int
			for i, d := range byNumber(have) {
				got = append(got, d.Number)
				if d.Number >= 0 && d.Number != i {
					t.Errorf("interface %d is at index %d", d.Number, i)
				}
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("numbers (-want +got):\n%s", diff)
			}
		})
	}
}

func slicesRepeat(v, n int) []int {
	s := make([]int, n)
	for i := range s {
		s[i] = v
	}
	return s
}

func TestMayDetach(t *testing.T) {
	for _, tt := range []struct {
		driver string
		class  uint8
		want   bool
	}{
		{"ftdi_sio", 0xFF, true},
		{"usbhid", 0x03, false},
		{"usbhid", 0xFF, false},
		{"usbfs", 0xFF, false},
		{"usb-storage", 0x08, false},
		{"", 0xFF, false},
	} {
		t.Run(fmt.Sprintf("%s %02x", tt.driver, tt.class), func(t *testing.T) {
			if got := mayDetach(tt.driver, tt.class); got != tt.want {
				t.Errorf("got %v", got)
			}
		})
	}
}

// link and file make a fake sysfs and /proc.
func link(t *testing.T, target string, path ...string) {
	t.Helper()
	p := filepath.Join(path...)
	if err := os.MkdirAll(filepath.Dir(p), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(target, p); err != nil {
		t.Fatal(err)
	}
}

func file(t *testing.T, text string, path ...string) {
	t.Helper()
	p := filepath.Join(path...)
	if err := os.MkdirAll(filepath.Dir(p), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(p, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestHolders(t *testing.T) {
	root := t.TempDir()
	sys, proc := filepath.Join(root, "sys"), filepath.Join(root, "proc")
	const node = "/dev/bus/usb/003/002"
	dir := filepath.Join(sys, "devices/usb3/3-1")
	link(t, "../../devices/usb3/3-1", sys, "dev/char/189:257") // (3-1)*128 + 2-1
	file(t, "AKS\n", dir, "manufacturer")
	link(t, "../../../../bus/usb/drivers/usbfs", dir, "3-1:1.0", "driver")
	link(t, "../../../../bus/usb/drivers/usbhid", dir, "3-1:1.1", "driver")
	file(t, "", dir, "3-1:1.10", "bInterfaceNumber") // no driver
	for _, p := range []struct {
		pid  int
		comm string
		fds  []string
	}{
		{700, "pcscd", []string{"/dev/null", node, node}},
		{701, "sh", []string{"/dev/bus/usb/003/020", "socket:[1]"}},
		{702, "", []string{node}},
		{os.Getpid(), "self", []string{node}},
	} {
		if p.comm != "" {
			file(t, p.comm+"\n", proc, strconv.Itoa(p.pid), "comm")
		}
		for i, fd := range p.fds {
			link(t, fd, proc, strconv.Itoa(p.pid), "fd", strconv.Itoa(i))
		}
	}

	m := machine.Root(root)
	if got := m.USBDir(3, 2); got != dir {
		t.Fatalf("device directory %q, want %q", got, dir)
	}
	if got := m.USBDir(3, 3); got != "" {
		t.Errorf("directory %q of a device that is not there", got)
	}
	if got := machine.Attribute(dir, "manufacturer"); got != "AKS" {
		t.Errorf("manufacturer %q", got)
	}
	if got := machine.Attribute(dir, "serial"); got != "" {
		t.Errorf("serial %q", got)
	}
	for _, tt := range []struct {
		name  string
		dir   string
		iface uint8
		want  string
	}{
		{"processes", dir, 0, "device is in use by pcscd (pid 700), unknown (pid 702)"},
		{"kernel driver", dir, 1, "device is in use by kernel driver usbhid"},
		{"no driver link", dir, 10, "device is in use by pcscd (pid 700), unknown (pid 702)"},
		{"no sysfs", "", 0, "device is in use by pcscd (pid 700), unknown (pid 702)"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := busy(m, tt.dir, node, tt.iface).Error(); got != tt.want {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
	if driver := machine.InterfaceDriver(dir, 10); driver != "" {
		t.Errorf("interface 10 has interface 1's driver %q", driver)
	}
}

func TestOpenErrors(t *testing.T) {
	plain := filepath.Join(t.TempDir(), "plain")
	file(t, "", plain)
	for _, tt := range []struct {
		name, path string
		want       error
		text       string
	}{
		{"missing", "/dev/bus/usb/250/120", usb.ErrNotFound, "/dev/bus/usb/250/120: open: no such device"},
		{"plain file", plain, ErrNotNode, plain + ": open: not a USB device node"},
		{"other device", "/dev/null", ErrNotNode, "/dev/null: open: not a USB device node"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dev, err := Open(tt.path, slog.New(slog.NewTextHandler(io.Discard, nil)))
			if dev != nil || !errors.Is(err, tt.want) || err.Error() != tt.text {
				t.Errorf("got %v, %v; want %q", dev, err, tt.text)
			}
		})
	}
}

func TestRecovered(t *testing.T) {
	for _, tt := range []struct {
		name string
		f    func()
		text string
	}{
		{"error", func() { panic(gousb.ErrorIO) }, "no access to USB: libusb: i/o error [code -1]"},
		{"text", func() { panic("odd") }, "no access to USB: odd"},
		{"run-time error", func() { _ = []int{}[len(os.Args)] }, "no access to USB: runtime error"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			err := func() (err error) {
				defer recovered(&err, ErrNoUSB)
				tt.f()
				return nil
			}()
			if !errors.Is(err, ErrNoUSB) || !strings.HasPrefix(err.Error(), tt.text) {
				t.Errorf("got %v", err)
			}
		})
	}
}

func TestLogWriter(t *testing.T) {
	var out bytes.Buffer
	w := logWriter(slog.New(slog.NewTextHandler(&out, &slog.HandlerOptions{Level: slog.LevelDebug})))
	fmt.Fprintln(w, "handle_events: error: libusb: i/o error [code -1]")
	if got := out.String(); !strings.Contains(got, `level=DEBUG msg=gousb text="handle_events: error`) {
		t.Errorf("got %q", got)
	}
}

// Without the linker's --wrap, gousb finds this machine's devices, or none, and
// its thread wakes up ten times a second.
func TestOfferIsAll(t *testing.T) {
	f, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	conn, err := f.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	for range 2 { // a refused one leaves nothing behind
		conn.Control(func(fd uintptr) { _, err = openWithLibusb(fd) })
		if !errors.Is(err, usb.ErrIO) || !strings.Contains(err.Error(), gousb.ErrorIO.Error()) { // libusb on what is no usbfs node
			t.Fatalf("got %v", err)
		}
	}
	if _, err := libusb.ctx.OpenDevices(func(*gousb.DeviceDesc) bool { return true }); !errors.Is(err, gousb.ErrorIO) {
		t.Errorf("without an offer: %v", err)
	}
}
