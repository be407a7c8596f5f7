//go:build go1.25

package verify_test

import (
	"bytes"
	"context"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"openct/internal/driver"
	"openct/internal/ifd"
	"openct/internal/serial"
	"openct/internal/usb"
	"openct/internal/verify"
	"openct/internal/verify/verifytest"
	"openct/internal/vusb"
	"openct/internal/vusb/card"
	"openct/internal/vusb/ccidreader"
	"openct/internal/vusb/model"
	"openct/internal/vusb/phoenix"
)

// Secrets of the virtual card: what no report may hold.
const (
	secretSerial = "SN-4711-0815-XY"
	secretPIN    = "739154"
	secretName   = "Erika Mustermann of Musterstadt"
)

var secretGUID = [16]byte{0xDE, 0xAD, 0xBE, 0xEF, 0x13, 0x37, 0xC0, 0xDE, 0xFE, 0xED, 0xFA, 0xCE, 0xCA, 0xFE, 0xBA, 0xBE}

// keys are made once, because that takes long.
var keys = sync.OnceValue(func() map[byte]crypto.Signer {
	all := map[byte]crypto.Signer{}
	for _, slot := range []byte{0x9A, 0x9D} {
		k, err := rsa.GenerateKey(rand.Reader, 2048)
		if err != nil {
			panic(err)
		}
		all[slot] = k
	}
	return all
})

