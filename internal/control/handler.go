package control

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"

	"golang.org/x/sys/unix"

	"openct/internal/cli"
	"openct/internal/devname"
	"openct/internal/driver"
	"openct/internal/readerunit"
	"openct/internal/status"
)

// The status file and the files beside it belong to the handlers' user. What root
// does for a reader must not follow from them alone: which unit is stopped is asked
// of the kernel, and which device is opened or given to that user is asked of the
// driver table and openct.conf.

// errUnknown: a device is not one that OpenCT serves by itself.
var errUnknown = errors.New("there is no driver for the device")

// handler is the process that serves a reader.
type handler struct {
	entry status.Entry
	unit  string // of systemd; empty: none
}

// handlerOf is the handler of an entry. The unit is looked up first: if the entry's
// process is the handler afterwards, its pid was no other process's before.
func (c *Control) handlerOf(f *status.File, e status.Entry) (handler, error) {
	h := handler{entry: e, unit: readerunit.OfProcess(c.Root, e.PID)}
	if now, err := f.Entry(e.Index); err != nil || now.PID != e.PID || !f.IsHandler(e.Index) {
		return handler{}, errors.Join(fmt.Errorf("reader %d: process %d: %w", e.Index, e.PID, status.ErrNotHandler), err)
	}
	return h, nil
}

// end ends a handler, which serves the device at path.
func (h handler) end(f *status.File, path string) error {
	var err error
	if h.unit != "" {
		err = systemctl("stop", h.unit)
	} else if e, terr := f.Terminate(h.entry.Index); terr != nil {
		err = terr
	} else {
		defer e.Close()
		// Another one may serve the device by then: openct-control take is as quick.
		err = waitUntil(context.Background(), pauseWait, func() bool {
			e, _, is := serving(f, path)
			return !is || e.PID != h.entry.PID
		})
	}
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		return fmt.Errorf("reader %d: the handler has not ended within %v", h.entry.Index, pauseWait)
	case err != nil:
		return fmt.Errorf("reader %d: the handler does not end: %w", h.entry.Index, err)
	}
	return nil
}

// knownTarget is the device that a file of the handlers' user tells, if the driver
// table or openct.conf has it; otherwise the error is errUnknown, and the device is what the file says. Of openct.conf's
// readers it is the path that stands there: another link to the same node may lead
// elsewhere a moment later.
func (c *Control) knownTarget(name, typ, path string) (devname.Target, error) {
	t, err := devname.Parse([]string{name, typ, path}, os.DirFS(c.Root.Path("/")))
	if err != nil {
		return t, err
	}
	if _, ok := driver.ByName(name); !ok {
		return t, fmt.Errorf("%s: there is no driver %q", path, name)
	}
	if r, ok := c.Config.ReaderAt(t); ok {
		return r.Target()
	}
	if d, ok := c.Root.USBDevice(t.Bus, t.Dev); ok && t.Bus > 0 {
		choice, id, err := c.choose(d)
		if err == nil && choice.Ours() {
			return target(d, choice, id), nil
		}
	}
	return t, fmt.Errorf("%w in the driver table or in %s", errUnknown, c.ConfigFile)
}

// ownsDirectory says whether nobody but the caller and root can have written the files
// beside the status file.
func (c *Control) ownsDirectory() bool {
	var dir unix.Stat_t
	return unix.Stat(c.Dir, &dir) == nil && int(dir.Uid) == os.Geteuid() && dir.Mode&0o022 == 0
}

// words are the arguments by which a command names a device that stands in a file beside
// the status file. If the directory is not the caller's, the result does not name the
// device: another user can write any device there, and the command would open it, or give
// it to the handlers' user.
func (c *Control) words(driver, typ, path string) string {
	if !c.ownsDirectory() {
		return "DRIVER TYPE DEVICE"
	}
	return cli.Quote(driver) + " " + cli.Quote(typ) + " " + cli.Quote(path)
}

// unitOf is the unit that systemd has for a device that knownTarget knows; empty:
// none.
func (c *Control) unitOf(t devname.Target) string {
	if d, ok := c.Root.USBDevice(t.Bus, t.Dev); ok && t.Bus > 0 {
		for _, unit := range c.handedToSystemd(d) {
			if readerunit.IsHandler(unit) {
				return unit
			}
		}
		return ""
	}
	units := c.readerUnits()
	for i, instance := range c.Config.Instances() {
		is, err := c.Config.Readers[i].Target()
		if unit := readerunit.Name(instance); err == nil && is == t && units[unit] {
			return unit
		}
	}
	return ""
}

// systemctl waits for what it asks for.
func systemctl(verb, unit string) error {
	out, err := exec.Command("systemctl", verb, "--", unit).CombinedOutput()
	if err != nil {
		return fmt.Errorf("systemctl %s %s: %w: %s", verb, unit, err, strings.TrimSpace(string(out)))
	}
	return nil
}
