//go:build go1.25

package model_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"openct/internal/driver"
	"openct/internal/hextest"
	"openct/internal/proto"
	"openct/internal/reader"
	"openct/internal/usb"
	"openct/internal/vusb"
	"openct/internal/vusb/acs"
	"openct/internal/vusb/card"
	"openct/internal/vusb/model"
	"openct/internal/vusb/token"
)

// testCard is a card whose instructions say by themselves, in T=0, which way
// the data goes, and none of which a token translates:
//
//	B0 hh ll        hh*256+ll bytes, counting
//	D6 .. .. data   9000 if the data counts
//	88 .. .. data   the data, backwards
//	84 hh ll        status word hhll
type testCard struct {
	atr []byte
	apdus,
	resets int
}

func (c *testCard) ATR() []byte { return c.atr }
func (c *testCard) Reset()      { c.resets++ }
func (c *testCard) Transmit(apdu []byte) []byte {
	c.apdus++
	if len(apdu) < 4 {
		return []byte{0x67, 0x00}
	}
	data := apdu[4:]
	switch {
	case len(data) > 2 && data[0] == 0 && len(data) >= 3+int(data[1])<<8+int(data[2]):
		data = data[3:][:int(data[1])<<8+int(data[2])]
	case len(data) > 1 && data[0] != 0:
		data = data[1:][:min(len(data)-1, int(data[0]))]
	default:
		data = nil
	}
	switch apdu[1] {
	case 0xB0:
		return append(count(int(apdu[2])<<8|int(apdu[3])), 0x90, 0x00)
	case 0xD6:
		if bytes.Equal(data, count(len(data))) {
			return []byte{0x90, 0x00}
		}
		return []byte{0x6A, 0x80}
	case 0x88:
		return append(backwards(data), 0x90, 0x00)
	case 0x84:
		return []byte{apdu[2], apdu[3]}
	}
	return []byte{0x6D, 0x00}
}

func count(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i % 251)
	}
	return b
}

func backwards(b []byte) []byte {
	r := make([]byte, len(b))
	for i, v := range b {
		r[len(b)-1-i] = v
	}
	return r
}

// variant is a virtual token and one of its ways.
type variant struct {
	driver string
	way    string
	make   func(card.Card) vusb.Model
	atr    []byte
}

// variants has every USB driver of the table with its virtual token, made by
// the same list as the commands use, and then the ways real ones are said to
// have. The CCID driver has a test of its own.
func variants(t *testing.T) []variant {
	t.Helper()
	var all []variant
	for _, e := range driver.Table() {
		if e.Class != nil || e.Open == nil || e.Verified == driver.Untested {
			continue
		}
		name := e.Name
		if _, err := model.New(name, "echo"); err != nil {
			t.Errorf("driver %s has no virtual token: %v", name, err)
			continue
		}
		all = append(all, variant{driver: name, make: func(c card.Card) vusb.Model {
			m, err := model.NewWith(name, c)
			if err != nil {
				t.Fatal(err)
			}
			return m
		}, atr: model.ATR(name)})
	}
	t0 := model.ATR("egate")
	return append(all,
		variant{"ikey2k", "no junk", func(c card.Card) vusb.Model { m := token.NewIKey2k(c); m.Exact = true; return m }, model.ATR("ikey2k")},
		variant{"ikey3k", "T=0 first", func(c card.Card) vusb.Model { return token.NewIKey3k(c) },
			[]byte{0x3B, 0xB7, 0x94, 0x00, 0xC0, 0x24, 0x31, 0xFE, 0x65, 0x53, 0x50, 0x4B, 0x32, 0x33, 0x90, 0x00, 0xB4}},
		variant{"ePass3000", "newer firmware", func(c card.Card) vusb.Model { m := token.NewEPass3000(c); m.Direct = true; return m }, t0},
		variant{"ePass3000", "packets of 5 bytes", func(c card.Card) vusb.Model { m := token.NewEPass3000(c); m.Split = 5; return m }, t0},
		variant{"ePass3000", "no empty packet at the end", func(c card.Card) vusb.Model { m := token.NewEPass3000(c); m.NoEnd = true; return m }, t0},
		variant{"egate", "busy and in pieces", func(c card.Card) vusb.Model { m := token.NewEGate(c); m.Busy, m.Split = 20, 7; return m }, t0},
		variant{"eutron", "dribbling", func(c card.Card) vusb.Model { m := token.NewEutron(c); m.Dribble = 3; return m }, nil},
		variant{"eutron", "slow", func(c card.Card) vusb.Model { m := token.NewEutron(c); m.Idle = 15; return m }, nil},
		variant{"eutron", "T=0", func(c card.Card) vusb.Model { return token.NewEutron(c) }, t0},
		variant{"eutron", "T=0, dribbling", func(c card.Card) vusb.Model { m := token.NewEutron(c); m.Dribble = 1; return m }, t0},
		variant{"starkey", "an ATR for every reset", func(c card.Card) vusb.Model { m := token.NewStarKey(c); m.Again = true; return m }, nil},
		variant{"starkey", "empty packets first", func(c card.Card) vusb.Model { m := token.NewStarKey(c); m.Empty = 50; return m }, nil},
		variant{"cardman", "empty packets at the end", func(c card.Card) vusb.Model { m := token.NewCardMan(c); m.End = true; return m }, t0},
		variant{"cardman", "warm resets only", func(c card.Card) vusb.Model { m := token.NewCardMan(c); m.WarmOnly = true; return m }, t0},
		variant{"pertosmart1030", "T=0", func(c card.Card) vusb.Model { return acs.NewACR30(c) }, t0},
		variant{"pertosmart1038", "T=0", func(c card.Card) vusb.Model { return acs.NewACR38(c) }, t0},
		variant{"pertosmart1038", "answers filled up", func(c card.Card) vusb.Model { m := acs.NewACR38(c); m.Padded = true; return m }, nil},
		variant{"cyberjack", "an empty packet behind a full one", func(c card.Card) vusb.Model { m := token.NewCyberJack(c); m.End = true; return m }, nil},
		variant{"cyberjack", "T=0", func(c card.Card) vusb.Model { return token.NewCyberJack(c) }, t0},
		variant{"rutoken", "busy", func(c card.Card) vusb.Model { m := token.NewRutoken(c); m.Busy = 40; return m }, model.ATR("rutoken")},
	)
}

