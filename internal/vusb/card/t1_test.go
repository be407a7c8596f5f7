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

const (
	selectMF = "00 A4 00 00 02 3F 00"
	count32  = "00 01 02 03 04 05 06 07 08 09 0A 0B 0C 0D 0E 0F 10 11 12 13 14 15 16 17 18 19 1A 1B 1C 1D 1E 1F"
	update40 = "00 D6 00 00 28 00 01 02 03 04 05 06 07 08 09 0A 0B 0C 0D 0E 0F 10 11 12 13 14 15 16 17 18 19 1A" +
		"1B 1C 1D 1E 1F 20 21 22 23 24 25 26 27"
	update40A = "00 20 20 00 D6 00 00 28 00 01 02 03 04 05 06 07 08 09 0A 0B 0C 0D 0E 0F 10 11 12 13 14 15 16 17 18 19 1A E5"
	update40B = "00 40 0D 1B 1C 1D 1E 1F 20 21 22 23 24 25 26 27 56"
)

// lrc completes a block written in hexadecimal.
func lrc(s string) string {
	var b []byte
	if _, err := fmt.Sscanf(strings.ReplaceAll(s, " ", ""), "%x", &b); err != nil {
		panic(err)
	}
	return fmt.Sprintf("% X", appendEDC(b, false))
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
