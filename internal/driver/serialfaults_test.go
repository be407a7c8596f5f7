//go:build go1.25

package driver

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"openct/internal/device"
	"openct/internal/golden"
	"openct/internal/ifd"
	"openct/internal/proto"
	"openct/internal/reader"
	"openct/internal/serial"
	"openct/internal/vusb/acs"
	"openct/internal/vusb/card"
	"openct/internal/vusb/gempc"
	virtualkaan "openct/internal/vusb/kaan"
	virtualphoenix "openct/internal/vusb/phoenix"
	"openct/internal/vusb/serialline"
	virtualsmartboard "openct/internal/vusb/smartboard"
	virtualtowitoko "openct/internal/vusb/towitoko"
)

// faulty is a serial driver whose reader misbehaves.
type faulty struct {
	name string
	open func(serial.Line, ifd.Options) (ifd.Reader, error)
	card func() card.Card
	make func(card.Card) faultyReader
}

// faultyReader is the virtual reader. Its card is taken out with insert(nil);
// chips are the sides of T=0 and T=1 that the driver itself talks to, as far as
// it does, and that can be made to misbehave.
type faultyReader struct {
	reader serialline.Reader
	insert func(card.Card)
	chips  func() (*card.T0, *card.T1)
}

func echoT1() card.Card { return card.NewEcho() }
func echoT0() card.Card { return card.NewEchoATR(card.T0ATR("x")) }

// faultyReaders are all drivers of serial lines. T=0 is a row of its own where
// the driver does other things for it.
var faultyReaders = []faulty{
	{"kaan", openKaan, echoT1, func(c card.Card) faultyReader { return faultyKaan(c, false) }},
	{"b1", openB1, echoT1, func(c card.Card) faultyReader { return faultyKaan(c, true) }},
	{"phoenix", openPhoenix, echoT1, func(c card.Card) faultyReader { return faultyPhoenix(virtualphoenix.New(c)) }},
	{"smartmouse, T=0", openSmartMouse, echoT0, func(c card.Card) faultyReader { return faultyPhoenix(virtualphoenix.NewSmartMouse(c)) }},
	{"towitoko", openTowitoko, echoT1, faultyTowitoko},
	{"towitoko, T=0", openTowitoko, echoT0, faultyTowitoko},
	{"gempc", openGemPC, echoT1, faultyGemPC},
	{"gempc, T=0", openGemPC, echoT0, faultyGemPC},
	{"smartboard", openSmartBoard, echoT1, faultySmartBoard},
	{"smartboard, T=0", openSmartBoard, echoT0, faultySmartBoard},
	{"pertosmart1030", openPertoSmart1030Line, echoT1, faultyPertoSmart},
	{"pertosmart1030, T=0", openPertoSmart1030Line, echoT0, faultyPertoSmart},
}

// A reader for a device file that the driver serves is in the table.
func TestSerialFaultsOfAll(t *testing.T) {
	for _, e := range Table() {
		if _, serial := e.OpenPath["serial"]; !serial || e.Name == "ccid" { // whose line internal/ccid tests
			continue
		}
		if !slices.ContainsFunc(faultyReaders, func(f faulty) bool { return strings.HasPrefix(f.name, e.Name) }) {
			t.Errorf("nobody knows what %s does with a reader that misbehaves", e.Name)
		}
	}
}

func noChips() (*card.T0, *card.T1) { return nil, nil }

func faultyKaan(c card.Card, b1 bool) faultyReader {
	v := virtualkaan.New(c)
	v.B1 = b1
	return faultyReader{v, func(c card.Card) { v.Insert(0, c) }, func() (*card.T0, *card.T1) { return nil, v.Chip() }}
}

func faultyPhoenix(r *virtualphoenix.Reader) faultyReader {
	return faultyReader{r, r.Insert, r.Chips}
}

func faultyTowitoko(c card.Card) faultyReader {
	r := virtualtowitoko.New(virtualtowitoko.External, c)
	return faultyReader{r, func(c card.Card) { r.Insert(0, c) }, func() (*card.T0, *card.T1) { return r.Chips(0) }}
}

func faultyGemPC(c card.Card) faultyReader {
	r := gempc.New(c)
	return faultyReader{r, r.Insert, noChips}
}

func faultySmartBoard(c card.Card) faultyReader {
	r := virtualsmartboard.New(c)
	return faultyReader{r, r.Insert, func() (*card.T0, *card.T1) { _, t1 := r.Chips(); return nil, t1 }}
}

func faultyPertoSmart(c card.Card) faultyReader {
	r := acs.NewACR30S(c)
	return faultyReader{r, r.Insert, func() (*card.T0, *card.T1) { return nil, r.Chip() }}
}

