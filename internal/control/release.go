package control

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"openct/internal/cli"
	"openct/internal/devname"
	"openct/internal/machine"
	"openct/internal/notify"
	"openct/internal/status"
)

// Errors of readers that are let go.
var (
	errReleased = errors.New("the device is released")
	errInUse    = errors.New("a program has locked the card")
	errAsRoot   = errors.New("only root may release and take readers")
)

// Release lets a reader go, so that another program can open its device: the handler
// ends, and none is started for the device until it is taken back or plugged in anew.
// A reader that a program has locked is let go only with force.
func (c *Control) Release(name string, force bool) error {
	f, err := status.OpenReadOnly(c.Dir)
	if err != nil {
		return err
	}
	defer f.Close()
	e, err := f.Find(name)
	if err != nil {
		return err
	}
	d, err := f.ReadDetail(e)
	// The side file may be a moment older than the end of a program.
	ended := func(pid int) bool { return pid > 0 && !status.Alive(pid) }
	d.Locks = slices.DeleteFunc(d.Locks, func(l status.Lock) bool { return ended(l.PID) })
	d.Connections = slices.DeleteFunc(d.Connections, func(p status.Connection) bool { return ended(p.PID) })
	switch {
	case err != nil:
		return fmt.Errorf("reader %d: the device of this reader is not known: %w", e.Index, err)
	case d.Type == "virtual" || d.Device == "":
		return fmt.Errorf("reader %d is virtual: it has no device that another program could open", e.Index)
	case len(d.Locks) > 0 && !force:
		return &cli.Hint{Err: fmt.Errorf("reader %d: %w: %s", e.Index, errInUse, c.lockHolders(d.Locks)),
			Hint: fmt.Sprintf("end that program, or release the reader all the same: openct-control release --force %s", name)}
	case !f.IsDaemon(e.Index):
		return fmt.Errorf("reader %d: process %d: %w", e.Index, e.PID, status.ErrNotDaemon)
	}
	node := c.Root.Path(d.Device)
	r := status.Released{
		Reader: e.Index, Name: e.Name, Alias: d.Alias, Driver: d.Driver, Type: d.Type, Device: d.Device, Unit: c.handlerUnit(e.PID),
	}
	status.ForgetReleased(c.Dir, string(c.Root))
	if err := c.explainReleased(status.WriteReleased(c.Dir, node, r)); err != nil {
		return err
	}
	if r.Unit != "" {
		err = systemctl("stop", r.Unit)
	} else if err = f.Terminate(e.Index); err == nil {
		err = waitServing(context.Background(), f, d.Device, false, pauseWait)
	}
	if err != nil {
		return errors.Join(fmt.Errorf("reader %d: the handler does not end: %w", e.Index, err), status.RemoveReleased(c.Dir, node))
	}
	for _, p := range d.Connections {
		c.say("%s was connected to the reader and has lost the connection", c.processName(p.PID, p.UID))
	}
	fmt.Fprintf(c.Out, "reader %d is released: other programs can open %s\n", e.Index, d.Device)
	return nil
}

// lockHolders tells which programs hold locks.
func (c *Control) lockHolders(locks []status.Lock) string {
	var all []string
	for _, l := range locks {
		kind := "a shared lock"
		if l.Exclusive {
			kind = "an exclusive lock"
		}
		all = append(all, fmt.Sprintf("%s has held %s since %s", c.processName(l.PID, l.UID), kind, l.Since.Local().Format(time.TimeOnly)))
	}
	return strings.Join(all, "; ")
}

// explainReleased adds what to do where the files about released readers cannot be
// written.
func (c *Control) explainReleased(err error) error {
	if errors.Is(err, fs.ErrPermission) {
		return &cli.Hint{Err: fmt.Errorf("%w: %w", errAsRoot, err), Hint: "run openct-control as root"}
	}
	return err
}

// handlerUnit is the unit of one handler that a process belongs to, as the kernel
// tells; empty: it is no such unit's. A handler that init has started itself is in the
// unit of init, which has others in it as well.
func (c *Control) handlerUnit(pid int) string {
	b, err := os.ReadFile(c.Root.Path(fmt.Sprintf("proc/%d/cgroup", pid)))
	if err != nil || !c.Root.SystemdRuns() {
		return ""
	}
	if unit := notify.UnitOf(string(b)); isOurUnit(unit) && strings.Contains(unit, "@") {
		return unit
	}
	return ""
}

// Take serves readers again that were released: those that are named, by the number
// that they had, their name or their device; or all.
func (c *Control) Take(names []string) error {
	all := status.AllReleased(c.Dir, string(c.Root))
	take := all
	if len(names) > 0 {
		take = nil
	}
	for _, name := range names {
		r, err := findReleased(all, name)
		if err != nil {
			return err
		}
		take = append(take, r)
	}
	if len(all) == 0 {
		fmt.Fprintln(c.Out, "no reader is released")
	}
	var failed []error
	for _, r := range take {
		if err := c.take(r); err != nil {
			failed = append(failed, fmt.Errorf("%s stays released: %w", r.Device, err))
		}
	}
	if len(failed) == 1 {
		return failed[0] // with its hint
	}
	return errors.Join(failed...)
}

