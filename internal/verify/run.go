package verify

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"openct/internal/atr"
	"openct/internal/driver"
	"openct/internal/ifd"
	"openct/internal/proto"
	"openct/internal/serial"
	serialrecord "openct/internal/serial/record"
	"openct/internal/usb"
	"openct/internal/usb/record"
)

// Options is what Run checks, and how.
type Options struct {
	Entry   driver.Entry
	Version string // of OpenCT, for the report
	Date    time.Time

	// Open opens the USB device; nil: the driver opens Path, of type Type.
	Open       func() (usb.Device, error)
	Type, Path string
	IFD        ifd.Options // but for Log, which is Run's

	// Progress tells what is done now, and Verdict what was found.
	Progress func(string)
	Verdict  func(Check)

	// Ask asks the user to do something with the card; nil: the card stays in.
	Ask func(string)
}

// Waits. A token is asked for a minute at most: no command here makes it use a key.
const (
	stepTimeout = time.Minute
	slowReset   = 5 * time.Second
	slowCommand = 5 * time.Second
)

// runner is one run of the checks.
type runner struct {
	Options
	report *Report
	usb    *record.Device
	line   *serialrecord.Line
	taken  int // of the device's operations

	openLine func(path string) (serial.Line, error) // without the recorder

	reader ifd.Reader
	slot   ifd.Slot
	atr    *atr.ATR
	raw    []byte
	engine proto.Engine
	broken bool // the card must be reset before the next command
}

// ErrGone: the device has left in the middle of the checks.
var ErrGone = errors.New("the device was unplugged")

// Run opens the reader, checks it and closes it. The report holds what was seen
// also where the checks ended early; then there is an error beside it.
func Run(ctx context.Context, o Options) (*Report, error) {
	r := &runner{Options: o, report: &Report{
		Version: o.Version, Date: o.Date.Format(time.DateOnly), Driver: o.Entry.Name,
	}}
	r.IFD.Log = slog.New(slog.DiscardHandler)
	r.openLine = r.IFD.Open
	r.IFD.OpenLine = func(path string) (serial.Line, error) {
		l, err := r.openLine(path)
		if err != nil {
			return nil, err
		}
		r.line = serialrecord.New(l)
		return r.line, nil
	}
	err := r.run(ctx)
	if err == nil && r.Ask != nil {
		r.exchangeCard(ctx)
	}
	r.report.Mask()
	return r.report, err
}

func (r *runner) run(ctx context.Context) error {
	if err := r.open(ctx); err != nil {
		return err
	}
	defer r.close(ctx)
	if present := r.present(ctx); !present {
		return nil
	}
	if err := r.resets(ctx); err != nil {
		return r.left(ctx)
	}
	r.protocols(ctx)
	if r.engine == nil {
		return r.left(ctx)
	}
	r.commands(ctx)
	return r.left(ctx)
}

// left is the error of a run that an unplug or the user has ended.
func (r *runner) left(ctx context.Context) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	select {
	case <-r.reader.Gone():
		r.verdict(Wrong, "device", "the device was unplugged during the checks")
		return ErrGone
	default:
		return nil
	}
}

func (r *runner) verdict(v Verdict, name, format string, args ...any) {
	c := Check{v, name, fmt.Sprintf(format, args...)}
	r.report.Checks = append(r.report.Checks, c)
	if r.Verdict != nil {
		r.Verdict(c)
	}
}

func (r *runner) progress(format string, args ...any) {
	if r.Progress != nil {
		r.Progress(fmt.Sprintf(format, args...))
	}
}

// step runs one call of the driver and keeps what passed. result is the text of a
// success.
func (r *runner) step(ctx context.Context, s Step, call func(ctx context.Context) (result string, err error)) (Step, error) {
	ctx, cancel := context.WithTimeout(ctx, stepTimeout)
	defer cancel()
	begin := time.Now()
	result, err := call(ctx)
	s.Took = time.Since(begin)
	s.Result = result
	if err != nil {
		s.Result = failed + kindOf(err)
	}
	if r.usb != nil {
		ops := r.usb.Ops()
		s.USB = ops[r.taken:]
		r.taken = len(ops)
	}
	if r.line != nil {
		s.Serial = r.line.Take()
	}
	r.report.Steps = append(r.report.Steps, s)
	return s, err
}

func (r *runner) open(ctx context.Context) error {
	r.progress("open")
	var dev usb.Device
	if r.Open != nil {
		var err error
		if dev, err = r.Open(); err != nil {
			return err
		}
		r.usb = record.New(dev)
		d := *dev.Descriptor()
		d.Interfaces = slices.Clone(d.Interfaces)
		for i := range d.Interfaces {
			d.Interfaces[i].Extra = bytes.Clone(d.Interfaces[i].Extra)
		}
		r.report.Device = &d
		r.verdict(OK, "descriptors", "%s, release %04x, interfaces: %d", d.ID(), d.Release, len(d.Interfaces))
	}
	_, err := r.step(ctx, Step{Do: Open}, func(context.Context) (_ string, err error) {
		if r.usb != nil {
			r.reader, err = r.Entry.Open(r.usb, r.IFD)
		} else {
			r.reader, err = r.Entry.OpenPath[r.Type](r.Path, r.IFD)
		}
		return Success, err
	})
	if err != nil {
		r.verdict(Wrong, "open", "the driver cannot open the device: %s", kindOf(err))
		if dev != nil {
			_ = dev.Close()
		}
		return fmt.Errorf("open with driver %s: %w", r.Entry.Name, err)
	}
	drain(r.reader)
	r.slot = r.reader.Slots()[0]
	return nil
}

func (r *runner) close(ctx context.Context) {
	_, err := r.step(context.WithoutCancel(ctx), Step{Do: Close}, func(context.Context) (string, error) { return Success, r.reader.Close() })
	if err != nil && !errors.Is(err, usb.ErrUnplugged) {
		r.verdict(Odd, "close", "%s", kindOf(err))
	}
}

// present looks for the card in a reader that can lose it.
func (r *runner) present(ctx context.Context) bool {
	p, ok := r.slot.(ifd.Presence)
	if !ok {
		return true
	}
	present := false
	_, err := r.step(ctx, Step{Do: Status}, func(ctx context.Context) (string, error) {
		st, err := p.Status(ctx)
		present = st.Present
		return StatusText(st), err
	})
	switch {
	case err != nil:
		r.verdict(Wrong, "card", "the reader does not report whether a card is inserted: %s", kindOf(err))
	case !present:
		r.verdict(Odd, "card", "no card is inserted: insert one, and run verify again")
	default:
		r.verdict(OK, "card", "a card is inserted")
	}
	return err == nil && present
}

// drain takes a reader's news until it is closed.
func drain(rd ifd.Reader) {
	if n, ok := rd.(ifd.Notifier); ok {
		go func() {
			for range n.Events() {
			}
		}()
	}
}

// gone says whether nothing more can be asked.
func (r *runner) gone(ctx context.Context) bool {
	select {
	case <-r.reader.Gone():
		return true
	default:
		return ctx.Err() != nil
	}
}

// Worst is the worst verdict of the report.
func (r *Report) Worst() Verdict {
	worst := OK
	for _, c := range r.Checks {
		if c.Verdict == Wrong || c.Verdict == Odd && worst == OK {
			worst = c.Verdict
		}
	}
	return worst
}
