package control

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"openct/internal/cli"
	"openct/internal/config"
	"openct/internal/devname"
	"openct/internal/machine"
	"openct/internal/status"
)

// The handlers' user can name any device in the files that it writes.
func TestKnownTarget(t *testing.T) {
	root := devices(t)
	dir := t.TempDir()
	port, link := filepath.Join(dir, "port"), filepath.Join(dir, "link")
	write(t, port, "")
	if err := os.Symlink(port, link); err != nil {
		t.Fatal(err)
	}
	cfg, problems := config.Parse("openct.conf", []byte("ccid = off; reader desk { driver = phoenix; device = serial:"+port+"; };"), nil)
	if len(problems) > 0 {
		t.Fatal(problems)
	}
	c := &Control{Root: machine.Root(root), Config: cfg, ConfigFile: "openct.conf"}
	tests := []struct {
		name              string
		driver, typ, path string
		want, fails       string
	}{
		{"one of openct.conf", "phoenix", "serial", port, port, ""},
		{"one of openct.conf, by another link", "phoenix", "serial", link, port, ""},
		{"one of the driver table", "etoken64", "usb", "/dev/bus/usb/001/004", "/dev/bus/usb/001/004", ""},
		{"any line", "phoenix", "serial", "/dev/null", "", "no driver for the device in the driver table or in openct.conf"},
		{"another machine", "openct", "remote", "ssh://host/0", "", "no driver for the device in the driver table or in openct.conf"},
		{"a CCID reader that is left to others", "ccid", "usb", "/dev/bus/usb/001/005", "", "no driver for the device in the driver table or in openct.conf"},
		{"a mouse", "etoken64", "usb", "/dev/bus/usb/001/006", "", "no driver for the device in the driver table or in openct.conf"},
		{"a USB device that is not there", "etoken64", "usb", "/dev/bus/usb/999/127", "", "no driver for the device in the driver table or in openct.conf"},
		{"an option for a driver", "--config", "serial", port, "", `there is no driver "--config"`},
		{"no device", "etoken64", "usb", "/etc/passwd", "", "not a device name"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := c.knownTarget(tt.driver, tt.typ, tt.path)
			if tt.fails != "" {
				if err == nil || !strings.Contains(err.Error(), tt.fails) {
					t.Errorf("error %v", err)
				}
				return
			}
			if err != nil || got.Path != tt.want || got.Driver != tt.driver {
				t.Errorf("%+v, error %v", got, err)
			}
		})
	}
}

// No unit is stopped because a side file names it, and verify by number opens only a
// device that is known.
func TestForgedSideFile(t *testing.T) {
	c, _ := releaser(t, status.Detail{Driver: "phoenix", Type: "serial", Device: "/dev/null", Unit: "openct-handler@other.service"})
	log := fakeSystemctl(t, "exit 0")
	target := devname.Target{Driver: "phoenix", Type: "serial", Path: "/dev/null"}
	if _, err := c.pause(&target); !errors.Is(err, status.ErrNotHandler) {
		t.Errorf("pause: %v", err)
	}
	if got, err := c.verifyTarget([]string{"0"}); err != nil || got.Path != "/dev/null" {
		t.Errorf("verify in a directory of the caller's own: %v, %v", got, err)
	}
	if err := os.Chmod(c.Dir, 0o777); err != nil {
		t.Fatal(err)
	}
	var hint *cli.Hint
	if _, err := c.verifyTarget([]string{"0"}); !errors.Is(err, errUnknown) || !errors.As(err, &hint) || hint.Hint != "openct-control verify DRIVER TYPE DEVICE" {
		t.Errorf("verify: %v", err)
	}
	if err := c.Release("0", true); !errors.Is(err, status.ErrNotHandler) {
		t.Errorf("release: %v", err)
	}
	if got := log(); got != "" {
		t.Errorf("systemctl %q", got)
	}
}

// The unit that is stopped is the one in which the kernel has the handler, whatever
// the side file says.
func TestHandlersUnit(t *testing.T) {
	c, _ := releaser(t, status.Detail{Driver: "phoenix", Type: "serial", Device: "/dev/null", Unit: "openct-handler@other.service"})
	const unit = "openct-handler@right.service"
	root := inUnit(t, impersonate(t, c.Dir), unit)
	c.Root = machine.Root(root)
	log := fakeSystemctl(t, "exit 0")
	target := devname.Target{Driver: "phoenix", Type: "serial", Path: "/dev/null"}
	resume, err := c.pause(&target)
	if err == nil {
		err = resume()
	}
	if err != nil {
		t.Errorf("pause: %v", err)
	}
	if err := c.Release("0", false); err != nil {
		t.Errorf("release: %v", err)
	}
	if got, want := log(), "stop -- "+unit+"\nstart -- "+unit+"\nstop -- "+unit+"\n"; got != want {
		t.Errorf("systemctl %q, want %q", got, want)
	}
	if all := status.AllReleased(c.Dir, root); len(all) != 1 || all[0].Unit != unit {
		t.Errorf("released: %+v", all)
	}
}

// impersonate puts another process in the place of this one in reader 0's files. This
// one still holds the lock.
func impersonate(t *testing.T, dir string) int {
	t.Helper()
	cmd := exec.Command("sleep", "1000")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = cmd.Process.Kill(), cmd.Wait() })
	pid := cmd.Process.Pid
	words := func(pid int) []byte { return binary.NativeEndian.AppendUint32(nil, uint32(pid)) }
	path := filepath.Join(dir, "status")
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteAt(words(pid), int64(bytes.Index(b, words(os.Getpid())))); err != nil {
		t.Fatal(err)
	}
	path = filepath.Join(dir, ".0.json")
	if b, err = os.ReadFile(path); err != nil {
		t.Fatal(err)
	}
	b = bytes.Replace(b, fmt.Appendf(nil, `"pid":%d`, os.Getpid()), fmt.Appendf(nil, `"pid":%d`, pid), 1)
	if err := os.WriteFile(path, b, 0o644); err != nil {
		t.Fatal(err)
	}
	return pid
}