// findReleased is the released reader that a user names.
func findReleased(all []status.Released, name string) (status.Released, error) {
	number, isNumber := status.ReaderNumber(name)
	var found []status.Released
	var there []string
	for _, r := range all {
		if isNumber && r.Reader == number || !isNumber && r.Alias == name && name != "" || r.Device == name {
			found = append(found, r)
		}
		there = append(there, released(r))
	}
	switch {
	case len(found) == 1:
		return found[0], nil
	case len(found) > 1:
		return status.Released{}, &cli.Hint{Err: fmt.Errorf("reader %q: %w", name, status.ErrAmbiguous),
			Hint: "name the device of the reader: " + found[0].Device + " or " + found[1].Device}
	case len(all) == 0:
		return status.Released{}, fmt.Errorf("reader %q is not released; no reader is released", name)
	}
	return status.Released{}, fmt.Errorf("reader %q is not released; the released readers are %s", name, strings.Join(there, ", "))
}

// released is a released reader for people: 0 (office, /dev/bus/usb/001/004).
func released(r status.Released) string {
	if r.Alias != "" {
		return fmt.Sprintf("%d (%s, %s)", r.Reader, r.Alias, r.Device)
	}
	return fmt.Sprintf("%d (%s)", r.Reader, r.Device)
}

// take serves one released reader. Where that fails, it stays released.
func (c *Control) take(r status.Released) error {
	if euid := os.Geteuid(); r.UID != euid && r.UID != 0 {
		return fmt.Errorf("the file that records the release belongs to user %d: %w", r.UID, fs.ErrPermission)
	}
	t, err := c.releasedTarget(r)
	if err != nil {
		return err
	}
	node := c.Root.Path(r.Device)
	if err := c.explainReleased(status.RemoveReleased(c.Dir, node)); err != nil {
		return err
	}
	if r.Unit != "" && c.Root.SystemdRuns() {
		err = systemctl("start", r.Unit)
	} else {
		err = c.start(t)
	}
	if err == nil {
		fmt.Fprintf(c.Out, "%s is served again\n", r.Device)
		return nil
	}
	if err := status.WriteReleased(c.Dir, node, r); err == nil && r.Unit != "" {
		// It would be tried again and again.
		_ = systemctl("stop", r.Unit)
	}
	return err
}

// releasedTarget is the device of a released reader. Where a handler's user said what
// it serves, root must not give that user any device for it: it is one that OpenCT
// serves by driver table or openct.conf.
func (c *Control) releasedTarget(r status.Released) (devname.Target, error) {
	t, err := devname.Parse([]string{r.Driver, r.Type, r.Device}, os.DirFS(c.Root.Path("/")))
	if err != nil {
		return t, err
	}
	if _, ok := c.Config.ReaderAt(t); ok {
		return t, nil
	}
	if d, ok := c.Root.USBDevice(t.Bus, t.Dev); ok && t.Bus > 0 {
		choice, id, err := c.choose(d)
		if err == nil && choice.Ours() {
			return target(d, choice, id), nil
		}
	}
	return t, &cli.Hint{Err: fmt.Errorf("neither the driver table nor %s has a driver for the device", c.ConfigFile),
		Hint: fmt.Sprintf("rm %s; openct-control attach %s %s %s", r.File(), r.Driver, r.Type, r.Device)}
}

// isReleased says whether a device was let go.
func (c *Control) isReleased(t devname.Target) bool {
	_, is := status.ReleasedAt(c.Dir, c.Root.Path(t.Path))
	return is
}

// refuse is the end of an attach to a device that was let go. systemd starts a
// unit when udev is told to look at a device again (udevadm trigger --action=add); that
// it is not to be served is no failure of the unit.
func (c *Control) refuse(r status.Released) error {
	err := &cli.Hint{Err: fmt.Errorf("%s: %w", r.Device, errReleased), Hint: "openct-control take " + strconv.Itoa(r.Reader)}
	if !mainProcess() {
		return err
	}
	notify.FromEnv(slog.New(slog.DiscardHandler)).Ready("released")
	c.say("%v", err.Err)
	return nil
}

// ReleasedReaders names the readers that were let go.
func (c *Control) ReleasedReaders() {
	for _, r := range status.AllReleased(c.Dir, string(c.Root)) {
		c.say("openct-control: reader %s is released; to serve it again: openct-control take %d", released(r), r.Reader)
	}
}

// processName is a process for people.
func (c *Control) processName(pid, uid int) string {
	name := machine.Attribute(c.Root.Path(fmt.Sprintf("proc/%d", pid)), "comm")
	if name == "" {
		name = "a program"
	}
	return fmt.Sprintf("%s (pid %d, uid %d)", name, pid, uid)
}