// client is a client that does its share of T=0, as OpenSC does: it fetches
// what a token only announces, and asks again with the length that is named.
type client struct {
	t    *testing.T
	slot *reader.Slot
}

func (c client) transmit(apdu []byte) ([]byte, error) {
	resp, err := c.slot.Transmit(context.Background(), apdu, nil)
	for err == nil && len(resp) >= 2 && resp[len(resp)-2] == 0x61 {
		var more []byte
		le := resp[len(resp)-1]
		more, err = c.slot.Transmit(context.Background(), []byte{0x00, 0xC0, 0x00, 0x00, le}, nil)
		resp = append(bytes.Clone(resp[:len(resp)-2]), more...)
	}
	if n := len(resp); err == nil && n == 2 && resp[0] == 0x6C && len(apdu) == 5 {
		return c.transmit(append(bytes.Clone(apdu[:4]), resp[1]))
	}
	return resp, err
}

// The same script over every USB driver on its virtual token.
func TestEveryDriver(t *testing.T) {
	for _, v := range variants(t) {
		name := v.driver
		if v.way != "" {
			name += ", " + v.way
		}
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { everyDriver(t, v) })
		})
	}
}

func newTestCard(atr []byte) *testCard {
	if atr == nil {
		atr = card.T1ATR("TEST")
	}
	return &testCard{atr: atr}
}

