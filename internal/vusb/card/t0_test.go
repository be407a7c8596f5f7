package card

import (
	"bytes"
	"slices"
	"strings"
	"testing"

	"openct/internal/hextest"
)

// TestT0Stream plays the exchanges of package proto's test of that name from the
// card's side: "H ..." goes to the card, "C ..." must come back.
func TestT0Stream(t *testing.T) {
	const withLe = selectMF + "00" // T=0 loses Le, so the card is offered all
	b256 := strings.Repeat("AA", 256)
	tests := []struct {
		name  string
		setup func(*T0)
		card  []exchange
		play  string
	}{
		{
			name: "T0-1 case 1",
			card: []exchange{{"00 44 00 00 00", "90 00"}},
			play: "H 00 44 00 00 00\n C 90 00",
		},
		{
			name: "T0-2 case 2",
			card: []exchange{{"00 B0 00 00 04", "11 22 33 44 90 00"}},
			play: "H 00 B0 00 00 04\n C B0 11 22 33 44 90 00",
		},
		{
			name: "T0-3 case 3",
			card: []exchange{{withLe, "90 00"}},
			play: "H 00 A4 00 00 02\n C A4\n H 3F 00\n C 90 00",
		},
		{
			name: "T0-4 case 4",
			card: []exchange{{withLe, "6F 02 81 00 90 00"}},
			play: "H 00 A4 00 00 02\n C A4\n H 3F 00\n C 61 04\n H 00 C0 00 00 04\n C C0 6F 02 81 00 90 00",
		},
		{
			name: "T0-5 case 4, less wanted than there is",
			card: []exchange{{withLe, "6F 02 81 00 90 00"}},
			play: "H 00 A4 00 00 02\n C A4\n H 3F 00\n C 61 04\n H 00 C0 00 00 02\n C C0 6F 02 61 02\n H 00 C0 00 00 02\n C C0 81 00 90 00",
		},
		{
			name:  "T0-6 case 4, announced with 9000",
			setup: func(c *T0) { c.Announce9000 = true },
			card:  []exchange{{"00 88 00 00 01 AA 00", "01 02 03 90 00"}},
			play:  "H 00 88 00 00 01\n C 88\n H AA\n C 90 00\n H 00 C0 00 00 03\n C C0 01 02 03 90 00",
		},
		{
			name: "T0-7 case 4, refused",
			card: []exchange{{withLe, "6A 82"}},
			play: "H 00 A4 00 00 02\n C A4\n H 3F 00\n C 6A 82",
		},
		{
			name: "T0-9 wrong Le",
			card: []exchange{{"00 B0 00 00 00", "AA BB 90 00"}, {"00 B0 00 00 02", "AA BB 90 00"}},
			play: "H 00 B0 00 00 00\n C 6C 02\n H 00 B0 00 00 02\n C B0 AA BB 90 00",
		},
		{
			name:  "T0-11 and T0-12 NULL bytes",
			setup: func(c *T0) { c.NULLs = 2 },
			card:  []exchange{{"00 B0 00 00 02", "AA BB 90 00"}},
			play:  "H 00 B0 00 00 02\n C 60 60 B0 AA BB 60 60 90 00",
		},
		{
			name:  "NULL bytes on the way to the card",
			setup: func(c *T0) { c.NULLs = 1 },
			card:  []exchange{{withLe, "90 00"}},
			play:  "H 00 A4 00 00 02\n C 60 A4\n H 3F 00\n C 60 90 00",
		},
		{
			name:  "T0-13 one byte at a time, to the card",
			setup: func(c *T0) { c.SingleByte = true },
			card:  []exchange{{withLe, "90 00"}},
			play:  "H 00 A4 00 00 02\n C 5B\n H 3F\n C 5B\n H 00\n C 90 00",
		},
		{
			name:  "T0-15 one byte at a time, from the card",
			setup: func(c *T0) { c.SingleByte = true },
			card:  []exchange{{"00 B0 00 00 03", "01 02 03 90 00"}},
			play:  "H 00 B0 00 00 03\n C 4F 01 4F 02 4F 03 90 00",
		},
		{
			name:  "T0-16 bad procedure byte",
			setup: func(c *T0) { c.Mangle = func(int, []byte) []byte { return []byte{0x12} } },
			card:  []exchange{{"00 B0 00 00 02", "AA BB 90 00"}},
			play:  "H 00 B0 00 00 02\n C 12",
		},
		{
			name: "T0-17 status word at once",
			card: []exchange{{"00 B0 00 00 04", "69 82"}},
			play: "H 00 B0 00 00 04\n C 69 82",
		},
		{
			name: "T0-18 256 bytes",
			card: []exchange{{"00 B0 00 00 00", b256 + "90 00"}},
			play: "H 00 B0 00 00 00\n C B0" + b256 + "90 00",
		},
		{
			name: "T0-20 more than GET RESPONSE brings",
			card: []exchange{{"00 CB 3F FF 01 5C 00", b256 + "11 22 90 00"}},
			play: "H 00 CB 3F FF 01\n C CB\n H 5C\n C 61 00\n H 00 C0 00 00 00\n C C0" + b256 + "61 02\n H 00 C0 00 00 02\n C C0 11 22 90 00",
		},
		{
			name: "GET RESPONSE with a wrong Le",
			card: []exchange{{withLe, "6F 02 81 00 90 00"}},
			play: "H 00 A4 00 00 02\n C A4\n H 3F 00\n C 61 04\n H 00 C0 00 00 00\n C 6C 04\n H 00 C0 00 00 04\n C C0 6F 02 81 00 90 00",
		},
		{
			name: "a card that announces more itself",
			card: []exchange{{withLe, "11 22 61 02"}, {"00 C0 00 00 02", "33 44 90 00"}},
			play: "H 00 A4 00 00 02\n C A4\n H 3F 00\n C 61 02\n H 00 C0 00 00 02\n C C0 11 22 61 02\n H 00 C0 00 00 02\n C C0 33 44 90 00",
		},
		{
			name: "another command drops what waits",
			card: []exchange{{withLe, "11 22 90 00"}, {"00 B0 00 00 01", "AA 90 00"}, {"00 C0 00 00 02", "69 85"}},
			play: "H 00 A4 00 00 02\n C A4\n H 3F 00\n C 61 02\n H 00 B0 00 00 01\n C B0 AA 90 00\n H 00 C0 00 00 02\n C 69 85",
		},
		{
			name:  "the caller knows what comes in",
			setup: func(c *T0) { c.Incoming = func(h [5]byte) bool { return h[1] == 0xEE } },
			card:  []exchange{{"00 EE 00 00 01 AA 00", "90 00"}},
			play:  "H 00 EE 00 00 01\n C EE\n H AA\n C 90 00",
		},
	}
	for _, tt := range tests {
		for _, chunk := range []int{1, 1000} {
			t.Run(tt.name, func(t *testing.T) {
				c := NewT0(newScript(t, tt.card...))
				c.Reset()
				if tt.setup != nil {
					tt.setup(c)
				}
				lines := strings.Split(tt.play, "\n")
				for i := 0; i+1 < len(lines); i += 2 {
					in := hextest.Bytes(t, strings.TrimPrefix(strings.TrimSpace(lines[i]), "H"))
					want := hextest.Bytes(t, strings.TrimPrefix(strings.TrimSpace(lines[i+1]), "C "))
					var out []byte
					for b := range slices.Chunk(in, chunk) {
						out = append(out, c.Stream(b)...)
					}
					if !bytes.Equal(out, want) {
						t.Fatalf("after %s the card sent % X, want % X", lines[i], out, want)
					}
				}
			})
		}
	}
}

