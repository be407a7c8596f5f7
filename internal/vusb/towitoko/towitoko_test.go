//go:build go1.25

package towitoko

import (
	"bytes"
	"encoding/hex"
	"testing"

	"openct/internal/serial/serialtest"
	"openct/internal/vusb/card"
	"openct/internal/vusb/serialline/linetest"
)

// The reader answers as the recorded one does.
func TestRecorded(t *testing.T) {
	recorded, err := serialtest.Load("../../driver/testdata/readers/towitoko.jsonl")
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		scenario string
		reader   *Reader
		until    int // line of the recording, from which on its card cannot be written
	}{
		{"i2c", New(External, card.New24C(256)), 1036},
		{"i2clong", New(External, card.New24C(4096)), 1 << 30},
		{"2wire", New(External, card.NewSLE4432()), 2029},
		{"3wire", New(External, card.NewSLE4418()), 1 << 30},
	} {
		t.Run(tt.scenario, func(t *testing.T) {
			answers := 0
			for _, w := range recorded {
				if w.Scenario != tt.scenario || w.Line >= tt.until {
					continue
				}
				var got []byte
				for _, s := range w.Steps {
					switch s.Kind {
					case serialtest.Set:
						tt.reader.Set(s.Params)
					case serialtest.Write:
						if len(got) > 0 {
							t.Fatalf("%v: answer % x too much", w, got)
						}
						got = linetest.Send(tt.reader, s.Data)
					case serialtest.Answer:
						if !bytes.Equal(got, s.Data) {
							t.Fatalf("%v: answer % x, want % x", w, got, s.Data)
						}
						got = nil
						answers++
					}
				}
			}
			if answers < 50 {
				t.Errorf("only %d answers were compared", answers)
			}
		})
	}
}

func TestReader(t *testing.T) {
	t0 := func() card.Card { return card.NewEchoATR(card.T0ATR("T0")) }
	for _, tt := range []struct {
		name   string
		reader *Reader
		sends  [][2]string // what is sent, what comes
	}{
		{"identifies itself", New(KartenzwergII, nil), [][2]string{{"0001", "6410b6"}}},
		{"no card", New(Micro, nil), [][2]string{{"0307", "0003"}}},
		{"wrong checksum", New(Micro, t0()), [][2]string{{"0308", ""}, {"0307", "4083"}}},
		{"no command", New(Micro, t0()), [][2]string{{"ff", ""}, {"6f0001", ""}, {"0307", "4083"}}},
		{"ATR and APDU", New(External, t0()), [][2]string{{"600f9c", "01"}, {"806f000576", "3b025430"}, {"6f050562", ""}, {"00ee000202", "ee00019000"}}},
		{"without power", New(External, t0()), [][2]string{{"806f000576", ""}}},
		{"memory cards alone", New(Kartenzwerg, t0()), [][2]string{{"600f9c", "01"}, {"806f000576", ""}}},
		{"slot B is empty", New(Twin, t0()), [][2]string{{"0305", "0003"}, {"0307", "4083"}}},
		{"no slot B", New(External, t0()), [][2]string{{"0305", ""}}},
		{"the card has another parity", New(External, t0()), [][2]string{
			{"600f9c", "01"}, {"806f000576", "3b025430"}, {"6f806a0f4a", "01"}, {"6f050562", ""}, {"00ee000002", ""}}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			linetest.Exchange(t, tt.reader, tt.sends...)
		})
	}
}

func TestMoves(t *testing.T) {
	r := New(External, nil)
	r.Deaf = true
	status := []byte{0x03, 0x07}
	want := func(when, answer string) {
		t.Helper()
		if got := hex.EncodeToString(linetest.Send(r, status)); got != answer {
			t.Errorf("%s: %s, want %s", when, got, answer)
		}
	}
	want("empty", "0003")
	r.Insert(0, card.NewEcho())
	want("inserted: missed", "")
	want("inserted", "c082")
	want("later", "4083")
	r.Insert(0, nil)
	want("removed: missed", "")
	want("removed", "8002")
	if linetest.Send(r, []byte{0x6F, 0x01, 0x6A, 0x0F, 0x46}); !r.Red(0) {
		t.Error("the LED is off")
	}
}

func FuzzReader(f *testing.F) {
	f.Add([]byte{0x60, 0x0F, 0x9C, 0x72, 0x6E, 0x00, 0x39, 0x03, 0x0F, 0x00})
	f.Add([]byte{0x6F, 0xFF, 0x05, 0x89, 0x00})
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, c := range []card.Card{nil, card.NewEcho(), card.NewSLE4442(), card.New24C(256)} {
			r := New(Twin, c)
			linetest.Send(r, b)
			r.SetLines(false, false)
			if got := linetest.Send(r, []byte{0x00, 0x01}); !bytes.Equal(got, []byte{0x88, 0x10, 0x05}) {
				t.Fatalf("afterwards it answers % x", got)
			}
		}
	})
}