func everyDriver(t *testing.T, v variant) {
	chip := newTestCard(v.atr)
	port, slot := openToken(t, v.driver, v.make(chip))
	ctx := context.Background()
	if chip.apdus != 0 {
		t.Error("opening the token talked to the card")
	}
	c := client{t, slot}

	reset := func() {
		t.Helper()
		atr, err := slot.Reset(ctx)
		if err != nil {
			t.Fatalf("reset: %v", err)
		}
		if !bytes.Equal(atr, chip.atr) {
			t.Fatalf("ATR % X, want % X", atr, chip.atr)
		}
	}
	want := func(apdu, want []byte) {
		t.Helper()
		got, err := c.transmit(apdu)
		if err != nil {
			t.Fatalf("% .8X (%d bytes): %v", apdu, len(apdu), err)
		}
		if !bytes.Equal(got, want) {
			t.Fatalf("% .8X (%d bytes): got %d bytes % .16X, want %d bytes % .16X", apdu, len(apdu), len(got), got, len(want), want)
		}
	}
	ok := []byte{0x90, 0x00}
	script := func() {
		t.Helper()
		// Short commands, every case, and every length around the limits of
		// blocks (32, 254), packets (64) and lengths.
		want([]byte{0, 0x84, 0x90, 0x00}, ok)
		for _, n := range []int{1, 2, 29, 30, 31, 32, 33, 56, 58, 62, 63, 64, 65, 120, 126, 127, 128, 184, 248, 252, 253, 254, 255, 256} {
			want([]byte{0, 0xB0, byte(n >> 8), byte(n), byte(n)}, append(count(n), ok...))
			if n == 256 {
				break
			}
			out := append([]byte{0, 0xD6, 0, 0, byte(n)}, count(n)...)
			want(out, ok)
			both := append([]byte{0, 0x88, 0, 0, byte(n)}, count(n)...)
			want(append(both, 0), append(backwards(count(n)), ok...))
		}
		// Command chaining: the token must not care.
		for _, cla := range []byte{0x10, 0x10, 0x00} {
			want(append([]byte{cla, 0xD6, 0, 0, 255}, count(255)...), ok)
		}
		// A wrong length, put right by somebody on the way.
		want([]byte{0, 0xB0, 0, 10, 0}, append(count(10), ok...))
		// The card's errors are the card's.
		for _, sw := range []uint16{0x6A82, 0x6982, 0x63C2, 0x6700, 0x6D00, 0x6E00, 0x6F00, 0x9100} {
			want([]byte{0, 0x84, byte(sw >> 8), byte(sw)}, []byte{byte(sw >> 8), byte(sw)})
		}
		want([]byte{0, 0x84, 0x69, 0x85, 0x00}, []byte{0x69, 0x85})
		// What is no command costs an error and nothing else.
		for _, bad := range [][]byte{{}, {0, 0xB0, 0}, {0, 0xD6, 0, 0, 4, 1, 2}} {
			if _, err := slot.Transmit(ctx, bad, nil); err != nil && !errors.Is(err, proto.ErrInvalidAPDU) {
				t.Fatalf("% X: %v", bad, err)
			}
		}
		want([]byte{0, 0xB0, 0, 2, 2}, append(count(2), ok...))
		// Long commands and responses, where the protocol has them.
		for _, n := range []int{257, 1000, 65535} {
			if n > 1000 && v.way != "" {
				break
			}
			resp, err := c.transmit([]byte{0, 0xB0, byte(n >> 8), byte(n), 0, byte(n >> 8), byte(n)})
			if err == nil && !bytes.Equal(resp, append(count(n), ok...)) {
				t.Fatalf("%d bytes in: got %d", n, len(resp))
			}
			if err == nil {
				_, err = slot.Transmit(ctx, append([]byte{0, 0xD6, 0, 0, 0, byte(n >> 8), byte(n)}, count(n)...), nil)
			}
			if err != nil && !errors.Is(err, proto.ErrInvalidAPDU) {
				t.Fatalf("%d bytes: %v", n, err)
			}
		}
		want([]byte{0, 0xB0, 0, 3, 3}, append(count(3), ok...))
	}

	reset()
	script()
	reset()
	want([]byte{0, 0xB0, 0, 3, 3}, append(count(3), ok...))

	// Asking for the protocol in use, by either way, changes nothing.
	if err := slot.SetProtocol(ctx, proto.Default); err != nil {
		t.Fatalf("set default protocol: %v", err)
	}
	want([]byte{0, 0xB0, 0, 2, 2}, append(count(2), ok...))
	if err := slot.SetProtocol(ctx, proto.I2CLong); err == nil {
		t.Error("a memory card's protocol was accepted")
	}

	// Pulled while idle.
	port.Unplug()
	if _, err := c.transmit([]byte{0, 0xB0, 0, 2, 2}); !errors.Is(err, usb.ErrUnplugged) {
		t.Errorf("pulled: got %v, want %v", err, usb.ErrUnplugged)
	}
	if _, err := slot.Reset(ctx); !errors.Is(err, usb.ErrUnplugged) {
		t.Errorf("reset after that: got %v, want %v", err, usb.ErrUnplugged)
	}
}

