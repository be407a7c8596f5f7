package daemon

import (
	"testing"

	"openct/internal/vusb/acs"
	"openct/internal/vusb/card"
)

// Clients talk to a card in a PertoSmart AC1030 on a serial line, from the
// socket to a pseudo-terminal.
func TestPertoSmartSerial(t *testing.T) {
	s, _, _ := onPty(t, "pertosmart1030", acs.NewACR30S(card.NewSIM(nil)), nil)
	s.talks("PertoSmart (AC1030, Serial)", "3b139453494d", simAPDUs)
}
