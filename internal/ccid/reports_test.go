//go:build go1.25

package ccid

import (
	"testing"

	"openct/internal/hextest"
	"openct/internal/proto"
)

// TestFlawedATRs: an ATR that breaks the standard behind the bytes that name
// the protocol does not keep the card from working.
func TestFlawedATRs(t *testing.T) {
	for _, c := range []struct {
		name string
		atr  string
		want proto.ID // at TPDU level
	}{
		{"a status word behind it", "3B 84 80 01 01 11 20 03 36 90 00", proto.T0},
		{"a TCK at T=0", "3B 8B 00 52 75 74 6F 6B 65 6E 6C 74 53 44 E3", proto.T0},
		{"historical bytes missing", "3B 65 00 00 B0 46 41", proto.T0},
		{"wrong TCK, T=1", "3B D2 18 02 C1 0A 31 FE 58 C8 0D 50", proto.T1},
		{"cut short behind IFSC, T=1", "3B F2 18 00 02 C1 0A 31 FE", proto.T1},
	} {
		t.Run(c.name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				for _, number := range []string{"P1", "P2", "P3", "P5", "P6"} {
					b := plug(t, profile(t, number), &testCard{atr: hextest.Bytes(t, c.atr)}).start()
					e := b.engine(0)
					if number == "P1" && e.ID() != c.want {
						t.Errorf("protocol %v, want %v", e.ID(), c.want)
					}
					b.transmit(e, selectMF, okSW)
					b.clean()
				}
			})
		})
	}
}
