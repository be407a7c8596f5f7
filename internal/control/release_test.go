package control

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"openct/internal/cli"
	"openct/internal/config"
	"openct/internal/device"
	"openct/internal/machine"
	"openct/internal/status"
	"openct/internal/status/statustest"
)

// releaser is a Control for a directory with one reader, which tells detail.
func releaser(t *testing.T, detail status.Detail) (*Control, *bytes.Buffer) {
	t.Helper()
	dir := t.TempDir()
	statustest.Init(t, dir)
	statustest.Serve(t, dir, detail, status.Info{Name: "Reader"})
	var out bytes.Buffer
	return &Control{Dir: dir, Out: &out, Err: &out, Root: machine.Here, Config: config.Default(), ConfigFile: "openct.conf"}, &out
}

func TestReleaseRefuses(t *testing.T) {
	lock := status.Lock{Exclusive: true, PID: os.Getpid(), UID: 1000, Since: time.Date(2026, 1, 2, 10, 11, 12, 0, time.Local)}
	tests := []struct {
		name   string
		detail status.Detail
		force  bool
		want   error
		tells  string
	}{
		{"a locked one", status.Detail{Type: "usb", Device: "/dev/null", Locks: []status.Lock{lock}}, false, errInUse, "has held an exclusive lock since 10:11:12"},
		{"one that a program had locked that has ended", status.Detail{Type: "usb", Device: "/dev/null", Locks: []status.Lock{{PID: 1 << 30}}}, false, status.ErrNotHandler, ""},
		// This process is no handler that could be ended.
		{"a locked one, with force", status.Detail{Type: "usb", Device: "/dev/null", Locks: []status.Lock{lock}}, true, status.ErrNotHandler, "reader 0: process"},
		{"a virtual one", status.Detail{Type: "virtual"}, true, nil, "reader 0 is virtual"},
		{"one on another machine", status.Detail{Type: "remote", Device: "ssh://host/0"}, true, nil, "reader 0 is another OpenCT's"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c, _ := releaser(t, tt.detail)
			err := c.Release("0", tt.force)
			if err == nil || tt.want != nil && !errors.Is(err, tt.want) || !strings.Contains(err.Error(), tt.tells) {
				t.Errorf("error %v", err)
			}
			if all := status.AllReleased(c.Dir, "/"); len(all) > 0 {
				t.Errorf("released: %+v", all)
			}
		})
	}
}

func TestStatusOfOne(t *testing.T) {
	c, out := releaser(t, status.Detail{Type: "usb", Device: "/dev/null", Alias: "office"})
	if err := status.WriteReleased(c.Dir, "/dev/zero", status.Released{Reader: 3, Alias: "home", Device: "/dev/zero"}); err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name string
		want error
	}{{"office", nil}, {"0", nil}, {"home", errReleased}, {"3", errReleased}, {"4", status.ErrNoReader}, {"Reader", status.ErrNoReader}}
	for _, tt := range tests {
		for what, print := range map[string]func(string) error{"": c.Status, ", JSON": c.StatusJSON} {
			t.Run(tt.name+what, func(t *testing.T) {
				out.Reset()
				if err := print(tt.name); !errors.Is(err, tt.want) || (err == nil) != strings.Contains(out.String(), "Reader") {
					t.Errorf("error %v\n%s", err, out)
				}
			})
		}
	}
}

// Whoever may only read the directory is told what it takes.
func TestReleaseAsRoot(t *testing.T) {
	c, _ := releaser(t, status.Detail{})
	err := c.explainReleased(&fs.PathError{Op: "open", Path: "x", Err: fs.ErrPermission})
	var hint *cli.Hint
	if !errors.Is(err, errAsRoot) || !errors.As(err, &hint) || hint.Hint != "run openct-control as root" {
		t.Errorf("error %v", err)
	}
}

// A device that is taken back, or plugged in anew, while it is released is told as
// that, and at once.
func TestReleaseWhileTaken(t *testing.T) {
	detail := status.Detail{Driver: "phoenix", Type: "serial", Device: "/dev/null"}
	t.Run("another handler serves it", func(t *testing.T) {
		c, out := releaser(t, detail)
		impersonate(t, c.Dir)
		other := statustest.Serve(t, c.Dir, status.Detail{Device: "/dev/zero"}, status.Info{Name: "Reader"})
		if err := other.WriteDetail(detail); err != nil {
			t.Fatal(err)
		}
		if err := c.Release("0", false); err != nil || !strings.Contains(out.String(), "reader 0 is released") {
			t.Errorf("error %v, printed %q", err, out)
		}
	})
	t.Run("taken back", func(t *testing.T) {
		c, out := releaser(t, detail)
		c.Root = machine.Root(inUnit(t, impersonate(t, c.Dir), "openct-handler@x.service"))
		fakeSystemctl(t, "rm "+filepath.Join(c.Dir, ".released.*"))
		if err := c.Release("0", false); !errors.Is(err, errTaken) || out.Len() > 0 {
			t.Errorf("error %v, printed %q", err, out)
		}
	})
}

