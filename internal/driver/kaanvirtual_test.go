//go:build go1.25

package driver

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"log/slog"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"openct/internal/atr"
	"openct/internal/device"
	"openct/internal/ifd"
	"openct/internal/proto"
	"openct/internal/reader"
	"openct/internal/vusb/card"
	virtual "openct/internal/vusb/kaan"
	"openct/internal/vusb/serialline"
)

// terminal is a driver with a virtual terminal at the other end of its line.
type terminal struct {
	*virtual.Terminal
	line *serialline.Local
	ifd  ifd.Reader
	core *reader.Reader
}

// onTerminal opens one; change is done to it before.
func onTerminal(t *testing.T, b1 bool, change func(*virtual.Terminal, *serialline.Local), cards ...card.Card) *terminal {
	t.Helper()
	x := &terminal{Terminal: virtual.New(cards...)}
	x.B1 = b1
	x.line = serialline.NewLocal(x.Terminal)
	if change != nil {
		change(x.Terminal, x.line)
	}
	open := openKaan
	if b1 {
		open = openB1
	}
	var err error
	if x.ifd, err = open(x.line, ifd.Options{Name: "terminal", Log: slog.New(slog.DiscardHandler)}); err != nil {
		t.Fatal(err)
	}
	x.core = reader.New(quietReader{x.ifd, make(chan ifd.Event)}, slog.New(slog.DiscardHandler), func(int, ifd.Status) {})
	t.Cleanup(func() {
		if err := x.core.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return x
}

// quietReader is a reader that the core does not poll.
type quietReader struct {
	ifd.Reader
	events chan ifd.Event
}

func (q quietReader) Events() <-chan ifd.Event { return q.events }

func (x *terminal) slot(t *testing.T, i int) *reader.Slot {
	t.Helper()
	s, err := x.core.Slot(i)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// status is what the terminal's slot says.
func (x *terminal) status(i int) (bool, error) {
	st, err := x.ifd.Slots()[i].(ifd.Presence).Status(context.Background())
	return st.Present, err
}

// both runs a test with either terminal and a clock of its own.
func both(t *testing.T, f func(t *testing.T, b1 bool)) {
	for _, b1 := range []bool{false, true} {
		name := map[bool]string{false: "kaan", true: "b1"}[b1]
		t.Run(name, func(t *testing.T) { synctest.Test(t, func(t *testing.T) { f(t, b1) }) })
	}
}

func TestKaanCards(t *testing.T) {
	both(t, func(t *testing.T, b1 bool) {
		x := onTerminal(t, b1, nil, card.NewEchoATR(card.T0ATR("x")), card.NewEcho())
		ctx := context.Background()
		if n := len(x.ifd.Slots()); n != 2 {
			t.Fatalf("%d slots", n)
		}
		for range 2 {
			for i, want := range [][]byte{card.T0ATR("x"), card.NewEcho().ATR()} {
				s := x.slot(t, i)
				if raw, err := s.Reset(ctx); err != nil || !bytes.Equal(raw, want) {
					t.Fatalf("slot %d: ATR % x, %v", i, raw, err)
				}
				for _, apdu := range []struct{ cmd, want string }{
					{"00ee0000", "9000"},
					{"00ee000303", "0001029000"},
					{"00ee00000401020304", "9000"},
					{"00ee00020401020304" + "00", "00019000"},
				} {
					resp, err := s.Transmit(ctx, unhex(apdu.cmd), nil)
					if err != nil || hex.EncodeToString(resp) != apdu.want {
						t.Errorf("slot %d: %s: %x, %v; want %s", i, apdu.cmd, resp, err, apdu.want)
					}
				}
				long := append([]byte{0x00, 0xEE, 0x00, 0xFE, 0xFF}, make([]byte, 255)...)
				if resp, err := s.Transmit(ctx, append(long, 0x00), nil); err != nil || len(resp) != 0xFE+2 {
					t.Errorf("slot %d: %d bytes, %v", i, len(resp), err)
				}
			}
		}
	})
}

func TestKaanWithoutCard(t *testing.T) {
	both(t, func(t *testing.T, b1 bool) {
		x := onTerminal(t, b1, nil, nil)
		ctx := context.Background()
		if in, err := x.status(0); err != nil || in {
			t.Errorf("present %v, %v", in, err)
		}
		if _, err := x.slot(t, 0).Reset(ctx); !errors.Is(err, ifd.ErrNoCard) {
			t.Errorf("reset: %v", err)
		}
		if _, err := x.slot(t, 0).Request(ctx, 2*time.Second, "Card, please"); !errors.Is(err, ifd.ErrNoCard) {
			t.Errorf("request: %v", err)
		}
		if got := x.Display(); got != "Card, please" {
			t.Errorf("the display shows %q", got)
		}
		x.line.Do(func() { x.Insert(0, card.NewEcho()) })
		if in, err := x.status(0); err != nil || !in {
			t.Errorf("present %v, %v", in, err)
		}
		if _, err := x.slot(t, 0).Request(ctx, 2*time.Second, ""); err != nil {
			t.Errorf("request: %v", err)
		}
	})
}

// A card that is exchanged for another one faster than the core looks does not answer
// with the terminal's status word.
func TestKaanExchangedCard(t *testing.T) {
	both(t, func(t *testing.T, b1 bool) {
		for name, use := range map[string]func(context.Context, *reader.Slot) ([]byte, error){
			"command": func(ctx context.Context, s *reader.Slot) ([]byte, error) {
				return s.Transmit(ctx, unhex("00ee000303"), nil)
			},
			"PIN": func(ctx context.Context, s *reader.Slot) ([]byte, error) {
				return s.Verify(ctx, ifd.PINRequest{Control: 1, Offset: 6, APDU: unhex("0020008008ffffffffffffffff")})
			},
		} {
			x := onTerminal(t, b1, nil, card.NewEcho())
			s, ctx := x.slot(t, 0), context.Background()
			if _, err := s.Reset(ctx); err != nil {
				t.Fatal(err)
			}
			x.line.Do(func() { x.Insert(0, nil); x.Insert(0, card.NewEcho()) })
			for range 2 {
				if resp, err := use(ctx, s); !errors.Is(err, ifd.ErrNoCard) && !errors.Is(err, proto.ErrResetRequired) {
					t.Errorf("%s: %x, %v", name, resp, err)
				}
			}
			if _, err := s.Reset(ctx); err != nil {
				t.Errorf("%s: next reset: %v", name, err)
			}
		}
	})
}

func TestKaanPIN(t *testing.T) {
	verify := ifd.PINRequest{Control: 1, Offset: 6, Message: "PIN", APDU: unhex("0020008008ffffffffffffffff")}
	change := ifd.PINRequest{Control: 1, Offset: 6, APDU: append([]byte{14}, unhex("0024008010ffffffffffffffffffffffffffffffff")...)}
	for _, tt := range []struct {
		name string
		keys virtual.Keys
		run  func(*reader.Slot, context.Context, ifd.PINRequest) ([]byte, error)
		r    ifd.PINRequest
		want string
		err  error
	}{
		{"right", virtual.Keys{PIN: "123456"}, (*reader.Slot).Verify, verify, "9000", nil},
		{"wrong", virtual.Keys{PIN: "654321"}, (*reader.Slot).Verify, verify, "63c2", nil},
		{"cancelled", virtual.Keys{Cancel: true}, (*reader.Slot).Verify, verify, "", ifd.ErrUserAbort},
		{"nothing typed", virtual.Keys{Nothing: true}, (*reader.Slot).Verify, verify, "", ifd.ErrUserTimeout},
		{"changed", virtual.Keys{PIN: "123456", New: "111222"}, (*reader.Slot).Modify, change, "9000", nil},
		{"new ones differ", virtual.Keys{Mismatch: true}, (*reader.Slot).Modify, change, "", ifd.ErrPINMismatch},
		{"no room for a PIN", virtual.Keys{}, (*reader.Slot).Verify, ifd.PINRequest{APDU: []byte{0}}, "", proto.ErrInvalidAPDU},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c, err := card.New("piv", nil)
				if err != nil {
					t.Fatal(err)
				}
				x := onTerminal(t, false, nil, c)
				s := x.slot(t, 0)
				ctx := context.Background()
				if _, err := s.Reset(ctx); err != nil {
					t.Fatal(err)
				}
				if resp, err := s.Transmit(ctx, unhex("00a404000ba000000308000010000100"), nil); err != nil || resp[len(resp)-2] != 0x90 {
					t.Fatalf("select: %x, %v", resp, err)
				}
				x.Type(tt.keys)
				x.Chip().RequestWTX(2) // the user takes his time
				resp, err := tt.run(s, ctx, tt.r)
				if hex.EncodeToString(resp) != tt.want || !errors.Is(err, tt.err) {
					t.Errorf("%x, %v; want %s, %v", resp, err, tt.want, tt.err)
				}
			})
		})
	}
}

