package card

import (
	"encoding/hex"
	"testing"
)

func TestSIM(t *testing.T) {
	for _, tt := range []struct {
		name  string
		apdus [][2]string // command, response
	}{
		{"the card's number", [][2]string{
			{"a0a40000022fe2", "9f0f"},
			{"a0c000000f", "0000000a2fe204000000000002" + "0000" + "9000"},
			{"a0b000000a", "989410325476981032f49000"},
			{"a0b000080a", "6700"},
		}},
		{"a file behind the CHV", [][2]string{
			{"a0a40000026f07", "9f0f"},
			{"a0b0000009", "9804"},
			{"a02000010831323334ffffffff", "9000"},
			{"a0b0000009", "0809101032547698109000"},
		}},
		{"a CHV that is blocked", [][2]string{
			{"a02000010830303030ffffffff", "9804"},
			{"a02000010830303030ffffffff", "9804"},
			{"a02000010830303030ffffffff", "9840"},
			{"a02000010831323334ffffffff", "9840"},
		}},
		{"nothing there", [][2]string{
			{"a0a40000026fff", "9404"},
			{"a0c0000005", "6700"},
			{"a0b0000001", "9400"},
			{"00a40000023f00", "6e00"},
			{"a0fe000000", "6d00"},
			{"a0a4", "6700"},
		}},
		{"directories", [][2]string{
			{"a0a40000027f20", "9f16"},
			{"a0f2000016", "00000000" + "7f20" + "02" + "0000000000" + "09" + "800102020083" + "8a838a" + "9000"},
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := NewSIM(nil)
			s.Reset()
			for _, x := range tt.apdus {
				cmd, err := hex.DecodeString(x[0])
				if err != nil {
					t.Fatal(err)
				}
				if got := hex.EncodeToString(s.Transmit(cmd)); got != x[1] {
					t.Errorf("%s: %s, want %s", x[0], got, x[1])
				}
			}
		})
	}
}
