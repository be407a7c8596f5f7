package control

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"openct/internal/cli"
	"openct/internal/config"
	"openct/internal/daemon"
	"openct/internal/machine"
	"openct/internal/status"
	"openct/internal/uevent"
)

// As a process that a watcher has started, the test program is a handler that ends
// when it is told to.
func TestMain(m *testing.M) {
	if daemon.Started() {
		ctx, stop := signal.NotifyContext(context.Background(), unix.SIGTERM)
		defer stop()
		daemon.ReportReady()
		<-ctx.Done()
		return
	}
	if dir, ok := os.LookupEnv(handlerEnv); ok {
		if err := beHandler(dir, os.Args[1]); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

func usbEvent(action, devType, node string) uevent.Event {
	return uevent.Event{Action: action, Path: "/devices/x", Subsystem: "usb", DevType: devType, Node: node}
}

func ttyEvent(node string) uevent.Event {
	return uevent.Event{Action: "add", Path: "/devices/y", Subsystem: "tty", Node: node}
}

func TestWatcher(t *testing.T) {
	const token = "ifdhandler -H etoken64 usb /dev/bus/usb/001/004"
	const readers = `reader desk { driver = phoenix; device = serial:/dev/ttyUSB7; };
reader linked { driver = phoenix; device = serial:/dev/serial/by-id/reader; };
reader far { driver = phoenix; device = serial:/dev/ttyUSB9; };`
	desk, linked := "ifdhandler -H phoenix serial /dev/ttyUSB7", "ifdhandler -H phoenix serial /dev/serial/by-id/reader"
	plug := func(node string) func(*watcher) {
		return func(w *watcher) { w.take(usbEvent("add", "usb_device", node)) }
	}
	tests := []struct {
		name string
		conf string
		do   func(w *watcher)
		udev bool // runs
		runs []string

		released []string // nodes of released devices
	}{
		{name: "a token", do: plug("bus/usb/001/004"), runs: []string{token}},
		{name: "a token of which udev makes something first", do: plug("bus/usb/001/004"), udev: true,
			runs: []string{"udevadm settle --timeout=30", token}},
		{name: "a reader of the class that is pcscd's", do: plug("bus/usb/001/005")},
		{name: "a reader of the class that is ours", conf: "ccid = on;", do: plug("bus/usb/001/005"),
			runs: []string{"ifdhandler -H ccid usb /dev/bus/usb/001/005"}},
		{name: "a reader that openct.conf gives to a driver", conf: "driver ccid { ids = { usb:04e6/ffff }; }; ccid = on;", do: plug("bus/usb/001/005"),
			runs: []string{"ifdhandler -H ccid usb /dev/bus/usb/001/005"}},
		{name: "a mouse", do: plug("bus/usb/001/006"), udev: true},
		{name: "a device that has left again", do: plug("bus/usb/001/007")},
		{name: "no node", do: plug("")},
		{name: "nonsense for a node", do: plug("bus/usb/../../etc")},
		{name: "what is no plug", do: func(w *watcher) {
			w.take(usbEvent("remove", "usb_device", "bus/usb/001/004"))
			w.take(usbEvent("bind", "usb_device", "bus/usb/001/004"))
			w.take(usbEvent("add", "usb_interface", "bus/usb/001/004"))
			w.take(uevent.Event{Action: "add", Path: "/d", Subsystem: "block", DevType: "usb_device", Node: "bus/usb/001/004"})
		}},
		{name: "a configured reader's line", conf: readers, do: func(w *watcher) { w.take(ttyEvent("ttyUSB7")) }, runs: []string{desk}},
		{name: "a line that a link leads to", conf: readers, do: func(w *watcher) { w.take(ttyEvent("ttyUSB8")) }, udev: true,
			runs: []string{"udevadm settle --timeout=30", linked}},
		{name: "another line", conf: readers, do: func(w *watcher) { w.take(ttyEvent("ttyUSB0")) }},
		{name: "a line, without readers", do: func(w *watcher) { w.take(ttyEvent("ttyUSB7")) }, udev: true},
		{name: "all that is there", conf: readers, do: func(w *watcher) { w.run(w.scan) }, runs: []string{desk, linked, token}},
		{name: "a released token", do: plug("bus/usb/001/004"), released: []string{"dev/bus/usb/001/004"}},
		{name: "all that is there but what is released", conf: readers, do: func(w *watcher) { w.run(w.scan) }, runs: []string{linked},
			released: []string{"dev/bus/usb/001/004", "dev/ttyUSB7"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			root := devices(t)
			log := filepath.Join(root, "log")
			for name, text := range map[string]string{
				"bin/ifdhandler": "#!/bin/sh\necho \"ifdhandler $*\" >>" + log + "\n",
				"bin/udevadm":    "#!/bin/sh\necho \"udevadm $*\" >>" + log + "\n",
				"dev/ttyUSB7":    "", "dev/ttyUSB8": "", "dev/ttyUSB0": "", "dev/serial/by-id/x": "", "run/udev/x": "",
			} {
				write(t, filepath.Join(root, name), text)
			}
			if err := os.Symlink("../../ttyUSB8", filepath.Join(root, "dev/serial/by-id/reader")); err != nil {
				t.Fatal(err)
			}
			for _, node := range tt.released {
				release(t, root, filepath.Join(root, node))
			}
			if tt.udev {
				write(t, filepath.Join(root, "run/udev/control"), "")
			}
			t.Setenv("PATH", filepath.Join(root, "bin")+":"+os.Getenv("PATH"))
			conf := tt.conf
			if !strings.Contains(conf, "ccid =") {
				conf += "ccid = off;"
			}
			cfg, warnings := config.Parse("openct.conf", []byte(conf), nil)
			if len(warnings) > 0 {
				t.Fatal(warnings)
			}
			cfg.Program = filepath.Join(root, "bin/ifdhandler")
			var said bytes.Buffer
			c := &Control{Root: machine.Root(root), Dir: root, Config: cfg, ConfigFile: cli.ConfigFile, Err: &said}
			w := newWatcher(context.Background(), c, slog.New(slog.NewTextHandler(&said, &slog.HandlerOptions{Level: slog.LevelWarn})))
			tt.do(w)
			w.work.Wait()
			got, err := os.ReadFile(log)
			if err != nil && !errors.Is(err, os.ErrNotExist) {
				t.Fatal(err)
			}
			var want string
			for _, line := range tt.runs {
				want += line + "\n"
			}
			if diff := cmp.Diff(want, string(got)); diff != "" {
				t.Errorf("ran (-want +got):\n%s", diff)
			}
			if said.Len() > 0 {
				t.Errorf("said %s", &said)
			}
		})
	}
}

// release lets the device at a node go: one that is a real device, as none can be
// made here.
func release(t *testing.T, dir, node string) {
	t.Helper()
	err := errors.Join(os.MkdirAll(filepath.Dir(node), 0o755), os.RemoveAll(node), os.Symlink(os.DevNull, node),
		status.WriteReleased(dir, node, status.Released{Device: node}))
	if err != nil {
		t.Fatal(err)
	}
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o755); err != nil {
		t.Fatal(err)
	}
}

// onMachine is a Control for the machine whose files are in root. program runs in place
// of a handler; empty: this test program.
func onMachine(root, program string, says io.Writer) *Control {
	cfg, _ := config.Parse("openct.conf", []byte("ccid = off;"), nil)
	cfg.Program = program
	return &Control{Root: machine.Root(root), Dir: root, Config: cfg, ConfigFile: cli.ConfigFile, Out: says, Err: says}
}

// inUnit makes the files of a machine where systemd runs, and the kernel has a process
// in a unit.
func inUnit(t *testing.T, pid int, unit string) (root string) {
	t.Helper()
	root = t.TempDir()
	write(t, filepath.Join(root, fmt.Sprintf("proc/%d/cgroup", pid)), "0::/system.slice/"+unit+"\n")
	write(t, filepath.Join(root, "run/systemd/system/x"), "")
	if err := errors.Join(os.Mkdir(filepath.Join(root, "dev"), 0o755), os.Symlink(os.DevNull, filepath.Join(root, "dev/null"))); err != nil {
		t.Fatal(err)
	}
	return root
}

// What udev's rule does about a suspend is done where udev does not run.
func TestForgetAtSuspend(t *testing.T) {
	for _, tt := range []struct {
		name string
		udev bool
		want string
	}{
		{"no udev", false, "0"},
		{"udev does it", true, "1\n"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			root := devices(t)
			persist := filepath.Join(root, "sys/bus/usb/devices/1-2/power/persist")
			write(t, persist, "1\n")
			write(t, filepath.Join(root, "bin/udevadm"), "#!/bin/sh\n")
			write(t, filepath.Join(root, "bin/ifdhandler"), "#!/bin/sh\n")
			t.Setenv("PATH", filepath.Join(root, "bin")+":"+os.Getenv("PATH"))
			if tt.udev {
				write(t, filepath.Join(root, "run/udev/control"), "")
			}
			w := newWatcher(context.Background(), onMachine(root, filepath.Join(root, "bin/ifdhandler"), io.Discard), slog.New(slog.DiscardHandler))
			w.devices()
			w.work.Wait()
			if got, err := os.ReadFile(persist); err != nil || string(got) != tt.want {
				t.Errorf("persist is %q, %v; want %q", got, err, tt.want)
			}
		})
	}
}

