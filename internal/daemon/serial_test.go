package daemon

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"os"
	"sync"
	"syscall"
	"testing"

	"openct/internal/devname"
	"openct/internal/serial/serialtest"
	"openct/internal/socket"
	"openct/internal/vusb/card"
	"openct/internal/vusb/phoenix"
	"openct/internal/vusb/serialline"
)

// onLine runs a daemon for a phoenix reader at the other end of a
// pseudo-terminal. To close that end is to pull the adapter.
func onLine(t *testing.T, c card.Card) (s *served, mu *sync.Mutex, reader *phoenix.Reader, adapter *os.File) {
	t.Helper()
	adapter, path := serialtest.Pty(t)
	mu, reader = new(sync.Mutex), phoenix.New(c)
	reader.AnyLine = true
	ended := make(chan error, 1)
	go func() { ended <- serialline.ServePTY(adapter, mu, reader, reader.Reset) }()
	t.Cleanup(func() {
		adapter.Close()
		// EIO: the handler has closed its end before.
		if err := <-ended; !errors.Is(err, os.ErrClosed) && !errors.Is(err, syscall.EIO) {
			t.Errorf("the reader ended with %v", err)
		}
	})
	s = start(t, initialised(t), card.NewEcho(), func(o *Options) {
		o.Target = devname.Target{Driver: "phoenix", Type: "serial", Path: path}
	})
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
		{"SIM, T=0", card.NewSIM(nil), "3b139453494d", [][2]string{
			{"a0a40000022fe2", "9f0f"}, {"a0b000000a", "989410325476981032f49000"}, {"a02000010831323334ffffffff", "9000"},
		}},
		{"T=1", card.NewEcho(), "3b848131fe454543484f8e", [][2]string{{"00ee000402", "00010203" + "9000"}}},
		{"inverse convention", card.NewEchoATR([]byte{0x3F, 0x03, 'I', 'N', 'V'}), "3f03494e56", [][2]string{{"00ee000404", "00010203" + "9000"}}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s, _, _, _ := onLine(t, tt.card)
			if e := entry(t, s.dir, 0); e.Name != "Phoenix reader" || e.Slots != 1 {
				t.Errorf("entry %+v", e)
			}
			c, ctx := s.client(0), context.Background()
			for range 2 {
				atr, err := c.Reset(ctx, 0)
				if err != nil || hex.EncodeToString(atr) != tt.atr {
					t.Fatalf("ATR %x, %v", atr, err)
				}
				for _, x := range tt.apdus {
					cmd, err := hex.DecodeString(x[0])
					if err != nil {
						t.Fatal(err)
					}
					resp, err := c.Transact(ctx, 0, cmd)
					if err != nil || hex.EncodeToString(resp) != x[1] {
						t.Errorf("%s: %x, %v; want %s", x[0], resp, err, x[1])
					}
				}
			}
		})
	}
}

// A handler starts without a card, and a mute one is an error of the reset.
func TestSerialReaderWithoutCard(t *testing.T) {
	s, mu, reader, _ := onLine(t, nil)
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
			s, mu, reader, adapter := onLine(t, card.NewEcho())
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