func TestT0TPDU(t *testing.T) {
	tests := []struct {
		name string
		card []exchange
		play []exchange
	}{
		{"T0-21 case 3", []exchange{{selectMF + "00", count32[:83] + "90 00"}},
			[]exchange{{selectMF, "61 1C"}, {"00 C0 00 00 1C", count32[:83] + "90 00"}}},
		{"case 2", []exchange{{"00 B0 00 00 02", "AA BB 90 00"}},
			[]exchange{{"00 B0 00 00 02", "AA BB 90 00"}}},
		{"case 1 of four bytes", []exchange{{"00 44 00 00 00", "90 00"}},
			[]exchange{{"00 44 00 00", "90 00"}}},
		{"no data for an instruction that brings some", []exchange{{"00 A4 00 00 02", "6A 86"}},
			[]exchange{{"00 A4 00 00 02", "6A 86"}}},
		{"wrong Le", []exchange{{"00 B0 00 00 05", "AA BB 90 00"}, {"00 B0 00 00 02", "AA BB 90 00"}},
			[]exchange{{"00 B0 00 00 05", "6C 02"}, {"00 B0 00 00 02", "AA BB 90 00"}}},
		{"less wanted than there is", []exchange{{"00 B0 00 00 01", "AA BB 90 00"}},
			[]exchange{{"00 B0 00 00 01", "AA 61 01"}, {"00 C0 00 00 01", "BB 90 00"}}},
		{"Le does not exist in T=0", nil, []exchange{{selectMF + "00", "67 00"}}},
		{"data missing", nil, []exchange{{"00 A4 00 00 02 3F", "67 00"}}},
		{"extended length does not exist either", nil, []exchange{{"00 A4 00 00 00 00 02 3F 00", "67 00"}}},
		{"not a header", nil, []exchange{{"00 A4 00", "67 00"}, {"", "67 00"}}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c := NewT0(newScript(t, tt.card...))
			c.Reset()
			for _, x := range tt.play {
				got := c.TPDU(hextest.Bytes(t, x.command))
				if want := hextest.Bytes(t, x.response); !bytes.Equal(got, want) {
					t.Errorf("%s: % X, want % X", x.command, got, want)
				}
			}
		})
	}
}