// What a terminal does not have it does not do.
func TestKaanOld(t *testing.T) {
	both(t, func(t *testing.T, b1 bool) {
		x := onTerminal(t, b1, func(v *virtual.Terminal, _ *serialline.Local) { v.Old = true }, card.NewEcho())
		k := x.ifd.(ifd.Keypad)
		if k.HasDisplay() || k.HasKeypad() {
			t.Error("old firmware tells neither keypad nor display")
		}
		if _, ok := x.ifd.Slots()[0].(ifd.Verifier); ok {
			t.Error("without a keypad there is no PIN to type")
		}
		if err := x.ifd.(ifd.Displayer).Display(context.Background(), "x"); !errors.Is(err, ifd.ErrNotSupported) {
			t.Errorf("display: %v", err)
		}
		if in, err := x.status(0); err != nil || !in {
			t.Errorf("present %v, %v", in, err)
		}
		if _, err := x.slot(t, 0).Reset(context.Background()); err != nil {
			t.Errorf("reset: %v", err)
		}
	})
}

func TestKaanDisplayAndEject(t *testing.T) {
	both(t, func(t *testing.T, b1 bool) {
		x := onTerminal(t, b1, nil, card.NewEcho())
		ctx := context.Background()
		if err := x.ifd.(ifd.Displayer).Display(ctx, "Good morning"); err != nil || x.Display() != "Good morning" {
			t.Errorf("%q, %v", x.Display(), err)
		}
		if err := x.ifd.(ifd.Displayer).Display(ctx, ""); err != nil || x.Display() != "" {
			t.Errorf("%q, %v", x.Display(), err)
		}
		s := x.slot(t, 0)
		if _, err := s.Reset(ctx); err != nil || !x.Powered(0) {
			t.Fatalf("reset: %v", err)
		}
		if err := s.Eject(ctx, time.Second, "Bye"); err != nil || x.Powered(0) {
			t.Errorf("eject: %v", err)
		}
		if _, err := s.Transmit(ctx, unhex("00ee0000"), nil); !errors.Is(err, reader.ErrNoProtocol) {
			t.Errorf("to an ejected card: %v", err)
		}
		if _, err := s.Reset(ctx); err != nil {
			t.Fatal(err)
		}
		if err := x.core.Close(); err != nil || x.Powered(0) {
			t.Errorf("at the end the card has power; %v", err)
		}
		x.core = reader.New(quietReader{x.ifd, make(chan ifd.Event)}, slog.New(slog.DiscardHandler), func(int, ifd.Status) {})
	})
}

