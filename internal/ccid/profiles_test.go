//go:build go1.25

package ccid

import (
	"bytes"
	"context"
	"fmt"
	"testing"

	"openct/internal/ifd"
	"openct/internal/proto"
	"openct/internal/vusb/ccidreader"
)

// counting is a response of n bytes 00 01 02 ... and 9000.
func counting(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i)
	}
	return append(b, 0x90, 0x00)
}

// TestProfiles runs the same exchanges through every profile: what a client
// sees must not depend on the reader.
func TestProfiles(t *testing.T) {
	for _, p := range ccidreader.Profiles() {
		for _, c := range []struct {
			name string
			atr  []byte
			t    proto.ID
		}{
			{"T=0", atrT0, proto.T0},
			{"T=1", atrT1, proto.T1},
			{"T=1 fast", atrT1Fast, proto.T1},
			{"both", atrBoth, proto.T0},
		} {
			t.Run(p.Name+"/"+c.name, func(t *testing.T) {
				bubble(t, func(t *testing.T) {
					chip := &testCard{atr: c.atr}
					b := plug(t, p, chip).start()
					e := b.engine(0)
					if e.ID() != c.t {
						t.Fatalf("protocol %v, want %v", e.ID(), c.t)
					}
					b.transmit(e, selectMF, okSW)

					chip.answer = func([]byte) []byte { return counting(256) }
					b.transmit(e, []byte{0x00, 0xB0, 0x00, 0x00, 0x00}, counting(256))

					chip.answer = nil
					long := append([]byte{0x00, 0xD6, 0x00, 0x00, 0xFF}, bytes.Repeat([]byte{0xA5}, 255)...)
					b.transmit(e, long, okSW)
					// At TPDU level a T=0 card cannot tell case 3 from case 4.
					if got := chip.seen[len(chip.seen)-1]; !bytes.HasPrefix(got, long) {
						t.Errorf("card got % X ... (%d bytes)", got[:8], len(got))
					}
					b.clean()
				})
			})
		}
	}
}

// TestRefused: what cannot be driven is refused with a reason.
func TestRefused(t *testing.T) {
	base := profile(t, "P1")
	with := func(f func(*ccidreader.Profile)) ccidreader.Profile {
		p := base
		f(&p)
		return p
	}
	for _, c := range []struct {
		name string
		p    ccidreader.Profile
		why  string
	}{
		{"token without a level", with(func(p *ccidreader.Profile) { p.Features = 0x0840 }), "no exchange level"},
		{"vendor class without descriptor", with(func(p *ccidreader.Profile) { p.Class, p.Cut = 0xFF, 54 }), "no smart card interface"},
		{"vendor class with another descriptor too", with(func(p *ccidreader.Profile) { p.Class, p.Leading = 0xFF, []byte{3, 0x24, 0} }), "no smart card interface"},
		{"descriptor cut to 53 bytes", with(func(p *ccidreader.Profile) { p.Cut, p.Length = 1, 53 }), "no CCID class descriptor"},
		{"descriptor absent", with(func(p *ccidreader.Profile) { p.Cut = 54 }), "no CCID class descriptor"},
		{"bLength 35", with(func(p *ccidreader.Profile) { p.Cut, p.Length = 19, 35 }), "no CCID class descriptor"},
		{"no bulk-OUT", with(func(p *ccidreader.Profile) { p.NoBulkOut = true }), "bulk endpoints are missing"},
		{"HID class", with(func(p *ccidreader.Profile) { p.Class = 3 }), "no smart card interface"},
		{"ICCD", with(func(p *ccidreader.Profile) { p.NoBulkOut, p.Protocol = true, 1 }), "ICCD"},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := plug(t, c.p)
			_, err := Open(b.dev, b.options())
			wantErr(t, "Open", err, ifd.ErrIncompatible)
			if !bytes.Contains([]byte(err.Error()), []byte(c.why)) {
				t.Errorf("error %q does not say %q", err, c.why)
			}
			if Is(b.dev.Descriptor()) && c.name != "token without a level" {
				t.Error("Is takes it for a reader all the same")
			}
			if n := len(b.model.Commands()); n > 0 {
				t.Errorf("%d commands were sent to a device that was refused", n)
			}
		})
	}
}

