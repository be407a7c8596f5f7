//go:build go1.25

package driver

import (
	"context"
	"errors"
	"log/slog"
	"testing"
	"testing/synctest"

	"openct/internal/ifd"
	"openct/internal/proto"
	"openct/internal/reader"
	"openct/internal/vusb"
	"openct/internal/vusb/card"
	virtualkaan "openct/internal/vusb/kaan"
	"openct/internal/vusb/serialline"
	virtual "openct/internal/vusb/token"
)

// countingCard counts the commands of each INS that reach it.
type countingCard struct {
	card.Card
	ran map[byte]int
}

func (c countingCard) Transmit(apdu []byte) []byte {
	c.ran[apdu[1]]++
	return c.Card.Transmit(apdu)
}

// spoil damages a side's answers from a number on, three of them: the first is 0.
func spoil(chip *card.T1, from int) {
	n := -1
	chip.Mangle = func(_ int, block []byte) []byte {
		if n++; n >= from && n < from+3 {
			block[len(block)-1] ^= 0x55
		}
		return block
	}
}

// After three damaged answers a terminal is resynchronised. What must not run twice is
// an error then, and does not run again.
func TestOnce(t *testing.T) {
	onKaan := func(b1 bool) func(*testing.T, card.Card) (*reader.Slot, *card.T1) {
		return func(t *testing.T, c card.Card) (*reader.Slot, *card.T1) {
			x := onTerminal(t, b1, func(v *virtualkaan.Terminal, _ *serialline.Local) { v.PIN = "123456" }, c)
			return x.slot(t, 0), x.Chip()
		}
	}
	onCyberJack := func(t *testing.T, c card.Card) (*reader.Slot, *card.T1) {
		m := virtual.NewCyberJack(c)
		dev, err := vusb.Plug("virtual", m).Open()
		if err != nil {
			t.Fatal(err)
		}
		r, err := openCyberJack(dev, ifd.Options{})
		if err != nil {
			t.Fatal(err)
		}
		core := reader.New(quietReader{r, make(chan ifd.Event)}, slog.New(slog.DiscardHandler), func(int, ifd.Status) {})
		t.Cleanup(func() { core.Close() })
		return slotOf(t, core, 0), m.Chip()
	}
	verify := func(ctx context.Context, s *reader.Slot) ([]byte, error) {
		return s.Verify(ctx, ifd.PINRequest{Control: 1, Offset: 6, APDU: unhex("0020008008ffffffffffffffff")})
	}
	transmit := func(apdu string) func(context.Context, *reader.Slot) ([]byte, error) {
		return func(ctx context.Context, s *reader.Slot) ([]byte, error) { return s.Transmit(ctx, unhex(apdu), nil) }
	}
	const hasLe = "00ee000204010203" + "0400"
	for _, tt := range []struct {
		name   string
		reader func(*testing.T, card.Card) (*reader.Slot, *card.T1)
		atr    []byte // nil: a card with a PIN
		from   int    // answer that is the first one damaged
		do     func(context.Context, *reader.Slot) ([]byte, error)
		ins    byte
		ran    int
	}{
		// The virtual terminal's T=0 has the response: a GET RESPONSE that reaches the card
		// is one too many.
		{"GET RESPONSE, kaan", onKaan(false), card.T0ATR("x"), 1, transmit(hasLe), 0xC0, 0},
		{"GET RESPONSE, b1", onKaan(true), card.T0ATR("x"), 1, transmit(hasLe), 0xC0, 0},
		{"GET RESPONSE of a client, T=1", onKaan(false), card.NewEcho().ATR(), 0, transmit("00c0000000"), 0xC0, 1},
		{"GET RESPONSE of a client, cyberjack", onCyberJack, card.NewEcho().ATR(), 0, transmit("00c0000000"), 0xC0, 1},
		{"PIN, kaan", onKaan(false), nil, 0, verify, 0x20, 1},
		{"PIN, cyberjack", onCyberJack, nil, 0, verify, 0x20, 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var c card.Card = card.NewEchoATR(tt.atr)
				if tt.atr == nil {
					var err error
					if c, err = card.New("piv", nil); err != nil {
						t.Fatal(err)
					}
				}
				counting, ctx := countingCard{c, map[byte]int{}}, context.Background()
				s, chip := tt.reader(t, counting)
				if _, err := s.Reset(ctx); err != nil {
					t.Fatal(err)
				}
				if tt.atr == nil {
					if _, err := s.Transmit(ctx, unhex("00a404000ba000000308000010000100"), nil); err != nil {
						t.Fatal(err)
					}
				}
				spoil(chip, tt.from)
				resp, err := tt.do(ctx, s)
				if !errors.Is(err, proto.ErrProtocol) || !errors.Is(err, proto.ErrResetRequired) {
					t.Errorf("%x, %v; want %v", resp, err, proto.ErrResetRequired)
				}
				if ran := counting.ran[tt.ins]; ran != tt.ran {
					t.Errorf("INS %02x reached the card %d times, want %d", tt.ins, ran, tt.ran)
				}
				if resp, err := s.Transmit(ctx, unhex("00ee0000"), nil); !errors.Is(err, proto.ErrResetRequired) {
					t.Errorf("before a reset: %x, %v", resp, err)
				}
				if _, err := s.Reset(ctx); err != nil {
					t.Errorf("next reset: %v", err)
				}
				if _, err := s.Transmit(ctx, unhex("00ee000000"), nil); err != nil {
					t.Errorf("after it: %v", err)
				}
			})
		})
	}
}
