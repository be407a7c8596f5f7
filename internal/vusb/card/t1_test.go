package card

import (
	"bytes"
	"fmt"
	"strings"
	"testing"

	"openct/internal/hextest"
)

// play sends the lines "H ..." of a conversation to the card and compares the
// answers with the lines "C ..."; "C" alone is a card that stays silent.
func play(t *testing.T, c *T1, conversation string) {
	t.Helper()
	var out []byte
	answered := true
	for i, line := range strings.Split(strings.TrimSpace(conversation), "\n") {
		who, hexes, _ := strings.Cut(strings.TrimSpace(line), " ")
		block := hextest.Bytes(t, hexes)
		switch who {
		case "H":
			if !answered {
				t.Fatalf("line %d: test data: two H lines", i+1)
			}
			out, answered = c.Block(block), false
		case "C":
			answered = true
			if !bytes.Equal(out, block) {
				t.Fatalf("line %d: card sent\n % X, want\n % X", i+1, out, block)
			}
		default:
			t.Fatalf("line %d: test data: %q", i+1, line)
		}
	}
	if !answered {
		t.Fatal("test data: the last H line has no C line")
	}
}

// spoil makes Mangle change the blocks with the numbers given.
func spoil(how func([]byte) []byte, numbers ...int) func(int, []byte) []byte {
	return func(n int, block []byte) []byte {
		for _, v := range numbers {
			if v == n {
				return how(block)
			}
		}
		return block
	}
}

// replace makes another block of it.
func replace(t *testing.T, s string) func([]byte) []byte {
	return func([]byte) []byte { return hextest.Bytes(t, s) }
}

const (
	selectMF = "00 A4 00 00 02 3F 00"
	count32  = "00 01 02 03 04 05 06 07 08 09 0A 0B 0C 0D 0E 0F 10 11 12 13 14 15 16 17 18 19 1A 1B 1C 1D 1E 1F"
	update40 = "00 D6 00 00 28 00 01 02 03 04 05 06 07 08 09 0A 0B 0C 0D 0E 0F 10 11 12 13 14 15 16 17 18 19 1A" +
		"1B 1C 1D 1E 1F 20 21 22 23 24 25 26 27"
	update40A = "00 20 20 00 D6 00 00 28 00 01 02 03 04 05 06 07 08 09 0A 0B 0C 0D 0E 0F 10 11 12 13 14 15 16 17 18 19 1A E5"
	update40B = "00 40 0D 1B 1C 1D 1E 1F 20 21 22 23 24 25 26 27 56"
)