// TestComposite: a keyboard with two readers in it; the keyboard is not
// touched, both readers' slots work.
func TestComposite(t *testing.T) {
	bubble(t, func(t *testing.T) {
		p := profile(t, "P12")
		p.Slots = 2
		var cards []*testCard
		for i := range 4 {
			cards = append(cards, &testCard{atr: atrT0, answer: func([]byte) []byte { return []byte{byte(i), 0x90, 0x00} }})
		}
		b := plug(t, p, cards[0], cards[1], cards[2], cards[3])
		other, err := b.port.Open()
		if err != nil {
			t.Fatal(err)
		}
		if err := other.Claim(0, 0); err != nil {
			t.Fatal(err)
		}
		b.start()
		if n := len(b.reader.Slots()); n != 4 {
			t.Fatalf("%d slots, want 4", n)
		}
		for i := range cards {
			b.transmit(b.engine(i), []byte{0x00, 0xB0, 0x00, 0x00, 0x01}, []byte{byte(i), 0x90, 0x00})
		}
		b.clean()
	})
}

// TestSecondReaderBusy: another program has one of the two interfaces.
func TestSecondReaderBusy(t *testing.T) {
	bubble(t, func(t *testing.T) {
		b := plug(t, profile(t, "P12"), &testCard{atr: atrT0})
		other, err := b.port.Open()
		if err != nil {
			t.Fatal(err)
		}
		if err := other.Claim(2, 0); err != nil {
			t.Fatal(err)
		}
		b.start()
		if n := len(b.reader.Slots()); n != 1 {
			t.Fatalf("%d slots, want 1", n)
		}
		b.transmit(b.engine(0), selectMF, okSW)
	})
}

// TestTranscript is one session with a reader, byte by byte.
func TestTranscript(t *testing.T) {
	bubble(t, func(t *testing.T) {
		b := plug(t, profile(t, "P1"), &testCard{atr: atrT0}).start()
		b.transmit(b.engine(0), selectMF, okSW)
		b.open = false
		if err := b.reader.Close(); err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, c := range b.model.Commands() {
			got = append(got, fmt.Sprintf("%02X %d %02X % X % X", c.Type, c.Slot, c.Seq, c.Param, c.Data))
		}
		want := []string{
			"65 0 01 00 00 00 ",
			"62 0 02 01 00 00 ",
			"61 0 03 00 00 00 11 00 00 0A 00",
			"6F 0 04 00 00 00 00 A4 00 00 02 3F 00",
			"63 0 05 00 00 00 ",
		}
		if fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("sent\n%q\nwant\n%q", got, want)
		}
		b.clean()
	})
}

// TestCloseCutsPower: no card stays powered, whatever slot it is in.
func TestCloseCutsPower(t *testing.T) {
	bubble(t, func(t *testing.T) {
		b := plug(t, profile(t, "P10"), &testCard{atr: atrT0}, nil, &testCard{atr: atrT1}).start()
		b.engine(0)
		b.engine(2)
		b.open = false
		if err := b.reader.Close(); err != nil {
			t.Fatal(err)
		}
		for _, i := range []int{0, 2} {
			if b.model.Powered(i) {
				t.Errorf("slot %d still has power", i)
			}
		}
		if n := len(b.sent(0x63)); n != 2 {
			t.Errorf("%d slots were powered down, want 2", n)
		}
	})
}

// TestNoCard: an empty slot says so, at once.
func TestNoCard(t *testing.T) {
	bubble(t, func(t *testing.T) {
		b := plug(t, profile(t, "P1")).start()
		_, err := b.slot(0).Reset(context.Background())
		wantErr(t, "Reset", err, ifd.ErrNoCard)
		if n := len(b.sent(0x62)); n != 1 {
			t.Errorf("%d attempts to power a card that is not there", n)
		}
	})
}