// A handler that fails is tried again as long as its device is there.
func TestWatcherTriesAgain(t *testing.T) {
	const run = "run\n"
	tests := []struct {
		name string
		does string // the handler, each time
		want string
	}{
		{"succeeds the second time", "[ $(wc -l <$log) = 2 ]", run + run},
		{"never succeeds", "exit 1", run + run + run},
		{"the device is gone by then", "rm $root/sys/dev/char/189:3; exit 1", run},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			root := devices(t)
			log, program := filepath.Join(root, "log"), filepath.Join(root, "bin/ifdhandler")
			write(t, program, fmt.Sprintf("#!/bin/sh\nroot=%s log=%s\necho run >>$log\n%s\n", root, log, tt.does))
			w := newWatcher(context.Background(), onMachine(root, program, io.Discard), slog.New(slog.DiscardHandler))
			w.pause = time.Millisecond
			w.devices()
			w.work.Wait()
			got, err := os.ReadFile(log)
			if err != nil || string(got) != tt.want {
				t.Errorf("ran %q, %v; want %q", got, err, tt.want)
			}
		})
	}
}

// With systemd, what udev has handed to it is its own.
func TestWatcherLeavesUnitsAlone(t *testing.T) {
	root := devices(t)
	write(t, filepath.Join(root, "run/systemd/system/x"), "")
	write(t, filepath.Join(root, "run/udev/data/c189:3"), "E:SYSTEMD_WANTS=openct-handler@001-004.service\n")
	var said bytes.Buffer
	w := newWatcher(context.Background(), onMachine(root, filepath.Join(root, "no such program"), &said), slog.New(slog.NewTextHandler(&said, nil)))
	w.scan()
	if said.Len() > 0 {
		t.Errorf("said %s", &said)
	}
}

