//go:build go1.25

package lock

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"
)

// leaver is alice1, whose program has ended; its connection is closed by the
// returned function.
func leaver(tab *Table) (c Client, end func()) {
	c = alice1
	c.HungUp = func() bool { return true }
	return c, func() { tab.Release(c.ID) }
}

// A holder that has hung up is waited for, whatever is asked of its slot.
func TestHolderThatHungUp(t *testing.T) {
	for _, tt := range []struct {
		name string
		ask  func(*Table, context.Context) error
	}{
		{"lock", func(tab *Table, ctx context.Context) error { _, err := tab.Lock(ctx, 0, bob, true); return err }},
		{"wait", func(tab *Table, ctx context.Context) error { _, err := tab.Wait(ctx, 0, bob, Exclusive, 0); return err }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var tab Table
				gone, end := leaver(&tab)
				mustLock(t, &tab, 0, gone, true)
				result := make(chan error, 1)
				go func() { result <- tt.ask(&tab, context.Background()) }()
				synctest.Wait()
				select {
				case err := <-result:
					t.Fatalf("answered before the holder's end was seen: %v", err)
				default:
				}
				end()
				if err := <-result; err != nil {
					t.Errorf("after the holder's end: %v", err)
				}
			})
		})
		t.Run(tt.name+", its request does not end", func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var tab Table
				gone, _ := leaver(&tab)
				mustLock(t, &tab, 0, gone, true)
				begin := time.Now()
				if err := tt.ask(&tab, context.Background()); !errors.Is(err, ErrLocked) {
					t.Errorf("got %v, want %v", err, ErrLocked)
				}
				if waited := time.Since(begin); waited != endWait {
					t.Errorf("waited %v, want %v", waited, endWait)
				}
			})
		})
		t.Run(tt.name+", reader is gone", func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var tab Table
				gone, _ := leaver(&tab)
				mustLock(t, &tab, 0, gone, true)
				ctx, cancel := context.WithCancel(context.Background())
				cancel()
				if err := tt.ask(&tab, ctx); !errors.Is(err, context.Canceled) {
					t.Errorf("got %v, want %v", err, context.Canceled)
				}
			})
		})
	}
}
