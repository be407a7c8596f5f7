package card

import (
	"bytes"
	"testing"

	"openct/internal/hextest"
)

func TestBuildATR(t *testing.T) {
	tests := []struct {
		name       string
		first      byte
		iface      string
		historical string
		want       string
	}{
		{"T=1 alone", 0x80, "81 31 FE 45", "ECHO", "3B 84 81 31 FE 45 45 43 48 4F 8E"},
		{"CardOS", 0xF0, "18 00 02 C1 0A 31 FE 58", "\xC8\x09", "3B F2 18 00 02 C1 0A 31 FE 58 C8 09 75"},
		{"two protocols", 0xB0, "94 00 C0 24 31 FE 65", "SPK23\x90\x00", "3B B7 94 00 C0 24 31 FE 65 53 50 4B 32 33 90 00 B4"},
		{"T=0 named: no TCK", 0x90, "18 40 FF", "\x62\x01\x02\x01\x04", "3B 95 18 40 FF 62 01 02 01 04"},
		{"T=0 not named", 0x60, "00 FF", "\x00VruTokns0 \x00\x00\x90\x00", "3B 6F 00 FF 00 56 72 75 54 6F 6B 6E 73 30 20 00 00 90 00"},
		{"TD that announces nothing", 0x80, "01", "", "3B 80 01 81"},
		{"historical bytes cut", 0x00, "", "0123456789abcdefgh", "3B 0F 30 31 32 33 34 35 36 37 38 39 61 62 63 64 65"},
		{"TD announced and missing", 0x80, "", "", "3B 80"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got := BuildATR(tt.first, hextest.Bytes(t, tt.iface), tt.historical)
			if want := hextest.Bytes(t, tt.want); !bytes.Equal(got, want) {
				t.Errorf("% X, want % X", got, want)
			}
		})
	}
}
