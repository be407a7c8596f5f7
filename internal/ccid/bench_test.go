//go:build go1.25

package ccid

import (
	"context"
	"testing"

	"openct/internal/vusb/card"
)

// BenchmarkTransmit is one APDU through the driver and a virtual reader, at
// every exchange level: short, 255 bytes out, 256 back, 4000 back.
func BenchmarkTransmit(b *testing.B) {
	for _, p := range []struct{ name, number string }{
		{"TPDU", "P2"}, {"short", "P3"}, {"extended, chained", "P4"}, {"extended, whole", "P4b"}, {"negotiated", "P5"}, {"characters", "P6"},
	} {
		for _, c := range []struct {
			name string
			apdu []byte
			long bool
		}{
			{"short", []byte{0x00, 0xA4, 0x00, 0x00}, false},
			{"255 out", append([]byte{0x00, 0xD6, 0x00, 0x00, 0xFF}, make([]byte, 255)...), false},
			{"256 in", []byte{0x00, 0xB0, 0x01, 0x00, 0x00}, false},
			{"4000 in", []byte{0x00, 0xB0, 0x0F, 0xA0, 0x00, 0x0F, 0xA0}, true},
		} {
			if c.long && p.number != "P4" && p.number != "P4b" && p.number != "P5" {
				continue
			}
			b.Run(p.name+"/"+c.name, func(b *testing.B) {
				w := plug(b, profile(b, p.number), card.NewEcho()).start()
				e := w.engine(0)
				var resp []byte
				var err error
				b.ReportAllocs()
				for b.Loop() {
					if resp, err = e.Transmit(context.Background(), c.apdu, resp); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}