func TestKaanMemory(t *testing.T) {
	for _, tt := range []struct {
		card string
		sw   uint16 // of the reset
		b1   bool
		atr  string
		kind proto.ID
		psc  string
	}{
		{"24c02", 0, false, "", proto.I2CLong, ""},
		{"24c16", 0, true, "", proto.I2CLong, ""},
		{"24c32", 0, false, "", proto.I2CLong, ""},
		{"sle4432", 0, false, "a2131091", proto.TwoWire, ""},
		{"sle4442", 0, true, "a2131091", proto.TwoWire, "ffffff"},
		{"sle4428", 0, false, "92231091", proto.ThreeWire, "ffff"},
		{"24c02", 0x62A7, false, "", proto.I2CShort, ""},
		{"sle4442", 0x62A7, false, "a2131091", proto.TwoWire, "ffffff"},
		{"sle4418", 0x62A6, true, "92231091", proto.ThreeWire, ""},
	} {
		t.Run(tt.card, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c, err := card.New(tt.card, nil)
				if err != nil {
					t.Fatal(err)
				}
				m := c.(*card.Memory)
				x := onTerminal(t, tt.b1, func(v *virtual.Terminal, _ *serialline.Local) { v.MemorySW = tt.sw }, c)
				s := x.slot(t, 0)
				ctx := context.Background()
				raw, err := s.Reset(ctx)
				if err != nil || hex.EncodeToString(raw) != tt.atr {
					t.Fatalf("ATR %x, %v; want %s", raw, err, tt.atr)
				}
				if m.Writes() != 0 {
					t.Errorf("to find the card %d bytes were written", m.Writes())
				}
				buf := make([]byte, m.Size()+10)
				n, err := s.ReadMemory(ctx, 0, buf)
				if err != nil || !bytes.Equal(buf[:n], m.Bytes()) {
					t.Errorf("read %d bytes of %d, %v", n, m.Size(), err)
				}
				data := []byte("what a card keeps")
				if tt.psc != "" {
					if err := s.WriteMemory(ctx, 100, data); !errors.Is(err, proto.ErrWriteProtected) {
						t.Errorf("written without the PSC: %v", err)
					}
					psc := unhex(tt.psc)
					resp, err := s.Transmit(ctx, append([]byte{0x00, 0x20, 0x00, 0x00, byte(len(psc))}, psc...), nil)
					if err != nil || !bytes.Equal(resp, unhex("9000")) {
						t.Fatalf("PSC: %x, %v", resp, err)
					}
					change := slices.Concat([]byte{0x00, 0x24, 0x00, 0x00, byte(2 * len(psc))}, psc, make([]byte, len(psc)))
					if resp, err := s.Transmit(ctx, change, nil); err != nil || !bytes.Equal(resp, unhex("9000")) {
						t.Fatalf("another PSC: %x, %v", resp, err)
					}
					if resp, err := s.Transmit(ctx, change, nil); err != nil || resp[0] != 0x63 {
						t.Fatalf("another PSC, by the old one: %x, %v", resp, err)
					}
					copy(change[5:], make([]byte, len(psc)))
					if resp, err := s.Transmit(ctx, change, nil); err != nil || !bytes.Equal(resp, unhex("9000")) {
						t.Fatalf("the same PSC: %x, %v", resp, err)
					}
				}
				if err := s.WriteMemory(ctx, 100, data); err != nil || !bytes.Equal(m.Bytes()[100:100+len(data)], data) {
					t.Errorf("write: %v", err)
				}
				if err := s.WriteMemory(ctx, m.Size()-1, []byte{1, 2}); !errors.Is(err, proto.ErrMemoryRange) {
					t.Errorf("write beyond the end: %v", err)
				}
			})
		})
	}
}