// A wait for a token ends at once when the token is pulled and when nobody
// wants the answer any more.
func TestEveryDriverEnds(t *testing.T) {
	ways := []struct {
		name, during string
		skip         int // transfers before the one that hangs
		want         error
	}{
		{"reset, pulled", "reset", 0, usb.ErrUnplugged},
		{"command, pulled", "command", 0, usb.ErrUnplugged},
		{"answer, pulled", "command", 1, usb.ErrUnplugged},
		{"reset, cancelled", "reset", 0, context.Canceled},
		{"command, cancelled", "command", 0, context.Canceled},
		{"answer, cancelled", "command", 1, context.Canceled},
	}
	for _, v := range variants(t) {
		if v.way != "" {
			continue
		}
		for _, way := range ways {
			t.Run(v.driver+", "+way.name, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					ctx, cancel := context.WithCancel(t.Context())
					defer cancel()
					port, slot := openToken(t, v.driver, v.make(newTestCard(v.atr)))
					if way.during == "command" {
						if _, err := slot.Reset(t.Context()); err != nil {
							t.Fatal(err)
						}
					}
					port.Inject(vusb.Fault{Hang: true, Skip: way.skip, Times: -1})
					var waited time.Duration
					start := time.Now()
					got := make(chan error)
					go func() {
						var err error
						if way.during == "reset" {
							_, err = slot.Reset(ctx)
						} else {
							_, err = slot.Transmit(ctx, []byte{0, 0xB0, 0, 2, 2}, nil)
						}
						waited = time.Since(start)
						got <- err
					}()
					time.Sleep(50 * time.Millisecond) // in the test's own time
					synctest.Wait()
					if way.want == usb.ErrUnplugged {
						port.Unplug()
					} else {
						cancel()
					}
					if err := <-got; !errors.Is(err, way.want) {
						t.Errorf("got %v, want %v", err, way.want)
					}
					if waited != 50*time.Millisecond {
						t.Errorf("noticed after %v", waited)
					}
				})
			})
		}
	}
}

// Every virtual token is one its driver is for, described so that the host's
// parser, and the kernel's, find what they need.
func TestEveryTokenDescribesItself(t *testing.T) {
	for _, v := range variants(t) {
		if v.way != "" {
			continue
		}
		t.Run(v.driver, func(t *testing.T) {
			d := v.make(newTestCard(v.atr)).Descriptors()
			desc, err := usb.ParseDescriptors(append(bytes.Clone(d.Device), d.Config...))
			if err != nil {
				t.Fatal(err)
			}
			named, _ := driver.ByName(v.driver)
			if e, ok := driver.ByID(desc.Vendor, desc.Product); len(named.IDs) > 0 && (!ok || e.Name != v.driver) {
				t.Errorf("%s is taken by %q", desc.ID(), e.Name)
			}
			if len(desc.Interfaces) != 1 || desc.Interfaces[0].Number != 0 || desc.Interfaces[0].Class != 0xFF {
				t.Fatalf("interfaces %+v", desc.Interfaces)
			}
			if n := int(d.Config[2]) | int(d.Config[3])<<8; n != len(d.Config) {
				t.Errorf("wTotalLength %d of %d", n, len(d.Config))
			}
			if n := int(d.Config[13]); n != len(desc.Interfaces[0].Endpoints) {
				t.Errorf("bNumEndpoints %d of %d", n, len(desc.Interfaces[0].Endpoints))
			}
			for _, e := range desc.Interfaces[0].Endpoints {
				if d.Speed == vusb.LowSpeed && (e.Type == usb.EndpointBulk || e.MaxPacket > 8) {
					t.Errorf("a low-speed device with endpoint %+v", e)
				}
			}
			for _, i := range d.Device[14:17] {
				if int(i) > len(d.Strings) {
					t.Errorf("string %d of %d", i, len(d.Strings))
				}
			}
		})
	}
}

