package control

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"openct/internal/cli"
	"openct/internal/config"
	"openct/internal/golden"
	"openct/internal/machine"
	"openct/internal/monitor"
	"openct/internal/status"
	"openct/internal/status/statustest"
	"openct/internal/uevent"
)

// everyEvent has one of each kind.
func everyEvent() []monitor.Event {
	when := time.Date(2026, 11, 26, 11, 45, 1, 203_000_000, time.UTC)
	reader, slot, exclusive, shared := 0, 0, true, false
	anna := monitor.Client{PID: 812, UID: 1000, User: "anna", Program: "pkcs11-tool"}
	nobody := monitor.Client{PID: 813, UID: 4000}
	list := []monitor.Event{
		{Event: monitor.Init},
		{Event: monitor.Plugged, Name: "Aladdin eToken", Driver: "etoken64", ID: "usb:0529/0600/0100", Device: "/dev/bus/usb/001/004", Port: "1-2"},
		{Event: monitor.Present, Reader: &reader, Slots: []monitor.Slot{{Slot: 0, Card: true}, {Slot: 1}}, Clients: []monitor.Client{anna, nobody},
			Locks: []monitor.Lock{{Slot: 0, Exclusive: true, Client: anna}}, Driver: "kaan", Device: "/dev/ttyS0", Unit: "openct-reader@desk.service", Handler: 700},
		{Event: monitor.Ready, Reader: &reader, Slots: []monitor.Slot{{Slot: 0, Card: true}}, Driver: "etoken64", ID: "usb:0529/0600/0100",
			Device: "/dev/bus/usb/001/004", Port: "1-2", Serial: "0042", Unit: "openct-handler@001-004.service", Handler: 701},
		{Event: monitor.CardIn, Reader: &reader, Slot: &slot},
		{Event: monitor.CardOut, Reader: &reader, Slot: &slot},
		{Event: monitor.Connected, Reader: &reader, Client: &anna},
		{Event: monitor.Locked, Reader: &reader, Slot: &slot, Exclusive: &exclusive, Client: &anna},
		{Event: monitor.Locked, Reader: &reader, Slot: &slot, Exclusive: &shared, Client: &nobody},
		{Event: monitor.Conflict, Reader: &reader, Slot: &slot, Exclusive: &exclusive, Client: &nobody, Holder: &anna},
		{Event: monitor.Unlocked, Reader: &reader, Slot: &slot, Exclusive: &exclusive, Client: &anna},
		{Event: monitor.Disconnected, Reader: &reader, Client: &anna},
		{Event: monitor.Failed, Reader: &reader, Error: "control transfer: stall"},
		{Event: monitor.Missed, Reader: &reader, Missed: 12},
		{Event: monitor.Fault, Error: "driver etoken64: reset: stall", Device: "/dev/bus/usb/001/004", Unit: "openct-handler@001-004.service", Handler: 702},
		{Event: monitor.Fault, Reader: &reader, Error: "handler died (process 701)", Handler: 701},
		{Event: monitor.Stopped, Reader: &reader, Driver: "etoken64", Device: "/dev/bus/usb/001/004"},
		{Event: monitor.Unplugged, Reader: &reader, Driver: "etoken64", Device: "/dev/bus/usb/001/004", Port: "1-2"},
		{Event: monitor.Shutdown},
	}
	for i := range list {
		list[i].Time = when
		if list[i].Reader != nil {
			list[i].Name = "Reader\x1b[2J <1>"
		}
	}
	return list
}

// Lines for people and for programs. Both are in openct-control(8).
func TestEventLines(t *testing.T) {
	var text, colours, lines strings.Builder
	out := json.NewEncoder(&lines)
	out.SetEscapeHTML(false)
	for _, e := range everyEvent() {
		text.WriteString(eventLine(e) + "\n")
		colours.WriteString(colour(e.Event, eventLine(e)) + "\n")
		if err := out.Encode(e); err != nil {
			t.Fatal(err)
		}
	}
	golden.Compare(t, "testdata/monitor.text", text.String())
	golden.Compare(t, "testdata/monitor.json", lines.String())
	plainText := colours.String()
	for _, c := range []string{red, green, yellow, dim, plain} {
		if !strings.Contains(plainText, c) {
			t.Errorf("no line has the colour %q", c)
		}
		plainText = strings.ReplaceAll(plainText, c, "")
	}
	if diff := cmp.Diff(text.String(), plainText); diff != "" {
		t.Errorf("the text without its colours (-want +got):\n%s", diff)
	}
}