// A Eurochip is known to the terminal, or to a B1 by the four bytes that it answers
// with. Its counter goes down and never up.
func TestKaanEurochip(t *testing.T) {
	for _, tt := range []struct {
		name string
		sw   uint16 // of the reset
		b1   bool
	}{{"kaan", 0, false}, {"b1", 0, true}, {"b1, of unknown type", 0x62A5, true}} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, m := context.Background(), card.NewEurochip()
				x := onTerminal(t, tt.b1, func(v *virtual.Terminal, _ *serialline.Local) { v.MemorySW = tt.sw }, m)
				s := x.slot(t, 0)
				if raw, err := s.Reset(ctx); err != nil || hex.EncodeToString(raw) != "d03a0117" {
					t.Fatalf("ATR %x, %v", raw, err)
				}
				buf := make([]byte, 256)
				n, err := s.ReadMemory(ctx, 0, buf)
				if err != nil || !bytes.Equal(buf[:n], m.Bytes()) {
					t.Errorf("read %d bytes of %d, %v", n, m.Size(), err)
				}
				const units = 12
				was := buf[units]
				for _, w := range []struct {
					name string
					addr int
					b    byte
					want error
				}{
					{"a unit", units, was & (was - 1), nil},
					{"the unit comes back", units, was, proto.ErrWriteProtected},
					{"the card's number", 2, 0x00, proto.ErrWriteProtected},
					{"beyond the end", m.Size(), 0x00, proto.ErrMemoryRange},
				} {
					if err := s.WriteMemory(ctx, w.addr, []byte{w.b}); !errors.Is(err, w.want) {
						t.Errorf("%s: %v, want %v", w.name, err, w.want)
					}
				}
				if left := m.Bytes()[units]; left != was&(was-1) {
					t.Errorf("the counter is %02x, was %02x", left, was)
				}
				if resp, err := s.Transmit(ctx, unhex("0020000002ffff"), nil); err != nil || !bytes.Equal(resp, unhex("6d00")) {
					t.Errorf("VERIFY: %x, %v", resp, err)
				}
			})
		})
	}
}