// PIV behind every token that carries APDUs as they are: the application is
// found, its longest object comes whole, and a wrong PIN is counted.
func TestEveryDriverPIV(t *testing.T) {
	piv, err := card.New("piv", nil) // one for all: its keys take long to make
	if err != nil {
		t.Fatal(err)
	}
	for _, v := range variants(t) {
		if v.way != "" {
			continue
		}
		t.Run(v.driver, func(t *testing.T) {
			atr := piv.ATR()
			if v.atr != nil {
				atr = v.atr
			}
			_, slot := openToken(t, v.driver, v.make(withATR{piv, atr}))
			if _, err := slot.Reset(t.Context()); err != nil {
				t.Fatal(err)
			}
			c := client{t, slot}
			got, err := c.transmit([]byte{0, 0xA4, 4, 0, 9, 0xA0, 0, 0, 3, 8, 0, 0, 0x10, 0, 0})
			if err != nil {
				t.Fatal(err)
			}
			if v.driver == "rutoken" { // translates the name like a path
				if !bytes.Equal(got, []byte{0x6A, 0x82}) {
					t.Errorf("SELECT: % X", got)
				}
				return
			}
			if n := len(got); n < 10 || got[0] != 0x61 || got[n-2] != 0x90 {
				t.Fatalf("SELECT: % X", got)
			}
			got, err = c.transmit([]byte{0, 0xCB, 0x3F, 0xFF, 5, 0x5C, 3, 0x5F, 0xC1, 0x05, 0})
			if err != nil {
				t.Fatal(err)
			}
			if n := len(got); n < 300 || got[0] != 0x53 || got[n-2] != 0x90 {
				t.Fatalf("certificate: %d bytes, % .8X", n, got)
			}
			got, err = c.transmit([]byte{0, 0x20, 0, 0x80, 8, '9', '9', '9', '9', '9', '9', 0xFF, 0xFF})
			if err != nil || len(got) != 2 || got[0] != 0x63 {
				t.Errorf("wrong PIN: % X, %v", got, err)
			}
			got, err = c.transmit([]byte{0, 0x20, 0, 0x80, 8, '1', '2', '3', '4', '5', '6', 0xFF, 0xFF})
			if err != nil || !bytes.Equal(got, []byte{0x90, 0x00}) {
				t.Errorf("PIN: % X, %v", got, err)
			}
			// A signature with RSA 2048: 266 bytes chained from 255 on, 264 back.
			block := append(make([]byte, 1), bytes.Repeat([]byte{0x5A}, 255)...)
			template := append([]byte{0x7C, 0x82, 0x01, 0x06, 0x82, 0x00, 0x81, 0x82, 0x01, 0x00}, block...)
			got, err = c.transmit(append([]byte{0x10, 0x87, 0x07, 0x9A, 255}, template[:255]...))
			if err != nil || !bytes.Equal(got, []byte{0x90, 0x00}) {
				t.Fatalf("first part: % X, %v", got, err)
			}
			rest := template[255:]
			got, err = c.transmit(append(append([]byte{0x00, 0x87, 0x07, 0x9A, byte(len(rest))}, rest...), 0))
			if n := len(got); err != nil || n != 266 || got[0] != 0x7C || got[n-2] != 0x90 {
				t.Fatalf("signature: %d bytes, % .8X, %v", n, got, err)
			}
		})
	}
}

// withATR is a card with another ATR.
type withATR struct {
	card.Card
	atr []byte
}

func (c withATR) ATR() []byte { return c.atr }

// The Rutoken's own card through the driver: what a client sees of files.
func TestRutokenFiles(t *testing.T) {
	m, err := model.New("rutoken", "rutoken")
	if err != nil {
		t.Fatal(err)
	}
	_, slot := openToken(t, "rutoken", m)
	if _, err := slot.Reset(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, x := range []struct{ name, apdu, want string }{
		{"master file", "00A4000002003F00", "623D 81020000 80020000 82023800 8302003F 8A0101 8628 43" + zeros(39) + "9000"},
		{"create", "00E000003A6238 80022000 82020100 83020110 8628" + zeros(40) + "8100", "9000"},
		{"select by path", "00A4000004003F0110", "623D 81020000 80022000 82020100 83020110 8A0100 8628" + zeros(40) + "9000"},
		{"current file", "00CA011102", "01109000"},
		{"write", "00D60000021122", "9000"},
		{"read", "00B0000003", "1122009000"},
		{"delete", "00E40000020110", "9000"},
		{"gone", "00A40000020110", "6A82"},
		{"make object", "00DA016237 80021000 83020203 8503010203 8628" + zeros(40), "9000"},
		{"object", "8030020300", "83020203 8503010203 8628" + zeros(40) + "9000"},
	} {
		got, err := slot.Transmit(t.Context(), hextest.Bytes(t, x.apdu), nil)
		if err != nil {
			t.Fatalf("%s: %v", x.name, err)
		}
		if want := hextest.Bytes(t, x.want); !bytes.Equal(got, want) {
			t.Errorf("%s:\ngot  % X\nwant % X", x.name, got, want)
		}
	}
}

func zeros(n int) string { return fmt.Sprintf("%0*d", 2*n, 0) }

// A driver that has a virtual device says that it was run against it.
func TestUntestedDrivers(t *testing.T) {
	for _, e := range driver.Table() {
		_, err := model.New(e.Name, "echo")
		if e.Verified == driver.Untested && err == nil {
			t.Errorf("driver %s has a virtual device: its entry can say driver.Emulated", e.Name)
		}
	}
}
