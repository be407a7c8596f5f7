package control

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"openct/internal/cli"
	"openct/internal/daemon"
	"openct/internal/machine"
	"openct/internal/monitor"
	"openct/internal/readerunit"
	"openct/internal/status"
	"openct/internal/uevent"
)

// Monitor prints a line for each thing that happens at the readers, until it is
// asked to end.
func (c *Control) Monitor(asJSON bool) error {
	ctx, stop := untilSignal()
	defer stop()
	events, err := uevent.Listen()
	if err != nil {
		return err
	}
	daemon.Economise()
	if !c.Root.Exists("proc/1/comm") {
		c.say("openct-control: programs of other users have no name here: /proc hides them (hidepid, proc(5))")
	}
	c.sayStopped()
	return c.monitor(ctx, events, asJSON)
}

// signalWait is how long a command that prints may take to end after a signal.
const signalWait = 3 * time.Second

// untilSignal returns a context that a signal ends. A process that blocks in writing its
// output does not look at the context: the process gets the signal once more, and that
// ends it.
func untilSignal() (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(context.Background())
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, unix.SIGINT, unix.SIGTERM, unix.SIGHUP)
	go func() {
		defer signal.Stop(signals)
		select {
		case s := <-signals:
			cancel()
			time.AfterFunc(signalWait, func() { _ = unix.Kill(os.Getpid(), s.(syscall.Signal)) })
		case <-ctx.Done():
		}
	}()
	return ctx, cancel
}

// sayStopped says what a command waits for that would have nothing to tell now.
func (c *Control) sayStopped() {
	f, err := status.OpenReadOnly(c.Dir)
	switch {
	case err == nil:
		f.Close()
	case errors.Is(err, status.ErrNotInitialised):
		c.say("openct-control: OpenCT is not started here; waiting for \"openct-control init\"")
	}
}

func (c *Control) monitor(ctx context.Context, events monitor.Listener, asJSON bool) error {
	emit := func(e monitor.Event) error {
		_, err := io.WriteString(c.Out, eventLine(e)+"\n")
		return err
	}
	switch {
	case asJSON:
		out := json.NewEncoder(c.Out)
		out.SetEscapeHTML(false)
		emit = func(e monitor.Event) error { return out.Encode(e) }
	case c.Terminal != nil && coloured():
		emit = func(e monitor.Event) error {
			_, err := io.WriteString(c.Terminal, colour(e.Event, eventLine(e))+"\n")
			return err
		}
	}
	err := monitor.Run(ctx, monitor.Options{
		Dir: c.Dir, Root: c.Root, Devices: events, USB: c.serves, Lines: c.lines, Emit: emit, Blind: c.blind,
	})
	if err == nil && c.Terminal != nil {
		_, err = io.WriteString(c.Terminal, "\n") // the terminal has shown ^C
	}
	return explainWatch(err)
}

// blind says what cannot be seen.
func (c *Control) blind(err error) {
	c.say("openct-control: %v", err)
	if !errors.Is(err, fs.ErrPermission) {
		return
	}
	told := "only what is plugged in and unplugged is told"
	if f, err := status.OpenReadOnly(c.Dir); err == nil {
		f.Close()
		told = "readers are listed as they are now, and after that " + told
	}
	c.say("openct-control: %s; for all events of readers, cards and clients, %s", told, c.whoMayWatch())
}

// whoMayWatch is the hint for a user who may enter the directory, but not read it: that
// is enough to use readers, but not to watch the directory (inotify(7)).
func (c *Control) whoMayWatch() string {
	const needs = 0o050 // the group reads and enters
	if info, err := os.Stat(c.Dir); err == nil && info.Mode().Perm()&needs != needs {
		return fmt.Sprintf("run openct-control as root, or let the group read %s, which has mode %04o: dir-mode of the socket statement in openct.conf", c.Dir, info.Mode().Perm())
	}
	return fmt.Sprintf("run openct-control as root, or as a member of the group of %s (usually scard)", c.Dir)
}

// explainWatch adds what to do where the kernel lets this user watch no more files
// (inotify_init(2), inotify_add_watch(2)).
func explainWatch(err error) error {
	limit := ""
	switch {
	case errors.Is(err, unix.EMFILE):
		limit = "fs.inotify.max_user_instances"
	case errors.Is(err, unix.ENOSPC):
		limit = "fs.inotify.max_user_watches"
	default:
		return err
	}
	return &cli.Hint{Err: err, Hint: "end programs of this user that watch files, or raise the limit " + limit + " (sysctl(8))"}
}

// serves says with which driver a device is served that is plugged in.
func (c *Control) serves(d machine.Device) (driver, id string, ok bool) {
	choice, devid, err := c.choose(d)
	if err != nil || !choice.Ours() {
		return "", "", false
	}
	return choice.Entry.Name, devid.String(), true
}

// lines are the device nodes of the configured readers, with their drivers.
func (c *Control) lines() map[string]string {
	lines := map[string]string{}
	for _, r := range c.Config.Readers {
		t, err := r.Target()
		if err != nil || !readerunit.IsNode(t) {
			continue
		}
		node := t.Path
		if real, err := filepath.EvalSymlinks(c.Root.Path(t.Path)); err == nil {
			if rel, err := filepath.Rel(string(c.Root), real); err == nil {
				node = "/" + rel
			}
		}
		lines[node] = t.Driver
	}
	return lines
}

// StatusWatch keeps the list of readers on the terminal, or prints it each time
// that something has changed, until it is asked to end.
func (c *Control) StatusWatch(asJSON bool) error {
	ctx, stop := untilSignal()
	defer stop()
	resized := make(chan os.Signal, 1)
	signal.Notify(resized, unix.SIGWINCH)
	defer signal.Stop(resized)
	daemon.Economise()
	size := func() (rows, columns int) { return sizeOf(c.Terminal) }
	return c.statusWatch(ctx, asJSON, size, resized)
}

func (c *Control) statusWatch(ctx context.Context, asJSON bool, size func() (rows, columns int), resized <-chan os.Signal) error {
	s := screen{terminal: c.Terminal, out: c.Out, size: size}
	if asJSON || os.Getenv("TERM") == "dumb" {
		s.terminal = nil
	}
	defer s.restore()
	said := ""
	err := monitor.Follow(ctx, c.Dir, resized, func() error {
		text, complaints, err := c.statusText(asJSON)
		if err != nil {
			return err
		}
		if complaints != said {
			said = complaints
			_, _ = io.WriteString(c.Err, complaints)
		}
		return s.show(text, !asJSON)
	})
	if errors.Is(err, fs.ErrPermission) {
		return &cli.Hint{Err: err, Hint: c.whoMayWatch()}
	}
	return explainWatch(err)
}

// coloured says whether a terminal is to have colours (https://no-color.org).
func coloured() bool { return os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb" }