// A record of another user than this one may not say which unit is started.
func TestTakeAnothersRecord(t *testing.T) {
	const ours, other = "openct-handler@001-004.service", "openct-handler@other.service"
	for _, tt := range []struct {
		name string
		uid  int
		want string
	}{
		{"this user's", os.Geteuid(), "start -- " + other + "\n"},
		{"another user's", os.Geteuid() + 1, "start -- " + ours + "\n"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			root := devices(t)
			node := filepath.Join(root, "dev/bus/usb/001/004")
			release(t, root, node)
			write(t, filepath.Join(root, "run/systemd/system/x"), "")
			write(t, filepath.Join(root, "run/udev/data/c189:3"), "E:OPENCT_DRIVER=etoken64\nE:SYSTEMD_WANTS="+ours+"\nG:systemd\nQ:systemd\n")
			log := fakeSystemctl(t, "exit 0")
			var out bytes.Buffer
			c := &Control{Root: machine.Root(root), Dir: root, Config: config.Default(), ConfigFile: "openct.conf", Out: &out, Err: &out}
			err := c.take(status.Released{UID: tt.uid, Driver: "etoken64", Type: "usb", Device: "/dev/bus/usb/001/004", Unit: other})
			if got := log(); err != nil || got != tt.want {
				t.Errorf("error %v, systemctl %q, want %q", err, got, tt.want)
			}
			if _, is := status.ReleasedAt(root, node); is {
				t.Error("still released")
			}
		})
	}
}

// fakeSystemctl has a script run in place of systemctl. The function tells with which
// arguments it ran.
func fakeSystemctl(t *testing.T, script string) func() string {
	t.Helper()
	dir := t.TempDir()
	log := filepath.Join(dir, "log")
	write(t, filepath.Join(dir, "systemctl"), "#!/bin/sh\necho \"$*\" >>"+log+"\n"+script+"\n")
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	return func() string {
		b, _ := os.ReadFile(log)
		return string(b)
	}
}

// A unit that fails is not tried again and again, and the error names the program that
// has the device.
func TestTakeInUse(t *testing.T) {
	root := devices(t)
	node := filepath.Join(root, "dev/bus/usb/001/004")
	release(t, root, node)
	write(t, filepath.Join(root, "run/systemd/system/x"), "")
	write(t, filepath.Join(root, "proc/812/comm"), "qemu\n")
	if err := errors.Join(os.Mkdir(filepath.Join(root, "proc/812/fd"), 0o755), os.Symlink(os.DevNull, filepath.Join(root, "proc/812/fd/3"))); err != nil {
		t.Fatal(err)
	}
	log := fakeSystemctl(t, "[ $1 = stop ]")
	var out bytes.Buffer
	c := &Control{Root: machine.Root(root), Dir: root, Config: config.Default(), ConfigFile: "openct.conf", Out: &out, Err: &out}
	const unit = "openct-handler@001-004.service"
	err := c.take(status.Released{UID: os.Geteuid(), Driver: "etoken64", Type: "usb", Device: "/dev/bus/usb/001/004", Unit: unit})
	if !errors.Is(err, device.ErrBusy) || !strings.Contains(err.Error(), "qemu (pid 812)") {
		t.Errorf("error %v", err)
	}
	if got, want := log(), "start -- "+unit+"\nstop -- "+unit+"\n"; got != want {
		t.Errorf("systemctl %q, want %q", got, want)
	}
	if r, is := status.ReleasedAt(root, node); !is || r.Unit != unit || r.Device != "/dev/bus/usb/001/004" {
		t.Errorf("released: %v, %+v", is, r)
	}
}

// What stands in a record is one word of the command that the error tells.
func TestTakeHint(t *testing.T) {
	c, _ := releaser(t, status.Detail{})
	for mode, want := range map[os.FileMode]string{
		0o755: "rm ''; openct-control attach phoenix serial '/dev/x; reboot #'",
		0o777: "rm ''; openct-control attach DRIVER TYPE DEVICE", // anybody may have written the record
	} {
		if err := os.Chmod(c.Dir, mode); err != nil {
			t.Fatal(err)
		}
		err := c.take(status.Released{Driver: "phoenix", Type: "serial", Device: "/dev/x; reboot #"})
		var hint *cli.Hint
		if !errors.Is(err, errUnknown) || !errors.As(err, &hint) || hint.Hint != want {
			t.Errorf("mode %o: error %v", mode, err)
		}
	}
}

// init leaves alone what is released, whether udev has handed it to systemd or not.
func TestColdplugReleased(t *testing.T) {
	root := devices(t)
	release(t, root, filepath.Join(root, "dev/bus/usb/001/004"))
	log := filepath.Join(root, "log")
	write(t, filepath.Join(root, "bin/ifdhandler"), "#!/bin/sh\necho \"ifdhandler $*\" >>"+log+"\n")
	var said bytes.Buffer
	c := onMachine(root, filepath.Join(root, "bin/ifdhandler"), &said)
	if err := c.coldplug(); err != nil || said.Len() > 0 {
		t.Errorf("%v, said %q", err, &said)
	}
	if got, err := os.ReadFile(log); err == nil {
		t.Errorf("ran %s", got)
	}
}

// A unit that systemd starts for a released device ends well, and at once.
func TestAttachReleased(t *testing.T) {
	tests := []struct {
		name, pid string
		want      error
	}{
		{"by hand", "", errReleased},
		{"as the command of a unit", strconv.Itoa(os.Getpid()), nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			root := devices(t)
			release(t, root, filepath.Join(root, "dev/bus/usb/001/004"))
			t.Setenv("SYSTEMD_EXEC_PID", tt.pid)
			var said bytes.Buffer
			c := &Control{Root: machine.Root(root), Dir: root, Config: config.Default(), ConfigFile: cli.ConfigFile, Err: &said}
			err := c.Attach([]string{"001/004"})
			if !errors.Is(err, tt.want) || (tt.want == nil) != strings.Contains(said.String(), "the device is released") {
				t.Errorf("error %v, said %q", err, &said)
			}
		})
	}
}
