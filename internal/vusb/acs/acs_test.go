package acs

import (
	"context"
	"encoding/hex"
	"fmt"
	"strings"
	"testing"

	"openct/internal/serial"
	"openct/internal/usb"
	"openct/internal/vusb/card"
)

// ask gives an ACR30 the digits of a command and returns those of its answers.
func ask(t *testing.T, a *ACR30, digits string) string {
	t.Helper()
	_, err := a.Control(t.Context(), usb.Setup{RequestType: usb.VendorDeviceOut}, []byte("\x02"+digits+"\x03"), 0)
	if err != nil {
		t.Fatal(err)
	}
	return said(t, a)
}

// said is what an ACR30 has said, packet by packet.
func said(t *testing.T, a *ACR30) (text string) {
	t.Helper()
	for len(a.out.Packets) > 0 {
		p, err := a.In(context.Background(), acr30Endpoint, acr30Packet)
		if err != nil || len(p) != acr30Packet {
			t.Fatalf("packet % x, %v", p, err)
		}
		text += string(p)
	}
	return strings.NewReplacer("\x00", "", "\x02", "", "\x03", " ").Replace(text)
}

func TestACR30(t *testing.T) {
	t0 := card.NewEchoATR([]byte{0x3B, 0x02, 0x14, 0x50})
	for _, tt := range []struct {
		name string
		card card.Card
		asks [][2]string
	}{
		{"T=0", t0, [][2]string{
			{"01010000", "0190001041435233302056495254FFFF30640001BE "},
			{"0107010007", "0190000091 "}, {"01810080", "0190000091 "}, {"0102010002", "0190000091 "},
			{"01A00600EE0002000249", "0160040065 "},
			{"01800081", "019000043B021450E8 "},
			{"01A00600EE0002000249", "019000040001900004 "},
			{"01A00600EE000200024A", "0160050064 "},
			{"01A00500EE00020048", "0167030065 "},
			{"01A10400000004A0", "0167120074 "},
			{"01990098", "0160050064 "},
			{"0102010301", "0167120074 "},
			{"nonsense", "0160050064 "},
		}},
		{"T=1", card.NewEcho(), [][2]string{
			{"01800081", "0190010B3B848131FE454543484F8EA0 "},
			{"01A10800000400EE0002E8A8", "01900008000004000190009599 "},
		}},
		{"none", nil, [][2]string{{"01800081", "0160020063 "}, {"01810080", "0190000091 "}}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			a := NewACR30(tt.card)
			for _, x := range tt.asks {
				if got := ask(t, a, x[0]); got != x[1] {
					t.Errorf("%s: %q, want %q", x[0], got, x[1])
				}
			}
		})
	}
}

func TestACR30News(t *testing.T) {
	a := NewACR30(nil)
	a.Insert(card.NewEcho())
	a.Insert(nil)
	if got := said(t, a); got != "01FF0100FF 01FF0200FC " {
		t.Errorf("%q", got)
	}
	ask(t, a, "0106010204")
	a.Insert(card.NewEcho())
	if got := said(t, a); got != "" {
		t.Errorf("without notifications: %q", got)
	}
}

func TestACR30Serial(t *testing.T) {
	a := NewACR30S(card.NewEcho())
	send := func(s string) (text string) {
		for i := range len(s) {
			for _, c := range a.Send(s[i]) {
				text += string(c.Byte)
			}
		}
		return text
	}
	if got := send("\x0201810080\x03"); got != "\x020190000091\x03" {
		t.Errorf("%q", got)
	}
	a.Set(serial.Params{Speed: 19200})
	if got := send("\x0201810080\x03"); got != "" {
		t.Errorf("at another speed: %q", got)
	}
}

func TestACR38(t *testing.T) {
	a := NewACR38(card.NewEchoATR([]byte{0x3B, 0x02, 0x14, 0x50}))
	for _, x := range [][2]string{
		{"01010000", "010000104143523338205649 5254ffff30640001"},
		{"01a0000500ee000202", "01f90000"},
		{"0107000110", "01000000"},
		{"01800000", "01f80000"}, // no ATR of EMV's
		{"0107000100", "01000000"},
		{"01800000", "010000043b021450"},
		{"01a0000500ee000202", "0100000400019000"},
		{"01990000", "01ff0000"},
		{"01a0ffff", "01f60000"},
	} {
		msg, err := hex.DecodeString(x[0])
		if err != nil {
			t.Fatal(err)
		}
		if err := a.Out(t.Context(), acr38Out, append(msg, make([]byte, acr38Packet-len(msg))...)); err != nil {
			t.Fatal(err)
		}
		got, err := a.In(t.Context(), acr38In, acr38Packet)
		if want := strings.ReplaceAll(x[1], " ", ""); err != nil || fmt.Sprintf("%x", got) != want {
			t.Errorf("%s: %x, %v; want %s", x[0], got, err, want)
		}
	}
	a.Insert(nil)
	if got, err := a.In(t.Context(), acr38News, 8); err != nil || fmt.Sprintf("%x", got) != "01c00000" {
		t.Errorf("news %x, %v", got, err)
	}
	a.Padded = true
	if err := a.Out(t.Context(), acr38Out, append([]byte{1, 0x80}, make([]byte, 62)...)); err != nil {
		t.Fatal(err)
	}
	if got, err := a.In(t.Context(), acr38In, acr38Packet); err != nil || len(got) != acr38Packet || got[1] != 0xFA {
		t.Errorf("filled up: %x, %v", got, err)
	}
}
