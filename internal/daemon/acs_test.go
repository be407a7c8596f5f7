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
	"openct/internal/vusb/acs"
	"openct/internal/vusb/card"
	"openct/internal/vusb/serialline"
)

// Clients talk to a card in a PertoSmart AC1030 on a serial line, from the
// socket to a pseudo-terminal.
func TestPertoSmartSerial(t *testing.T) {
	adapter, path := serialtest.Pty(t)
	r := acs.NewACR30S(card.NewSIM(nil))
	ended := make(chan error, 1)
	go func() {
		ended <- serialline.ServePTY(adapter, new(sync.Mutex), r, func() []serialline.Char { return nil })
	}()
	t.Cleanup(func() {
		adapter.Close()
		// EIO: the handler has closed its end before.
		if err := <-ended; !errors.Is(err, os.ErrClosed) && !errors.Is(err, syscall.EIO) {
			t.Errorf("the reader ended with %v", err)
		}
	})
	s := start(t, initialised(t), card.NewEcho(), func(o *Options) {
		o.Target = devname.Target{Driver: "pertosmart1030", Type: "serial", Path: path}
	})
	if e := entry(t, s.dir, 0); e.Name != "PertoSmart (AC1030, Serial)" || e.Slots != 1 {
		t.Errorf("entry %+v", e)
	}
	c, ctx := s.client(0), context.Background()
	for range 2 {
		atr, err := c.Reset(ctx, 0)
		if err != nil || hex.EncodeToString(atr) != "3b139453494d" {
			t.Fatalf("ATR %x, %v", atr, err)
		}
		for _, x := range [][2]string{
			{"a0a40000022fe2", "9f0f"}, {"a0b000000a", "989410325476981032f49000"}, {"a02000010831323334ffffffff", "9000"},
		} {
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
}
