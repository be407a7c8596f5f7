package gempc

import (
	"encoding/hex"
	"testing"

	"openct/internal/serial"
	"openct/internal/vusb/card"
	"openct/internal/vusb/serialline/linetest"
)

func block(pcb byte, inf string) string {
	b, err := hex.DecodeString(inf)
	if err != nil {
		panic(err)
	}
	f := frame(pcb, b)
	return hex.EncodeToString(f)
}

// host is a block from the host, in hex.
func host(pcb byte, inf string) string {
	b, err := hex.DecodeString(block(pcb, inf))
	if err != nil {
		panic(err)
	}
	b[len(b)-1] ^= b[0] ^ nadHost
	b[0] = nadHost
	return hex.EncodeToString(b)
}

func TestReader(t *testing.T) {
	sim := func() card.Card { return card.NewSIM(nil) }
	t1 := func() card.Card { return card.NewEcho() }
	for _, tt := range []struct {
		name  string
		card  func() card.Card
		set   func(*Reader)
		sends [][2]string
	}{
		{"firmware", sim, nil, [][2]string{{"42000522053fe010af", "2400110047656d436f72652d52312e32312d474d05"}}},
		{"T=0", sim, nil, [][2]string{
			{host(0x00, "17"), block(0x00, "0004")},
			{host(0x40, "1223"), block(0x40, "003b139453494d")},
			{host(0x00, "14a0a40000022fe2"), block(0x00, "e79f0f")},
			{host(0x40, "13a0b000000a"), block(0x40, "00989410325476981032f49000")},
			{host(0x00, "17"), block(0x00, "0006")},
			{host(0x40, "11"), block(0x40, "00")},
			{host(0x00, "17"), block(0x00, "0004")},
		}},
		{"15 is for T=1", sim, nil, [][2]string{{host(0x00, "1223"), block(0x00, "003b139453494d")}, {host(0x40, "15a0a40000022fe2"), block(0x40, "03")}}},
		{"T=1", t1, nil, [][2]string{
			{host(0x00, "1223"), block(0x00, "003b848131fe454543484f8e")},
			{host(0x40, "1500ee000402"), block(0x40, "00000102039000")},
		}},
		{"asked for again", sim, nil, [][2]string{
			{host(0x00, "17"), block(0x00, "0004")}, {"429100d3", block(0x00, "0004")}, {host(0x00, "17"), block(0x00, "0004")},
			{host(0x40, "17"), block(0x40, "0004")},
		}},
		{"nothing to send again", sim, nil, [][2]string{{"428100c3", block(0x82, "")}}},
		{"wrong number", sim, nil, [][2]string{{host(0x40, "17"), block(0x82, "")}}},
		{"wrong LRC", sim, nil, [][2]string{{"42000117ff", block(0x81, "")}}},
		{"resynchronised", sim, nil, [][2]string{{host(0x00, "17"), block(0x00, "0004")}, {"42c00082", "24e000c4"}, {host(0x00, "17"), block(0x00, "0004")}}},
		{"another way of power-up", sim, func(r *Reader) { r.Refuse = []byte{0x23} }, [][2]string{
			{host(0x00, "1223"), block(0x00, "a2")}, {host(0x40, "1213"), block(0x40, "003b139453494d")},
		}},
		{"not powered", sim, nil, [][2]string{{host(0x00, "14a0fe000000"), block(0x00, "a2")}}},
		{"no card", sim, func(r *Reader) { r.Remove() }, [][2]string{
			{host(0x00, "17"), block(0x00, "0000")}, {host(0x40, "1223"), block(0x40, "fb")}, {host(0x00, "14a0fe000000"), block(0x00, "fb")},
		}},
		{"other speed", sim, nil, [][2]string{{host(0x00, "0a02"), block(0x00, "00")}, {host(0x40, "17"), ""}}},
		{"no such speed, no such command", sim, nil, [][2]string{{host(0x00, "0a0f"), block(0x00, "03")}, {host(0x40, "99"), block(0x40, "01")}}},
		{"out of step", sim, nil, [][2]string{{"55aa" + host(0x00, "17"), block(0x00, "0004")}}},
		{"spoilt", sim, func(r *Reader) { r.Mangle = func(b []byte) []byte { return b[:1] } }, [][2]string{{host(0x00, "17"), "24"}}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := New(tt.card())
			r.Set(serial.Params{Speed: 9600})
			if tt.set != nil {
				tt.set(r)
			}
			linetest.Exchange(t, r, tt.sends...)
		})
	}
}
