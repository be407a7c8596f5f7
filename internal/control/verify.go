package control

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"os/signal"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"openct/internal/cli"
	"openct/internal/daemon"
	"openct/internal/devname"
	"openct/internal/driver"
	"openct/internal/status"
	"openct/internal/usb"
	"openct/internal/verify"
)

// VerifyOptions are the options of verify.
type VerifyOptions struct {
	Output string // the report's file; empty: a name made from driver and id
	Card   bool   // have the card taken out and put in
	Unplug bool   // have the device unplugged and plugged in

	Suspend bool // suspend the machine
}

// Verify checks a reader and the card in it, and writes a report. The operand is a
// reader's number or a device; without one it is the only reader there is. What
// serves the device is stopped for that time.
func (c *Control) Verify(operands []string, o VerifyOptions) error {
	t, err := c.verifyTarget(operands)
	if err != nil {
		return err
	}
	var sleep *sleeper
	if o.Suspend {
		if sleep, err = c.newSleeper(t, os.Geteuid()); err != nil {
			return err
		}
	}
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGTERM, unix.SIGINT, unix.SIGHUP)
	defer stop()
	resume, err := c.pause(&t)
	if err != nil {
		return err
	}
	r, path, err := c.examine(ctx, t, o)
	if rerr := resume(); rerr != nil {
		err = errors.Join(err, fmt.Errorf("the handler was stopped for the checks and cannot be started again: %w", rerr))
	}
	if r == nil {
		return err
	}
	if o.Unplug && t.Type != "virtual" && ctx.Err() == nil {
		c.unplug(ctx, t, r)
	}
	if sleep != nil && ctx.Err() == nil {
		c.suspend(ctx, sleep, r)
	}
	return c.finish(r, path, err)
}

// verifyTarget is the device that the operands mean.
func (c *Control) verifyTarget(operands []string) (devname.Target, error) {
	if len(operands) > 1 || len(operands) == 1 && !isNumber(operands[0]) && !c.isAlias(operands[0]) {
		return devname.Parse(operands, os.DirFS(c.Root.Path("/")))
	}
	f, err := status.OpenReadOnly(c.Dir)
	if err != nil {
		return devname.Target{}, &cli.Hint{Err: err,
			Hint: "to check a device without OpenCT, name it (lsusb prints bus and device number): openct-control verify 001/004"}
	}
	defer f.Close()
	live, err := living(f)
	if err != nil {
		return devname.Target{}, err
	}
	var found []status.Entry
	for _, e := range live {
		if len(operands) == 0 || strconv.Itoa(e.Index) == operands[0] || !isNumber(operands[0]) && f.Alias(e) == operands[0] {
			found = append(found, e)
		}
	}
	switch {
	case len(found) == 0 && len(operands) == 1:
		return devname.Target{}, fmt.Errorf("reader %s does not exist", operands[0])
	case len(found) == 0:
		return devname.Target{}, &cli.Hint{Err: errors.New("no reader is served"),
			Hint: "plug the device in, or name it (lsusb prints bus and device number), such as: openct-control verify 001/004"}
	case len(found) > 1:
		return devname.Target{}, &cli.Hint{Err: fmt.Errorf("%d readers are served, and none is named", len(found)),
			Hint: "name one of them by its number, such as: openct-control verify " + strconv.Itoa(found[0].Index)}
	}
	d, err := f.ReadDetail(found[0])
	if err != nil {
		return devname.Target{}, fmt.Errorf("reader %d: %w", found[0].Index, err)
	}
	if d.Device == "" {
		return devname.Target{}, &cli.Hint{Err: fmt.Errorf("reader %d is virtual: it has no device to check", found[0].Index),
			Hint: "have verify make a virtual reader of its own, such as: openct-control verify " + d.Driver + " virtual piv"}
	}
	t, err := c.knownTarget(d.Driver, d.Type, d.Device)
	if errors.Is(err, errUnknown) && c.ownsDirectory() {
		return t, nil
	}
	if errors.Is(err, errUnknown) {
		err = &cli.Hint{Err: fmt.Errorf("reader %d: %w", found[0].Index, err), Hint: "openct-control verify " + c.words(d.Driver, d.Type, d.Device)}
	}
	return t, err
}

// isAlias says whether a reader that is there has this name.
func (c *Control) isAlias(name string) bool {
	f, err := status.OpenReadOnly(c.Dir)
	if err != nil {
		return false
	}
	defer f.Close()
	_, err = f.Find(name)
	return err == nil || errors.Is(err, status.ErrAmbiguous)
}

func isNumber(s string) bool {
	_, err := strconv.ParseUint(s, 10, 8)
	return err == nil
}

// pauseWait is how long a handler may take to end, or to be ready again.
const pauseWait = 30 * time.Second

