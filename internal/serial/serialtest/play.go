//go:build go1.25

package serialtest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"openct/internal/ifd"
	"openct/internal/pcmcia"
	"openct/internal/proto"
	"openct/internal/reader"
	"openct/internal/serial"
	"openct/internal/serial/record"
	"openct/internal/socket"
	"openct/internal/usb"
)

// Driver is what Play compares with recordings.
type Driver struct {
	// Files are a recording and its continuations.
	Files []string

	// Open is the driver's, for a line as serial.Open leaves it.
	Open func(l serial.Line, o ifd.Options) (ifd.Reader, error)

	// OpenUSB is the driver's for a reader on USB.
	OpenUSB func(dev usb.Device, o ifd.Options) (ifd.Reader, error)

	// OpenNode is the driver's for a PCMCIA reader.
	OpenNode func(n pcmcia.Node, o ifd.Options) (ifd.Reader, error)

	// Differences are applied to every window in this order.
	Differences []Difference

	// LeftOut are scenarios that are not played, with the reason.
	LeftOut map[string]string
}

// Difference is a way in which ours differs from the recording on purpose.
type Difference struct {
	Why string

	// Change makes a window what ours does, and reports whether it was
	// different before.
	Change func(w *Window) bool
}

// At is a Difference in the window that begins at a line of a file, such as
// "phoenix.jsonl:117".
func At(place, why string, change func(w *Window)) Difference {
	return Difference{why, func(w *Window) bool {
		if !strings.HasSuffix(fmt.Sprintf("/%s:%d", w.File, w.Line), "/"+place) {
			return false
		}
		change(w)
		return true
	}}
}

// Script makes a change for At: these steps instead of the recorded ones, and
// this reply. An empty reply is a refusal.
func Script(steps, reply string) func(*Window) {
	return func(w *Window) {
		w.Steps = mustSteps(steps)
		w.Failed = reply == ""
		s := mustSteps("< " + reply)
		w.Reply = s[0].Data
	}
}

// mustSteps is for scripts in a test's source.
func mustSteps(text string) []Step {
	steps, err := record.Steps(text)
	if err != nil {
		panic("serialtest: " + err.Error())
	}
	return steps
}

// Play runs a driver against its recordings, each scenario as a test of its
// own with a fake clock. The core is ours; what it would do by itself once a
// second is done in the windows in which C OpenCT did something by itself.
func Play(t *testing.T, d Driver) {
	t.Helper()
	windows, err := Load(d.Files...)
	if err != nil {
		t.Fatal(err)
	}
	used := make([]bool, len(d.Differences))
	for i, diff := range d.Differences {
		if diff.Why == "" {
			t.Errorf("difference %d has no reason", i)
		}
	}
	leftOut := make(map[string]bool)
	for len(windows) > 0 {
		n := 1
		for n < len(windows) && windows[n].Phase != Open {
			n++
		}
		scenario := windows[:n]
		windows = windows[n:]
		name := scenario[0].Scenario
		if d.LeftOut[name] != "" {
			leftOut[name] = true
			continue
		}
		for _, w := range scenario {
			for i, diff := range d.Differences {
				used[i] = diff.Change(w) || used[i]
			}
		}
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { playScenario(t, d, scenario) })
		})
	}
	for i, diff := range d.Differences {
		if !used[i] {
			t.Errorf("difference %d changes nothing: %s", i, diff.Why)
		}
	}
	for name := range d.LeftOut {
		if !leftOut[name] {
			t.Errorf("scenario %s, which is left out, does not exist", name)
		}
	}
}

// idle is a time in which a driver takes note of what its reader tells.
const idle = 200 * time.Millisecond

// maxPolls bounds how often slots are asked in an idle window.
const maxPolls = 64

func playScenario(t *testing.T, d Driver, windows []*Window) {
	r := New(t, "")
	p := player{t: t, line: r}
	defer p.close()
	for _, w := range windows {
		r.begin(w.String(), w.Steps)
		switch w.Phase {
		case Open:
			o := ifd.Options{Log: slog.New(slog.DiscardHandler)}
			open := func() (ifd.Reader, error) { return d.Open(r, o) }
			switch w.Device {
			case "usb":
				open = func() (ifd.Reader, error) { return d.OpenUSB(usbReplay{r}, o) }
			case "pcmcia":
				open = func() (ifd.Reader, error) { return d.OpenNode(nodeReplay{r}, o) }
			}
			rd, err := open()
			if (err != nil) != w.Failed {
				t.Fatalf("%v: open: %v", w, err)
			}
			if err != nil {
				r.Done()
				return
			}
			p.take(rd)
		case Idle:
			if p.tells() {
				time.Sleep(idle)
				synctest.Wait()
				break
			}
			// Who removes a card is seen by a look at the modem lines, which
			// is no step.
			for i := 0; r.left() > 0 && i < maxPolls || i == 0 && w.moves(); i++ {
				time.Sleep(time.Second)
				p.poll()
			}
		case Request:
			p.request(w)
		case Stop:
			p.close()
		}
		r.Done()
		if t.Failed() {
			return // the next one builds upon it
		}
	}
}

// player is a client of our core.
type player struct {
	t      *testing.T
	line   *Replay
	ifd    ifd.Reader
	core   *reader.Reader
	events chan ifd.Event
}