func pivCard(t *testing.T, atr []byte) *card.PIV {
	t.Helper()
	c, err := card.NewPIV(card.PIVOptions{ATR: atr, PIN: secretPIN, Name: secretName, GUID: secretGUID, Keys: keys()})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// secrets are the card's, and pieces of them that would do.
func secrets(t *testing.T, c card.Card) map[string][]byte {
	t.Helper()
	all := map[string][]byte{
		"serial number": []byte(secretSerial), "PIN": []byte(secretPIN), "name": []byte(secretName), "GUID": secretGUID[:],
	}
	c.Reset()
	c.Transmit(hexBytes(t, "00A404000BA000000308000010000100"))
	for name, tag := range map[string]string{"CHUID": "5FC102", "certificate": "5FC105"} {
		object := c.Transmit(hexBytes(t, "00CB3FFF0000055C03"+tag+"0000"))
		if len(object) < 40 {
			t.Fatalf("%s: % x", name, object)
		}
		all[name] = object[4 : len(object)-2]
	}
	return all
}

func hexBytes(t *testing.T, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// bench is a virtual reader as Run opens it.
type bench struct {
	name   string
	driver string
	atr    []byte
	make   func(c card.Card) vusb.Model // nil: it is on a line
	echo   bool                         // what is written to the line comes back

	// What of the PIV card's answers does not come through: none is found in a
	// Rutoken, and a SmartBoard takes no response of 256 bytes in T=0.
	noPIV, noLong bool
}

func benches() []bench {
	t0, inverse := card.T0ATR("OpenCT"), []byte{0x3F, 0x03, 'I', 'N', 'V'}
	b := []bench{
		{name: "CCID reader", driver: "ccid", make: profile("ccid")},
		{name: "CCID reader, T=0", driver: "ccid", atr: t0, make: profile("ccid")},
		{name: "CCID reader, TPDUs", driver: "ccid", make: profile("ccid:P1")},
		{name: "CCID reader, TPDUs, T=0", driver: "ccid", atr: t0, make: profile("ccid:P1")},
		{name: "CCID reader, characters", driver: "ccid", make: profile("ccid:P6")},
		{name: "CCID reader, characters, T=0", driver: "ccid", atr: t0, make: profile("ccid:P6")},
	}
	for _, name := range []string{
		"etoken64", "etoken", "ikey2k", "ikey3k", "starkey", "eutron", "egate", "rutoken", "ePass3000", "cardman",
		"pertosmart1030", "acr30u", "pertosmart1038", "cyberjack",
	} {
		b = append(b, bench{name: name, driver: name, atr: model.ATR(name), make: profile(name), noPIV: name == "rutoken"})
		if slices.Contains([]string{"eutron", "pertosmart1030", "pertosmart1038", "cyberjack"}, name) {
			b = append(b, bench{name: name + ", T=0", driver: name, atr: t0, make: profile(name)})
		}
	}
	for _, name := range []string{"phoenix", "smartmouse", "towitoko", "smartboard", "gempc", "kaan", "b1", "pertosmart1030"} {
		echo := name == "phoenix" || name == "smartmouse"
		b = append(b,
			bench{name: name + " on a line", driver: name, echo: echo},
			bench{name: name + " on a line, T=0", driver: name, atr: t0, echo: echo, noLong: name == "smartboard"})
		if echo || name == "towitoko" {
			b = append(b, bench{name: name + " on a line, inverse", driver: name, atr: inverse, echo: echo})
		}
	}
	return b
}

func benchNamed(t *testing.T, name string) bench {
	t.Helper()
	for _, b := range benches() {
		if b.name == name {
			return b
		}
	}
	t.Fatalf("there is no bench %q", name)
	return bench{}
}

// profile makes virtual devices of a name.
func profile(name string) func(card.Card) vusb.Model {
	return func(c card.Card) vusb.Model {
		m, err := model.NewWith(name, c)
		if err != nil {
			panic(err)
		}
		return m
	}
}

func (b bench) serial() bool { return b.make == nil }

// labelled is a device with the serial number in all its strings.
type labelled struct{ vusb.Model }

func (l labelled) Descriptors() vusb.Descriptors {
	d := l.Model.Descriptors()
	d.Device = slices.Clone(d.Device)
	d.Device[14], d.Device[15], d.Device[16] = 1, 2, 3 // iManufacturer, iProduct, iSerialNumber
	d.Strings = []string{"Maker " + secretSerial, "Token " + secretSerial, secretSerial}
	return d
}

// options are those of a run on the bench, with a card in it.
func (b bench) options(c card.Card, faults ...vusb.Fault) verify.Options {
	e, _ := driver.ByName(b.driver)
	o := verify.Options{
		Entry: e, Version: "0.8.0", Date: time.Date(2026, 11, 26, 0, 0, 0, 0, time.UTC), IFD: ifd.Options{Name: e.Reader + secretSerial},
	}
	if b.serial() {
		o.Type, o.Path = "serial", "/dev/ttyUSB-"+secretSerial
		o.IFD.OpenLine = func(string) (serial.Line, error) {
			return newLine(model.Line(b.driver, c)), nil
		}
		return o
	}
	o.Open = func() (usb.Device, error) {
		port := vusb.Plug("virtual", labelled{b.make(c)})
		for _, f := range faults {
			port.Inject(f)
		}
		return port.Open()
	}
	return o
}

// run runs the checks on a bench, and returns the report as text.
func run(t *testing.T, o verify.Options) (text string, err error) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		var r *verify.Report
		r, err = verify.Run(context.Background(), o)
		var b bytes.Buffer
		if _, err := r.WriteTo(&b); err != nil {
			t.Fatal(err)
		}
		text = b.String()
	})
	return text, err
}

// verdicts is the part of a report with the verdicts.
func verdicts(text string) string {
	_, rest, _ := strings.Cut(text, "[verdicts]\n")
	v, _, _ := strings.Cut(rest, "\n\n")
	return v
}

// What is checked is in the report, what is secret is not, and the report plays.
func TestReport(t *testing.T) {
	for _, b := range benches() {
		t.Run(b.name, func(t *testing.T) {
			c := pivCard(t, b.atr)
			all := secrets(t, c)
			text, err := run(t, b.options(c))
			if err != nil {
				t.Fatal(err)
			}
			clean(t, text, all)
			v := verdicts(text)
			for _, bad := range []string{"odd  ", "wrong"} {
				if strings.Contains("\n"+v, "\n"+bad) {
					t.Errorf("a device that works gets:\n%s", v)
				}
			}
			wants := []string{"10 of 10", "SELECT of the PIV application: 9000,", "GET DATA of a long object: 9000,"}
			switch {
			case b.noPIV:
				wants = wants[:1]
			case b.noLong:
				wants = wants[:2]
			}
			for _, want := range wants {
				if !strings.Contains(v, want) {
					t.Errorf("%q is missing:\n%s", want, v)
				}
			}
			r, err := verify.Parse(text)
			if err != nil {
				t.Fatal(err)
			}
			var again bytes.Buffer
			if _, err := r.WriteTo(&again); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(text, again.String()); diff != "" {
				t.Errorf("read and written (-want +got):\n%s", diff)
			}
			r.Mask()
			again.Reset()
			if _, err := r.WriteTo(&again); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(text, again.String()); diff != "" {
				t.Errorf("masked twice (-once +twice):\n%s", diff)
			}
			synctest.Test(t, func(t *testing.T) { verifytest.Replay(t, r) })
		})
	}
}

