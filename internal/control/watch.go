package control

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"openct/internal/cli"
	"openct/internal/daemon"
	"openct/internal/devname"
	"openct/internal/driver"
	"openct/internal/logging"
	"openct/internal/machine"
	"openct/internal/notify"
	"openct/internal/readerunit"
	"openct/internal/status"
	"openct/internal/uevent"
)

// A handler that fails is started again after a pause, as its systemd unit would
// be (RestartSec of openct-handler@.service). One that fails at once may have met
// a node that udev or mdev has just given to somebody else.
const (
	restartPause = time.Second
	attempts     = 3
)

// handlersEnd is how long the process that watches waits for the end of the handlers
// that it has started.
const handlersEnd = 5 * time.Second

// watcher serves devices as they come.
type watcher struct {
	*Control
	log *slog.Logger

	// Of the handlers that it has started, and of the goroutines that start them.
	ctx  context.Context
	work sync.WaitGroup
	room chan struct{} // for devices that are being started at the same time

	pause time.Duration
}

func newWatcher(ctx context.Context, c *Control, log *slog.Logger) *watcher {
	return &watcher{Control: c, log: log, ctx: ctx, room: make(chan struct{}, status.Entries), pause: restartPause}
}

// Watch serves the readers of the configuration and what is plugged in, unless
// noColdplug also what was plugged in before, until it is asked to end. The
// handlers that it has started end with it.
func (c *Control) Watch(noColdplug bool) error {
	if err := c.prepare(); err != nil {
		return err
	}
	started := daemon.Started()
	lock, err := status.LockWatch(c.Dir)
	if errors.Is(err, status.ErrBusy) && started {
		return nil // it runs already
	}
	if err != nil {
		return &cli.Hint{Err: err, Hint: "end the running one with: openct-control shutdown"}
	}
	defer lock.Close()
	events, err := uevent.Listen()
	if err != nil {
		return err
	}
	defer events.Close()
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGTERM, unix.SIGINT, unix.SIGHUP)
	defer stop()

	daemon.Economise()
	// It does as well without the name.
	_ = os.WriteFile("/proc/self/comm", []byte(status.WatchProcess), 0)
	to := logging.Options{Debug: max(c.Debug, c.Config.Debug), Syslog: c.Syslog || started, Stderr: c.Err, Ident: status.WatchProcess}
	if started {
		to.Stderr = io.Discard
		daemon.ReportReady()
	}
	log := logging.New(to)
	notify.FromEnv(log).Ready("watching for devices")
	_ = os.Unsetenv("NOTIFY_SOCKET") // handlers are not the service that has it
	var first []func(*watcher)
	if !started { // otherwise init serves what is there
		first = append(first, (*watcher).readers)
		if !noColdplug {
			first = append(first, (*watcher).devices)
		}
	}
	return c.watch(ctx, events, log, first...)
}

// listener is where events come from: uevent.Listener, and others in tests.
type listener interface {
	Next() (uevent.Event, error)
	Close() error
}

// watch serves what events tell of, after what is done first.
func (c *Control) watch(ctx context.Context, events listener, log *slog.Logger, first ...func(*watcher)) error {
	ctx, cancel := context.WithCancel(ctx)
	w := newWatcher(ctx, c, log)
	defer w.end()
	defer cancel()
	defer context.AfterFunc(ctx, func() { events.Close() })()
	w.run(func() {
		for _, f := range first {
			f(w)
		}
	})
	log.Info("watching for devices")
	for {
		e, err := events.Next()
		switch {
		case err == nil:
			w.take(e)
		case errors.Is(err, uevent.ErrOverflow):
			log.Warn("device events were lost; looking at all devices", "error", err)
			w.run(w.scan)
		case ctx.Err() != nil:
			log.Info("no longer watching for devices")
			return nil
		default:
			return err
		}
	}
}

// run leaves a goroutine behind for which end waits.
func (w *watcher) run(f func()) {
	w.work.Add(1)
	go func() {
		defer w.work.Done()
		f()
	}()
}

// end waits for the handlers, which have been asked to end.
func (w *watcher) end() {
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		w.work.Wait()
	}()
	select {
	case <-ended:
	case <-time.After(handlersEnd):
		w.log.Warn("some handlers do not end; no longer waiting for them")
	}
}

// take starts what an event asks for. A handler notices by itself that its device
// is gone.
func (w *watcher) take(e uevent.Event) {
	if e.Action != "add" {
		return
	}
	node := "/dev/" + e.Node
	switch {
	case e.Subsystem == "usb" && e.DevType == "usb_device":
		t, err := devname.Parse([]string{node}, os.DirFS(w.Root.Path("/")))
		if err != nil {
			return
		}
		w.run(func() {
			if d, ok := w.Root.USBDevice(t.Bus, t.Dev); ok {
				w.device(d)
			}
		})
	case e.Subsystem == "tty" && e.Node != "":
		if len(w.Config.Readers) > 0 {
			w.run(func() { w.readersAt(node) })
		}
	}
}

// scan serves all that is there, one after the other, in init's order.
func (w *watcher) scan() {
	w.readers()
	w.devices()
}

