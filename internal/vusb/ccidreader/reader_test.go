package ccidreader

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"testing"

	"openct/internal/hextest"
	"openct/internal/usb"
	"openct/internal/vusb/card"
)

// TestDescriptors compares P1 with its image, written down by hand.
func TestDescriptors(t *testing.T) {
	d := New(Profile{Features: 0x00010030, IFSD: 254}).Descriptors()
	want := hextest.Bytes(t, `
		09 02 5D 00 01 01 00 80 32 09 04 00 00 03 0B 00
		00 00 36 21 10 01 00 07 03 00 00 00 A0 0F 00 00
		A0 0F 00 00 00 01 2A 00 00 16 40 05 00 00 FE 00
		00 00 00 00 00 00 00 00 00 00 30 00 01 00 0F 01
		00 00 FF FF 00 00 00 01 07 05 81 02 40 00 00 07
		05 02 02 40 00 00 07 05 83 03 08 00 10`)
	if !bytes.Equal(d.Config, want) {
		t.Errorf("configuration\n% X\nwant\n% X", d.Config, want)
	}
	for _, p := range Profiles() {
		d := New(p).Descriptors()
		if _, err := usb.ParseDescriptors(append(bytes.Clone(d.Device), d.Config...)); err != nil {
			t.Errorf("%s: %v", p.Name, err)
		}
	}
}

// TestTranscript is one session, from the host's side and without the
// driver.
func TestTranscript(t *testing.T) {
	r := New(Profile{Features: 0x00010030, IFSD: 254}, card.NewEchoATR(card.T0ATR("")))
	ctx, cancel := context.WithCancel(context.Background())
	cancel() // whatever is not there now does not come
	for _, c := range []struct{ name, out, in string }{
		{"status", "65 00000000 00 00 00 00 00", "81 00000000 00 00 01 00 00"},
		{"unpowered exchange", "6F 02000000 00 01 00 00 00 00 A4", "80 00000000 00 01 41 FE 00"},
		{"no automatic voltage", "62 00000000 00 02 00 00 00", "80 00000000 00 02 41 07 00"},
		{"power on", "62 00000000 00 03 01 00 00", "80 02000000 00 03 00 00 00 3B 00"},
		{"parameters", "61 05000000 00 04 00 00 00 11 00 00 0A 00", "82 05000000 00 04 00 00 00 11 00 00 0A 00"},
		{"exchange", "6F 05000000 00 05 00 00 00 00 A4 00 00 00", "80 02000000 00 05 00 00 00 90 00"},
		{"no such slot", "65 00000000 01 06 00 00 00", "81 00000000 01 06 42 05 00"},
		{"no such command", "60 00000000 00 07 00 00 00", "81 00000000 00 07 40 00 00"},
		{"escape", "6B 02000000 00 08 00 00 00 AA BB", "83 02000000 00 08 00 00 00 AA BB"},
		{"power off", "63 00000000 00 09 00 00 00", "81 00000000 00 09 01 00 00"},
	} {
		if err := r.Out(ctx, 0x02, hextest.Bytes(t, c.out)); err != nil {
			t.Fatalf("%s: %v", c.name, err)
		}
		got, err := r.In(ctx, 0x81, 512)
		if want := hextest.Bytes(t, c.in); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s: % X, %v; want % X", c.name, got, err, want)
		}
	}
	if v := r.Violations(); len(v) > 1 { // the unknown slot skips a number
		t.Errorf("violations %q", v)
	}
}

// TestStrict: what a host must not do is noticed.
func TestStrict(t *testing.T) {
	for _, c := range []struct {
		name string
		out  []string
		want string
	}{
		{"length that lies", []string{"65 01000000 00 00 00 00 00"}, "message of"},
		{"bSeq jumps", []string{"65 00000000 00 00 00 00 00", "65 00000000 00 02 00 00 00"}, "bSeq"},
		{"reserved bytes", []string{"65 00000000 00 00 01 00 00"}, "reserved"},
		{"abort without a request", []string{"72 00000000 00 00 00 00 00"}, "without the request"},
		{"parameters of a wrong size", []string{"61 04000000 00 00 00 00 00 11 00 00 0A"}, "SetParameters of"},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := New(Profile{Features: 0x00010030}, card.NewEcho())
			for _, s := range c.out {
				if err := r.Out(context.Background(), 0x02, hextest.Bytes(t, s)); err != nil {
					t.Fatal(err)
				}
			}
			if got := strings.Join(r.Violations(), "; "); !strings.Contains(got, c.want) {
				t.Errorf("violations %q do not tell %q", got, c.want)
			}
		})
	}
}

// TestPackets: transfers end at a short packet or a full buffer, and a
// packet that does not fit is an overflow.
func TestPackets(t *testing.T) {
	r := New(Profile{Features: 0x00020840}, card.NewEcho())
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	echo := func(n int) {
		t.Helper()
		msg := append([]byte{0x6B, byte(n), 0, 0, 0, 0, 0, 0, 0, 0}, make([]byte, n)...)
		if err := r.Out(ctx, 0x02, msg); err != nil {
			t.Fatal(err)
		}
	}
	read := func(max, want int) {
		t.Helper()
		b, err := r.In(ctx, 0x81, max)
		if err != nil || len(b) != want {
			t.Errorf("read of %d: %d bytes, %v; want %d", max, len(b), err, want)
		}
	}
	echo(100)
	read(128, 110)
	echo(54)
	read(64, 64)
	read(64, 0) // the empty packet
	echo(100)
	read(64, 64)
	read(64, 46)
	echo(100)
	if _, err := r.In(ctx, 0x81, 32); !errors.Is(err, usb.ErrOverflow) {
		t.Errorf("short buffer: %v", err)
	}
	read(64, 46)
	if _, err := r.In(ctx, 0x81, 64); !errors.Is(err, context.Canceled) {
		t.Errorf("idle endpoint: %v", err)
	}
}

// TestNotifications: bits of five slots (CCID 1.1, 6.3.1).
func TestNotifications(t *testing.T) {
	r := New(Profile{Features: 0x00010030, Slots: 5}, card.NewEcho())
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	for _, c := range []struct {
		name string
		do   func()
		want string
	}{
		{"in slot 4", func() { r.Insert(4, card.NewEcho()) }, "50 01 03"},
		{"in slot 1", func() { r.Insert(1, card.NewEcho()) }, "50 0D 01"},
		{"out of slot 0", func() { r.Remove(0) }, "50 06 01"},
		{"no such slot", func() { r.Remove(5); r.Insert(-1, card.NewEcho()) }, ""},
	} {
		c.do()
		got, err := r.In(ctx, 0x83, 8)
		if want := hextest.Bytes(t, c.want); !bytes.Equal(got, want) || (err == nil) != (c.want != "") {
			t.Errorf("%s: % X, %v; want % X", c.name, got, err, want)
		}
	}
}