// TestT0Phases is what a device sees that keeps header, data and status word
// apart.
func TestT0Phases(t *testing.T) {
	c := NewT0(newScript(t, exchange{"00 A4 00 00 02 3F 00 00", "90 00"}))
	h := [5]byte{0x00, 0xA4, 0x00, 0x00, 0x02}
	if n := c.Expects(h); n != 2 {
		t.Errorf("Expects(SELECT) = %d, want 2", n)
	}
	if n := c.Expects([5]byte{0x00, 0xB0, 0x00, 0x00, 0x02}); n != 0 {
		t.Errorf("Expects(READ BINARY) = %d, want 0", n)
	}
	if n := c.Expects([5]byte{0x00, 0xA4, 0x00, 0x00, 0x00}); n != 0 {
		t.Errorf("Expects(SELECT without data) = %d, want 0", n)
	}
	if out := c.Data([]byte{1, 2}); out != nil {
		t.Errorf("data nobody asked for: % X", out)
	}
	c.Header(h)
	if out := c.Data([]byte{0x3F}); out != nil || c.Want() != 1 {
		t.Errorf("after one byte: % X, %d wanted", out, c.Want())
	}
	if out := c.Data([]byte{0x00, 0xFF}); !bytes.Equal(out, []byte{0x90, 0x00}) || c.Want() != 0 {
		t.Errorf("after all: % X, %d wanted", out, c.Want())
	}
}

// TestT0ResetDropsAll leaves a command half sent.
func TestT0ResetDropsAll(t *testing.T) {
	c := NewT0(newScript(t, exchange{"00 B0 00 00 01", "AA 90 00"}))
	c.Stream(hextest.Bytes(t, "00 A4 00 00 02 3F"))
	c.Reset()
	c.Stream(hextest.Bytes(t, "00 A4 00"))
	c.Reset()
	if out := c.Stream(hextest.Bytes(t, "00 B0 00 00 01")); !bytes.Equal(out, hextest.Bytes(t, "B0 AA 90 00")) {
		t.Errorf("% X", out)
	}
}