// faultBench is a reader under test.
type faultBench struct {
	faultyReader
	card    card.Card
	line    *serialline.Local
	slot    *reader.Slot
	answers int // after which a fault is due
	fault   func([]serialline.Char) []serialline.Char
	always  bool
}

func newFaultBench(t *testing.T, f faulty) *faultBench {
	t.Helper()
	c := f.card()
	b := &faultBench{faultyReader: f.make(c), card: c}
	b.line = serialline.NewLocal(b.reader)
	r, err := f.open(b.line, ifd.Options{Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	b.line.Mangle = b.mangle
	rd := reader.New(quietReader{r, make(chan ifd.Event)}, slog.New(slog.DiscardHandler), func(int, ifd.Status) {})
	t.Cleanup(func() {
		b.fault = nil
		rd.Close()
	})
	if b.slot, err = rd.Slot(0); err != nil {
		t.Fatal(err)
	}
	return b
}

func (b *faultBench) pull() { b.insert(nil) }
func (b *faultBench) push() { b.insert(b.card) }

// mangle lets the due fault hit an answer.
func (b *faultBench) mangle(c []serialline.Char) []serialline.Char {
	if b.answers--; b.fault == nil || b.answers > 0 {
		return c
	}
	c = b.fault(c)
	if !b.always {
		b.fault = nil
	}
	return c
}

// reset is a reset and a command, as a client sees them.
func (b *faultBench) reset() (string, time.Duration) {
	begin := time.Now()
	if _, err := b.slot.Reset(context.Background()); err != nil {
		return kindOf(err), time.Since(begin)
	}
	state, _ := b.command()
	return state, time.Since(begin)
}

func (b *faultBench) command() (string, time.Duration) {
	begin := time.Now()
	resp, err := b.slot.Transmit(context.Background(), unhex("00d6000404010203"+"0400"), nil)
	switch {
	case err != nil:
		return kindOf(err), time.Since(begin)
	case !bytes.Equal(resp, unhex("000102039000")):
		return kindOf(errOther), time.Since(begin)
	}
	return "ok", time.Since(begin)
}

// serialFaults are what can happen to one answer.
var serialFaults = []struct {
	name string
	do   func([]serialline.Char) []serialline.Char
}{
	{"never", func([]serialline.Char) []serialline.Char { return nil }},
	{"cut", func(c []serialline.Char) []serialline.Char { return c[:len(c)-1] }},
	{"half", func(c []serialline.Char) []serialline.Char { return c[:len(c)/2] }},
	{"long", func(c []serialline.Char) []serialline.Char { return append(slices.Clone(c), c...) }},
	{"garbage", func([]serialline.Char) []serialline.Char {
		var c []serialline.Char
		for _, b := range unhex("55aa00ff12345678") {
			c = append(c, serialline.Char{Byte: b})
		}
		return c
	}},
	{"FF", func(c []serialline.Char) []serialline.Char {
		return slices.Repeat([]serialline.Char{{Byte: 0xFF}}, len(c))
	}},
	{"checksum", func(c []serialline.Char) []serialline.Char {
		c = slices.Clone(c)
		c[len(c)-1].Byte ^= 0x55
		return c
	}},
}

// serialFaultLimit bounds every wait for a reader that misbehaves.
const serialFaultLimit = time.Hour + 10*time.Minute

// Whatever a reader on a serial line does wrong, a client gets one answer in a
// bounded time, and the next reset works.
func TestSerialFaults(t *testing.T) {
	var table strings.Builder
	fmt.Fprintln(&table, "# What a client is told when a reader on a serial line misbehaves, and after what time")
	fmt.Fprintln(&table, "# if it took any. \"reset\" is a reset and a command, \"command\" a command after a reset;")
	fmt.Fprintln(&table, "# the number is that of the reader's answer that is hit. \"checksum\" is a wrong last byte;")
	fmt.Fprintln(&table, "# \"other\" is a status word that was hit by it where T=0 has no checksum.")
	for _, f := range faultyReaders {
		t.Run(f.name, func(t *testing.T) { serialFaultsOf(t, f, &table) })
	}
	golden.Compare(t, "testdata/serialfaults.golden", table.String())
}

func serialFaultsOf(t *testing.T, f faulty, table *strings.Builder) {
	// One case: prepared with a reset or not, what is done, what comes of it.
	run := func(what string, prepared bool, do func(*faultBench), heal func(*faultBench)) (cell string) {
		synctest.Test(t, func(t *testing.T) {
			b := newFaultBench(t, f)
			act := b.reset
			if prepared {
				if state, _ := b.reset(); state != "ok" {
					t.Fatalf("reset: %s", state)
				}
				act = b.command
			}
			do(b)
			state, took := act()
			cell = state
			if took = took.Round(100 * time.Millisecond); took > 0 {
				cell += " " + took.String()
			}
			if took > serialFaultLimit {
				t.Errorf("%s: after %v", what, took)
			}
			b.fault = nil
			if heal == nil {
				return
			}
			heal(b)
			if state, _ := b.reset(); state != "ok" {
				t.Errorf("%s: next reset: %s", what, state)
			}
		})
		return cell
	}
	none := func(*faultBench) {}
	count := func(prepared bool) (n int) {
		run("none", prepared, func(b *faultBench) { b.answers = 0 }, func(b *faultBench) { n = -b.answers })
		return n
	}

	fmt.Fprintf(table, "\n%s\n  %-10s", f.name, "answer")
	for _, x := range serialFaults {
		fmt.Fprintf(table, " %-14s", x.name)
	}
	fmt.Fprintln(table)
	for _, prepared := range []bool{false, true} {
		phase := map[bool]string{false: "reset", true: "command"}[prepared]
		for i := 1; i <= count(prepared); i++ {
			var line strings.Builder
			fmt.Fprintf(&line, "  %-7s %2d", phase, i)
			for _, x := range serialFaults {
				cell := run(fmt.Sprintf("%s %d: %s", phase, i, x.name), prepared, func(b *faultBench) { b.answers, b.fault = i, x.do }, none)
				fmt.Fprintf(&line, " %-14s", cell)
			}
			fmt.Fprintln(table, strings.TrimRight(line.String(), " "))
		}
	}
	fmt.Fprintf(table, "  %-32s %-18s %s\n", "for ever", "reset", "command")
	row := func(name string, do, heal func(*faultBench), only bool) {
		var cells [2]string
		for i, prepared := range []bool{false, true} {
			if !only || prepared {
				cells[i] = run(name, prepared, do, heal)
			}
		}
		fmt.Fprintf(table, "  %-32s %-18s %s\n", name, cells[0], cells[1])
	}
	for _, x := range serialFaults {
		row(x.name, func(b *faultBench) { b.fault, b.always = x.do, true }, none, false)
	}
	row("card is out", func(b *faultBench) { b.line.Do(b.pull) }, func(b *faultBench) { b.line.Do(b.push) }, false)
	row("adapter is out", func(b *faultBench) { b.line.Unplug() }, nil, false)
	row("card is pulled in the middle", func(b *faultBench) {
		b.fault = func(c []serialline.Char) []serialline.Char { b.pull(); return c[:len(c)/2] }
	}, func(b *faultBench) { b.line.Do(b.push) }, false)
	row("adapter is pulled in the middle", func(b *faultBench) {
		b.fault = func(c []serialline.Char) []serialline.Char { go b.line.Unplug(); return c[:len(c)/2] }
	}, nil, false)
	switch t0, t1 := f.make(f.card()).chips(); {
	case strings.HasSuffix(f.name, "T=0") && t0 != nil:
		ask := func(n int) func(*faultBench) {
			return func(b *faultBench) { t0, _ := b.chips(); t0.NULLs = n }
		}
		row("asks for time", ask(5), none, true)
		row("asks for time for ever", ask(2000), ask(0), true)
	case !strings.HasSuffix(f.name, "T=0") && t1 != nil:
		row("asks for time", func(b *faultBench) { _, t1 := b.chips(); t1.RequestWTX(5) }, none, true)
		row("asks for time for ever", func(b *faultBench) {
			_, t1 := b.chips()
			for range 4000 { // more than an hour has seconds
				t1.RequestWTX(1)
			}
		}, none, true)
		row("aborts", func(b *faultBench) { _, t1 := b.chips(); t1.Abort() }, none, true)
	}
}

var errOther = errors.New("other bytes than without the fault")

// kindOf is what callers can tell of an error.
func kindOf(err error) string {
	for _, k := range []struct {
		err  error
		name string
	}{
		{nil, "ok"},
		{errOther, "other"},
		{device.ErrUnplugged, "gone"},
		{ifd.ErrNoCard, "no card"},
		{ifd.ErrNoATR, "no ATR"},
		{ifd.ErrInvalidATR, "invalid ATR"},
		{device.ErrTimeout, "timeout"},
		{proto.ErrWriteProtected, "protected"},
		{ifd.ErrComm, "comm"},
		{proto.ErrProtocol, "protocol"},
		{proto.ErrAborted, "aborted"},
	} {
		if errors.Is(err, k.err) {
			return k.name
		}
	}
	return err.Error()
}
