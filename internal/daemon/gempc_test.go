package daemon

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"

	"openct/internal/devname"
	"openct/internal/serial/serialtest"
	"openct/internal/vusb/card"
	"openct/internal/vusb/gempc"
	"openct/internal/vusb/serialline"
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
		{"SIM, T=0", card.NewSIM(nil), nil, [][2]string{
			{"a0a40000022fe2", "9f0f"}, {"a0b000000a", "989410325476981032f49000"}, {"a02000010831323334ffffffff", "9000"},
		}},
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
			adapter, path := serialtest.Pty(t)
			var mu sync.Mutex
			r := gempc.New(tt.card)
			r.AnyLine = true
			if tt.set != nil {
				tt.set(r)
			}
			ended := make(chan error, 1)
			go func() {
				ended <- serialline.ServePTY(adapter, &mu, r, func() []serialline.Char { return nil })
			}()
			s := start(t, initialised(t), card.NewEcho(), func(o *Options) {
				o.Target = devname.Target{Driver: "gempc", Type: "serial", Path: path}
			})
			t.Cleanup(func() {
				adapter.Close()
				// EIO: the handler has closed its end before.
				if err := <-ended; !errors.Is(err, os.ErrClosed) && !errors.Is(err, syscall.EIO) {
					t.Errorf("the reader ended with %v", err)
				}
			})
			if e := entry(t, s.dir, 0); e.Name != "GemPC 410" || e.Slots != 1 {
				t.Errorf("entry %+v", e)
			}
			c, ctx := s.client(0), context.Background()
			for range 2 {
				atr, err := c.Reset(ctx, 0)
				if err != nil || !bytes.Equal(atr, tt.card.ATR()) {
					t.Fatalf("ATR %x, %v", atr, err)
				}
				for _, x := range tt.apdus {
					cmd, err := hex.DecodeString(x[0])
					if err != nil {
						t.Fatal(err)
					}
					resp, err := c.Transact(ctx, 0, cmd)
					if err != nil || hex.EncodeToString(resp) != x[1] {
						t.Errorf("%.20s: %x, %v; want %s", x[0], resp, err, x[1])
					}
				}
			}
		})
	}
}
