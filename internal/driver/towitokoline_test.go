//go:build go1.25

package driver

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	"openct/internal/device"
	"openct/internal/golden"
	"openct/internal/ifd"
	"openct/internal/proto"
	"openct/internal/reader"
	"openct/internal/serial/serialtest"
	"openct/internal/vusb/card"
	virtual "openct/internal/vusb/towitoko"
)

func TestTowitokoChecksum(t *testing.T) {
	for _, tt := range []struct {
		seed  byte
		bytes string
		sum   byte
	}{
		{0, "00", 0x01}, {0, "03", 0x07}, {0, "600f", 0x9C}, {0, "610f", 0x98}, {0, "806f0005", 0x76}, {0, "a06f0005", 0x74},
		{0, "7e10", 0xDA}, {0, "6f006a0f", 0x4E}, {0, "6f0505", 0x62}, {0, "6e025f0008", 0x18}, {0, "7080620f", 0x9B},
		{1, "", 0x01}, {1, "40", 0x83}, {1, "c0", 0x82}, {1, "00", 0x03}, {1, "80", 0x02}, {1, "8410", 0x35},
	} {
		if got := towitokoSum(tt.seed, unhex(tt.bytes)); got != tt.sum {
			t.Errorf("%02x, %s: %02x, want %02x", tt.seed, tt.bytes, got, tt.sum)
		}
	}
}

func TestTowitokoCards(t *testing.T) {
	inverse := []byte{0x3F, 0x03, 'I', 'N', 'V'}
	for _, tt := range []struct {
		name string
		kind byte
		card card.Card
		atr  string
		set  proto.ID
		apdu string
		resp string
	}{
		{"T=0", virtual.External, card.NewEchoATR(card.T0ATR("T0")), "3b025430", proto.Default, "00ee000404", "00010203" + "9000"},
		{"T=1", virtual.Micro, card.NewEcho(), "3b848131fe454543484f8e", proto.Default, "00ee000402", "00010203" + "9000"},
		{"inverse convention", virtual.Internal, card.NewEchoATR(inverse), "3f03494e56", proto.Default, "00ee000404", "00010203" + "9000"},
		{"Kartenzwerg II", virtual.KartenzwergII, card.NewEcho(), "3b848131fe454543484f8e", proto.Default, "00ee000100", "00" + "9000"},
		{"T=1 by PPS", virtual.External, card.NewEchoATR([]byte{0x3B, 0x80, 0x80, 0x01, 0x01}), "3b80800101", proto.T1, "00ee000100", "00" + "9000"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx := context.Background()
				s := slotOf(t, onTowitoko(t, newVirtualLine(virtual.New(tt.kind, tt.card))), 0)
				for range 2 {
					atr, err := s.Reset(ctx)
					if err != nil || fmt.Sprintf("%x", atr) != tt.atr {
						t.Fatalf("ATR %x, %v, want %s", atr, err, tt.atr)
					}
					if err := s.SetProtocol(ctx, tt.set); err != nil {
						t.Fatal(err)
					}
					resp, err := s.Transmit(ctx, unhex(tt.apdu), nil)
					if err != nil || fmt.Sprintf("%x", resp) != tt.resp {
						t.Errorf("response %x, %v, want %s", resp, err, tt.resp)
					}
				}
			})
		})
	}
}

