package phoenix

import (
	"encoding/hex"
	"fmt"
	"testing"

	"openct/internal/serial"
	"openct/internal/vusb/card"
	"openct/internal/vusb/serialline"
)

// text is characters in hex, bad ones with a mark.
func text(chars []serialline.Char) (s string) {
	for _, c := range chars {
		s += fmt.Sprintf("%02x", c.Byte)
		if c.Bad {
			s += "!"
		}
	}
	return s
}

func line(speed uint32, p serial.Parity) serial.Params {
	return serial.Params{Speed: speed, Bits: 8, Parity: p, StopBits: 2}
}

func TestReader(t *testing.T) {
	sim := func() card.Card { return card.NewSIM(nil) }
	inverse := func() card.Card { return card.NewEchoATR([]byte{0x3F, 0x03, 'I', 'N', 'V'}) }
	t1 := func() card.Card { return card.NewEcho() }
	const atrSIM = "3b139453494d"
	for _, tt := range []struct {
		name  string
		make  func(card.Card) *Reader
		card  func() card.Card
		line  serial.Params
		rts   bool // out of reset
		atr   string
		sends [][2]string // what is sent, what comes
	}{
		{"T=0", New, sim, line(9600, serial.Even), false, atrSIM, [][2]string{
			{"a0a4000002", "a0a4000002a4"}, {"2fe2", "2fe29f0f"},
			{"a0b000000a", "a0b000000ab0989410325476981032f49000"},
		}},
		{"SmartMouse", NewSmartMouse, sim, line(9600, serial.Even), true, atrSIM, [][2]string{{"a0fe000000", "a0fe0000006d00"}}},
		{"held in reset", New, sim, line(9600, serial.Even), true, "", [][2]string{{"a0a4", "a0a4"}}},
		{"SmartMouse held in reset", NewSmartMouse, sim, line(9600, serial.Even), false, "", nil},
		{"wrong speed", New, sim, line(19200, serial.Even), false, "00!00!00!00!00!00!", [][2]string{{"a0fe000000", "a0fe000000"}}},
		{"wrong parity", New, sim, line(9600, serial.Odd), false, "3b!13!94!53!49!4d!", [][2]string{{"a0", "a0!"}}},
		{"no parity", New, sim, line(9600, serial.None), false, atrSIM, nil},
		{"faster", New, sim, line(9600, serial.Even), false, atrSIM, [][2]string{{"ff10947b", "ff10947bff10947b"}, {"a0fe000000", "a0fe000000"}}},
		{"faster than it can", New, sim, line(9600, serial.Even), false, atrSIM, [][2]string{{"ff10957a", "ff10957aff00ff"}, {"a0fe000000", "a0fe0000006d00"}}},
		{"PPS with a wrong checksum", New, sim, line(9600, serial.Even), false, atrSIM, [][2]string{{"ff1094ff", "ff1094ff"}, {"a0", "a0"}}},
		{"inverse convention", New, inverse, line(9600, serial.Odd), false, "033f6d8d95", [][2]string{{"ffffffffbf", "ffffffffbf" + "f6ff"}}},
		{"T=1", New, t1, line(9600, serial.Even), false, "3b848131fe454543484f8e", [][2]string{
			{"00000500ee000002e9", "00000500ee000002e9" + "0000029000" + "92"},
			{"00000500ee000002", "00000500ee000002"}, {"e8", "e8" + "00910091"},
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := tt.make(tt.card())
			if r.Inputs().CTS {
				t.Error("CTS is high with a card in")
			}
			r.Set(tt.line)
			r.SetLines(true, !tt.rts)
			if got := text(r.SetLines(true, tt.rts)); got != tt.atr {
				t.Errorf("answer to reset %s, want %s", got, tt.atr)
			}
			for _, x := range tt.sends {
				b, err := hex.DecodeString(x[0])
				if err != nil {
					t.Fatal(err)
				}
				var got []serialline.Char
				for _, c := range b {
					got = append(got, r.Send(c)...)
				}
				if text(got) != x[1] {
					t.Errorf("%s: %s, want %s", x[0], text(got), x[1])
				}
			}
		})
	}
}

func TestCardMoves(t *testing.T) {
	r := New(card.NewSIM(nil))
	r.Set(line(9600, serial.Even))
	r.SetLines(true, false)
	r.Remove()
	if !r.Inputs().CTS {
		t.Error("CTS is low without a card")
	}
	if got := text(r.Send(0xA0)); got != "a0" {
		t.Errorf("without a card %s comes", got)
	}
	r.Insert(card.NewSIM(nil))
	if got := text(r.Send(0xA0)); got != "a0" || r.Inputs().CTS {
		t.Errorf("a card that was not reset sends %s", got)
	}
	r.SetLines(true, true)
	if got := text(r.SetLines(true, false)); got == "" {
		t.Error("no answer to reset")
	}
}