// A terminal at a line without modem lines, such as a pseudo-terminal: its report
// plays as well.
func TestNoLines(t *testing.T) {
	b := benchNamed(t, "kaan on a line")
	o := b.options(pivCard(t, nil))
	open := o.IFD.OpenLine
	o.IFD.OpenLine = func(path string) (serial.Line, error) {
		l, err := open(path)
		l.(*line).noLines = true
		return l, err
	}
	text, err := run(t, o)
	if err != nil || !strings.Contains(text, "open\n  nolines\n") {
		t.Fatalf("%v\n%s", err, text)
	}
	r, err := verify.Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	synctest.Test(t, func(t *testing.T) { verifytest.Replay(t, r) })
}

// A card whose number is in its historical bytes: the report has none of them, and
// plays.
func TestATRHoldsNoSecret(t *testing.T) {
	for _, b := range benches() {
		switch {
		case b.driver == "rutoken" || b.driver == "ikey2k":
			continue // their ATR has a length that leaves no room
		case b.atr == nil:
			b.atr = card.T1ATR(secretSerial)
		case b.atr[0] == 0x3F:
			b.atr = append([]byte{0x3F, byte(len(secretSerial))}, secretSerial...)
		default:
			b.atr = card.T0ATR(secretSerial)
		}
		t.Run(b.name, func(t *testing.T) {
			c := pivCard(t, b.atr)
			text, err := run(t, b.options(c))
			if err != nil {
				t.Fatal(err)
			}
			clean(t, text, secrets(t, c))
			r, err := verify.Parse(text)
			if err != nil || !strings.Contains(text, "10 of 10") {
				t.Fatalf("%v\n%s", err, verdicts(text))
			}
			synctest.Test(t, func(t *testing.T) { verifytest.Replay(t, r) })
		})
	}
}

// A device that misbehaves gets a verdict that says so, and the report shows where.
func TestMisbehaviour(t *testing.T) {
	block := vusb.Transfer{Control: true, Code: 0x86}
	reset := vusb.Transfer{Control: true, Code: 0x81}
	for _, tt := range []struct {
		name  string
		fault vusb.Fault
		want  []string
		err   error
	}{
		{"blocks stall", vusb.Fault{On: block, Times: -1, Stall: true},
			[]string{"wrong  short ", "device refused the transfer (stall)", "IN  C0 86 0000 0000 len ", "STALL\n= error: device refused"}, nil},
		{"every answer is garbage", vusb.Fault{On: block, Times: -1, Mangle: vusb.Garbage(30)},
			[]string{"wrong  short ", "card does not follow the protocol"}, nil},
		{"one reset in ten fails", vusb.Fault{On: reset, Skip: 3, Stall: true},
			[]string{"wrong  reset               9 of 10 resets succeed; the others fail: device refused the transfer (stall)"}, nil},
		{"no reset succeeds", vusb.Fault{On: reset, Times: -1, Mangle: vusb.Short(0)},
			[]string{"wrong  reset               the card does not answer to a reset: card does not answer to reset", "= error: card does not answer to reset"}, nil},
		{"the ATR changes", vusb.Fault{On: reset, Skip: 5, Mangle: func(b []byte) []byte { b = bytes.Clone(b); b[len(b)-2] ^= 1; b[len(b)-1] ^= 1; return b }},
			[]string{"odd    ATR                 the ATR differs between resets"}, nil},
		{"resets are slow", vusb.Fault{On: vusb.Transfer{Control: true, Code: 0x83}, Times: -1, Delay: 6 * time.Second},
			[]string{"odd    reset               10 of 10 resets succeed, slowly: 6000 to 6000 ms"}, nil},
		{"the device leaves", vusb.Fault{On: block, Skip: 7, Unplug: true},
			[]string{"wrong  device              the device was unplugged", "UNPLUG\n= error: device was unplugged"}, verify.ErrGone},
	} {
		t.Run(tt.name, func(t *testing.T) {
			b := benchNamed(t, "etoken64")
			text, err := run(t, b.options(pivCard(t, nil), tt.fault))
			if !errors.Is(err, tt.err) {
				t.Errorf("got %v, want %v", err, tt.err)
			}
			for _, want := range tt.want {
				if !strings.Contains(text, want) {
					t.Errorf("%q is missing:\n%s", want, verdicts(text))
				}
			}
			r, err := verify.Parse(text)
			if err != nil {
				t.Fatal(err)
			}
			if tt.err == nil {
				synctest.Test(t, func(t *testing.T) { verifytest.Replay(t, r) })
			}
		})
	}
}