// pause ends the handler that serves a device, if one does, and returns what starts
// it again.
func (c *Control) pause(t *devname.Target) (resume func() error, err error) {
	nothing := func() error { return nil }
	f, err := status.OpenReadOnly(c.Dir)
	if errors.Is(err, status.ErrNotInitialised) || errors.Is(err, fs.ErrNotExist) {
		return nothing, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	e, d, ok := serving(f, t.Path)
	if !ok {
		return nothing, nil
	}
	h, err := c.handlerOf(f, e)
	if err != nil {
		return nil, err
	}
	if h.unit != "" {
		fmt.Fprintf(c.Err, "stopping %s for the checks\n", h.unit)
		return func() error { return systemctl("start", h.unit) }, h.end(f, t.Path)
	}
	fmt.Fprintf(c.Err, "ending the handler of reader %d for the checks\n", e.Index)
	again := *t
	if _, ok := driver.ByName(d.Driver); ok {
		again.Driver = d.Driver
	}
	return func() error { return c.start(again) }, h.end(f, t.Path)
}

// serving is the entry of the reader at a device.
func serving(f *status.File, path string) (status.Entry, status.Detail, bool) {
	return servingAs(f, func(d status.Detail) bool { return d.Device == path })
}

// servingAs is the entry of the reader that is the one.
func servingAs(f *status.File, is func(status.Detail) bool) (status.Entry, status.Detail, bool) {
	all, err := f.Entries()
	if err != nil {
		return status.Entry{}, status.Detail{}, false
	}
	for _, e := range all {
		if !e.InUse() || e.Name == "" {
			continue
		}
		if d, err := f.ReadDetail(e); err == nil && is(d) {
			return e, d, true
		}
	}
	return status.Entry{}, status.Detail{}, false
}

// look is how often waitUntil looks. It measures, so it does so often.
const look = 5 * time.Millisecond

// waitServing waits until a device is served, or is no more.
func waitServing(ctx context.Context, f *status.File, path string, want bool, patience time.Duration) error {
	return waitUntil(ctx, patience, func() bool {
		_, _, is := serving(f, path)
		return is == want
	})
}

func waitUntil(ctx context.Context, patience time.Duration, is func() bool) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	tick := time.NewTicker(look)
	defer tick.Stop()
	for {
		if is() {
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// examine runs the checks, with a line for each verdict. Where the device cannot be
// opened there is no report.
func (c *Control) examine(ctx context.Context, t devname.Target, o VerifyOptions) (*verify.Report, string, error) {
	log := slog.New(slog.DiscardHandler)
	dev, entry, err := daemon.OpenDevice(t, c.Openers, c.Config, log)
	if err != nil {
		return nil, "", daemon.Explain(err, t.Type)
	}
	if entry.Connect != nil {
		return nil, "", fmt.Errorf("%v: another OpenCT serves it; verify checks a reader where that is plugged in", t)
	}
	first := dev
	run := verify.Options{
		Entry: entry, Version: cli.Version, Date: time.Now(), Type: t.Type, Path: t.Path,
		IFD: daemon.ReaderOptions(entry, t, c.Config, log),
	}
	name := "openct-report-" + entry.Name
	if dev != nil {
		d := dev.Descriptor()
		name += fmt.Sprintf("-%04x-%04x-%04x", d.Vendor, d.Product, d.Release)
		run.Open = func() (usb.Device, error) {
			if dev := first; dev != nil {
				first = nil
				return dev, nil
			}
			dev, _, err := daemon.OpenDevice(t, c.Openers, c.Config, log)
			return dev, err
		}
	}
	path := o.Output
	if path == "" {
		path = name + ".txt"
	}
	if _, err := os.Lstat(path); err == nil {
		if dev != nil {
			_ = dev.Close()
		}
		return nil, "", &cli.Hint{Err: fmt.Errorf("%s: %w", path, fs.ErrExist), Hint: "remove the old report, or name another file with -o"}
	}
	show := newShow(c.Out, c.Err)
	run.Progress, run.Verdict = show.progress, show.verdict
	if o.Card {
		run.Ask = show.ask
	}
	fmt.Fprintf(c.Out, "%s (driver %s): no PIN is sent, nothing is written, no key is used\n", entry.Reader, entry.Name)
	r, err := verify.Run(ctx, run)
	show.progress("")
	return r, path, err
}

// finish writes the report.
func (c *Control) finish(r *verify.Report, path string, failed error) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return errors.Join(failed, err)
	}
	_, err = r.WriteTo(f)
	if err = errors.Join(err, f.Close()); err != nil {
		return errors.Join(failed, err)
	}
	fmt.Fprintf(c.Out, "report: %s\n", path)
	if why := r.Unplayable(); why != "" {
		fmt.Fprintf(c.Err, "note: no test can be made from the report: %s\n", why)
	}
	if failed != nil {
		return failed
	}
	if r.Worst() == verify.Wrong {
		return cli.ErrExit(1)
	}
	return nil
}

// show prints what goes on: verdicts as lines, and on a terminal what is done now
// as a line that changes.
type show struct {
	out, err io.Writer
	terminal bool
}

func newShow(out, err io.Writer) *show {
	s := &show{out: out, err: err}
	if f, ok := err.(*os.File); ok {
		_, e := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
		s.terminal = e == nil
	}
	return s
}

// eraseLine begins the terminal's line anew (ECMA-48, EL).
const eraseLine = "\r\x1b[K"

func (s *show) progress(what string) {
	if s.terminal {
		fmt.Fprint(s.err, eraseLine+what)
	}
}

func (s *show) verdict(v verify.Check) {
	s.progress("")
	fmt.Fprintln(s.out, v)
}

func (s *show) ask(what string) { s.note("please " + what) }

func (s *show) note(what string) {
	s.progress("")
	fmt.Fprintln(s.err, what)
}

// adder adds verdicts of a check to a report, and prints them.
func (s *show) adder(r *verify.Report, name string) func(v verify.Verdict, format string, args ...any) {
	return func(v verify.Verdict, format string, args ...any) {
		check := verify.Check{Verdict: v, Name: name, Text: fmt.Sprintf(format, args...)}
		r.Checks = append(r.Checks, check)
		s.verdict(check)
	}
}
