//go:build go1.25

package driver

import (
	"context"
	"log/slog"
	"testing"
	"testing/synctest"

	"openct/internal/hextest"
	"openct/internal/ifd"
	"openct/internal/proto"
)

// gemHostile answers each block of the host with bytes of a fuzzer: a length,
// and so many bytes of what a block carries. Bit 8 of the length says that the
// bytes are no block. Behind the last of them the reader repeats what it said
// last for a thousand times, and is silent then.
type gemHostile struct {
	noiseLine
	data, last []byte
	raw        bool
	left       int
	writes     int
}

// A command goes out up to three times; a response comes in pieces of one byte at
// least; five ways of power-up.
const maxGemWrites = 3 * (260 + 5)

func (l *gemHostile) Write(_ context.Context, b []byte) error {
	if l.writes++; l.writes > maxGemWrites {
		panic("blocks without end")
	}
	if len(l.data) > 0 {
		n := min(int(l.data[0]&0x7F), len(l.data)-1)
		l.raw, l.last, l.data = l.data[0]&0x80 != 0, l.data[1:1+n], l.data[1+n:]
	} else if l.left--; l.left < 0 {
		return nil
	}
	if l.raw {
		l.in = append(l.in, l.last...)
		return nil
	}
	pcb := b[1]
	switch pcb {
	case 0xC0: // RESYNCH
		l.in = append(l.in, 0x24, 0xE0, 0x00, 0xC4)
		return nil
	case 0x81, 0x91:
		pcb = pcb & 0x10 << 2
	}
	block := append([]byte{0x24, pcb, byte(len(l.last))}, l.last...)
	sum := byte(0)
	for _, c := range block {
		sum ^= c
	}
	l.in = append(l.in, append(block, sum)...)
	return nil
}

// FuzzGemPC: whatever a reader answers, a command comes to an end, and a response
// has a status word.
func FuzzGemPC(f *testing.F) {
	seed := func(blocks ...string) {
		var data []byte
		for _, b := range append([]string{"00", "", "00", "0047656d436f72652d52312e32312d474d"}, blocks...) {
			raw := hextest.Bytes(f, b)
			data = append(append(data, byte(len(raw))), raw...)
		}
		f.Add(data)
	}
	seed("0004", "0004", "003b021450", "009000", "0011229000")                             // T=0
	seed("0004", "0004", "003bd218008131fe58c90114", "001b1122", "1b11", "009000", "0090") // T=1
	seed("0004", "0004", "a2", "a2", "a0", "00", "003b021450", "e76a82", "e56700")         // mute, refused
	seed("0000", "fb", "0004", "f7")                                                       // no card
	seed("0004", "0004", "003b021450", "1b")                                               // more, for ever
	f.Add([]byte{0x88, 0x55, 0xAA, 0x00, 0xFF, 0x12, 0x34, 0x56, 0x78})                    // no block
	f.Add([]byte{0x01, 0x00, 0x01, 0x00, 0x01, 0x00, 0x85, 0x24, 0x00, 0xFF, 0, 0})        // a block that does not end
	f.Fuzz(func(t *testing.T, data []byte) {
		synctest.Test(t, func(t *testing.T) {
			l := &gemHostile{noiseLine: noiseLine{mute: true, gone: make(chan struct{})}, data: data, left: 1000}
			r, err := openGemPC(l, ifd.Options{Log: slog.New(slog.DiscardHandler)})
			if err != nil {
				return
			}
			slot, ctx := r.Slots()[0], context.Background()
			for range 3 {
				l.writes = 0
				_, _ = slot.(ifd.Presence).Status(ctx)
				raw, err := slot.Reset(ctx)
				if err != nil {
					continue
				}
				e, err := slot.Protocol(ctx, proto.Default, mustATR(t, raw))
				if err != nil {
					continue
				}
				for _, apdu := range [][]byte{{0, 0xD6, 0, 0, 2, 1, 2}, {0, 0xB0, 0, 0, 0}, append([]byte{0, 0xD6, 0, 0, 255}, make([]byte, 255)...)} {
					l.writes = 0
					resp, err := e.Transmit(ctx, apdu, nil)
					if err == nil && (len(resp) < 2 || len(resp) > proto.ShortAPDU.Response) {
						t.Fatalf("response of %d bytes", len(resp))
					}
				}
			}
		})
	})
}
