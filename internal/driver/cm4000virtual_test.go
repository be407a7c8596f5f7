//go:build go1.25

package driver

import (
	"context"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"openct/internal/atr"
	"openct/internal/device"
	"openct/internal/ifd"
	"openct/internal/pcmcia"
	"openct/internal/proto"
	"openct/internal/reader"
	"openct/internal/vusb/card"
)

// virtualCM4000 is the node of a CardMan 4000 with a card in it: what cm4000_cs does
// (drivers/char/pcmcia/cm4000_cs.c as of Linux 6.3). A /dev/cmm0 of CUSE's could not
// take its place, as its events have the subsystem cuse.
type virtualCM4000 struct {
	t *testing.T

	mu     sync.Mutex
	card   card.Card // nil: none is in
	t0     *card.T0
	t1     *card.T1
	valid  bool // there is an ATR
	slow   bool // the kernel still reads the ATR
	asT1   bool
	answer []byte
	pts    []uint32
	closed bool
}

func (v *virtualCM4000) insert(c card.Card) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.card, v.answer, v.valid = c, nil, c != nil
	if c != nil {
		v.t0, v.t1 = card.NewT0(c), card.NewT1(c, card.T1Options{})
		v.power()
	}
}

// power is what the kernel does with a card that is in: it is talked to in the
// protocol that its ATR puts first.
func (v *virtualCM4000) power() {
	v.t0.Reset()
	v.t1.Reset()
	a, err := atr.Parse(v.card.ATR())
	if err != nil {
		v.t.Fatal(err)
	}
	v.valid, v.asT1, v.answer = true, a.Default() == 1, nil
}

func (v *virtualCM4000) Name() string          { return "virtual" }
func (v *virtualCM4000) Gone() <-chan struct{} { return nil }
func (v *virtualCM4000) Close() error          { v.closed = true; return nil }

func (v *virtualCM4000) Ioctl(_ context.Context, q pcmcia.Request, arg []byte, _ time.Duration) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	switch q {
	case cm4000Status:
		bits := uint32(0)
		if v.card != nil {
			bits = 0x03 // in, and powered
		}
		if v.card != nil && !v.slow {
			bits |= cm4000ATRPresent
		}
		if v.valid && !v.slow {
			bits |= cm4000ATRValid
		}
		binary.NativeEndian.PutUint32(arg, bits)
	case cm4000CardOff:
		v.power()
	case cm4000ATR:
		n := copy(arg[4:], v.card.ATR())
		binary.NativeEndian.PutUint32(arg, uint32(n))
	case cm4000PTS:
		p := binary.NativeEndian.Uint32(arg)
		v.pts = append(v.pts, p)
		v.asT1 = p == 1<<1
	default:
		return fmt.Errorf("request %v: %w", q, device.ErrIO)
	}
	return nil
}

func (v *virtualCM4000) Write(_ context.Context, b []byte, _ time.Duration) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	switch {
	case v.card == nil:
		return fmt.Errorf("%w: no card", device.ErrIO)
	case v.asT1:
		v.answer = v.t1.Block(b)
	default:
		v.answer = v.t0.TPDU(b)
	}
	v.answer = append([]byte(nil), v.answer...)
	return nil
}

func (v *virtualCM4000) Read(_ context.Context, buf []byte, _ time.Duration) (int, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if len(v.answer) == 0 {
		return 0, fmt.Errorf("%w: nothing came", device.ErrIO)
	}
	n := copy(buf, v.answer)
	v.answer = nil
	return n, nil
}

