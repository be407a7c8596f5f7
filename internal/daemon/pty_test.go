package daemon

import (
	"context"
	"encoding/hex"
	"errors"
	"os"
	"sync"
	"syscall"
	"testing"

	"openct/internal/devname"
	"openct/internal/serial/serialtest"
	"openct/internal/vusb/card"
	"openct/internal/vusb/serialline"
)

// onPty runs a daemon for a reader at the other end of a pseudo-terminal; reset and
// mu are those of serialline.ServePTY. To close adapter is to pull the reader.
func onPty(t *testing.T, driver string, r serialline.Reader, reset func() []serialline.Char) (s *served, mu *sync.Mutex, adapter *os.File) {
	t.Helper()
	adapter, path := serialtest.Pty(t)
	mu = new(sync.Mutex)
	ended := make(chan error, 1)
	go func() { ended <- serialline.ServePTY(adapter, mu, r, reset) }()
	t.Cleanup(func() {
		adapter.Close()
		// EIO: the handler has closed its end before.
		if err := <-ended; !errors.Is(err, os.ErrClosed) && !errors.Is(err, syscall.EIO) {
			t.Errorf("the reader ended with %v", err)
		}
	})
	s = start(t, initialised(t), card.NewEcho(), func(o *Options) {
		o.Target = devname.Target{Driver: driver, Type: "serial", Path: path}
	})
	return s, mu, adapter
}

// simAPDUs are commands for card.NewSIM, and what it answers.
var simAPDUs = [][2]string{
	{"a0a40000022fe2", "9f0f"}, {"a0b000000a", "989410325476981032f49000"}, {"a02000010831323334ffffffff", "9000"},
}

// talks checks that reader 0 has this name and one slot, and that its card answers
// each command after a reset, and again after another. All bytes are in hexadecimal.
func (s *served) talks(name, atr string, apdus [][2]string) {
	t := s.t
	t.Helper()
	if e := entry(t, s.dir, 0); e.Name != name || e.Slots != 1 {
		t.Errorf("entry %+v", e)
	}
	c, ctx := s.client(0), context.Background()
	for range 2 {
		got, err := c.Reset(ctx, 0)
		if err != nil || hex.EncodeToString(got) != atr {
			t.Fatalf("ATR %x, %v", got, err)
		}
		for _, x := range apdus {
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
}
