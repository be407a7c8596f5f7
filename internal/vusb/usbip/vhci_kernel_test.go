//go:build vhci

package usbip

import (
	"context"
	"os"
	"sync"
	"testing"
	"time"

	"openct/internal/vusb/card"
	"openct/internal/vusb/token"
)

// Tokens that are pulled and plugged again as fast as it goes, side by side,
// on a kernel with vhci_hcd; see test/vm/tiera. Each has to be configured:
// none may be taken for the one that was in its port before.
func TestReplugSideBySide(t *testing.T) {
	const tokens, plugs = 4, 25
	var wg sync.WaitGroup
	defer wg.Wait()
	for i := range tokens {
		wg.Add(1)
		go func() {
			defer wg.Done()
			for n := range plugs {
				if err := plugAndPull(t.Context()); err != nil {
					t.Errorf("token %d, plug %d: %v", i, n, err)
					return
				}
			}
		}()
	}
}

func plugAndPull(ctx context.Context) error {
	m := token.NewEToken64(card.NewEcho())
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	a, err := Attach(ctx, m)
	if err != nil {
		return err
	}
	f, err := os.Open(a.Node) // what a program has open does not matter
	if err != nil {
		a.Detach()
		return err
	}
	defer f.Close()
	return a.Detach()
}
