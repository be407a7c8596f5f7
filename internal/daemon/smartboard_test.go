package daemon

import (
	"testing"

	"openct/internal/vusb/card"
	"openct/internal/vusb/smartboard"
)

// Clients talk to cards in a SmartBoard, from the socket to a pseudo-terminal.
func TestSmartBoard(t *testing.T) {
	for _, tt := range []struct {
		name  string
		card  card.Card
		atr   string
		apdus [][2]string
	}{
		{"SIM, T=0", card.NewSIM(nil), "3b139453494d", simAPDUs},
		{"T=1", card.NewEcho(), "3b848131fe454543484f8e", [][2]string{{"00ee000402", "00010203" + "9000"}}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := smartboard.New(tt.card)
			r.AnyLine, r.Again, r.Busy = true, 2, 1
			s, _, _ := onPty(t, "smartboard", r, nil)
			s.talks("Cherry Smartboard", tt.atr, tt.apdus)
		})
	}
}