func (w *watcher) readers() { w.readersAt("") }

func (w *watcher) devices() {
	devices, err := w.Root.USBDevices()
	if err != nil {
		w.log.Error("cannot list the devices that are plugged in", "error", err)
	}
	for _, d := range devices {
		w.device(d)
	}
}

// device serves a USB device that has a driver and is not another's.
func (w *watcher) device(d machine.Device) {
	choice, id, err := w.choose(d)
	if errors.Is(err, driver.ErrNoDriver) || err == nil && !choice.Ours() {
		return
	}
	if w.isReleased(devname.Target{Path: d.Node()}) {
		return
	}
	if err == nil {
		w.settled()
		if w.handedToSystemd(d) != nil {
			return
		}
		err = w.serveChild(target(d, choice, id))
	}
	w.failed(d.Node(), err)
}

// readersAt serves the readers of openct.conf whose device is node, or with node
// empty those whose device is there.
func (w *watcher) readersAt(node string) {
	if node != "" {
		w.settled() // udev makes the links by which readers are configured
	}
	for i, instance := range w.Config.Instances() {
		t, err := w.Config.Readers[i].Target()
		if err == nil && readerunit.IsNode(t) {
			real, lerr := filepath.EvalSymlinks(w.Root.Path(t.Path))
			if lerr != nil || node != "" && real != w.Root.Path(node) {
				continue // its event comes with it
			}
		} else if node != "" {
			continue
		}
		if err == nil && !w.isReleased(t) {
			err = w.serveChild(t)
		}
		w.failed("reader "+instance, err)
	}
}

// settled waits until udev, where it runs, has given the node its owner and links.
func (w *watcher) settled() {
	if err := w.settle(); err != nil {
		w.log.Warn("not waiting for udev any more", "error", err)
	}
}

// failed logs why something is not served, unless the handler has done so.
func (w *watcher) failed(what string, err error) {
	var exit cli.ErrExit
	if err == nil || errors.As(err, &exit) {
		return
	}
	w.log.Error("cannot serve "+what, "error", err)
}

// serveChild starts a handler and leaves a goroutine behind that waits for its end
// or brings it about.
func (w *watcher) serveChild(t devname.Target) error {
	child, err := w.tryChild(t)
	for tried := 1; err != nil && tried < attempts && w.again(t); tried++ {
		child, err = w.tryChild(t)
	}
	if err != nil || child == nil {
		return err
	}
	w.log.Info("handler is ready", "device", t.Path, "pid", child.Pid)
	w.run(func() {
		// One that has ended needs no signal.
		stop := context.AfterFunc(w.ctx, func() { _ = child.Signal(unix.SIGTERM) })
		defer stop()
		state, err := child.Wait()
		switch {
		case err != nil:
			w.log.Error("cannot wait for the handler", "device", t.Path, "error", err)
		case !state.Success():
			w.log.Error("handler has failed", "device", t.Path, "error", state.String())
			if w.again(t) {
				w.failed(t.Path, w.serveChild(t))
			}
		default:
			w.log.Info("handler has ended", "device", t.Path)
		}
	})
	return nil
}

// watches says whether init starts the process that watches.
func (c *Control) watches() bool { return c.Config.Hotplug && !c.Root.SystemdRuns() }

func (w *watcher) tryChild(t devname.Target) (*os.Process, error) {
	select {
	case w.room <- struct{}{}:
	case <-w.ctx.Done():
		return nil, nil
	}
	defer func() { <-w.room }()
	return w.startChild(t)
}

// again waits before a device is served again, and says whether that is to be done.
func (w *watcher) again(t devname.Target) bool {
	pause := time.NewTimer(w.pause)
	defer pause.Stop()
	select {
	case <-pause.C:
	case <-w.ctx.Done():
		return false
	}
	if t.Bus > 0 {
		_, there := w.Root.USBDevice(t.Bus, t.Dev)
		return there
	}
	return !readerunit.IsNode(t) || w.Root.Exists(t.Path)
}

// startWatch starts the process that watches, unless it runs. What is plugged in
// now is left to this process.
func (c *Control) startWatch() error {
	exe, err := os.Executable()
	if err != nil {
		return err
	}
	var args []string
	if c.Debug > 0 {
		args = append(args, "-"+strings.Repeat("d", c.Debug))
	}
	if c.ConfigFile != cli.ConfigFile {
		file, err := filepath.Abs(c.ConfigFile)
		if err != nil {
			return err
		}
		args = append(args, "-f", file)
	}
	cmd := exec.Command(exe, append(args, "watch")...)
	cmd.Args[0] = "openct-control"
	cmd.Dir = "/"
	cmd.Stderr = c.Err
	cmd.SysProcAttr = &syscall.SysProcAttr{}
	child, err := daemon.Detach(cmd)
	var exit *exec.ExitError
	switch {
	case child != nil:
		return child.Release()
	case errors.As(err, &exit):
		return fmt.Errorf("openct-control watch failed, so devices that are plugged in later are not served: %w", err)
	}
	return err
}