func TestColoured(t *testing.T) {
	for _, tt := range []struct {
		name, noColor, term string
		want                bool
	}{
		{"as it is", "", "xterm", true},
		{"NO_COLOR", "1", "xterm", false},
		{"a terminal without", "", "dumb", false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Setenv("NO_COLOR", tt.noColor)
			t.Setenv("TERM", tt.term)
			if got := coloured(); got != tt.want {
				t.Errorf("got %v", got)
			}
		})
	}
	if TerminalOf(&bytes.Buffer{}) != nil {
		t.Error("a buffer is taken for a terminal")
	}
	null, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	if TerminalOf(null) != nil {
		t.Error("/dev/null is taken for a terminal")
	}
}

// sink passes on what is written to it, a text at a time.
type sink chan string

func (s sink) Write(b []byte) (int, error) {
	s <- string(b)
	return len(b), nil
}

func TestStatusWatch(t *testing.T) {
	const heading = "No.   Name                         Info\n===================================================\n"
	const empty, in = heading + "  0   Reader                       slot0: empty\n", heading + "  0   Reader                       slot0: card present\n"
	lines := func(s string) string { return strings.ReplaceAll(s, "\n", "\x1b[K\n") }
	for _, tt := range []struct {
		name                 string
		terminal             bool
		asJSON               bool
		stopped, none, ready string
		card, end            string
	}{
		{name: "terminal", terminal: true, stopped: "\x1b[H\x1b[J" + lines("OpenCT is not started here; waiting for \"openct-control init\".\n") + "\x1b[J",
			none: "\x1b[H" + lines("No readers.\n") + "\x1b[J", ready: "\x1b[H" + lines(empty) + "\x1b[J", card: "\x1b[H" + lines(in) + "\x1b[J", end: "\r\x1b[K"},
		{name: "pipe", stopped: "OpenCT is not started here; waiting for \"openct-control init\".\n",
			none: "\nNo readers.\n", ready: "\n" + empty, card: "\n" + in},
		{name: "JSON", terminal: true, asJSON: true, stopped: "[]\n"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir, out := t.TempDir(), make(sink)
			var complaints bytes.Buffer
			c := &Control{Dir: dir, Out: out, Err: &complaints}
			var rows atomic.Int32
			size := func() (int, int) { return int(rows.Load()), 80 }
			resized := make(chan os.Signal)
			if tt.terminal {
				c.Terminal = out
			}
			ctx, cancel := context.WithCancel(context.Background())
			defer cancel()
			done := make(chan error, 1)
			go func() { done <- c.statusWatch(ctx, tt.asJSON, size, resized) }()
			sees := func(want string) {
				t.Helper()
				select {
				case got := <-out:
					if want == "" {
						if !strings.HasPrefix(got, "[\n") {
							t.Errorf("got %q", got)
						}
					} else if diff := cmp.Diff(want, got); diff != "" {
						t.Errorf("(-want +got):\n%s", diff)
					}
				case err := <-done:
					t.Fatalf("ended: %v", err)
				case <-time.After(30 * time.Second):
					t.Fatalf("never shown: %q", want)
				}
			}
			sees(tt.stopped)
			statustest.Init(t, dir)
			if !tt.asJSON { // an empty list is what was shown before
				sees(tt.none)
			}
			s := statustest.Serve(t, dir, status.Detail{}, status.Info{Name: "Reader", Slots: 1})
			for !tt.asJSON { // it may have been claimed and without a name for a moment
				got := <-out
				if got == tt.ready {
					break
				}
				if strings.Contains(got, "Reader") {
					t.Fatalf("got %q, want %q", got, tt.ready)
				}
			}
			if tt.asJSON {
				for got := ""; !strings.Contains(got, `"name": "Reader"`); {
					got = <-out
				}
			}
			if err := s.SetCard(0, true, false); err != nil {
				t.Fatal(err)
			}
			sees(tt.card)
			if tt.end != "" {
				rows.Store(3)
				resized <- unix.SIGWINCH
				sees("\x1b[H\x1b[J" + lines("No.   Name                         Info\n2 more lines do not fit\n") + "\x1b[J")
			}
			cancel()
			if tt.end != "" {
				if got := <-out; got != tt.end {
					t.Errorf("at the end: %q", got)
				}
			}
			if err := <-done; err != nil {
				t.Error(err)
			}
			if complaints.Len() > 0 {
				t.Errorf("complaints: %s", complaints.String())
			}
		})
	}
}

