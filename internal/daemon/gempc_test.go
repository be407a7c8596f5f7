package daemon

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"strings"
	"testing"

	"openct/internal/vusb/card"
	"openct/internal/vusb/gempc"
)

// writeCard keeps what D6 writes and gives it back to B0, with up to 256 bytes.
type writeCard struct {
	atr  []byte
	data []byte
}

func (c *writeCard) ATR() []byte { return c.atr }
func (c *writeCard) Reset()      {}
func (c *writeCard) Transmit(apdu []byte) []byte {
	switch {
	case len(apdu) > 5 && apdu[1] == 0xD6:
		c.data = bytes.Clone(apdu[5 : 5+int(apdu[4])])
		return []byte{0x90, 0x00}
	case len(apdu) == 5 && apdu[1] == 0xB0:
		n := int(apdu[4])
		if n == 0 {
			n = 256
		}
		return append(append(bytes.Clone(c.data), make([]byte, 256)...)[:n], 0x90, 0x00)
	}
	return []byte{0x6D, 0x00}
}

// Clients talk to cards in a GemPC, from the socket to a pseudo-terminal. A
// command of 255 bytes and a response of 256 take two blocks each.
func TestGemPC(t *testing.T) {
	var long strings.Builder
	for i := range 255 {
		fmt.Fprintf(&long, "%02x", i)
	}
	written := [][2]string{
		{"00d60000ff" + long.String(), "9000"},
		{"00b0000000", long.String() + "00" + "9000"},
		{"00b00000fc", long.String()[:2*252] + "9000"},
		{"0044" + "0000", "6d00"},
	}
	for _, tt := range []struct {
		name  string
		card  card.Card
		set   func(*gempc.Reader)
		apdus [][2]string
	}{
		{"SIM, T=0", card.NewSIM(nil), nil, simAPDUs},
		{"long, T=0", &writeCard{atr: card.T0ATR("LONG")}, nil, written},
		{"long, T=1", &writeCard{atr: card.T1ATR("LONG")}, nil, written},
		{"powered as EMV has it", card.NewEcho(), func(r *gempc.Reader) { r.Refuse = []byte{0x23, 0x13} }, [][2]string{{"00ee000402", "00010203" + "9000"}}},
		{"damaged blocks", card.NewEcho(), func(r *gempc.Reader) {
			n := 0
			r.Mangle = func(b []byte) []byte {
				if n++; n > 4 && n%3 != 0 { // the speed and what follows it are well
					b[len(b)-1] ^= 0x55
				}
				return b
			}
		}, [][2]string{{"00ee000402", "00010203" + "9000"}}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := gempc.New(tt.card)
			r.AnyLine = true
			if tt.set != nil {
				tt.set(r)
			}
			s, _, _ := onPty(t, "gempc", r, nil)
			s.talks("GemPC 410", hex.EncodeToString(tt.card.ATR()), tt.apdus)
		})
	}
}
