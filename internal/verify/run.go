package verify

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
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

// resets is how often the card is reset.
const resets = 10

// Waits. A token is asked for a minute at most: no command here makes it use a key.
const (
	stepTimeout = time.Minute
	slowReset   = 5 * time.Second
	slowCommand = 5 * time.Second
)

// Commands. All are SELECT and GET DATA (ISO/IEC 7816-4, 7.1.1 and 7.4.2): a card
// that does not know the file or the object says so, and nothing in it changes.
var (
	selectMF = []byte{0x00, 0xA4, 0x00, 0x00, 0x02, 0x3F, 0x00}

	// The PIV application and two of its objects that need no PIN: the CHUID and
	// the certificate of key 9A, the longest (NIST SP 800-73-4, part 1, 2.2 and table 3).
	pivAID      = []byte{0xA0, 0x00, 0x00, 0x03, 0x08, 0x00, 0x00, 0x10, 0x00, 0x01, 0x00}
	chuid       = []byte{0x5C, 0x03, 0x5F, 0xC1, 0x02}
	certificate = []byte{0x5C, 0x03, 0x5F, 0xC1, 0x05}
)

// command is one of the checks that are a command to the card.
type command struct {
	name string
	what string
	apdu []byte
}

func short(header [4]byte, data []byte, le bool) []byte {
	b := append(header[:], byte(len(data)))
	b = append(b, data...)
	if le {
		b = append(b, 0)
	}
	return b
}

func extended(header [4]byte, data []byte, le bool) []byte {
	b := append(header[:], 0, byte(len(data)>>8), byte(len(data)))
	b = append(b, data...)
	if le {
		b = append(b, 0, 0)
	}
	return b
}

var (
	selectName  = [4]byte{0x00, 0xA4, 0x04, 0x00}
	selectChain = [4]byte{0x10, 0xA4, 0x04, 0x00} // not the last command (ISO/IEC 7816-4, 5.1.1)
	getData     = [4]byte{0x00, 0xCB, 0x3F, 0xFF}
)

// commands are the commands in their order.
func commands() []command {
	return []command{
		{"short", "SELECT of the master file", selectMF},
		{"short, again", "the same", selectMF},
		{"application", "SELECT of the PIV application", short(selectName, pivAID, true)},
		{"data", "GET DATA of a short object", short(getData, chuid, true)},
		{"long answer", "GET DATA of a long object", short(getData, certificate, true)},
		{"long answer, again", "the same", short(getData, certificate, true)},
		{"long command", "SELECT of a name of 255 bytes, which no card has", short(selectName, make([]byte, 255), false)},
		{"extended", "SELECT with extended lengths", extended(selectName, pivAID, true)},
		{"extended answer", "GET DATA with extended lengths", extended(getData, certificate, true)},
		{"extended command", "SELECT of a name of 512 bytes, which no card has", extended(selectName, make([]byte, 512), false)},
		{"chain, first", "SELECT in two commands, the first", short(selectChain, pivAID[:5], false)},
		{"chain, second", "the second", short(selectName, pivAID[5:], true)},
	}
}

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
var ErrGone = errors.New("the device has left")

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
		r.verdict(Wrong, "device", "it has left in the middle of the checks")
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
		r.verdict(Wrong, "open", "the driver does not take the device: %s", kindOf(err))
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
		r.verdict(Wrong, "card", "the reader does not tell whether a card is in: %s", kindOf(err))
	case !present:
		r.verdict(Odd, "card", "none is in: put one in, and run the checks again")
	default:
		r.verdict(OK, "card", "a card is in")
	}
	return err == nil && present
}

func (r *runner) reset(ctx context.Context) (Step, error) {
	r.engine, r.atr, r.raw = nil, nil, nil
	s, err := r.step(ctx, Step{Do: Reset}, func(ctx context.Context) (string, error) {
		raw, err := r.slot.Reset(ctx)
		r.raw = raw
		return ResetText(raw), err
	})
	if err == nil {
		r.atr, _ = atr.Parse(r.raw)
		r.broken = false
	}
	return s, err
}

