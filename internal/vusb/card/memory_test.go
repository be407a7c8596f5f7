package card

import (
	"bytes"
	"testing"

	"openct/internal/hextest"
	"openct/internal/proto"
)

func TestMemoryKinds(t *testing.T) {
	tests := []struct {
		name   string
		kind   proto.ID
		size   int
		atr    string
		byte20 byte
	}{
		{"24c02", proto.I2CShort, 256, "", 0xE1},
		{"24c16", proto.I2CShort, 2048, "", 0xE1},
		{"24c32", proto.I2CLong, 4096, "", 0xE1},
		{"sle4432", proto.TwoWire, 256, "A2 13 10 91", 0xE1},
		{"sle4442", proto.TwoWire, 256, "A2 13 10 91", 0xE1},
		{"sle4418", proto.ThreeWire, 1024, "92 23 10 91", 0xE1},
		{"sle4428", proto.ThreeWire, 1024, "92 23 10 91", 0xE1},
		{"eurochip", proto.Eurochip, 32, "D0 3A 01 17", 0xD0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c, err := New(tt.name, nil)
			if err != nil {
				t.Fatal(err)
			}
			m := c.(*Memory)
			if m.Kind() != tt.kind || m.Size() != tt.size || !bytes.Equal(m.ATR(), hextest.Bytes(t, tt.atr)) {
				t.Errorf("%v, %d bytes, ATR % X", m.Kind(), m.Size(), m.ATR())
			}
			want := []byte{byte(7*(tt.size-1) + 1), m.Bytes()[0]}
			if tt.name == "sle4428" {
				want[0] = 0x00 // of the PSC
			}
			if got := m.Read(tt.size-1, 2); !bytes.Equal(got, want) || m.Read(32, 1)[0] != tt.byte20 {
				t.Errorf("around the end % X, want % X; byte 20 %02X", got, want, m.Read(32, 1))
			}
		})
	}
}

func TestMemoryCommands(t *testing.T) {
	const (
		right  = "00 20 00 00 03 FF FF FF"
		wrong  = "00 20 00 00 03 11 22 33"
		update = "00 D6 00 20 02 AA BB"
		read   = "00 B0 00 20 02"
	)
	tests := []struct {
		name string
		card *Memory
		todo []exchange
	}{
		{"no PSC", NewSLE4432(), []exchange{{update, "90 00"}, {read, "AA BB 90 00"}, {right, "6D 00"}}},
		{"PSC", NewSLE4442(), []exchange{{update, "65 81"}, {read, "E1 E8 90 00"}, {right, "90 00"}, {update, "90 00"}, {read, "AA BB 90 00"}}},
		{"wrong PSC", NewSLE4442(), []exchange{{wrong, "63 C2"}, {update, "65 81"}, {wrong, "63 C1"}, {right, "90 00"}, {wrong, "63 C2"}, {update, "65 81"}}},
		{"blocked", NewSLE4442(), []exchange{{wrong, "63 C2"}, {wrong, "63 C1"}, {wrong, "63 C0"}, {right, "69 83"}, {update, "65 81"}, {read, "E1 E8 90 00"}}},
		{"short PSC", NewSLE4442(), []exchange{{"00 20 00 00 01 FF", "67 00"}}},
		{"PSC of a SLE 4428", NewSLE4428(), []exchange{{"00 20 00 00 02 00 00", "63 C7"}, {"00 20 00 00 02 FF FF", "90 00"}, {update, "90 00"}}},
		{"another PSC", NewSLE4428(), []exchange{{"00 24 00 00 04 00 00 12 34", "63 C7"}, {"00 B0 03 FD 03", "FE 00 00 90 00"}, {"00 24 00 00 04 FF FF 12 34", "90 00"},
			{"00 B0 03 FD 03", "FF 12 34 90 00"}, {"00 20 00 00 02 FF FF", "63 C7"}, {"00 20 00 00 02 12 34", "90 00"}, {"00 D6 03 FE 01 56", "90 00"},
			{"00 20 00 00 02 56 34", "90 00"}, {"00 24 00 00 05 56 34 00 00 00", "67 00"}}},
		{"Eurochip", NewEurochip(), []exchange{{"00 B0 00 07 06", "32 39 40 47 4E 55 90 00"}, {"00 D6 00 0C 01 54", "90 00"}, {"00 D6 00 0C 01 55", "65 81"},
			{"00 D6 00 07 01 00", "65 81"}, {"00 B0 00 07 06", "32 39 40 47 4E 54 90 00"}, {"00 20 00 00 02 FF FF", "6D 00"}}},
		{"ends", New24C(256), []exchange{{"00 B0 00 F0 00", "91 98 9F A6 AD B4 BB C2 C9 D0 D7 DE E5 EC F3 FA 90 00"},
			{"00 B0 01 00 01", "6B 00"}, {"00 D6 00 FF 02 00 00", "6B 00"}, {"00 A4 04 00", "90 00"}, {"80 B0 00 00 01", "6E 00"}, {"00", "67 00"}}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			for _, x := range tt.todo {
				if got := tt.card.Transmit(hextest.Bytes(t, x.command)); !bytes.Equal(got, hextest.Bytes(t, x.response)) {
					t.Errorf("%s: % X, want %s", x.command, got, x.response)
				}
			}
		})
	}
}

// What a reader does on the bus of a SLE 4442.
func TestMemorySecurity(t *testing.T) {
	m := NewSLE4442()
	compare := func(psc ...byte) {
		for i, b := range psc {
			m.Compare(1+i, b)
		}
	}
	want := func(when, security string, written bool) {
		t.Helper()
		m.Write(0x40, []byte{0x55})
		if got := m.Security(); !bytes.Equal(got, hextest.Bytes(t, security)) || (m.Read(0x40, 1)[0] == 0x55) != written {
			t.Errorf("%s: security memory % X, want %s; byte 40 is %02X", when, got, security, m.Read(0x40, 1))
		}
	}
	want("fresh", "07 00 00 00", false)
	compare(0xFF, 0xFF, 0xFF)
	want("compared without a bit of the counter", "07 00 00 00", false)
	m.WriteSecurity(0, 0x07)
	compare(0xFF, 0xFF, 0xFF)
	want("no bit was cleared", "07 00 00 00", false)
	m.WriteSecurity(1, 0x11)
	m.WriteSecurity(0, 0x06)
	compare(0xFF, 0xFF)
	want("one byte is missing", "06 00 00 00", false)
	m.WriteSecurity(0, 0xFF)
	want("the counter cannot be set", "06 00 00 00", false)
	m.WriteSecurity(0, 0x04)
	compare(0xFF, 0xFF, 0xFF)
	m.WriteSecurity(0, 0xFF)
	want("right", "07 FF FF FF", true)
	m.WriteSecurity(2, 0x22)
	want("PSC changed", "07 FF 22 FF", true)
	m.Write(0x40, []byte{0})
	m.Reset()
	want("without power", "07 00 00 00", false)
	if m.Writes() == 0 {
		t.Error("no write was counted")
	}
}