// TestT1Vectors plays the conversations of package proto's TestT1, by their
// numbers there, from the card's side. V4, V7a, V8b and the like need a card that does something of
// its own accord.
func TestT1Vectors(t *testing.T) {
	tests := []struct {
		name  string
		opt   T1Options
		setup func(*testing.T, *T1)
		card  []exchange
		play  string
	}{
		{
			name: "V1 plain exchange",
			card: []exchange{{selectMF, "90 00"}, {"00 CA 01 82 00", "C8 09 90 00"}, {selectMF, "90 00"}},
			play: `
				H 00 00 07 00 A4 00 00 02 3F 00 9E
				C 00 00 02 90 00 92
				H 00 40 05 00 CA 01 82 00 0C
				C 00 40 04 C8 09 90 00 15
				H 00 00 07 00 A4 00 00 02 3F 00 9E
				C 00 00 02 90 00 92`,
		},
		{
			name: "V2 chaining to the card",
			card: []exchange{{update40, "90 00"}},
			play: "H " + update40A + `
				C 00 90 00 90
				H ` + update40B + `
				C 00 00 02 90 00 92`,
		},
		{
			name: "V3 chaining from the card",
			card: []exchange{{"00 B0 00 00 28", count32 + "20 21 22 23 24 25 26 27 90 00"}},
			play: `
				H 00 00 05 00 B0 00 00 28 9D
				C 00 20 20 ` + count32 + ` 00
				H 00 90 00 90
				C 00 40 0A 20 21 22 23 24 25 26 27 90 00 DA`,
		},
		{
			name: "V4 waiting time extension",
			setup: func(_ *testing.T, c *T1) {
				c.RequestWTX(5)
				c.RequestWTX(1)
			},
			card: []exchange{{"00 46 00 00 00", "90 00"}},
			play: `
				H 00 00 05 00 46 00 00 00 43
				C 00 C3 01 05 C7
				H 00 E3 01 05 E7
				C 00 C3 01 01 C3
				H 00 E3 01 01 E3
				C 00 00 02 90 00 92`,
		},
		{
			name: "V5a checksum wrong on the way in",
			card: []exchange{{selectMF, "90 00"}},
			play: `
				H 00 00 07 00 A4 00 00 02 3F 00 9F
				C 00 81 00 81
				H 00 00 07 00 A4 00 00 02 3F 00 9E
				C 00 00 02 90 00 92`,
		},
		{
			name:  "V5c checksum wrong on the way out",
			setup: func(t *testing.T, c *T1) { c.Mangle = spoil(replace(t, "00 00 02 90 00 93"), 0) },
			card:  []exchange{{selectMF, "90 00"}},
			play: `
				H 00 00 07 00 A4 00 00 02 3F 00 9E
				C 00 00 02 90 00 93
				H 00 81 00 81
				C 00 00 02 90 00 92`,
		},
		{
			name:  "V5d bad block inside the card's chain",
			setup: func(t *testing.T, c *T1) { c.Mangle = spoil(replace(t, "00 40 04 20 21 90 00 00"), 1) },
			card:  []exchange{{"00 B0 00 00 22", count32 + "20 21 90 00"}},
			play: `
				H 00 00 05 00 B0 00 00 22 97
				C 00 20 20 ` + count32 + ` 00
				H 00 90 00 90
				C 00 40 04 20 21 90 00 00
				H 00 91 00 91
				C 00 40 04 20 21 90 00 D5`,
		},
		{
			name:  "V6 resynchronisation after three bad blocks",
			setup: func(t *testing.T, c *T1) { c.Mangle = spoil(replace(t, "00 00 02 90 00 00"), 0, 1, 2) },
			card:  []exchange{{selectMF, "90 00"}, {selectMF, "90 00"}},
			play: `
				H 00 00 07 00 A4 00 00 02 3F 00 9E
				C 00 00 02 90 00 00
				H 00 81 00 81
				C 00 00 02 90 00 00
				H 00 81 00 81
				C 00 00 02 90 00 00
				H 00 C0 00 C0
				C 00 E0 00 E0
				H 00 00 07 00 A4 00 00 02 3F 00 9E
				C 00 00 02 90 00 92`,
		},
		{
			name: "V6b numbers are 0 again after it",
			card: []exchange{{selectMF, "90 00"}, {selectMF, "90 00"}},
			play: `
				H 00 00 07 00 A4 00 00 02 3F 00 9E
				C 00 00 02 90 00 92
				H 00 C0 00 C0
				C 00 E0 00 E0
				H 00 00 07 00 A4 00 00 02 3F 00 9E
				C 00 00 02 90 00 92`,
		},
		{
			name: "V6c resynchronisation inside the host's chain",
			card: []exchange{{update40, "90 00"}},
			play: "H " + update40A + `
				C 00 90 00 90
				H 00 C0 00 C0
				C 00 E0 00 E0
				H ` + update40A + `
				C 00 90 00 90
				H ` + update40B + `
				C 00 00 02 90 00 92`,
		},
		{
			name:  "V7a the card takes longer blocks from now on",
			opt:   T1Options{MaxINF: 32},
			setup: func(_ *testing.T, c *T1) { c.RequestIFS(64) },
			card:  []exchange{{"00 D6 00 00 5F" + strings.Repeat("55", 95), "90 00"}},
			play: "H " + lrc("00 20 20 00 D6 00 00 5F"+strings.Repeat("55", 27)) + `
				C 00 C1 01 40 80
				H 00 E1 01 40 A0
				C 00 90 00 90
				H ` + lrc("00 60 40"+strings.Repeat("55", 64)) + `
				C 00 80 00 80
				H ` + lrc("00 00 04"+strings.Repeat("55", 4)) + `
				C 00 00 02 90 00 92`,
		},
		{
			name: "V7b host announces IFSD 254",
			card: []exchange{{"00 B0 00 00 28", count32 + "20 21 22 23 24 25 26 27 90 00"}},
			play: `
				H 00 C1 01 FE 3E
				C 00 E1 01 FE 1E
				H 00 00 05 00 B0 00 00 28 9D
				C ` + lrc("00 00 2A"+count32+"20 21 22 23 24 25 26 27 90 00"),
		},
		{
			name:  "V7c IFS 0 is asked three times, then given up",
			setup: func(_ *testing.T, c *T1) { c.RequestIFS(0) },
			card:  []exchange{{selectMF, "90 00"}},
			play: `
				H 00 00 07 00 A4 00 00 02 3F 00 9E
				C 00 C1 01 00 C0
				H 00 82 00 82
				C 00 C1 01 00 C0
				H 00 82 00 82
				C 00 C1 01 00 C0
				H 00 82 00 82
				C 00 00 02 90 00 92`,
		},
		{
			name: "V8a the card repeats a block of its chain",
			setup: func(t *testing.T, c *T1) {
				c.Mangle = spoil(replace(t, "00 20 20"+count32+"00"), 1)
			},
			card: []exchange{{"00 B0 00 00 22", count32 + "20 21 90 00"}},
			play: `
				H 00 00 05 00 B0 00 00 22 97
				C 00 20 20 ` + count32 + ` 00
				H 00 90 00 90
				C 00 20 20 ` + count32 + ` 00
				H 00 92 00 92
				C 00 40 04 20 21 90 00 D5`,
		},
		{
			name:  "V8b the card begins with the wrong number",
			setup: func(t *testing.T, c *T1) { c.Mangle = spoil(replace(t, "00 40 02 90 00 D2"), 0) },
			card:  []exchange{{selectMF, "90 00"}},
			play: `
				H 00 00 07 00 A4 00 00 02 3F 00 9E
				C 00 40 02 90 00 D2
				H 00 82 00 82
				C 00 00 02 90 00 92`,
		},
		{
			name:  "V10 the card aborts the host's chain",
			setup: func(_ *testing.T, c *T1) { c.Abort() },
			card:  []exchange{{selectMF, "90 00"}},
			play: "H " + update40A + `
				C 00 C2 00 C2
				H 00 E2 00 E2
				C 00 90 00 90
				H 00 40 07 00 A4 00 00 02 3F 00 DE
				C 00 00 02 90 00 92`,
		},
		{
			name: "V12 blocks that are none",
			card: []exchange{{selectMF, "90 00"}},
			play: `
				H
				C 00 81 00 81
				H 00 00 00
				C 00 81 00 81
				H 00 00 FF FF
				C 00 82 00 82
				H 00 80 01 00 81
				C 00 82 00 82
				H 00 C5 00 C5
				C 00 82 00 82
				H 00 C4 00 C4
				C 00 82 00 82
				H 00 E0 00 E0
				C 00 82 00 82
				H 00 E1 01 20 C0
				C 00 82 00 82
				H 00 C3 01 01 C3
				C 00 82 00 82
				H 00 C1 01 00 C0
				C 00 82 00 82
				H 00 C1 01 FF 3F
				C 00 82 00 82
				H 00 01 00 01
				C 00 82 00 82
				H 00 83 00 83
				C 00 82 00 82
				H 21 00 00 21
				C 00 82 00 82
				H 00 00 08 00 A4 00 00 02 3F 00 91
				C 00 82 00 82
				H 00 00 07 00 A4 00 00 02 3F 00 9E
				C 00 00 02 90 00 92`,
		},
		{
			name: "V13 CRC",
			opt:  T1Options{CRC: true},
			card: []exchange{{selectMF, "90 00"}},
			play: `
				H 00 00 07 00 A4 00 00 02 3F 00 10 36
				C 00 81 00 ` + crcOf("00 81 00") + `
				H 00 00 07 00 A4 00 00 02 3F 00 10 35
				C 00 00 02 90 00 ` + crcOf("00 00 02 90 00"),
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c := NewT1(newScript(t, tt.card...), tt.opt)
			c.Reset()
			if tt.setup != nil {
				tt.setup(t, c)
			}
			play(t, c, tt.play)
		})
	}
}

// lrc completes a block written in hexadecimal.
func lrc(s string) string {
	var b []byte
	if _, err := fmt.Sscanf(strings.ReplaceAll(s, " ", ""), "%x", &b); err != nil {
		panic(err)
	}
	return fmt.Sprintf("% X", appendEDC(b, false))
}

// crcOf is the checksum of a block written in hexadecimal.
func crcOf(s string) string {
	var b []byte
	if _, err := fmt.Sscanf(strings.ReplaceAll(s, " ", ""), "%x", &b); err != nil {
		panic(err)
	}
	v := crc16(b)
	return fmt.Sprintf("%02X %02X", v>>8, v&0xFF)
}

func TestCRC(t *testing.T) {
	tests := []struct {
		name string
		in   []byte
		want uint16
	}{
		{"check value", []byte("123456789"), 0x6F91},
		{"R(0)", []byte{0x00, 0x80, 0x00}, 0xB5FF},
		{"SELECT", []byte{0x00, 0x00, 0x07, 0x00, 0xA4, 0x00, 0x00, 0x02, 0x3F, 0x00}, 0x1035},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := crc16(tt.in); got != tt.want {
				t.Errorf("%04X, want %04X", got, tt.want)
			}
		})
	}
}