func (r *runner) resets(ctx context.Context) error {
	var first []byte
	var took []time.Duration
	var lost error
	different := false
	for i := range resets {
		r.progress("reset %d of %d", i+1, resets)
		s, err := r.reset(ctx)
		if err != nil {
			lost = err
			if r.gone(ctx) {
				break
			}
			continue
		}
		took = append(took, s.Took)
		if first == nil {
			first = bytes.Clone(r.raw)
		}
		different = different || !bytes.Equal(first, r.raw)
	}
	switch {
	case len(took) == 0:
		r.verdict(Wrong, "reset", "the card does not answer: %s", kindOf(lost))
		return lost
	case lost != nil:
		r.verdict(Wrong, "reset", "%d of %d succeed; else: %s", len(took), resets, kindOf(lost))
	case slices.Max(took) > slowReset:
		r.verdict(Odd, "reset", "%d of %d, slow: %s", len(took), resets, span(took))
	default:
		r.verdict(OK, "reset", "%d of %d, %s", len(took), resets, span(took))
	}
	r.answerToReset(first, different)
	if r.raw == nil {
		_, err := r.reset(ctx)
		return err
	}
	return nil
}

func (r *runner) answerToReset(raw []byte, different bool) {
	_, err := atr.Parse(raw)
	text := strings.TrimPrefix(atrText(raw), atrWord)
	switch {
	case different:
		r.verdict(Odd, "ATR", "not always the same; the first is %s", text)
	case errors.Is(err, atr.ErrInvalid):
		r.verdict(Wrong, "ATR", "%d bytes that are none", len(raw))
	case err != nil:
		r.verdict(Odd, "ATR", "%s: it breaks ISO/IEC 7816-3", text)
	default:
		r.verdict(OK, "ATR", "%s", text)
	}
}

// span is the range of times.
func span(took []time.Duration) string {
	return fmt.Sprintf("%d to %d ms", slices.Min(took).Milliseconds(), slices.Max(took).Milliseconds())
}

// choose makes the engine for a protocol.
func (r *runner) choose(ctx context.Context, p proto.ID) error {
	_, err := r.step(ctx, Step{Do: Protocol, Protocol: p}, func(ctx context.Context) (string, error) {
		e, err := r.slot.Protocol(ctx, p, r.atr)
		if err != nil {
			return "", err
		}
		r.engine = e
		return e.ID().String(), nil
	})
	return err
}

// protocols tries every protocol that the ATR offers, each after a reset, and ends
// with the one that is used.
func (r *runner) protocols(ctx context.Context) {
	if r.atr != nil {
		for _, p := range r.atr.Protocols()[1:] {
			r.progress("protocol %v", p)
			err := r.choose(ctx, p)
			switch {
			case errors.Is(err, ifd.ErrNotSupported):
				r.verdict(OK, "protocol "+p.String(), "the card offers it, the reader does not carry it")
			case err != nil:
				r.verdict(Odd, "protocol "+p.String(), "the card offers it, to choose it fails: %s", kindOf(err))
			default:
				s, _, err := r.transmit(ctx, selectMF)
				if err != nil {
					r.verdict(Wrong, "protocol "+p.String(), "%s", kindOf(err))
				} else {
					r.verdict(OK, "protocol "+p.String(), "chosen, %s", s.Result)
				}
			}
			if _, err := r.reset(ctx); err != nil {
				r.verdict(Wrong, "protocol "+p.String(), "no reset after it: %s", kindOf(err))
				return
			}
		}
	}
	if err := r.choose(ctx, proto.Default); err != nil {
		r.verdict(Wrong, "protocol", "the card was reset, but no command can be sent: %s", kindOf(err))
		return
	}
	r.verdict(OK, "protocol", "%v", r.engine.ID())
}

func (r *runner) transmit(ctx context.Context, apdu []byte) (Step, []byte, error) {
	var resp []byte
	s, err := r.step(ctx, Step{Do: Transmit, Command: apdu}, func(ctx context.Context) (_ string, err error) {
		resp, err = r.engine.Transmit(ctx, apdu, nil)
		return ResponseText(resp), err
	})
	return s, resp, err
}

// maxMore is how many times more data are fetched for one answer.
const maxMore = 64

// transact is transmit, and GET RESPONSE for as long as the card says that more is
// there (ISO/IEC 7816-4, 5.3.4, SW1 61).
func (r *runner) transact(ctx context.Context, apdu []byte) (resp []byte, took time.Duration, transfers int, err error) {
	for range maxMore {
		s, part, err := r.transmit(ctx, apdu)
		took += s.Took
		transfers += len(s.USB) + len(s.Serial)
		if err != nil {
			return nil, took, transfers, err
		}
		n := len(part)
		if n < 2 {
			return part, took, transfers, nil
		}
		resp = append(resp, part[:n-2]...)
		if part[n-2] != 0x61 {
			return append(resp, part[n-2:]...), took, transfers, nil
		}
		apdu = []byte{0x00, 0xC0, 0x00, 0x00, part[n-1]}
	}
	return nil, took, transfers, proto.ErrTooLong
}

