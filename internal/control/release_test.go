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
	"openct/internal/machine"
	"openct/internal/status"
)

// releaser is a Control for a directory with one reader, which tells detail.
func releaser(t *testing.T, detail status.Detail) (*Control, *bytes.Buffer) {
	t.Helper()
	dir := t.TempDir()
	if err := status.Init(dir, status.Options{UID: -1, GID: -1}); err != nil {
		t.Fatal(err)
	}
	f, err := status.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	s, err := status.Claim(f, detail)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Release() })
	if err := s.WriteDetail(detail); err != nil {
		t.Fatal(err)
	}
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
		{"one that a program had locked that has ended", status.Detail{Type: "usb", Device: "/dev/null", Locks: []status.Lock{{PID: 1 << 30}}}, false, status.ErrNotDaemon, ""},
		// This process is no handler that could be ended.
		{"a locked one, with force", status.Detail{Type: "usb", Device: "/dev/null", Locks: []status.Lock{lock}}, true, status.ErrNotDaemon, "reader 0: process"},
		{"a virtual one", status.Detail{Type: "virtual"}, true, nil, "reader 0 is virtual"},
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

// Whoever may only read the directory is told what it takes.
func TestReleaseAsRoot(t *testing.T) {
	c, _ := releaser(t, status.Detail{})
	err := c.explainReleased(&fs.PathError{Op: "open", Path: "x", Err: fs.ErrPermission})
	var hint *cli.Hint
	if !errors.Is(err, errAsRoot) || !errors.As(err, &hint) || hint.Hint != "run openct-control as root" {
		t.Errorf("error %v", err)
	}
}

// The handlers' user owns the directory, and can write any file there.
func TestTakeForged(t *testing.T) {
	c, _ := releaser(t, status.Detail{})
	tests := []struct {
		name string
		r    status.Released
		want string
	}{
		{"another user's file", status.Released{UID: os.Geteuid() + 1, Driver: "phoenix", Type: "serial", Device: "/dev/null"}, "permission denied"},
		{"a device that openct.conf does not name", status.Released{UID: os.Geteuid(), Driver: "phoenix", Type: "serial", Device: "/dev/null"}, "neither the driver table nor openct.conf has a driver for the device"},
		{"a USB device that is none of ours", status.Released{UID: os.Geteuid(), Driver: "etoken64", Type: "usb", Device: "/dev/bus/usb/999/127"}, "neither the driver table nor openct.conf has a driver for the device"},
		{"no device", status.Released{UID: os.Geteuid(), Driver: "etoken64", Type: "usb", Device: "/etc/passwd"}, "not a device name"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if err := c.take(tt.r); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error %v", err)
			}
		})
	}
}

func TestHandlerUnit(t *testing.T) {
	tests := []struct{ name, cgroup, want string }{
		{"a token's", "0::/system.slice/system-openct\\x2dhandler.slice/openct-handler@001-004.service\n", "openct-handler@001-004.service"},
		{"a configured reader's", "0::/system.slice/openct-reader@sim.service\n", "openct-reader@sim.service"},
		{"a classic one", "0::/system.slice/openct@x.service\n", "openct@x.service"},
		{"init's", "0::/system.slice/openct.service\n", ""},
		{"a user's", "0::/user.slice/user-1000.slice/user@1000.service/app.slice/x.scope\n", ""},
		{"a pattern", "0::/system.slice/openct-handler@*.service\n", ""},
		{"none", "0::/init.scope\n", ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			root := t.TempDir()
			for path, text := range map[string]string{"proc/7/cgroup": tt.cgroup, "run/systemd/system/x": ""} {
				path = filepath.Join(root, path)
				if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			c := &Control{Root: machine.Root(root)}
			if got := c.handlerUnit(7); got != tt.want {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
}

// init leaves alone what was let go, whether udev has handed it to systemd or not.
func TestColdplugReleased(t *testing.T) {
	root := devices(t)
	release(t, root, filepath.Join(root, "dev/bus/usb/001/004"))
	log := filepath.Join(root, "log")
	write(t, filepath.Join(root, "bin/ifdhandler"), "#!/bin/sh\necho \"ifdhandler $*\" >>"+log+"\n")
	cfg, _ := config.Parse("openct.conf", []byte("ccid = off;"), nil)
	cfg.Program = filepath.Join(root, "bin/ifdhandler")
	var said bytes.Buffer
	c := &Control{Root: machine.Root(root), Dir: root, Config: cfg, ConfigFile: cli.ConfigFile, Err: &said}
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