// events is a listener that tells what it was given, and then waits.
type events struct {
	left   []func() (uevent.Event, error)
	closed chan struct{}
	once   sync.Once
}

func (e *events) Next() (uevent.Event, error) {
	if len(e.left) > 0 {
		next := e.left[0]
		e.left = e.left[1:]
		return next()
	}
	<-e.closed
	return uevent.Event{}, os.ErrClosed
}

func (e *events) Close() error {
	e.once.Do(func() { close(e.closed) })
	return nil
}

// records is a log whose messages can be waited for.
type records chan string

func (r records) Write(p []byte) (int, error) {
	r <- string(p)
	return len(p), nil
}

func (r records) wait(t *testing.T, want string) {
	t.Helper()
	timeout := time.After(30 * time.Second)
	for {
		select {
		case got := <-r:
			if strings.Contains(got, want) {
				return
			}
			if strings.Contains(got, "level=ERROR") {
				t.Fatalf("waiting for %q: %s", want, got)
			}
		case <-timeout:
			t.Fatalf("no %q in the log", want)
		}
	}
}

// The handlers that were started end with the process that watches; one that fails
// is told, and others are served after it. After events were lost all is looked at.
func TestWatchEnds(t *testing.T) {
	tests := []struct {
		name string
		tell func() (uevent.Event, error)
	}{
		{"plugged in", func() (uevent.Event, error) { return usbEvent("add", "usb_device", "bus/usb/001/004"), nil }},
		{"events were lost", func() (uevent.Event, error) { return uevent.Event{}, fmt.Errorf("wrapped: %w", uevent.ErrOverflow) }},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			root := devices(t)
			c := onMachine(root, "", io.Discard)
			log := make(records, 100)
			from := &events{closed: make(chan struct{}), left: []func() (uevent.Event, error){tt.tell, tt.tell}}
			ctx, cancel := context.WithCancel(context.Background())
			ended := make(chan error, 1)
			go func() { ended <- c.watch(ctx, from, slog.New(slog.NewTextHandler(log, nil))) }()

			// The fake handlers know nothing of a device that is served.
			log.wait(t, "msg=\"handler is ready\"")
			log.wait(t, "msg=\"handler is ready\"")
			children := childrenOf(t)
			if len(children) != 2 {
				t.Fatalf("children %v, want two", children)
			}
			if err := unix.Kill(children[0], unix.SIGKILL); err != nil {
				t.Fatal(err)
			}
			logFailure := "handler has failed"
			for got := ""; !strings.Contains(got, logFailure); {
				select {
				case got = <-log:
				case <-time.After(30 * time.Second):
					t.Fatalf("no %q in the log", logFailure)
				}
			}
			// It is started again.
			log.wait(t, "msg=\"handler is ready\"")
			if again := childrenOf(t); len(again) != 2 {
				t.Errorf("children %v, want two", again)
			}
			cancel()
			if err := <-ended; err != nil {
				t.Error(err)
			}
			if left := childrenOf(t); len(left) > 0 {
				t.Errorf("left behind: processes %v", left)
			}
			if len(from.left) > 0 {
				t.Error("not all events were read")
			}
		})
	}
}