func (r *runner) commands(ctx context.Context) {
	limits := proto.LimitsOf(r.slot).Min(proto.LimitsOf(r.engine))
	last := map[string][]byte{} // by command
	for i, c := range commands() {
		r.progress("command %d of %d: %s", i+1, len(commands()), c.what)
		if len(c.apdu) > limits.Command || strings.HasPrefix(c.name, "extended") && limits.Command <= proto.ShortAPDU.Command {
			r.verdict(OK, c.name, "not sent: the reader takes commands of up to %d bytes", limits.Command)
			continue
		}
		if r.broken {
			if _, err := r.reset(ctx); err == nil {
				err = r.choose(ctx, proto.Default)
				if err != nil {
					r.verdict(Wrong, c.name, "not sent: no protocol after a reset: %s", kindOf(err))
					return
				}
			} else {
				r.verdict(Wrong, c.name, "not sent: no reset after the failure: %s", kindOf(err))
				return
			}
		}
		resp, took, transfers, err := r.transact(ctx, c.apdu)
		times := fmt.Sprintf("%d ms, %d transfers", took.Milliseconds(), transfers)
		key := string(c.apdu)
		before, again := last[key]
		switch {
		case errors.Is(err, proto.ErrInvalidAPDU):
			r.verdict(OK, c.name, "%s: the reader does not carry it", c.what)
		case err != nil:
			r.broken = true
			r.verdict(Wrong, c.name, "%s: %s; %s", c.what, kindOf(err), times)
			if r.gone(ctx) {
				return
			}
		case len(resp) < 2 || !isStatus(resp[len(resp)-2]):
			r.verdict(Wrong, c.name, "%s: %s; %s", c.what, ResponseText(resp), times)
		case again && !bytes.Equal(before, resp):
			r.verdict(Wrong, c.name, "%s: another answer than before; %s", c.what, times)
		case took > slowCommand:
			r.verdict(Odd, c.name, "%s: %s; slow: %s", c.what, ResponseText(resp), times)
		default:
			r.verdict(OK, c.name, "%s: %s; %s", c.what, ResponseText(resp), times)
		}
		if err == nil {
			last[key] = resp
		}
	}
}

// Waits for the user to do something with the card, and how often the reader is
// asked for it.
const (
	cardWait = time.Minute
	cardLook = 100 * time.Millisecond
)

// exchangeCard has the card taken out and put in, and resets it then. When it comes
// and goes is the user's affair, so nothing of this is in the recording.
func (r *runner) exchangeCard(ctx context.Context) {
	const name = "card out and in"
	ctx, cancel := context.WithTimeout(ctx, 2*cardWait)
	defer cancel()
	rd, err := r.again()
	if err != nil {
		r.verdict(Wrong, name, "the reader cannot be opened a second time: %s", kindOf(err))
		return
	}
	defer rd.Close()
	slot := rd.Slots()[0]
	p, ok := slot.(ifd.Presence)
	if !ok {
		r.verdict(OK, name, "the card cannot be taken out, or the reader does not tell")
		return
	}
	for _, do := range []struct {
		ask  string
		want bool
	}{{"take the card out", false}, {"put the card in", true}} {
		r.Ask(do.ask)
		if err := waitCard(ctx, p, do.want); err != nil {
			r.verdict(Wrong, name, "the reader was asked to tell after \"%s\": %s", do.ask, kindOf(err))
			return
		}
	}
	if _, err := slot.Reset(ctx); err != nil {
		r.verdict(Wrong, name, "the reader tells both, but the card does not answer then: %s", kindOf(err))
		return
	}
	r.verdict(OK, name, "the reader tells both, and the card answers")
}

// again opens the reader without a recorder.
func (r *runner) again() (ifd.Reader, error) {
	o := r.IFD
	o.OpenLine = r.openLine
	if r.Open == nil {
		return r.Entry.OpenPath[r.Type](r.Path, o)
	}
	dev, err := r.Open()
	if err != nil {
		return nil, err
	}
	rd, err := r.Entry.Open(dev, o)
	if err != nil {
		_ = dev.Close()
		return nil, err
	}
	drain(rd)
	return rd, nil
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

func waitCard(ctx context.Context, p ifd.Presence, want bool) error {
	ctx, cancel := context.WithTimeout(ctx, cardWait)
	defer cancel()
	tick := time.NewTicker(cardLook)
	defer tick.Stop()
	for {
		st, err := p.Status(ctx)
		if err != nil && !errors.Is(err, ifd.ErrBusy) || err == nil && st.Present == want {
			return err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		}
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