// asked is a reader that the core does not ask by itself.
type asked struct {
	ifd.Reader
	events <-chan ifd.Event
}

func (a asked) Events() <-chan ifd.Event { return a.events }

func (a asked) keypad() ifd.Keypad {
	k, _ := a.Reader.(ifd.Keypad)
	return k
}

func (a asked) HasKeypad() bool  { k := a.keypad(); return k != nil && k.HasKeypad() }
func (a asked) HasDisplay() bool { k := a.keypad(); return k != nil && k.HasDisplay() }

func (a asked) Display(ctx context.Context, message string) error {
	d, ok := a.Reader.(ifd.Displayer)
	if !ok {
		return ifd.ErrNotSupported
	}
	return d.Display(ctx, message)
}

func (p *player) take(rd ifd.Reader) {
	p.ifd, p.events = rd, make(chan ifd.Event)
	if p.tells() {
		p.core = reader.New(rd, slog.New(slog.DiscardHandler), func(int, ifd.Status) {})
		return
	}
	p.core = reader.New(asked{rd, p.events}, slog.New(slog.DiscardHandler), func(int, ifd.Status) {})
}

// tells says whether the reader tells of cards by itself.
func (p *player) tells() bool {
	_, ok := p.ifd.(ifd.Notifier)
	return ok
}

func (p *player) close() {
	if p.core == nil {
		return
	}
	if err := p.core.Close(); err != nil && !p.t.Failed() {
		p.t.Errorf("close: %v", err)
	}
	p.core = nil
}

// poll asks every slot whether its card has come or gone.
func (p *player) poll() {
	if p.core == nil {
		return
	}
	for i, s := range p.ifd.Slots() {
		if c, ok := s.(ifd.Presence); ok {
			if st, err := c.Status(context.Background()); err == nil {
				p.events <- ifd.Event{Slot: i, Present: st.Present}
				synctest.Wait()
			}
		}
	}
}

// request runs a client's request and compares what comes of it.
func (p *player) request(w *Window) {
	p.t.Helper()
	if len(w.Request) < 2 {
		p.t.Fatalf("%v: request % x", w, w.Request)
	}
	if w.Request[1] == socket.UnitReader && socket.Command(w.Request[0]) == socket.CmdStatus {
		return // the core's own affair
	}
	got, err := p.run(socket.Command(w.Request[0]), int(w.Request[1]), w.Request[2:])
	switch want := value(w.Reply); {
	case (err != nil) != w.Failed:
		p.t.Errorf("%v: %v; recorded: refused %v, % x", w, err, w.Failed, want)
	case err == nil && !bytes.Equal(got, want):
		p.t.Errorf("%v:\n got % x\nwant % x", w, got, want)
	}
}

// value is what a reply carries.
func value(reply []byte) []byte {
	args, err := socket.ParseTLV(reply)
	if err != nil {
		return nil
	}
	for _, tag := range []socket.Tag{socket.TagCardStatus, socket.TagATR, socket.TagCardResponse, socket.TagData} {
		if v, ok := args.Bytes(tag); ok {
			return v
		}
	}
	return nil
}

func (p *player) run(cmd socket.Command, unit int, args []byte) ([]byte, error) {
	ctx := context.Background()
	a, err := socket.ParseTLV(args)
	if err != nil {
		return nil, err
	}
	if cmd == socket.CmdOutput {
		return nil, p.core.Display(ctx, a.Text(socket.TagMessage))
	}
	s, err := p.core.Slot(unit)
	if err != nil {
		return nil, err
	}
	number := func(tag socket.Tag) uint32 { n, _ := a.Int(tag); return n }
	data := func(tag socket.Tag) []byte { b, _ := a.Bytes(tag); return b }
	timeout := time.Duration(number(socket.TagTimeout)) * time.Second
	switch cmd {
	case socket.CmdStatus:
		st, err := s.Status(ctx)
		if err != nil {
			return nil, err
		}
		b := byte(0)
		if st.Present {
			b |= socket.StatusPresent
		}
		if st.Changed {
			b |= socket.StatusChanged
		}
		return []byte{b}, nil
	case socket.CmdReset:
		return s.Request(ctx, timeout, a.Text(socket.TagMessage))
	case socket.CmdEject:
		return nil, s.Eject(ctx, timeout, a.Text(socket.TagMessage))
	case socket.CmdVerify:
		d := data(socket.TagPINData)
		if len(d) < 2 {
			return nil, errors.New("the recording has no PIN data")
		}
		return s.Verify(ctx, ifd.PINRequest{
			Timeout: timeout, Message: a.Text(socket.TagMessage), Control: d[0], Offset: d[1], APDU: d[2:],
		})
	case socket.CmdTransact:
		return s.Transmit(ctx, data(socket.TagCardRequest), nil)
	case socket.CmdSetProtocol:
		return nil, s.SetProtocol(ctx, proto.ID(int32(number(socket.TagProtocol))))
	case socket.CmdMemoryRead:
		buf := make([]byte, number(socket.TagCount))
		n, err := s.ReadMemory(ctx, int(number(socket.TagAddress)), buf)
		return buf[:n], err
	case socket.CmdMemoryWrite:
		return nil, s.WriteMemory(ctx, int(number(socket.TagAddress)), data(socket.TagData))
	}
	return nil, errors.New("serialtest does not know this command")
}