// Memory cards are recognised, read and written, and none is written to find out.
func TestTowitokoMemory(t *testing.T) {
	for _, tt := range []struct {
		name string
		kind byte
		card *card.Memory
		size int // as far as the addresses reach
	}{
		{"24C02", virtual.External, card.New24C(256), 2048},
		{"24C16", virtual.Micro, card.New24C(2048), 2048},
		{"24C32", virtual.Internal, card.New24C(4096), 65536},
		{"SLE 4432", virtual.KartenzwergII, card.NewSLE4432(), 256},
		{"SLE 4418", virtual.Kartenzwerg, card.NewSLE4418(), 1024},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx := context.Background()
				s := slotOf(t, onTowitoko(t, newVirtualLine(virtual.New(tt.kind, tt.card))), 0)
				atr, err := s.Reset(ctx)
				if err != nil || !bytes.Equal(atr, tt.card.ATR()) {
					t.Fatalf("ATR % x, %v, want % x", atr, err, tt.card.ATR())
				}
				if tt.card.Writes() != 0 {
					t.Error("the reset wrote to the card")
				}
				buf := make([]byte, tt.card.Size())
				if n, err := s.ReadMemory(ctx, 0, buf); err != nil || !bytes.Equal(buf[:n], tt.card.Bytes()) {
					t.Errorf("read %d bytes, %v", n, err)
				}
				last := tt.card.Size() - 40
				text := bytes.Repeat([]byte("Hello, card!"), 3)
				if err := s.WriteMemory(ctx, last, text); err != nil || !bytes.Equal(tt.card.Bytes()[last:][:len(text)], text) {
					t.Errorf("write: %v", err)
				}
				if err := s.WriteMemory(ctx, tt.size-1, []byte{1, 2}); !errors.Is(err, proto.ErrMemoryRange) {
					t.Errorf("write beyond the end: %v", err)
				}
			})
		})
	}
}

// The PSC of a SLE 4442 and of a SLE 4428: what each try costs, and a new PSC.
func TestTowitokoPSC(t *testing.T) {
	for _, tt := range []struct {
		name             string
		card             *card.Memory
		right, wrong, to string
		tries            int
	}{
		{"SLE 4442", card.NewSLE4442(), "ffffff", "112233", "abcdef", 3},
		{"SLE 4428", card.NewSLE4428(), "ffff", "1122", "abcd", 8},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { testTowitokoPSC(t, tt.card, tt.right, tt.wrong, tt.to, tt.tries) })
		})
	}
}

func testTowitokoPSC(t *testing.T, sle *card.Memory, right, wrong, to string, tries int) {
	ctx := context.Background()
	s := slotOf(t, onTowitoko(t, newVirtualLine(virtual.New(virtual.External, sle))), 0)
	if _, err := s.Reset(ctx); err != nil {
		t.Fatal(err)
	}
	length := fmt.Sprintf("%02x", len(right)/2)
	send := func(apdu, want string) {
		t.Helper()
		resp, err := s.Transmit(ctx, unhex(apdu), nil)
		if err != nil || fmt.Sprintf("%x", resp) != want {
			t.Errorf("%s: %x, %v, want %s", apdu, resp, err, want)
		}
	}
	verify := func(psc, want string) { t.Helper(); send("00200000"+length+psc, want) }
	change := func(old, new, want string) {
		t.Helper()
		send(fmt.Sprintf("00240000%02x%s%s", len(right), old, new), want)
	}
	var next byte = 0xA0
	write := func(want error) {
		t.Helper()
		next++
		if err := s.WriteMemory(ctx, 0x40, []byte{next}); !errors.Is(err, want) {
			t.Errorf("write: %v, want %v", err, want)
		}
	}
	left := func(n int) string { return fmt.Sprintf("63c%x", n) }
	write(proto.ErrWriteProtected)
	verify(wrong, left(tries-1))
	write(proto.ErrWriteProtected)
	send("0020000001ff", "6700")
	send("0024000002ffff", "6700")
	write(proto.ErrWriteProtected)
	verify(right, "9000")
	write(nil)

	change(wrong, to, left(tries-1))
	write(proto.ErrWriteProtected)
	change(right, to, "9000")
	write(nil)
	verify(right, left(tries-1))
	verify(to, "9000")
	for n := range tries {
		verify(wrong, left(tries-1-n))
	}
	verify(to, "6983")
	change(to, right, "6983")
	if counter := sle.Security()[0]; counter != 0 {
		t.Errorf("the counter is %02x", counter)
	}
}

