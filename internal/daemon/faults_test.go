//go:build go1.25

package daemon

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"openct/internal/driver"
	"openct/internal/golden"
	"openct/internal/ifd"
	"openct/internal/reader"
	"openct/internal/socket"
	"openct/internal/usb"
	"openct/internal/vusb"
	"openct/internal/vusb/card"
	"openct/internal/vusb/model"
	"openct/internal/vusb/token"
)

// faultLimit bounds every wait for a token that misbehaves: the 200 s that an
// ePass3000's command may take are the longest.
const faultLimit = 201 * time.Second

// spy notes which transfers reach a virtual token.
type spy struct {
	vusb.Model
	mu   sync.Mutex
	seen []seen
}

type seen struct {
	what string
	in   bool
	n    int // bytes that came
}

func (s *spy) note(what string, in bool, b []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.seen = append(s.seen, seen{what, in, len(b)})
}

func (s *spy) take() []seen {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := s.seen
	s.seen = nil
	return all
}

func (s *spy) Control(ctx context.Context, u usb.Setup, out []byte, length int) ([]byte, error) {
	in, err := s.Model.Control(ctx, u, out, length)
	s.note(fmt.Sprintf("%02X/%02X", u.RequestType, u.Request), u.In(), in)
	return in, err
}

func (s *spy) Out(ctx context.Context, ep uint8, data []byte) error {
	s.note(fmt.Sprintf("ep %02X", ep), false, nil)
	return s.Model.Out(ctx, ep, data)
}

func (s *spy) In(ctx context.Context, ep uint8, max int) ([]byte, error) {
	in, err := s.Model.In(ctx, ep, max)
	s.note(fmt.Sprintf("ep %02X", ep), true, in)
	return in, err
}

// bench is one token under test.
type bench struct {
	port *vusb.Port
	spy  *spy
	slot *reader.Slot
	atr  []byte
}

// A command with data both ways, and its response.
var (
	faultCommand  = []byte{0x00, 0x88, 0x00, 0x08, 0x04, 1, 2, 3, 4, 0x00}
	faultResponse = []byte{0, 1, 2, 3, 4, 5, 6, 7, 0x90, 0x00}
)

