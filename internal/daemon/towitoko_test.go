package daemon

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"testing"

	"openct/internal/socket"
	"openct/internal/vusb/card"
	"openct/internal/vusb/towitoko"
)

// onTowitoko runs a daemon for a Towitoko reader at the other end of a
// pseudo-terminal.
func onTowitoko(t *testing.T, kind byte, c card.Card) *served {
	t.Helper()
	s, _, _ := onPty(t, "towitoko", towitoko.New(kind, c), nil)
	return s
}

// Clients read and write memory cards, from the socket to a pseudo-terminal.
func TestMemoryCards(t *testing.T) {
	const text = "Hello, card"
	for _, tt := range []struct {
		name  string
		card  *card.Memory
		atr   string
		reach int // bytes that its addresses tell apart
		psc   bool
	}{
		{"24C16", card.New24C(2048), "", 2048, false},
		{"SLE 4442", card.NewSLE4442(), "a2131091", 256, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := onTowitoko(t, towitoko.External, tt.card)
			if e := entry(t, s.dir, 0); e.Name != "Towitoko Chipdrive External" || e.Slots != 1 {
				t.Errorf("entry %+v", e)
			}
			c, ctx := s.client(0), context.Background()
			atr, err := c.Reset(ctx, 0)
			if err != nil || hex.EncodeToString(atr) != tt.atr {
				t.Fatalf("ATR %x, %v, want %s", atr, err, tt.atr)
			}
			data, err := c.ReadMemory(ctx, 0, 0, 4000)
			if err != nil || !bytes.Equal(data, tt.card.Read(0, tt.reach)) {
				t.Errorf("read %d bytes, %v, want %d", len(data), err, tt.reach)
			}
			if tt.psc {
				if err := c.WriteMemory(ctx, 0, 0x40, []byte(text)); !errors.Is(err, socket.Generic) {
					t.Errorf("write without the PSC: %v", err)
				}
				for _, x := range [][2]string{{"0020000003112233", "63c2"}, {"0020000003ffffff", "9000"}} {
					cmd, err := hex.DecodeString(x[0])
					if err != nil {
						t.Fatal(err)
					}
					if resp, err := c.Transact(ctx, 0, cmd); err != nil || hex.EncodeToString(resp) != x[1] {
						t.Errorf("%s: %x, %v, want %s", x[0], resp, err, x[1])
					}
				}
			}
			if err := c.WriteMemory(ctx, 0, 0x40, []byte(text)); err != nil {
				t.Errorf("write: %v", err)
			}
			if data, err := c.ReadMemory(ctx, 0, 0x40, len(text)); err != nil || string(data) != text {
				t.Errorf("read back: %q, %v", data, err)
			}
			if _, err := c.ReadMemory(ctx, 0, uint16(tt.reach), 1); !errors.Is(err, socket.InvalidArg) {
				t.Errorf("read beyond the end: %v", err)
			}
			if _, err := c.Transact(ctx, 0, []byte{0x00, 0xA4, 0x00, 0x00}); !errors.Is(err, socket.NotSupported) {
				t.Errorf("an APDU: %v", err)
			}
		})
	}
}

// A card that no read tells is used by a client that knows what it is.
func TestMemoryCardByProtocol(t *testing.T) {
	blank := card.New24C(256)
	clear(blank.Bytes())
	s := onTowitoko(t, towitoko.Kartenzwerg, blank)
	c, ctx := s.client(0), context.Background()
	if _, err := c.Reset(ctx, 0); !errors.Is(err, socket.NoATR) {
		t.Errorf("reset of a blank card: %v", err)
	}
	if _, err := c.ReadMemory(ctx, 0, 0, 1); !errors.Is(err, socket.Generic) {
		t.Errorf("read without a protocol: %v", err)
	}
	if err := c.SetProtocol(ctx, 0, 18); err != nil {
		t.Fatal(err)
	}
	if err := c.WriteMemory(ctx, 0, 0, []byte{1, 2, 3}); err != nil || !bytes.Equal(blank.Bytes()[:4], []byte{1, 2, 3, 0}) {
		t.Errorf("write: %v", err)
	}
}