// A card without a PSC is not said to have taken one, and keeps what it holds.
func TestTowitokoNoPSC(t *testing.T) {
	for _, tt := range []struct {
		name string
		card *card.Memory
		psc  string
		end  []byte // of the memory, where a SLE 4428 has counter and PSC
	}{
		{"SLE 4432", card.NewSLE4432(), "03ffffff", nil},
		{"SLE 4418", card.NewSLE4418(), "02ffff", nil},
		{"SLE 4418, empty", card.NewSLE4418(), "02ffff", []byte{0xFF, 0xFF, 0xFF}},
		{"SLE 4418, with zeros", card.NewSLE4418(), "02ffff", []byte{0xFF, 0x00, 0x00}},
		{"24C02", card.New24C(256), "02ffff", nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx := context.Background()
				copy(tt.card.Bytes()[tt.card.Size()-3:], tt.end)
				before := bytes.Clone(tt.card.Bytes())
				s := slotOf(t, onTowitoko(t, newVirtualLine(virtual.New(virtual.External, tt.card))), 0)
				if _, err := s.Reset(ctx); err != nil {
					t.Fatal(err)
				}
				resp, err := s.Transmit(ctx, unhex("00200000"+tt.psc), nil)
				if !errors.Is(err, ifd.ErrNotSupported) || tt.card.Writes() != 0 || !bytes.Equal(tt.card.Bytes(), before) {
					t.Errorf("VERIFY: %x, %v, %d bytes written", resp, err, tt.card.Writes())
				}
			})
		})
	}
}

// Both slots of a Twin are used at the same time, by cards of both conventions.
func TestTowitokoTwin(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx := context.Background()
		twin := virtual.New(virtual.Twin, card.NewEcho())
		core := onTowitoko(t, newVirtualLine(twin))
		if _, err := slotOf(t, core, 1).Reset(ctx); !errors.Is(err, ifd.ErrNoCard) {
			t.Errorf("slot B is empty: %v", err)
		}
		twin.Insert(1, card.NewEchoATR([]byte{0x3F, 0x03, 'I', 'N', 'V'}))
		use := func(s *reader.Slot) error {
			resp, err := s.Transmit(ctx, unhex("00ee000404"), nil)
			if err == nil && fmt.Sprintf("%x", resp) != "000102039000" {
				err = fmt.Errorf("response % x", resp)
			}
			return err
		}
		slots := []*reader.Slot{slotOf(t, core, 0), slotOf(t, core, 1)}
		for _, s := range slots {
			if _, err := s.Reset(ctx); err != nil {
				t.Fatal(err)
			}
		}
		for range 3 { // by turns
			for i, s := range slots {
				if err := use(s); err != nil {
					t.Errorf("slot %d: %v", i, err)
				}
			}
		}
		done := make(chan error)
		for _, s := range slots { // at once
			go func() {
				_, err := s.Reset(ctx)
				for k := 0; k < 5 && err == nil; k++ {
					err = use(s)
				}
				done <- err
			}()
		}
		for range slots {
			if err := <-done; err != nil {
				t.Error(err)
			}
		}
		if !twin.Red(0) || !twin.Red(1) {
			t.Error("the LED of a slot with a card is off")
		}
	})
}