// While nothing happens, the line is quiet, and DSR tells what does.
func TestKaanFreeze(t *testing.T) {
	both(t, func(t *testing.T, b1 bool) {
		writes := 0
		x := onTerminal(t, b1, func(v *virtual.Terminal, l *serialline.Local) {
			l.Mangle = func(c []serialline.Char) []serialline.Char { writes++; return c }
		}, card.NewEcho())
		poll := func(seconds int) (in bool, asked int) {
			before := writes
			for range seconds {
				time.Sleep(time.Second)
				var err error
				if in, err = x.status(0); err != nil {
					t.Fatal(err)
				}
			}
			return in, writes - before
		}
		poll(10)
		if in, asked := poll(20); !in || asked != 0 {
			t.Errorf("a card is in: %v; asked %d times in 20 s", in, asked)
		}
		x.line.Do(func() { x.Insert(0, nil) })
		if in, asked := poll(1); in || asked == 0 {
			t.Errorf("a card is in: %v; asked %d times", in, asked)
		}
		poll(10)
		x.line.Do(func() { x.Insert(0, card.NewEcho()) })
		if in, _ := poll(1); !in {
			t.Error("an inserted card is not seen")
		}
		poll(10)
		if _, asked := poll(55); asked != 0 {
			t.Errorf("asked %d times in 55 s", asked)
		}
		if _, asked := poll(60); asked == 0 || asked > 30 {
			t.Errorf("asked %d times in 60 s", asked)
		}
	})
}

// Without DSR the terminal is asked once a second.
func TestKaanWithoutLines(t *testing.T) {
	both(t, func(t *testing.T, b1 bool) {
		writes := 0
		x := onTerminal(t, b1, func(v *virtual.Terminal, l *serialline.Local) {
			v.AnyLine, l.NoLines = true, true
			l.Mangle = func(c []serialline.Char) []serialline.Char { writes++; return c }
		}, card.NewEcho())
		before := writes
		for range 20 {
			time.Sleep(time.Second)
			if _, err := x.status(0); err != nil {
				t.Fatal(err)
			}
		}
		if asked := writes - before; asked < 20 {
			t.Errorf("asked %d times in 20 s", asked)
		}
	})
}

