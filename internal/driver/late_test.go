//go:build go1.25

package driver

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"

	"openct/internal/proto"
	"openct/internal/reader"
	"openct/internal/vusb/card"
	virtualkaan "openct/internal/vusb/kaan"
	"openct/internal/vusb/serialline"
	virtualtowitoko "openct/internal/vusb/towitoko"
)

// lateLine is a line to a Twin. While late is set, what the first slot's card says does
// not arrive. It comes with the answer to the next write after that, unless the card
// has lost its power since.
type lateLine struct {
	*virtualLine
	late bool
	held []byte
}

func (l *lateLine) Write(ctx context.Context, b []byte) error {
	off := bytes.Equal(b, unhex("610f98"))
	if off {
		l.held = nil
	}
	if !l.late {
		l.in, l.held = append(l.in, l.held...), nil
	}
	err := l.virtualLine.Write(ctx, b)
	if l.late && !off {
		l.held, l.in = append(l.held, l.in...), nil
	}
	return err
}

// A card that answers too late does not answer in the place of the other slot's
// card.
func TestTowitokoTwinLate(t *testing.T) {
	command := func(ctx context.Context, s *reader.Slot) error {
		_, err := s.Transmit(ctx, unhex("00ee000808"), nil)
		return err
	}
	pps := func(ctx context.Context, s *reader.Slot) error { return s.SetProtocol(ctx, proto.T1) }
	for _, tt := range []struct {
		name string
		atr  []byte
		do   func(context.Context, *reader.Slot) error
	}{
		{"T=0", card.T0ATR("x"), command},
		{"T=1", card.T1ATR("x"), command},
		{"PPS", []byte{0x3B, 0x80, 0x80, 0x01, 0x01}, pps},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx := context.Background()
				twin := virtualtowitoko.New(virtualtowitoko.Twin, card.NewEchoATR(tt.atr))
				twin.Insert(1, card.NewEchoATR(tt.atr))
				l := &lateLine{virtualLine: newVirtualLine(twin)}
				core := onTowitoko(t, l)
				a, b := slotOf(t, core, 0), slotOf(t, core, 1)
				for _, s := range []*reader.Slot{a, b} {
					if _, err := s.Reset(ctx); err != nil {
						t.Fatal(err)
					}
				}
				l.late = true
				if err := tt.do(ctx, a); err == nil {
					t.Fatal("the late answer was in time")
				}
				l.late = false
				resp, err := b.Transmit(ctx, unhex("00ee000404"), nil)
				if err != nil || fmt.Sprintf("%x", resp) != "000102039000" {
					t.Errorf("the other slot's card answers % x, %v", resp, err)
				}
			})
		})
	}
}

// What a terminal says too late or twice is no answer to what it is asked next, and
// costs no block.
func TestKaanLate(t *testing.T) {
	for _, tt := range []struct {
		name  string
		hold  bool // an answer comes with the one to the next block
		twice bool // an answer comes twice
	}{
		{"late", true, false},
		{"twice", false, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx := context.Background()
				writes, due := 0, false
				var held []serialline.Char
				x := onTerminal(t, false, func(_ *virtualkaan.Terminal, l *serialline.Local) {
					l.Mangle = func(c []serialline.Char) []serialline.Char {
						writes++
						c = slices.Concat(held, c)
						held = nil
						switch {
						case due && tt.hold:
							held, c = c, nil
						case due && tt.twice:
							c = slices.Concat(c, c)
						}
						due = false
						return c
					}
				}, card.NewEcho(), card.NewEcho())
				for i := range 2 {
					if _, err := x.slot(t, i).Reset(ctx); err != nil {
						t.Fatal(err)
					}
				}
				due = true
				if _, err := x.slot(t, 0).Transmit(ctx, unhex("00ee000808"), nil); (err != nil) != tt.hold {
					t.Fatalf("the answer that is hit: %v", err)
				}
				for i := range 4 {
					before := writes
					resp, err := x.slot(t, 1).Transmit(ctx, unhex("00ee000404"), nil)
					if err != nil || fmt.Sprintf("%x", resp) != "000102039000" {
						t.Errorf("command %d: % x, %v", i, resp, err)
					}
					if n := writes - before; i > 0 && n != 1 {
						t.Errorf("command %d took %d blocks", i, n)
					}
				}
			})
		})
	}
}