func TestFit(t *testing.T) {
	for _, tt := range []struct {
		name          string
		text          string
		rows, columns int
		want          string
	}{
		{"size is not known", "a\nb\nc\n", 0, 0, "a\nb\nc\n"},
		{"fits", "a\nb\nc\n", 4, 40, "a\nb\nc\n"},
		{"one row too few", "a\nb\nc\n", 3, 40, "a\n2 more lines do not fit\n"},
		{"a line takes two rows", "a\n12345\nc\n", 4, 4, "a\n2 mo\n"},
		{"as wide as the terminal", "a\n1234\nc\n", 4, 4, "a\n1234\nc\n"},
		{"wide characters", "a\n読取機\nc\n", 4, 5, "a\n2 mor\n"},
		{"an empty line", "a\n\nc\n", 3, 40, "a\n2 more lines do not fit\n"},
		{"one row", "a\nb\n", 1, 40, "2 more lines do not fit\n"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := fit(tt.text, tt.rows, tt.columns); got != tt.want {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
}

// noDevices is a kernel that tells nothing.
type noDevices chan struct{}

func (n noDevices) Next() (uevent.Event, error) { <-n; return uevent.Event{}, os.ErrClosed }
func (n noDevices) Close() error                { close(n); return nil }

// A terminal shows ^C, and the prompt is not to stand behind it; a pipe gets nothing.
func TestMonitorEnd(t *testing.T) {
	for _, tt := range []struct {
		name     string
		terminal bool
		want     string
	}{{"terminal", true, "\n"}, {"pipe", false, ""}} {
		t.Run(tt.name, func(t *testing.T) {
			var out bytes.Buffer
			c := &Control{Dir: t.TempDir(), Out: &out, Err: io.Discard, Root: machine.Root(t.TempDir()), Config: config.Default()}
			if tt.terminal {
				c.Terminal = &out
			}
			ctx, cancel := context.WithCancel(context.Background())
			cancel()
			if err := c.monitor(ctx, make(noDevices), false); err != nil {
				t.Error(err)
			}
			if out.String() != tt.want {
				t.Errorf("got %q, want %q", out.String(), tt.want)
			}
		})
	}
}

// asNobody lets this goroutine of root's see files as another user does (setfsuid(2)
// is one thread's alone). The directory is a third user's then.
func asNobody(t *testing.T, dir string) {
	t.Helper()
	if os.Geteuid() != 0 {
		return
	}
	top := filepath.Dir(filepath.Dir(dir)) // which testing makes for one user
	if err := errors.Join(os.Chmod(top, 0o755), os.Chown(dir, 1, 1)); err != nil {
		t.Fatal(err)
	}
	runtime.LockOSThread()
	if err := unix.Setfsuid(65534); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = unix.Setfsuid(0)
		runtime.UnlockOSThread()
	})
}

// A user who may enter the directory, and not read it, gets no news of the readers
// that are seen there: monitor says so, and status --watch ends.
func TestUnreadableDirectory(t *testing.T) {
	const next = "run openct-control as root, or let the group read "
	for _, tt := range []struct {
		name        string
		mode        os.FileMode
		told, hints string
	}{
		{"entered by everybody", 0o311, "readers are listed as they are now, and after that only what is plugged in and unplugged is told", next},
		{"the group's", 0o050, "openct-control: only what is plugged in and unplugged is told", "or as a member of the group of "},
		{"the owner's", 0o000, "openct-control: only what is plugged in and unplugged is told", next},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "openct")
			if err := errors.Join(os.Mkdir(dir, 0o755), status.Init(dir, status.Options{UID: -1, GID: -1}), os.Chmod(dir, tt.mode)); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = os.Chmod(dir, 0o755) })
			root := t.TempDir()
			asNobody(t, dir)
			ctx, cancel := context.WithCancel(context.Background())
			cancel()
			var errs bytes.Buffer
			c := &Control{Dir: dir, Out: io.Discard, Err: &errs, Root: machine.Root(root), Config: config.Default()}
			if err := c.monitor(ctx, make(noDevices), false); err != nil {
				t.Error(err)
			}
			for _, want := range []string{"openct-control: can't watch " + dir + ": permission denied\n", tt.told, tt.hints} {
				if !strings.Contains(errs.String(), want) {
					t.Errorf("monitor does not say %q:\n%s", want, &errs)
				}
			}
			var hint *cli.Hint
			if err := c.statusWatch(ctx, false, nil, nil); !errors.As(err, &hint) || !strings.Contains(hint.Hint, tt.hints) {
				t.Errorf("status --watch: %v, %+v", err, hint)
			}
		})
	}
}