// Nobody there, or something else.
func TestKaanOpen(t *testing.T) {
	for _, tt := range []struct {
		name   string
		b1     bool
		mangle func([]serialline.Char) []serialline.Char
		err    error
		most   time.Duration
	}{
		{"kaan: no answer", false, func([]serialline.Char) []serialline.Char { return nil }, device.ErrTimeout, 15 * time.Second},
		{"b1: no answer", true, func([]serialline.Char) []serialline.Char { return nil }, device.ErrTimeout, 25 * time.Second},
		{"kaan: nonsense", false, nonsense, proto.ErrProtocol, 30 * time.Second},
		{"b1: nonsense", true, nonsense, proto.ErrProtocol, 30 * time.Second},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				v := virtual.New(nil)
				v.B1 = tt.b1
				l := serialline.NewLocal(v)
				l.Mangle = tt.mangle
				begin := time.Now()
				_, err := newKaan(l, ifd.Options{Log: slog.New(slog.DiscardHandler)}, tt.b1)
				if took := time.Since(begin); !errors.Is(err, tt.err) || took > tt.most {
					t.Errorf("%v, after %v", err, took)
				}
			})
		})
	}
	synctest.Test(t, func(t *testing.T) {
		v := virtual.New(nil) // a kaan, whose DSR stays low
		if _, err := openB1(serialline.NewLocal(v), ifd.Options{Log: slog.New(slog.DiscardHandler)}); !errors.Is(err, ifd.ErrIncompatible) {
			t.Errorf("a B1 that never is on: %v", err)
		}
	})
}

func nonsense(c []serialline.Char) []serialline.Char {
	for i := range c {
		c[i].Byte = 0x55
	}
	return c
}

// FuzzKaan: whatever a terminal says, nothing breaks or waits for ever.
func FuzzKaan(f *testing.F) {
	f.Add(false, unhex("21e000c1"+"2100029000b3"+"2140078103014050900065"+"210005800101900034"+"2140063b02145090018b"+"2100029000b3"+"2000029000b2"))
	f.Add(true, unhex("2100029000b3"+"2140078103014050900065"+"2100040020900095"+"21400400209000d5"+"2100040020900095"+"21400b2001012101022201016282aa"+"2100063b0214509001cb"))
	f.Add(false, unhex("21e000c1"+"2100029000b3"+"2140078103014050900065"+"210005800101900034"+"2140029000f3"+"2100040020900095"))
	f.Fuzz(func(t *testing.T, b1 bool, says []byte) {
		synctest.Test(t, func(t *testing.T) {
			l := &noiseLine{gone: make(chan struct{}), in: says, mute: true, dsr: b1}
			r, err := newKaan(l, ifd.Options{Log: slog.New(slog.DiscardHandler)}, b1)
			if err != nil {
				return
			}
			ctx := context.Background()
			s := r.Slots()[0]
			if st, err := s.(ifd.Presence).Status(ctx); err != nil && st.Present {
				t.Errorf("present, and %v", err)
			}
			raw, err := s.Reset(ctx)
			if err != nil {
				return
			}
			if len(raw) == 0 {
				buf := make([]byte, 16)
				if n, err := s.(ifd.Memory).ReadMemory(ctx, proto.TwoWire, 0, buf); err == nil && (n < 1 || n > len(buf)) {
					t.Errorf("%d bytes", n)
				}
				return
			}
			a, err := atr.Parse(raw)
			if err != nil {
				return
			}
			e, err := s.Protocol(ctx, proto.Default, a)
			if err != nil {
				return
			}
			if resp, err := e.Transmit(ctx, unhex("00b0000002"), nil); err == nil && len(resp) < 2 {
				t.Errorf("response %x", resp)
			}
		})
	})
}
