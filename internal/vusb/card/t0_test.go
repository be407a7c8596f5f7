package card

import (
	"bytes"
	"testing"

	"openct/internal/hextest"
)

func TestT0TPDU(t *testing.T) {
	tests := []struct {
		name string
		card []exchange
		play []exchange
	}{
		{"case 3", []exchange{{selectMF + "00", count32[:83] + "90 00"}},
			[]exchange{{selectMF, "61 1C"}, {"00 C0 00 00 1C", count32[:83] + "90 00"}}},
		{"case 2", []exchange{{"00 B0 00 00 02", "AA BB 90 00"}},
			[]exchange{{"00 B0 00 00 02", "AA BB 90 00"}}},
		{"case 1 of four bytes", []exchange{{"00 44 00 00 00", "90 00"}},
			[]exchange{{"00 44 00 00", "90 00"}}},
		{"no data for an instruction that brings some", []exchange{{"00 A4 00 00 02", "6A 86"}},
			[]exchange{{"00 A4 00 00 02", "6A 86"}}},
		{"wrong Le", []exchange{{"00 B0 00 00 05", "AA BB 90 00"}, {"00 B0 00 00 02", "AA BB 90 00"}},
			[]exchange{{"00 B0 00 00 05", "6C 02"}, {"00 B0 00 00 02", "AA BB 90 00"}}},
		{"less wanted than there is", []exchange{{"00 B0 00 00 01", "AA BB 90 00"}},
			[]exchange{{"00 B0 00 00 01", "AA 61 01"}, {"00 C0 00 00 01", "BB 90 00"}}},
		{"Le does not exist in T=0", nil, []exchange{{selectMF + "00", "67 00"}}},
		{"data missing", nil, []exchange{{"00 A4 00 00 02 3F", "67 00"}}},
		{"extended length does not exist either", nil, []exchange{{"00 A4 00 00 00 00 02 3F 00", "67 00"}}},
		{"not a header", nil, []exchange{{"00 A4 00", "67 00"}, {"", "67 00"}}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c := NewT0(newScript(t, tt.card...))
			c.Reset()
			for _, x := range tt.play {
				got := c.TPDU(hextest.Bytes(t, x.command))
				if want := hextest.Bytes(t, x.response); !bytes.Equal(got, want) {
					t.Errorf("%s: % X, want % X", x.command, got, want)
				}
			}
		})
	}
}

// TestT0Phases is what a device sees that keeps header, data and status word
// apart.
func TestT0Phases(t *testing.T) {
	c := NewT0(newScript(t, exchange{"00 A4 00 00 02 3F 00 00", "90 00"}))
	h := [5]byte{0x00, 0xA4, 0x00, 0x00, 0x02}
	if n := c.Expects(h); n != 2 {
		t.Errorf("Expects(SELECT) = %d, want 2", n)
	}
	if n := c.Expects([5]byte{0x00, 0xB0, 0x00, 0x00, 0x02}); n != 0 {
		t.Errorf("Expects(READ BINARY) = %d, want 0", n)
	}
	if n := c.Expects([5]byte{0x00, 0xA4, 0x00, 0x00, 0x00}); n != 0 {
		t.Errorf("Expects(SELECT without data) = %d, want 0", n)
	}
	if out := c.Data([]byte{1, 2}); out != nil {
		t.Errorf("data nobody asked for: % X", out)
	}
	c.Header(h)
	if out := c.Data([]byte{0x3F}); out != nil || c.Want() != 1 {
		t.Errorf("after one byte: % X, %d wanted", out, c.Want())
	}
	if out := c.Data([]byte{0x00, 0xFF}); !bytes.Equal(out, []byte{0x90, 0x00}) || c.Want() != 0 {
		t.Errorf("after all: % X, %d wanted", out, c.Want())
	}
}

// TestT0ResetDropsAll leaves a command half sent.
func TestT0ResetDropsAll(t *testing.T) {
	c := NewT0(newScript(t, exchange{"00 B0 00 00 01", "AA 90 00"}))
	c.Stream(hextest.Bytes(t, "00 A4 00 00 02 3F"))
	c.Reset()
	c.Stream(hextest.Bytes(t, "00 A4 00"))
	c.Reset()
	if out := c.Stream(hextest.Bytes(t, "00 B0 00 00 01")); !bytes.Equal(out, hextest.Bytes(t, "B0 AA 90 00")) {
		t.Errorf("% X", out)
	}
}
