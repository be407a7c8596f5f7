package control

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"openct/internal/cli"
	"openct/internal/device"
	"openct/internal/devname"
	"openct/internal/machine"
	"openct/internal/notify"
	"openct/internal/readerunit"
	"openct/internal/status"
)

// Errors of readers that are released.
var (
	errReleased = errors.New("the device is released")
	errInUse    = errors.New("a program has locked the card")
	errTaken    = errors.New("the device was unplugged, or served again by openct-control take, meanwhile")
	errAsRoot   = errors.New("only root may release and take readers")
)

// Release ends a reader's handler, so that another program can open the device. No
// handler is started for the device until Take or until it is plugged in anew. A reader
// that a program has locked is released only with force.
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
	case d.Type == "virtual":
		return fmt.Errorf("reader %d is virtual: it has no device that another program could open", e.Index)
	case d.Device == "" || d.Type == devname.TypeRemote || d.Type == devname.TypeUnix:
		return fmt.Errorf("reader %d is another OpenCT's: it has no device here that another program could open", e.Index)
	case len(d.Locks) > 0 && !force:
		return &cli.Hint{Err: fmt.Errorf("reader %d: %w: %s", e.Index, errInUse, c.lockHolders(d.Locks)),
			Hint: fmt.Sprintf("end that program, or release the reader all the same: openct-control release --force %s", name)}
	}
	h, err := c.handlerOf(f, e)
	if err != nil {
		return err
	}
	r := status.Released{
		Reader: e.Index, Name: e.Name, Alias: d.Alias, Driver: d.Driver, Type: d.Type, Device: d.Device, Unit: h.unit,
	}
	node := c.Root.Path(r.Device)
	status.ForgetReleased(c.Dir, string(c.Root))
	if err := c.explainReleased(status.WriteReleased(c.Dir, node, r)); err != nil {
		return err
	}
	if err := h.end(f, d.Device); err != nil {
		return errors.Join(err, status.RemoveReleased(c.Dir, node))
	}
	if _, is := status.ReleasedAt(c.Dir, node); !is {
		return fmt.Errorf("reader %d: %w", e.Index, errTaken)
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
	t, err := c.releasedTarget(r)
	if err != nil {
		return err
	}
	r.Driver, r.Type, r.Device = t.Driver, t.Type, t.Path
	if r.UID != os.Geteuid() {
		// The owner of the file may not say which unit is started.
		r.Unit = c.unitOf(t)
	}
	node := c.Root.Path(t.Path)
	if err := c.explainReleased(status.RemoveReleased(c.Dir, node)); err != nil {
		return err
	}
	if readerunit.IsHandler(r.Unit) && c.Root.SystemdRuns() {
		err = systemctl("start", r.Unit)
	} else {
		err = c.start(t)
	}
	if err == nil {
		fmt.Fprintf(c.Out, "%s is served again\n", r.Device)
		return nil
	}
	if err := status.WriteReleased(c.Dir, node, r); err == nil && readerunit.IsHandler(r.Unit) {
		// systemd would start it again and again.
		_ = systemctl("stop", r.Unit)
	}
	return c.explainTake(t, err)
}

// explainTake names the programs that have a device open that cannot be served. What
// systemctl says is only that the unit has failed.
func (c *Control) explainTake(t devname.Target, err error) error {
	node := c.Root.Path(t.Path)
	if real, rerr := filepath.EvalSymlinks(node); rerr == nil {
		node = real
	}
	var busy device.BusyError
	for _, p := range c.Root.Processes() {
		if slices.Contains(p.Open(), node) {
			busy.Holders = append(busy.Holders, device.Holder{PID: p.PID, Name: cmp.Or(p.Name, "unknown")})
		}
	}
	if len(busy.Holders) == 0 {
		return err
	}
	return &cli.Hint{Err: &busy, Hint: "end the program, then: openct-control take"}
}

// releasedTarget is the device of a released reader.
func (c *Control) releasedTarget(r status.Released) (devname.Target, error) {
	t, err := c.knownTarget(r.Driver, r.Type, r.Device)
	if errors.Is(err, errUnknown) {
		err = &cli.Hint{Err: err, Hint: fmt.Sprintf("rm %s; openct-control attach %s", cli.Quote(r.File()), c.words(r.Driver, r.Type, r.Device))}
	}
	return t, err
}

// isReleased says whether a device is released.
func (c *Control) isReleased(t devname.Target) bool {
	_, is := status.ReleasedAt(c.Dir, c.Root.Path(t.Path))
	return is
}

// refuse is the end of an attach to a released device. systemd starts a
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

// ReleasedReaders names the released readers.
func (c *Control) ReleasedReaders() {
	for _, r := range status.AllReleased(c.Dir, string(c.Root)) {
		c.say("openct-control: reader %s is released; to serve it again: openct-control take %d", released(r), r.Reader)
	}
}

// processName is a process for people.
func (c *Control) processName(pid int, uid uint32) string {
	name := machine.Attribute(c.Root.Path(fmt.Sprintf("proc/%d", pid)), "comm")
	if name == "" {
		name = "a program"
	}
	return fmt.Sprintf("%s (pid %d, uid %d)", name, pid, uid)
}