func newBench(t *testing.T, e driver.Entry, change func(vusb.Model)) *bench {
	t.Helper()
	atr := model.ATR(e.Name)
	if atr == nil {
		atr = card.T1ATR("ECHO")
	}
	m, err := model.NewWith(e.Name, card.NewEchoATR(atr))
	if err != nil {
		t.Fatal(err)
	}
	switch m := m.(type) { // no more transfers than it takes
	case *token.Rutoken:
		m.Busy = 0
	case *token.StarKey:
		m.Again = true // or there would be no next reset
	}
	if change != nil {
		change(m)
	}
	b := &bench{spy: &spy{Model: m}, atr: atr}
	b.port = vusb.Plug("virtual", b.spy)
	dev, err := b.port.Open()
	if err != nil {
		t.Fatal(err)
	}
	r, err := e.Open(dev, ifd.Options{Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	rd := reader.New(unasked{r}, slog.New(slog.DiscardHandler), func(int, ifd.Status) {})
	t.Cleanup(func() { rd.Close() })
	if b.slot, err = rd.Slot(0); err != nil {
		t.Fatal(err)
	}
	synctest.Wait() // until a reader's driver listens for news
	return b
}

// unasked is a reader whose core does not ask for its card once a second: a fault
// hits what the test does.
type unasked struct{ ifd.Reader }

func (unasked) Events() <-chan ifd.Event { return nil }

// faultAnswer is what a client gets: an error code, or else what is right or not,
// and after how long.
type faultAnswer struct {
	code  socket.Code
	other bool // success with other bytes than without the fault
	wait  time.Duration
}

func (a faultAnswer) String() string {
	what := "ok"
	switch {
	case a.code != socket.Success:
		what = fmt.Sprint(int(a.code))
	case a.other:
		what = "other"
	}
	if wait := a.wait.Round(100 * time.Millisecond); wait > 0 {
		return fmt.Sprintf("%s %v", what, wait)
	}
	return what
}

// reset resets the card. What the protocol selection that belongs to it fails
// with, the command after it gets to hear.
func (b *bench) reset() faultAnswer {
	start := time.Now()
	atr, err := b.slot.Reset(context.Background())
	a := faultAnswer{codeOf(err), !bytes.Equal(atr, b.atr), time.Since(start)}
	if err == nil && !a.other {
		a = b.transmit()
		a.wait = time.Since(start)
	}
	return a
}

// transmit sends the command as clients do: what is announced is fetched.
func (b *bench) transmit() faultAnswer {
	start := time.Now()
	ctx := context.Background()
	resp, err := b.slot.Transmit(ctx, faultCommand, nil)
	if err == nil && len(resp) == 2 && resp[0] == 0x61 {
		resp, err = b.slot.Transmit(ctx, []byte{0x00, 0xC0, 0x00, 0x00, resp[1]}, nil)
	}
	return faultAnswer{codeOf(err), !bytes.Equal(resp, faultResponse), time.Since(start)}
}

// works tells whether a reset and a command do.
func (b *bench) works(t *testing.T, after string) {
	t.Helper()
	if a := b.reset(); a.code != 0 || a.other {
		t.Errorf("%s: next reset: %v", after, a)
	}
}

// Faults that can hit one transfer, the columns of the table.
var oneFault = []struct {
	name  string
	in    bool // only what comes in can be so
	fault vusb.Fault
}{
	{"stalls", false, vusb.Fault{Stall: true}},
	{"never", false, vusb.Fault{Hang: true}},
	{"3 s late", false, vusb.Fault{Delay: 3 * time.Second}},
	{"unplug", false, vusb.Fault{Unplug: true}},
	{"empty", true, vusb.Fault{Mangle: vusb.Short(0)}},
	{"cut", true, vusb.Fault{Mangle: func(b []byte) []byte { return b[:max(0, len(b)-1)] }}},
	{"long", true, vusb.Fault{Mangle: func(b []byte) []byte { return append(bytes.Clone(b), 1, 2, 3, 4, 5, 6, 7) }}},
	{"garbage", true, vusb.Fault{Mangle: func(b []byte) []byte { return vusb.Garbage(len(b))(b) }}},
	{"FF", true, vusb.Fault{Mangle: func(b []byte) []byte { return bytes.Repeat([]byte{0xFF}, len(b)) }}},
}

// chips are virtual tokens with a T=1 card whose side can be made to behave.
type chips interface{ Chip() *card.T1 }

// Faults that last, or lie with the card: the rows of the list of faults that
// was recorded with C OpenCT, and some.
var lastingFaults = []struct {
	name  string
	t1    bool // makes sense with T=1 alone
	fault *vusb.Fault
	card  func(*card.T1)
}{
	{"everything stalls", false, &vusb.Fault{Stall: true, Times: -1}, nil},
	{"nothing ever comes", false, &vusb.Fault{Hang: true, Times: -1}, nil},
	{"everything empty", false, &vusb.Fault{Mangle: vusb.Short(0), Times: -1}, nil},
	{"everything cut to 2 bytes", false, &vusb.Fault{Mangle: vusb.Short(2), Times: -1}, nil},
	{"everything garbage", false, &vusb.Fault{Mangle: vusb.Garbage(20), Times: -1}, nil},
	{"everything FF", false, &vusb.Fault{Mangle: func([]byte) []byte { return bytes.Repeat([]byte{0xFF}, 40) }, Times: -1}, nil},
	{"everything 40: busy", false, &vusb.Fault{Mangle: func([]byte) []byte { return []byte{0x40} }, Times: -1}, nil},
	{"checksum wrong once", true, nil, spoil(1)},
	{"checksum wrong 3 times", true, nil, spoil(3)},
	{"checksum wrong 50 times", true, nil, spoil(50)},
	{"card is silent", true, nil, func(c *card.T1) { c.Mangle = func(int, []byte) []byte { return nil } }},
	{"card asks for time once", true, nil, func(c *card.T1) { c.RequestWTX(5) }},
	{"card asks for time for ever", true, nil, func(c *card.T1) {
		for range 4000 { // more than an hour has seconds
			c.RequestWTX(1)
		}
	}},
	{"card asks for IFSC 254", true, nil, func(c *card.T1) { c.RequestIFS(254) }},
	{"card aborts", true, nil, func(c *card.T1) { c.Abort() }},
}

// spoil damages the checksum of the card's next n blocks.
func spoil(n int) func(*card.T1) {
	return func(c *card.T1) {
		left := n
		c.Mangle = func(_ int, b []byte) []byte {
			if left > 0 && len(b) > 0 {
				left--
				b[len(b)-1] ^= 0x55
			}
			return b
		}
	}
}

// Whatever a token does wrong, a client gets one answer within a bounded time,
// and the next reset works. What the answers are stands in testdata: the error
// code, and how long it took by the clock of the test.
func TestFaults(t *testing.T) {
	var table strings.Builder
	fmt.Fprintln(&table, "# What a client is answered when a token misbehaves: an error code (-5 stands for")
	fmt.Fprintln(&table, "# a communication error, -17 for a device that is gone ...), \"ok\", or \"other\" where")
	fmt.Fprintln(&table, "# the token's protocol has no checksum and the answer is not the right one; and how")
	fmt.Fprintln(&table, "# long it waited, if it did. \"reset\" is a reset and a command after it, \"command\"")
	fmt.Fprintln(&table, "# a command after a reset without faults.")
	for _, e := range driver.Table() {
		if e.Class != nil || e.Open == nil || e.Verified == driver.Untested {
			continue // have their own, or no virtual device yet
		}
		t.Run(e.Name, func(t *testing.T) { faultsOf(t, e, &table) })
	}
	golden.Compare(t, "testdata/faults.golden", table.String())
}

func faultsOf(t *testing.T, e driver.Entry, table *strings.Builder) {
	var inReset, inCommand []seen
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, e, nil)
		b.spy.take()
		if _, err := b.slot.Reset(context.Background()); err != nil {
			t.Fatal(err)
		}
		inReset = b.spy.take()
		if a := b.transmit(); a.code != 0 || a.other {
			t.Fatalf("command: %v", a)
		}
		inCommand = b.spy.take()
	})

	check := func(where string, a faultAnswer) {
		if a.wait > faultLimit {
			t.Errorf("%s: answered after %v", where, a.wait)
		}
	}
	fmt.Fprintf(table, "\n%s\n  %-18s", e.Name, "transfer")
	for _, f := range oneFault {
		fmt.Fprintf(table, " %-10s", f.name)
	}
	fmt.Fprintln(table)
	for phase, transfers := range [][]seen{inReset, inCommand} {
		for i, tr := range transfers {
			var line strings.Builder
			fmt.Fprintf(&line, "  %-7s %2d %-7s", [...]string{"reset", "command"}[phase], i+1, tr.what)
			for _, f := range oneFault {
				if f.in && !tr.in {
					fmt.Fprintf(&line, " %-10s", "")
					continue
				}
				where := fmt.Sprintf("%s of transfer %d (%s) in phase %d", f.name, i+1, tr.what, phase)
				synctest.Test(t, func(t *testing.T) {
					b := newBench(t, e, nil)
					if phase == 1 {
						if a := b.reset(); a.code != 0 {
							t.Fatalf("reset: %v", a)
						}
					}
					fault := f.fault
					fault.Skip = i
					b.port.Inject(fault)
					a := b.reset
					if phase == 1 {
						a = b.transmit
					}
					got := a()
					check(where, got)
					fmt.Fprintf(&line, " %-10s", got)
					b.port.Heal()
					if f.fault.Unplug {
						if got.code != socket.DeviceDisconnected {
							t.Errorf("%s: %v", where, got)
						}
						return
					}
					b.works(t, where)
				})
			}
			fmt.Fprintln(table, strings.TrimRight(line.String(), " "))
		}
	}

	fmt.Fprintf(table, "  %-30s %-10s %s\n", "for ever", "reset", "command")
	for _, f := range lastingFaults {
		var cells [2]string
		synctest.Test(t, func(t *testing.T) {
			for phase := range cells {
				b := newBench(t, e, nil)
				chip, hasT1 := b.spy.Model.(chips)
				if f.t1 && (!hasT1 || phase == 0) {
					continue
				}
				if phase == 1 {
					if a := b.reset(); a.code != 0 {
						t.Fatalf("reset: %v", a)
					}
				}
				if f.fault != nil {
					b.port.Inject(*f.fault)
				}
				if f.card != nil {
					f.card(chip.Chip())
				}
				var a faultAnswer
				if phase == 0 {
					a = b.reset()
				} else {
					a = b.transmit()
				}
				check(f.name, a)
				cells[phase] = a.String()
				b.port.Heal()
				if f.card != nil {
					chip.Chip().Mangle = nil
				}
				b.works(t, f.name)
			}
		})
		if cells != [2]string{} {
			fmt.Fprintf(table, "  %-30s %-10s %s\n", f.name, cells[0], cells[1])
		}
	}
}