// childrenOf are this process's children, also those that nobody has waited for.
func childrenOf(t *testing.T) []int {
	t.Helper()
	var pids []int
	tasks, err := filepath.Glob("/proc/self/task/*/children")
	if err != nil || len(tasks) == 0 {
		t.Fatal("the kernel does not tell the children of a process")
	}
	for _, task := range tasks {
		b, _ := os.ReadFile(task) // a thread may have ended
		for _, f := range strings.Fields(string(b)) {
			var pid int
			if _, err := fmt.Sscan(f, &pid); err != nil {
				t.Fatal(err)
			}
			pids = append(pids, pid)
		}
	}
	return pids
}

// A listener that fails ends the watch, with its error.
func TestWatchFails(t *testing.T) {
	broken := errors.New("broken")
	from := &events{closed: make(chan struct{}), left: []func() (uevent.Event, error){func() (uevent.Event, error) { return uevent.Event{}, broken }}}
	dir := t.TempDir()
	c := &Control{Root: machine.Root(dir), Dir: dir, Config: config.Default(), Err: io.Discard}
	if err := c.watch(context.Background(), from, slog.New(slog.DiscardHandler), (*watcher).devices); !errors.Is(err, broken) {
		t.Errorf("got %v, want %v", err, broken)
	}
}
