package card

import (
	"bytes"
	"fmt"
	"strings"
	"testing"
	"time"

	"openct/internal/hextest"
)

// TestT1Strictness has what the vectors leave open.
func TestT1Strictness(t *testing.T) {
	tests := []struct {
		name  string
		opt   T1Options
		setup func(*testing.T, *T1)
		card  []exchange
		play  string
	}{
		{
			name: "too long a field silences the card",
			opt:  T1Options{MaxINF: 32},
			play: "H " + lrc("00 00 21"+strings.Repeat("55", 33)) + `
				C
				H 00 C0 00 C0
				C
				H 00 00 07 00 A4 00 00 02 3F 00 9E
				C`,
		},
		{
			name: "the longest field is taken",
			opt:  T1Options{MaxINF: 254},
			card: []exchange{{strings.Repeat("55", 254), "90 00"}},
			play: "H " + lrc("00 00 FE"+strings.Repeat("55", 254)) + `
				C 00 00 02 90 00 92`,
		},
		{
			name: "an I-block instead of an acknowledgement",
			card: []exchange{{"00 B0 00 00 22", count32 + "20 21 90 00"}},
			play: `
				H 00 00 05 00 B0 00 00 22 97
				C 00 20 20 ` + count32 + ` 00
				H 00 40 05 00 B0 00 00 22 D7
				C 00 92 00 92
				H 00 90 00 90
				C 00 40 04 20 21 90 00 D5`,
		},
		{
			name: "an I-block of the host's comes twice",
			card: []exchange{{update40, "90 00"}},
			play: "H " + update40A + `
				C 00 90 00 90
				H ` + update40A + `
				C 00 92 00 92
				H ` + update40B + `
				C 00 00 02 90 00 92`,
		},
		{
			name: "an acknowledgement got lost",
			card: []exchange{{update40, "90 00"}},
			play: "H " + update40A + `
				C 00 90 00 90
				H 00 81 00 81
				C 00 90 00 90
				H ` + update40B + `
				C 00 00 02 90 00 92`,
		},
		{
			name: "nothing to repeat after a reset",
			play: `
				H 00 80 00 80
				C 00 82 00 82`,
		},
		{
			name: "nothing left to acknowledge",
			card: []exchange{{selectMF, "90 00"}},
			play: `
				H 00 00 07 00 A4 00 00 02 3F 00 9E
				C 00 00 02 90 00 92
				H 00 90 00 90
				C 00 92 00 92`,
		},
		{
			name: "an S-response got lost",
			play: `
				H 00 C1 01 FE 3E
				C 00 E1 01 FE 1E
				H 00 81 00 81
				C 00 E1 01 FE 1E`,
		},
		{
			name:  "WTX answered with another value, then right",
			setup: func(_ *testing.T, c *T1) { c.RequestWTX(2) },
			card:  []exchange{{selectMF, "90 00"}},
			play: `
				H 00 00 07 00 A4 00 00 02 3F 00 9E
				C 00 C3 01 02 C0
				H 00 E3 01 03 E1
				C 00 C3 01 02 C0
				H 00 E3 01 02 E0
				C 00 00 02 90 00 92`,
		},
		{
			name: "WTX for every command",
			opt:  T1Options{WTX: 2, WTXMultiplier: 3},
			card: []exchange{{selectMF, "90 00"}, {selectMF, "90 00"}},
			play: `
				H 00 00 07 00 A4 00 00 02 3F 00 9E
				C 00 C3 01 03 C1
				H 00 E3 01 03 E1
				C 00 C3 01 03 C1
				H 00 E3 01 03 E1
				C 00 00 02 90 00 92
				H 00 40 07 00 A4 00 00 02 3F 00 DE
				C 00 C3 01 03 C1
				H 00 E3 01 03 E1
				C 00 C3 01 03 C1
				H 00 E3 01 03 E1
				C 00 40 02 90 00 D2`,
		},
		{
			name: "the host aborts the card's chain",
			card: []exchange{{"00 B0 00 00 22", count32 + "20 21 90 00"}, {selectMF, "90 00"}},
			play: `
				H 00 00 05 00 B0 00 00 22 97
				C 00 20 20 ` + count32 + ` 00
				H 00 C2 00 C2
				C 00 E2 00 E2
				H 00 40 07 00 A4 00 00 02 3F 00 DE
				C 00 40 02 90 00 D2`,
		},
		{
			name: "V11 empty blocks inside a chain",
			card: []exchange{{selectMF, "90 00"}},
			play: `
				H 00 20 07 00 A4 00 00 02 3F 00 BE
				C 00 90 00 90
				H 00 60 00 60
				C 00 80 00 80
				H 00 00 00 00
				C 00 00 02 90 00 92`,
		},
		{
			name: "the card aborts its own chain",
			setup: func(_ *testing.T, c *T1) {
				c.Mangle = func(n int, block []byte) []byte {
					if n == 0 {
						c.Abort()
					}
					return block
				}
			},
			card: []exchange{{"00 B0 00 00 22", count32 + "20 21 90 00"}, {selectMF, "90 00"}},
			play: `
				H 00 00 05 00 B0 00 00 22 97
				C 00 20 20 ` + count32 + ` 00
				H 00 90 00 90
				C 00 C2 00 C2
				H 00 E2 00 E2
				C 00 90 00 90
				H 00 40 07 00 A4 00 00 02 3F 00 DE
				C 00 40 02 90 00 D2`,
		},
		{
			name: "resynchronisation takes IFSD back to 32",
			card: []exchange{{"00 B0 00 00 28", count32 + "20 21 22 23 24 25 26 27 90 00"}},
			play: `
				H 00 C1 01 FE 3E
				C 00 E1 01 FE 1E
				H 00 C0 00 C0
				C 00 E0 00 E0
				H 00 00 05 00 B0 00 00 28 9D
				C 00 20 20 ` + count32 + ` 00`,
		},
		{
			name: "node addresses are exchanged",
			opt:  T1Options{AnyNAD: true},
			card: []exchange{{selectMF, "90 00"}},
			play: `
				H 12 C0 00 D2
				C 21 E0 00 C1
				H 92 C0 00 52
				C 21 82 00 A3
				H 02 00 07 00 A4 00 00 02 3F 00 9C
				C 20 00 02 90 00 B2`,
		},
		{
			name: "the card's block is lost, then doubled",
			setup: func(_ *testing.T, c *T1) {
				c.Mangle = func(n int, block []byte) []byte {
					switch n {
					case 0:
						return nil
					case 1:
						return append(block, block...)
					}
					return block
				}
			},
			card: []exchange{{selectMF, "90 00"}},
			play: `
				H 00 00 07 00 A4 00 00 02 3F 00 9E
				C
				H 00 82 00 82
				C 00 00 02 90 00 92 00 00 02 90 00 92
				H 00 82 00 82
				C 00 00 02 90 00 92`,
		},
		{
			name: "noise on the way in",
			setup: func(_ *testing.T, c *T1) {
				c.MangleIn = func(n int, block []byte) []byte {
					if n == 0 {
						block[4] ^= 0x10
					}
					return block
				}
			},
			card: []exchange{{selectMF, "90 00"}},
			play: `
				H 00 00 07 00 A4 00 00 02 3F 00 9E
				C 00 81 00 81
				H 00 00 07 00 A4 00 00 02 3F 00 9E
				C 00 00 02 90 00 92`,
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

func TestT1ResetBringsItBack(t *testing.T) {
	c := NewT1(newScript(t, exchange{selectMF, "90 00"}), T1Options{MaxINF: 32})
	c.RequestWTX(9)
	if atr := c.Reset(); !bytes.Equal(atr, []byte{0x3B, 0x00}) {
		t.Errorf("ATR % X", atr)
	}
	if out := c.Block(hextest.Bytes(t, lrc("00 00 21"+strings.Repeat("55", 33)))); out != nil {
		t.Errorf("the card should be silent, sent % X", out)
	}
	c.Reset()
	play(t, c, "H 00 00 07 00 A4 00 00 02 3F 00 9E\n C 00 00 02 90 00 92")
}

func TestT1Think(t *testing.T) {
	var slept []time.Duration
	c := NewT1(newScript(t, exchange{selectMF, "90 00"}), T1Options{
		Think: 300 * time.Millisecond, WTX: 2,
		Sleep: func(d time.Duration) { slept = append(slept, d) },
	})
	play(t, c, `
		H 00 00 07 00 A4 00 00 02 3F 00 9E
		C 00 C3 01 01 C3
		H 00 E3 01 01 E3
		C 00 C3 01 01 C3
		H 00 E3 01 01 E3
		C 00 00 02 90 00 92`)
	if fmt.Sprint(slept) != "[100ms 100ms 100ms]" {
		t.Errorf("slept %v", slept)
	}
}

// TestT1TooMuch sends a chain that never ends: the card gives it up when it
// is longer than any command.
func TestT1TooMuch(t *testing.T) {
	c := NewT1(newScript(t, exchange{selectMF, "90 00"}), T1Options{})
	inf := make([]byte, 254)
	ns := byte(0)
	for sent := 0; sent <= maxAPDU; sent += len(inf) {
		out := c.Block(appendEDC(append([]byte{0, ns | pcbMore, byte(len(inf))}, inf...), false))
		ns ^= pcbNS
		if sent+len(inf) > maxAPDU {
			if !bytes.Equal(out, []byte{0x00, 0xC2, 0x00, 0xC2}) {
				t.Fatalf("after %d bytes the card sent % X, want S(ABORT request)", sent+len(inf), out)
			}
			break
		}
		if want := pcbR | ns>>2; out[1] != want {
			t.Fatalf("after %d bytes: % X", sent+len(inf), out)
		}
	}
	if out := c.Block([]byte{0x00, 0xE2, 0x00, 0xE2}); out[1]&^pcbNR != pcbR {
		t.Fatalf("the card did not hand the turn back: % X", out)
	}
	if out := c.Block(appendEDC(append([]byte{0, ns, 7}, hextest.Bytes(t, selectMF)...), false)); !bytes.Equal(out, hextest.Bytes(t, "00 00 02 90 00 92")) {
		t.Errorf("next command: % X", out)
	}
}

// allocations is how many a call of f makes. What is counted are those of the
// whole process, and a PIV card of a test before may still be making its key,
// in a goroutine that ends by itself: so it counts again until nothing else
// allocates, or f does.
func allocations(f func()) float64 {
	for end := time.Now().Add(10 * time.Second); ; {
		n := testing.AllocsPerRun(100, f)
		if n == 0 || time.Now().After(end) {
			return n
		}
	}
}

func TestT1Allocations(t *testing.T) {
	c := NewT1(NewEcho(), T1Options{MaxINF: 32})
	blocks := [2][]byte{hextest.Bytes(t, lrc("00 00 05 00 EE 00 10 00")), hextest.Bytes(t, lrc("00 40 05 00 EE 00 10 00"))}
	n := 0
	if got := allocations(func() {
		c.Block(blocks[n%2])
		n++
	}); got != 0 {
		t.Errorf("%v allocations per block, want none", got)
	}
}
