package kaan

import (
	"testing"

	"openct/internal/hextest"
	"openct/internal/serial"
	"openct/internal/vusb/card"
	"openct/internal/vusb/serialline/linetest"
)

var line = serial.Params{Speed: 9600, Bits: 8, Parity: serial.Even, StopBits: 1}

func TestTerminal(t *testing.T) {
	sim := card.NewEchoATR([]byte{0x3B, 0x02, 0x14, 0x50})
	for _, tt := range []struct {
		name      string
		change    func(*Terminal)
		card      card.Card
		exchanges [][2]string
	}{
		{"a card of T=0", nil, sim, [][2]string{
			{"12c000d2", "21e000c1"},
			{"1200042010000026", "2100029000b3"},
			{"1240052013008100e5", "2140078103014050900065"},
			{"1200052013018000a5", "210005800103900036"},
			{"1240052010010100" + "67", "2140063b02145090018b"},
			{"0200040044000042", "2000026900" + "4b"}, // without a protocol
			{"1240088060010003220101" + "9a", "2140029000f3"},
			{"0200040044000042", "2000029000b2"},
			{"12400520130180" + "00e5", "2140058001059000" + "70"},
			{"32000400440000" + "72", "23000264a1" + "e4"},
		}},
		{"old firmware", func(x *Terminal) { x.Old = true }, nil, [][2]string{
			{"1200042010000026", "2100026b0048"},
			{"1240042011000067", "2140029000f3"},
			{"1200052013008100a5", "210005810101900035"},
			{"1240052013018000e5", "214003009000f2"},
		}},
		{"no card", nil, nil, [][2]string{
			{"120005201001010027", "210002620041"},
			{"1240052013018000e5", "214005800100900075"},
			{"0200040044000042", "20000264a1e7"},
		}},
		{"another speed", func(x *Terminal) { x.Set(serial.Default) }, sim, [][2]string{{"12c000d2", ""}}},
		{"a B1 that is off", func(x *Terminal) { x.B1 = true }, sim, [][2]string{{"1200042010000026", ""}}},
		{"a B1 that is on", func(x *Terminal) { x.B1 = true; x.SetLines(true, false) }, sim, [][2]string{
			{"1200042010000026", "2100029000b3"},
			{"12400700a40000023f00cc", "21400400209000d5"},
			{"12000700a40000027f70bc", "2100040020900095"},
			{"12400700a40000027021a2", "21400400209000d5"},
			{"12000500b0000000a7", "21000b2001012101012201016282e9"},
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			x := New(tt.card)
			x.Set(line)
			if tt.change != nil {
				tt.change(x)
			}
			linetest.Exchange(t, x, tt.exchanges...)
		})
	}
}

// DSR tells a quiet terminal's news.
func TestQuiet(t *testing.T) {
	for _, b1 := range []bool{false, true} {
		x := New(card.NewEcho())
		x.B1 = b1
		x.Set(line)
		x.SetLines(true, false)
		dsr := func(when string, want bool) {
			t.Helper()
			if got := x.Inputs().DSR; got != want {
				t.Errorf("B1 %v, %s: DSR %v", b1, when, got)
			}
		}
		dsr("at first", b1)
		linetest.Exchange(t, x, [2]string{"1200088070000003300103db", "2100029000b3"})
		dsr("quiet", false)
		x.Insert(0, nil)
		dsr("a card moved", true)
		linetest.Send(x, hextest.Bytes(t, "1240052013018000e5"))
		dsr("asked", b1)
	}
}