// Commands of all cases, by T=0 and by T=1, and a card that is pulled and put in.
func TestCM4000Virtual(t *testing.T) {
	ctx := context.Background()
	for _, tt := range []struct {
		name string
		card func() card.Card
		apdu []string // P1 and P2 say how long the answer is
	}{
		{"T=0", func() card.Card { return card.NewEchoATR(card.T0ATR("OpenCT")) }, []string{"00ee0000", "00ee000101", "00ee00ffff", "00ee010000", "00ee000003aabbcc"}},
		{"T=1", func() card.Card { return card.NewEcho() }, []string{"00ee0000", "00ee000101", "00ee00ffff", "00ee010000", "00ee000003aabbcc",
			"00ee0000ff" + strings.Repeat("5a", 255), "00ee000403aabbcc04"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			v := &virtualCM4000{t: t}
			v.insert(tt.card())
			r, err := openCM4000(v, ifd.Options{Name: "CardMan"})
			if err != nil {
				t.Fatal(err)
			}
			core := reader.New(quietReader{r, make(chan ifd.Event)}, slog.New(slog.DiscardHandler), func(int, ifd.Status) {})
			s := slotOf(t, core, 0)
			use := func() {
				t.Helper()
				if raw, err := s.Reset(ctx); err != nil || hex.EncodeToString(raw) != hex.EncodeToString(v.card.ATR()) {
					t.Fatalf("reset: %x, %v", raw, err)
				}
				for _, apdu := range tt.apdu {
					b := unhex(apdu)
					want := int(b[2])<<8 | int(b[3])
					resp, err := s.Transmit(ctx, b, nil)
					if err != nil || len(resp) != want+2 || hex.EncodeToString(resp[want:]) != "9000" {
						t.Errorf("%s: %d bytes, %v; want %d and 9000", apdu, len(resp), err, want)
					}
				}
			}
			use()
			use()
			v.insert(nil)
			if _, err := s.Transmit(ctx, unhex("00ee000101"), nil); !errors.Is(err, ifd.ErrNoCard) {
				t.Errorf("the card is out: %v", err)
			}
			if _, err := s.Reset(ctx); !errors.Is(err, ifd.ErrNoCard) {
				t.Errorf("reset without a card: %v", err)
			}
			v.insert(tt.card())
			use()
			if err := core.Close(); err != nil || !v.closed || len(v.pts) != 0 {
				t.Errorf("at the end: %v, closed %v, PTS %v", err, v.closed, v.pts)
			}
		})
	}
}

// The kernel gives power to a card that is inserted, and would give it the next command:
// a PIN for the card before it.
func TestCM4000ExchangedCard(t *testing.T) {
	ctx := t.Context()
	pin := unhex("002000810431323334")
	for _, tt := range []struct {
		name string
		see  func(*testing.T, *cm4000, *virtualCM4000) // what happens before the next command
	}{
		{"sent while the kernel reads the ATR", func(*testing.T, *cm4000, *virtualCM4000) {}},
		{"seen by then", func(t *testing.T, c *cm4000, v *virtualCM4000) {
			if st, err := c.Status(ctx); err != nil || st != (ifd.Status{Present: true, Changed: true}) {
				t.Errorf("status %+v, %v", st, err)
			}
			v.slow = false
			if st, err := c.Status(ctx); err != nil || st != (ifd.Status{Present: true}) {
				t.Errorf("next status %+v, %v", st, err)
			}
		}},
		{"out", func(_ *testing.T, _ *cm4000, v *virtualCM4000) { v.insert(nil) }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			v := &virtualCM4000{t: t}
			v.insert(card.NewEcho())
			r, err := openCM4000(v, ifd.Options{})
			if err != nil {
				t.Fatal(err)
			}
			c := r.(*cm4000)
			e := engineFor(t, c, proto.Default)
			next := countingCard{card.NewEcho(), map[byte]int{}}
			v.insert(nil)
			v.insert(next)
			v.slow = true
			tt.see(t, c, v)
			for _, want := range []error{ifd.ErrNoCard, proto.ErrResetRequired} {
				if resp, err := e.Transmit(ctx, pin, nil); !errors.Is(err, want) {
					t.Errorf("%x, %v; want %v", resp, err, want)
				}
			}
			if len(next.ran) > 0 {
				t.Errorf("the next card got %v", next.ran)
			}
			v.insert(next)
			v.slow = false
			if _, err := engineFor(t, c, proto.Default).Transmit(ctx, pin, nil); err != nil || next.ran[0x20] != 1 {
				t.Errorf("after its reset: %v, %v", err, next.ran)
			}
		})
	}
}
