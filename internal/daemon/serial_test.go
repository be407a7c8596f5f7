package daemon

import (
	"bytes"
	"context"
	"errors"
	"os"
	"sync"
	"testing"

	"openct/internal/socket"
	"openct/internal/vusb/card"
	"openct/internal/vusb/phoenix"
)

// onPhoenix runs a daemon for a Phoenix reader at the other end of a
// pseudo-terminal.
func onPhoenix(t *testing.T, c card.Card) (s *served, mu *sync.Mutex, reader *phoenix.Reader, adapter *os.File) {
	t.Helper()
	reader = phoenix.New(c)
	reader.AnyLine = true
	s, mu, adapter = onPty(t, "phoenix", reader, reader.Reset)
	return s, mu, reader, adapter
}

// Clients talk to cards in a serial reader, from the socket to the line.
func TestSerialReader(t *testing.T) {
	for _, tt := range []struct {
		name  string
		card  card.Card
		atr   string
		apdus [][2]string
	}{
		{"SIM, T=0", card.NewSIM(nil), "3b139453494d", simAPDUs},
		{"T=1", card.NewEcho(), "3b848131fe454543484f8e", [][2]string{{"00ee000402", "00010203" + "9000"}}},
		{"inverse convention", card.NewEchoATR([]byte{0x3F, 0x03, 'I', 'N', 'V'}), "3f03494e56", [][2]string{{"00ee000404", "00010203" + "9000"}}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s, _, _, _ := onPhoenix(t, tt.card)
			s.talks("Phoenix reader", tt.atr, tt.apdus)
		})
	}
}

// A handler starts without a card, and a mute one is an error of the reset.
func TestSerialReaderWithoutCard(t *testing.T) {
	s, mu, reader, _ := onPhoenix(t, nil)
	c, ctx := s.client(0), context.Background()
	if _, err := c.Reset(ctx, 0); !errors.Is(err, socket.NoATR) {
		t.Errorf("without a card: %v", err)
	}
	mu.Lock()
	reader.Insert(card.NewEcho())
	mu.Unlock()
	if atr, err := c.Reset(ctx, 0); err != nil || !bytes.Equal(atr, card.NewEcho().ATR()) {
		t.Errorf("ATR %x, %v", atr, err)
	}
}

// The adapter is pulled: while nobody does anything, and during a command.
func TestSerialReaderPulled(t *testing.T) {
	for _, tt := range []struct {
		name string
		busy bool
	}{{"idle", false}, {"during a command", true}} {
		t.Run(tt.name, func(t *testing.T) {
			s, mu, reader, adapter := onPhoenix(t, card.NewEcho())
			c, ctx := s.client(0), context.Background()
			answered := make(chan error, 1)
			if tt.busy {
				if _, err := c.Reset(ctx, 0); err != nil {
					t.Fatal(err)
				}
				asked := make(chan struct{})
				mu.Lock()
				_, t1 := reader.Chips()
				t1.Mangle = func(int, []byte) []byte { close(asked); return nil } // the card stays silent
				mu.Unlock()
				go func() {
					_, err := c.Transact(ctx, 0, []byte{0x00, 0xEE, 0x00, 0x01})
					answered <- err
				}()
				<-asked
			}
			if err := adapter.Close(); err != nil {
				t.Fatal(err)
			}
			s.wait()
			if e := entry(t, s.dir, 0); e.InUse() {
				t.Errorf("entry is left: %+v", e)
			}
			if tt.busy {
				if err := <-answered; !errors.Is(err, socket.DeviceDisconnected) {
					t.Errorf("the client is told %v", err)
				}
			}
		})
	}
}