// A reader without a card, and one whose card is taken out and put in.
func TestCardOutAndIn(t *testing.T) {
	for _, name := range []string{"CCID reader", "phoenix on a line"} {
		t.Run(name, func(t *testing.T) {
			b := benchNamed(t, name)
			c := pivCard(t, nil)
			o := b.options(c)
			var r *phoenix.Reader
			if b.serial() {
				o.IFD.OpenLine = func(string) (serial.Line, error) {
					r = phoenix.New(c)
					return newLine(r), nil
				}
			}
			var m *ccidreader.Reader
			if !b.serial() {
				o.Open = func() (usb.Device, error) {
					m = ccidreader.New(ccidreader.Profile{}, c)
					return vusb.Plug("virtual", m).Open()
				}
			}
			var asked []string
			o.Ask = func(what string) {
				asked = append(asked, what)
				out := what == "remove the card"
				switch {
				case r != nil && out:
					r.Remove()
				case r != nil:
					r.Insert(c)
				case out:
					m.Remove(0)
				default:
					m.Insert(0, c)
				}
			}
			text, err := run(t, o)
			if err != nil || !strings.Contains(text, "ok     card out and in     the reader reports removal and insertion, and the card answers a reset") || len(asked) != 2 {
				t.Errorf("%v, asked %q:\n%s", err, asked, verdicts(text))
			}
		})
	}
	text, err := run(t, benchNamed(t, "CCID reader").options(nil))
	if err != nil || !strings.Contains(text, "odd    card                no card is inserted") {
		t.Errorf("%v, without a card:\n%s", err, verdicts(text))
	}
}

// An exchange without a form is left out, and the report says why.
func TestUnknownForm(t *testing.T) {
	b := benchNamed(t, "ikey3k")
	c := pivCard(t, nil)
	text, err := run(t, b.options(c))
	if err != nil {
		t.Fatal(err)
	}
	r, err := verify.Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	r.Driver = "cm4000"
	r.Mask()
	var out strings.Builder
	if _, err := r.WriteTo(&out); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"# No test can be made from this report: ", "driver cm4000", "the exchange is left out", "transmit 00 A4"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("%q is missing:\n%s", want, out.String())
		}
	}
	for i, s := range r.Steps {
		if len(s.USB)+len(s.Serial) > 0 {
			t.Errorf("step %d has an exchange: %v", i+1, s)
		}
	}
}

// CCID readers that do more or less by themselves: each level of exchange, with and
// without notifications.
func TestCCIDProfiles(t *testing.T) {
	for i := 1; i <= 14; i++ {
		name := fmt.Sprintf("ccid:P%d", i)
		t.Run(name, func(t *testing.T) {
			m, err := model.New(name, "echo")
			if err != nil {
				t.Fatal(err)
			}
			b := bench{name: name, driver: "ccid", make: func(card.Card) vusb.Model { return m }}
			text, err := run(t, b.options(nil))
			if err != nil {
				t.Fatalf("%v\n%s", err, verdicts(text))
			}
			r, err := verify.Parse(text)
			if err != nil {
				t.Fatal(err)
			}
			synctest.Test(t, func(t *testing.T) { verifytest.Replay(t, r) })
		})
	}
}