func TestExplainWatch(t *testing.T) {
	for _, tt := range []struct {
		name string
		err  error
		want string
	}{
		{"none", nil, ""},
		{"another error", unix.EIO, ""},
		{"instances", &os.PathError{Op: "watch", Path: "/run/openct", Err: unix.EMFILE}, "fs.inotify.max_user_instances"},
		{"watches", &os.PathError{Op: "watch", Path: "/run/openct", Err: unix.ENOSPC}, "fs.inotify.max_user_watches"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			err := explainWatch(tt.err)
			var hint *cli.Hint
			if !errors.Is(err, tt.err) || errors.As(err, &hint) != (tt.want != "") || hint != nil && !strings.Contains(hint.Hint, tt.want) {
				t.Errorf("got %v, %+v", err, hint)
			}
		})
	}
}

// What is wrong with a file is told once, not with each list.
func TestStatusWatchComplains(t *testing.T) {
	dir, out := t.TempDir(), make(sink)
	statustest.Init(t, dir)
	s := statustest.Claim(t, dir, status.Detail{})
	side := filepath.Join(dir, ".0.json")
	if err := errors.Join(os.Remove(side), unix.Mkfifo(side, 0o644)); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	var complaints bytes.Buffer
	done := make(chan error, 1)
	c := &Control{Dir: dir, Out: out, Err: &complaints}
	go func() { done <- c.statusWatch(ctx, true, nil, nil) }()
	<-out
	for _, name := range []string{"one", "two"} {
		if err := s.Publish(status.Info{Name: name, Slots: 1}); err != nil {
			t.Fatal(err)
		}
		for got := ""; !strings.Contains(got, name); {
			got = <-out
		}
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if n := strings.Count(complaints.String(), "not a regular file"); n != 1 {
		t.Errorf("told %d times:\n%s", n, complaints.String())
	}
}

// A terminal without control sequences gets one list after the other.
func TestStatusWatchDumb(t *testing.T) {
	t.Setenv("TERM", "dumb")
	ctx, cancel := context.WithCancel(context.Background())
	out := make(sink)
	c := &Control{Dir: t.TempDir(), Out: out, Err: io.Discard, Terminal: out}
	done := make(chan error, 1)
	go func() { done <- c.statusWatch(ctx, false, func() (int, int) { return 24, 80 }, nil) }()
	if got := <-out; strings.Contains(got, "\x1b") {
		t.Errorf("got %q", got)
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// What has not changed is not shown again.
func TestScreen(t *testing.T) {
	var out bytes.Buffer
	s := screen{out: &out}
	for _, text := range []string{"", "", "one\n", "one\n", "two\n", "one\n"} {
		if err := s.show(text, true); err != nil {
			t.Fatal(err)
		}
	}
	s.restore()
	if want := "\none\n\ntwo\n\none\n"; out.String() != want {
		t.Errorf("shown %q, want %q", out.String(), want)
	}
}

// A signal ends a command whose output nobody reads.
func TestSignalWhileStuck(t *testing.T) {
	const env, line = "OPENCT_TEST_STUCK", "stuck\n"
	if os.Getenv(env) != "" {
		untilSignal()
		_, _ = io.WriteString(os.Stdout, line)
		select {} // as in a write(2) to a pipe that is full
	}
	cmd := exec.Command(os.Args[0], "-test.run=^TestSignalWhileStuck$")
	cmd.Env = append(os.Environ(), env+"=1")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer cmd.Process.Kill()
	if _, err := io.ReadFull(out, make([]byte, len(line))); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Process.Signal(unix.SIGHUP); err != nil {
		t.Fatal(err)
	}
	ended := time.AfterFunc(30*time.Second, func() { _ = cmd.Process.Kill() })
	defer ended.Stop()
	err = cmd.Wait()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.Sys().(syscall.WaitStatus).Signal() != unix.SIGHUP {
		t.Errorf("it ended with %v", err)
	}
}