// Whatever a reader does, the client gets one error, in a bounded time, and the
// next reset works.
func TestTowitokoFaults(t *testing.T) {
	always := func(change func([]byte) []byte) func(int, []byte) []byte {
		return func(_ int, b []byte) []byte { return change(b) }
	}
	changes := []struct {
		name   string
		change func(int, []byte) []byte
	}{
		{"no answer", always(func([]byte) []byte { return nil })},
		{"garbage", always(func(b []byte) []byte { return []byte{0x55, 0xAA, 0x00, 0xFF, 0x12, 0x34, 0x56, 0x78}[:min(8, len(b))] })},
		{"wrong checksum", always(func(b []byte) []byte { b[len(b)-1] ^= 0xFF; return b })},
		{"too short", always(func(b []byte) []byte { return b[:len(b)/2] })},
		{"too long", always(func(b []byte) []byte { return append(b, 0x00, 0x00) })},
		{"FF", always(func(b []byte) []byte { return bytes.Repeat([]byte{0xFF}, len(b)) })},
		{"nothing once more", func(n int, b []byte) []byte {
			if n == 0 {
				return nil
			}
			return b
		}},
	}
	type use struct {
		name string
		card func() card.Card
		do   func(context.Context, *reader.Slot) error
	}
	reset := func(ctx context.Context, s *reader.Slot) error { _, err := s.Reset(ctx); return err }
	apdu := func(ctx context.Context, s *reader.Slot) error {
		resp, err := s.Transmit(ctx, unhex("00ee000404"), nil)
		if err == nil && fmt.Sprintf("%x", resp) != "000102039000" {
			err = errOther
		}
		return err
	}
	memory := func() card.Card { return card.NewSLE4442() }
	unprotected := func() card.Card { return card.NewSLE4432() }
	uses := []use{
		{"reset", func() card.Card { return card.NewEcho() }, reset},
		{"APDU, T=1", func() card.Card { return card.NewEcho() }, apdu},
		{"APDU, T=0", func() card.Card { return card.NewEchoATR(card.T0ATR("T0")) }, apdu},
		{"reset, memory card", memory, reset},
		{"read", memory, func(ctx context.Context, s *reader.Slot) error {
			_, err := s.ReadMemory(ctx, 0, make([]byte, 40))
			return err
		}},
		{"write", unprotected, func(ctx context.Context, s *reader.Slot) error { return s.WriteMemory(ctx, 0x40, []byte{1, 2, 3, 4}) }},
		{"PSC", memory, func(ctx context.Context, s *reader.Slot) error {
			_, err := s.Transmit(ctx, unhex("0020000003ffffff"), nil)
			return err
		}},
		{"status", memory, func(ctx context.Context, s *reader.Slot) error { _, err := s.Status(ctx); return err }},
	}
	var table bytes.Buffer
	for _, u := range uses {
		fmt.Fprintf(&table, "%s\n", u.name)
		for _, c := range changes {
			synctest.Test(t, func(t *testing.T) {
				ctx := context.Background()
				r := virtual.New(virtual.External, u.card())
				s := slotOf(t, onTowitoko(t, newVirtualLine(r)), 0)
				if _, err := s.Reset(ctx); err != nil {
					t.Fatal(err)
				}
				n := 0
				r.Change = func(_ int, b []byte) []byte { n++; return c.change(n-1, b) }
				begin := time.Now()
				err := u.do(ctx, s)
				fmt.Fprintf(&table, "  %-20s %-12s %v\n", c.name, kindOf(err), time.Since(begin).Round(100*time.Millisecond))
				r.Change = nil
				if _, err := s.Reset(ctx); err != nil {
					t.Errorf("%s, %s: the next reset: %v", u.name, c.name, err)
				}
			})
		}
	}
	golden.Compare(t, "testdata/towitoko.golden", table.String())
}

// The reader is pulled at any byte, in any use: it is gone, and nobody waits.
func TestTowitokoPulled(t *testing.T) {
	for after := 1; after < 120; after++ {
		synctest.Test(t, func(t *testing.T) {
			ctx := context.Background()
			l := newVirtualLine(virtual.New(virtual.External, card.NewEcho()))
			s := slotOf(t, onTowitoko(t, l), 0)
			l.pullAfter = after
			begin := time.Now()
			_, err := s.Reset(ctx)
			for err == nil && time.Since(begin) < time.Minute {
				_, err = s.Transmit(ctx, unhex("00ee000404"), nil)
			}
			if !errors.Is(err, device.ErrUnplugged) || time.Since(begin) > 5*time.Second {
				t.Errorf("after %d bytes: %v, after %v", after, err, time.Since(begin))
			}
		})
	}
}

