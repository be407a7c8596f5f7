//go:build go1.25

package ccid

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"testing"
	"testing/synctest"

	"openct/internal/atr"
	"openct/internal/ifd"
	"openct/internal/proto"
	"openct/internal/usb"
	"openct/internal/vusb"
	"openct/internal/vusb/card"
	"openct/internal/vusb/ccidreader"
)

// testCard answers by a function and remembers what it was asked.
type testCard struct {
	atr    []byte
	answer func(apdu []byte) []byte
	seen   [][]byte
}

func (c *testCard) ATR() []byte { return c.atr }
func (c *testCard) Reset()      {}
func (c *testCard) Transmit(apdu []byte) []byte {
	c.seen = append(c.seen, append([]byte(nil), apdu...))
	if c.answer == nil {
		return []byte{0x90, 0x00}
	}
	return c.answer(apdu)
}

// ATRs for the tests: T=0 at the default speed; T=0 first and T=1, up to
// 97h; T=1 alone.
var (
	atrT0     = []byte{0x3B, 0x02, 0x14, 0x50}
	atrT1     = card.T1ATR("CCID")
	atrT1Fast = card.BuildATR(0x90, []byte{0x97, 0x81, 0x31, 0xFE, 0x45}, "CCID")
	atrBoth   = card.BuildATR(0x90, []byte{0x97, 0x80, 0x31, 0xFE, 0x45}, "BOTH")
)

// bench is a driver on a virtual reader.
type bench struct {
	t      testing.TB
	model  *ccidreader.Reader
	port   *vusb.Port
	dev    usb.Device
	reader ifd.Reader
	log    bytes.Buffer
	open   bool
}

func profile(t testing.TB, number string) ccidreader.Profile {
	t.Helper()
	p, ok := ccidreader.ProfileNamed(number)
	if !ok {
		t.Fatalf("no profile %s", number)
	}
	return p
}

// plug makes a virtual reader and a device handle, unopened by the driver.
func plug(t testing.TB, p ccidreader.Profile, cards ...card.Card) *bench {
	t.Helper()
	b := &bench{t: t, model: ccidreader.New(p, cards...)}
	b.port = vusb.Plug("virtual reader", b.model)
	dev, err := b.port.Open()
	if err != nil {
		t.Fatal(err)
	}
	b.dev = dev
	t.Cleanup(func() {
		if b.open {
			if err := b.reader.Close(); err != nil {
				t.Errorf("Close: %v", err)
			}
		} else {
			_ = b.dev.Close()
		}
	})
	return b
}

func (b *bench) options() ifd.Options {
	return ifd.Options{Name: "CCID Compatible", Log: slog.New(slog.NewTextHandler(&b.log, &slog.HandlerOptions{Level: slog.LevelDebug}))}
}

// start opens the driver and expects it to work.
func (b *bench) start() *bench {
	b.t.Helper()
	return b.startWith(b.options())
}

func (b *bench) startWith(o ifd.Options) *bench {
	b.t.Helper()
	r, err := Open(b.dev, o)
	if err != nil {
		b.t.Fatalf("Open: %v", err)
	}
	b.reader, b.open = r, true
	return b
}

// clean fails if the host did anything the specification forbids.
func (b *bench) clean() {
	b.t.Helper()
	for _, v := range b.model.Violations() {
		b.t.Errorf("host's fault: %s", v)
	}
}

func (b *bench) slot(i int) ifd.Slot {
	b.t.Helper()
	slots := b.reader.Slots()
	if i >= len(slots) {
		b.t.Fatalf("slot %d of %d", i, len(slots))
	}
	return slots[i]
}

// reset resets the card in a slot and makes its engine.
func (b *bench) reset(i int, p proto.ID) (proto.Engine, error) {
	b.t.Helper()
	raw, err := b.slot(i).Reset(context.Background())
	if err != nil {
		return nil, err
	}
	a, err := atr.Parse(raw)
	if a == nil {
		b.t.Fatalf("ATR % X: %v", raw, err)
	}
	return b.slot(i).Protocol(context.Background(), p, a)
}

func (b *bench) engine(i int) proto.Engine {
	b.t.Helper()
	e, err := b.reset(i, proto.Default)
	if err != nil {
		b.t.Fatalf("reset of slot %d: %v", i, err)
	}
	return e
}

// transmit sends an APDU and compares the response.
func (b *bench) transmit(e proto.Engine, apdu, want []byte) {
	b.t.Helper()
	got, err := e.Transmit(context.Background(), apdu, nil)
	if err != nil {
		b.t.Fatalf("Transmit(% X): %v", apdu[:min(8, len(apdu))], err)
	}
	if !bytes.Equal(got, want) {
		b.t.Fatalf("Transmit(% X): got % X (%d bytes), want % X (%d bytes)", apdu[:min(8, len(apdu))],
			got[:min(len(got), 16)], len(got), want[:min(len(want), 16)], len(want))
	}
}

// sent returns the commands of one type, in order.
func (b *bench) sent(typ byte) []ccidreader.Command {
	var found []ccidreader.Command
	for _, c := range b.model.Commands() {
		if c.Type == typ {
			found = append(found, c)
		}
	}
	return found
}

// wantErr checks an error's kind.
func wantErr(t testing.TB, what string, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Fatalf("%s: error %v, want %v", what, err, want)
	}
}

// bubble runs a test on a clock of its own: waiting takes no time.
func bubble(t *testing.T, f func(t *testing.T)) {
	t.Helper()
	synctest.Test(t, f)
}

var okSW = []byte{0x90, 0x00}

// selectMF is SELECT FILE of the master file.
var selectMF = []byte{0x00, 0xA4, 0x00, 0x00, 0x02, 0x3F, 0x00}
