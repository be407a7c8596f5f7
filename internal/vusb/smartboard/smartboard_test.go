package smartboard

import (
	"testing"

	"openct/internal/serial"
	"openct/internal/vusb/card"
	"openct/internal/vusb/serialline/linetest"
)

var line = serial.Params{Speed: 115385, Bits: 8, Parity: serial.Even, StopBits: 2} // what an FTDI chip can do

func TestReader(t *testing.T) {
	sim := func() card.Card { return card.NewSIM(nil) }
	t1 := func() card.Card { return card.NewEcho() }
	for _, tt := range []struct {
		name  string
		card  func() card.Card
		set   func(*Reader)
		sends [][2]string
	}{
		{"T=0", sim, nil, [][2]string{
			{"00016a", "000160"}, {"000160", "000b60534d415254424f415244"}, {"000165", "00056108000002"},
			{"000162", "0007643b139453494d"}, {"000165", "00056119010004"}, {"00066100000a0010", "000162"},
			{"000867a0a40000022fe2", "0003649f0f"}, {"000667a0b000000a", "000d64989410325476981032f49000"},
		}},
		{"T=1", t1, nil, [][2]string{
			{"000162", "000c643b848131fe454543484f8e"}, {"0006611000007510", "000162"},
			{"000a6700000500ee000002e9", "0007640000029000" + "92"},
		}},
		{"the card works", sim, func(r *Reader) { r.Busy = 2 }, [][2]string{{"000162", "0007643b139453494d"}, {"000667a0fe000000", "0001630001630003646d00"}}},
		{"once more", sim, func(r *Reader) { r.Again = 1 }, [][2]string{{"000162", "000167"}, {"000162", "0007643b139453494d"}}},
		{"not powered", sim, nil, [][2]string{{"000667a0fe000000", "000164"}}},
		{"no card", sim, func(r *Reader) { r.Remove() }, [][2]string{{"000165", "000166"}, {"000165", "00056100000001"}, {"000162", "000164"}}},
		{"card comes", sim, func(r *Reader) { r.Insert(card.NewSIM(nil)) }, [][2]string{{"000162", "0001650007643b139453494d"}}},
		{"longer than a frame", t1, nil, [][2]string{{"000162", "000c643b848131fe454543484f8e"}, {"00066100000a0010", "000162"}, {"00066700ee010000", "0003646700"}}},
		{"out of step", sim, nil, [][2]string{{"55000162", "0007643b139453494d"}}},
		{"wrong parity", sim, func(r *Reader) { r.Set(serial.Params{Speed: 115200, Bits: 8}) }, [][2]string{{"000165", ""}}},
		{"wrong speed", sim, func(r *Reader) { r.Set(serial.Params{Speed: 9600, Bits: 8, Parity: serial.Even}) }, [][2]string{{"000165", ""}}},
		{"no power", sim, func(r *Reader) { r.Send(0); r.SetLines(false, true) }, [][2]string{{"000165", "00056108000002"}}},
		{"spoilt", sim, func(r *Reader) { r.Mangle = func(b []byte) []byte { return b[:1] } }, [][2]string{{"000165", "00"}}},
		{"no such command", sim, nil, [][2]string{{"000170", ""}}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := New(tt.card())
			r.Set(line)
			if tt.set != nil {
				tt.set(r)
			}
			linetest.Exchange(t, r, tt.sends...)
		})
	}
}