// A card that is pulled ends its command with an error; the next reset says that
// there is none, and the one after it finds the next card.
func TestTowitokoCardPulled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx := context.Background()
		r := virtual.New(virtual.External, card.NewEcho())
		r.Deaf = true
		s := slotOf(t, onTowitoko(t, newVirtualLine(r)), 0)
		if _, err := s.Reset(ctx); err != nil {
			t.Fatal(err)
		}
		r.Insert(0, nil)
		if _, err := s.Transmit(ctx, unhex("00ee000404"), nil); err == nil {
			t.Error("a card that is out answers")
		}
		if _, err := s.Reset(ctx); !errors.Is(err, ifd.ErrNoCard) {
			t.Errorf("reset without a card: %v", err)
		}
		r.Insert(0, card.New24C(256))
		if st, err := s.Status(ctx); err != nil || !st.Present || !st.Changed {
			t.Errorf("status %+v, %v", st, err)
		}
		if _, err := s.Reset(ctx); err != nil {
			t.Errorf("reset of the next card: %v", err)
		}
	})
}

// What does not answer like a reader is none.
func TestTowitokoOpen(t *testing.T) {
	const start = "set 9600 8E2\n> 0001\n"
	for _, tt := range []struct {
		name   string
		script string
		reader string
		want   error
		within time.Duration
	}{
		{"Chipdrive External", start + "< 841035", "Towitoko Chipdrive External", nil, time.Second},
		{"unknown type", start + "< 42102e", "Towitoko", nil, time.Second},
		{"silence", start, "", ifd.ErrIncompatible, 2 * time.Second},
		{"a modem's echo", start + "< 0001", "", ifd.ErrIncompatible, 2 * time.Second},
		{"wrong checksum", start + "< 841036", "", ifd.ErrIncompatible, time.Second},
		{"pulled", start + "unplug", "", device.ErrUnplugged, time.Second},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l, begin := serialtest.New(t, tt.script), time.Now()
				r, err := openTowitoko(l, ifd.Options{Name: "Towitoko", Log: slog.New(slog.DiscardHandler)})
				if !errors.Is(err, tt.want) || time.Since(begin) > tt.within {
					t.Fatalf("%v after %v, want %v", err, time.Since(begin), tt.want)
				}
				if err == nil && r.Name() != tt.reader {
					t.Errorf("it is called %s, want %s", r.Name(), tt.reader)
				}
				l.Done()
			})
		})
	}
}

// FuzzTowitoko: whatever comes over the line, nothing breaks or waits for ever.
func FuzzTowitoko(f *testing.F) {
	f.Add([]byte{0x01, 0x01, 0x40, 0x83, 0x01, 0x3B, 0x02, 0x14, 0x50, 0x01, 0xB0, 0x11, 0x22, 0x90, 0x00})
	f.Add([]byte{0x01, 0x01, 0x40, 0x83, 0x01, 0x03, 0x59, 0x5B, 0xFF, 0xCB, 0x6F, 0x69, 0xF6, 0xFF, 0x01})
	f.Add([]byte{0x01, 0x01, 0x40, 0x83, 0x01, 0x3B, 0xD2, 0x18, 0x00, 0x81, 0x31, 0xFE, 0x58, 0xC9, 0x01, 0x14, 0x01})
	f.Add([]byte{0x01, 0x01, 0xC0, 0x82, 0x01, 0x00, 0x01, 0x01, 0x01, 0x01, 0xA2, 0x46})
	f.Fuzz(func(t *testing.T, answers []byte) {
		synctest.Test(t, func(t *testing.T) {
			l := &noiseLine{gone: make(chan struct{}), in: []byte{0x84, 0x10, 0x35}}
			s := slotOf(t, onTowitoko(t, noEcho{l}), 0)
			l.in = answers
			ctx := context.Background()
			if _, err := s.Reset(ctx); err != nil {
				return
			}
			resp, err := s.Transmit(ctx, []byte{0x00, 0xB0, 0x00, 0x00, 0x02}, nil)
			if err == nil && len(resp) < 2 {
				t.Errorf("response %x", resp)
			}
			buf := make([]byte, 40)
			if n, err := s.ReadMemory(ctx, 0, buf); err == nil && n != len(buf) {
				t.Errorf("%d bytes", n)
			}
		})
	})
}

// noEcho is noise that does not give back what is sent.
type noEcho struct{ *noiseLine }

func (noEcho) Write(context.Context, []byte) error { return nil }
func (noEcho) Close() error                        { return nil }
