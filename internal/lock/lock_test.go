package lock

import (
	"context"
	"errors"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

var (
	alice1 = Client{ID: 1, UID: 1000, PID: 101}
	alice2 = Client{ID: 2, UID: 1000, PID: 102}
	bob    = Client{ID: 3, UID: 1001, PID: 103}
	root   = Client{ID: 4, UID: 0, PID: 104}
)

const patience = 30 * time.Second

func mustLock(t *testing.T, tab *Table, slot int, c Client, exclusive bool) uint32 {
	t.Helper()
	h, err := tab.Lock(context.Background(), slot, c, exclusive)
	if err != nil {
		t.Fatalf("Lock(%d, %+v, %t): %v", slot, c, exclusive, err)
	}
	return h
}

// TestConflicts is the matrix of PROTOCOL.md, "Locks".
func TestConflicts(t *testing.T) {
	const shared, exclusive = false, true
	for _, tt := range []struct {
		name              string
		held              bool // kind of lock alice1 holds on slot 0
		by                Client
		slot              int
		shared, exclusive error // for Lock
		check, alone      error
	}{
		{"shared, same user", shared, alice2, 0, nil, ErrLocked, nil, ErrLocked},
		{"shared, other user", shared, bob, 0, ErrLocked, ErrLocked, ErrLocked, ErrLocked},
		{"shared, root", shared, root, 0, ErrLocked, ErrLocked, ErrLocked, ErrLocked},
		{"shared, own", shared, alice1, 0, nil, nil, nil, nil},
		{"shared, other slot", shared, bob, 1, nil, nil, nil, nil},
		{"exclusive, same user", exclusive, alice2, 0, ErrLocked, ErrLocked, ErrLocked, ErrLocked},
		{"exclusive, other user", exclusive, bob, 0, ErrLocked, ErrLocked, ErrLocked, ErrLocked},
		{"exclusive, root", exclusive, root, 0, ErrLocked, ErrLocked, ErrLocked, ErrLocked},
		{"exclusive, own", exclusive, alice1, 0, nil, nil, nil, nil},
		{"exclusive, other slot", exclusive, bob, 1, nil, nil, nil, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			for _, ask := range []struct {
				name string
				do   func(*Table) error
				want error
			}{
				{"Lock shared", func(tab *Table) error { _, err := tab.Lock(context.Background(), tt.slot, tt.by, shared); return err }, tt.shared},
				{"Lock exclusive", func(tab *Table) error {
					_, err := tab.Lock(context.Background(), tt.slot, tt.by, exclusive)
					return err
				}, tt.exclusive},
				{"Check shared", func(tab *Table) error { return tab.Check(tt.slot, tt.by, Shared) }, tt.check},
				{"Check exclusive", func(tab *Table) error { return tab.Check(tt.slot, tt.by, Exclusive) }, tt.alone},
				{"Wait", func(tab *Table) error {
					_, err := tab.Wait(context.Background(), tt.slot, tt.by, Shared, time.Millisecond)
					return err
				}, tt.check},
			} {
				var tab Table
				mustLock(t, &tab, 0, alice1, tt.held)
				if err := ask.do(&tab); !errors.Is(err, ask.want) {
					t.Errorf("%s: %v, want %v", ask.name, err, ask.want)
				}
			}
		})
	}
}

func TestHandles(t *testing.T) {
	var tab Table
	for want := range uint32(3) {
		if h := mustLock(t, &tab, int(want), alice1, true); h != want {
			t.Errorf("handle %d, want %d", h, want)
		}
	}
	if _, err := tab.Lock(context.Background(), 0, bob, true); !errors.Is(err, ErrLocked) {
		t.Fatalf("Lock: %v", err)
	}
	if h := mustLock(t, &tab, 9, bob, true); h != 3 {
		t.Errorf("handle %d after a refusal, want 3", h)
	}
	tab.next = ^uint32(0)
	if a, b := mustLock(t, &tab, 10, bob, true), mustLock(t, &tab, 10, bob, true); a != ^uint32(0) || b != 0 {
		t.Errorf("handles %#x and %#x where the counter wraps", a, b)
	}
}

func TestUnlock(t *testing.T) {
	for _, tt := range []struct {
		name   string
		slot   int
		by     Client
		handle uint32
		want   error
	}{
		{"right", 0, alice1, 0, nil},
		{"wrong slot", 1, alice1, 0, ErrNoLock},
		{"wrong handle", 0, alice1, 1, ErrNoLock},
		{"other connection of the user", 0, alice2, 0, ErrNoLock},
		{"other user", 0, bob, 0, ErrNoLock},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var tab Table
			mustLock(t, &tab, 0, alice1, true)
			if _, err := tab.Unlock(tt.slot, tt.by, tt.handle); !errors.Is(err, tt.want) {
				t.Errorf("Unlock: %v, want %v", err, tt.want)
			}
			if held := len(tab.Holders()) == 1; held != (tt.want != nil) {
				t.Errorf("still held: %t", held)
			}
		})
	}
}

func TestEachGrantNeedsItsUnlock(t *testing.T) {
	var tab Table
	a := mustLock(t, &tab, 0, alice1, false)
	b := mustLock(t, &tab, 0, alice1, true)
	if _, err := tab.Unlock(0, alice1, b); err != nil {
		t.Fatal(err)
	}
	if err := tab.Check(0, bob, Shared); !errors.Is(err, ErrLocked) {
		t.Errorf("Check with one of two locks left: %v", err)
	}
	if _, err := tab.Unlock(0, alice1, a); err != nil {
		t.Fatal(err)
	}
	if err := tab.Check(0, bob, Shared); err != nil {
		t.Errorf("Check with none left: %v", err)
	}
	if _, err := tab.Unlock(0, alice1, a); !errors.Is(err, ErrNoLock) {
		t.Errorf("second Unlock: %v", err)
	}
}

func TestTooMany(t *testing.T) {
	var tab Table
	for i := range MaxPerClient {
		mustLock(t, &tab, i%8, alice1, false)
	}
	if _, err := tab.Lock(context.Background(), 0, alice1, false); !errors.Is(err, ErrTooMany) {
		t.Errorf("lock %d: %v", MaxPerClient+1, err)
	}
	mustLock(t, &tab, 0, alice2, false) // others are not concerned
	if _, err := tab.Unlock(0, alice1, 0); err != nil {
		t.Fatal(err)
	}
	mustLock(t, &tab, 0, alice1, false)
	if n := len(tab.Release(alice1.ID)); n != MaxPerClient {
		t.Errorf("Release gave back %d", n)
	}
	if n := len(tab.Release(alice1.ID)); n != 0 {
		t.Errorf("second Release gave back %d", n)
	}
}

func TestHolders(t *testing.T) {
	var tab Table
	before := time.Now()
	mustLock(t, &tab, 0, alice1, false)
	mustLock(t, &tab, 1, bob, true)
	mustLock(t, &tab, 0, alice2, false)
	tab.Release(bob.ID)
	got := tab.Holders()
	want := []Grant{{Slot: 0, Client: alice1, Handle: 0}, {Slot: 0, Client: alice2, Handle: 2}}
	if diff := cmp.Diff(want, got, cmpopts.IgnoreFields(Grant{}, "Since")); diff != "" {
		t.Errorf("Holders: -want +got\n%s", diff)
	}
	for _, g := range got {
		if g.Since.Before(before) || g.Since.After(time.Now()) {
			t.Errorf("held since %v", g.Since)
		}
	}
	got[0].Client.ID = 99
	if tab.Holders()[0].Client.ID == 99 {
		t.Error("Holders is not a copy")
	}
}

// waiting starts Wait and returns when it waits.
func waiting(t *testing.T, tab *Table, ctx context.Context, c Client, limit time.Duration) <-chan error {
	t.Helper()
	result := make(chan error, 1)
	go func() {
		_, err := tab.Wait(ctx, 0, c, Shared, limit)
		result <- err
	}()
	deadline := time.Now().Add(patience)
	for {
		tab.mu.Lock()
		waits := tab.released != nil
		tab.mu.Unlock()
		if waits {
			return result
		}
		if time.Now().After(deadline) {
			t.Fatal("Wait does not wait")
		}
		runtime.Gosched()
	}
}

func outcome(t *testing.T, result <-chan error) error {
	t.Helper()
	select {
	case err := <-result:
		return err
	case <-time.After(patience):
		t.Fatal("Wait does not return")
		return nil
	}
}

func TestWaitWakesOnUnlock(t *testing.T) {
	var tab Table
	h := mustLock(t, &tab, 0, alice1, true)
	result := waiting(t, &tab, context.Background(), bob, time.Hour)
	if _, err := tab.Unlock(0, alice1, h); err != nil {
		t.Fatal(err)
	}
	if err := outcome(t, result); err != nil {
		t.Errorf("Wait: %v", err)
	}
}

func TestWaitWakesOnDisconnect(t *testing.T) {
	var tab Table
	mustLock(t, &tab, 0, alice1, true)
	first := waiting(t, &tab, context.Background(), bob, time.Hour)
	second := waiting(t, &tab, context.Background(), root, time.Hour)
	tab.Release(alice1.ID)
	if err := outcome(t, first); err != nil {
		t.Errorf("Wait: %v", err)
	}
	if err := outcome(t, second); err != nil {
		t.Errorf("Wait: %v", err)
	}
}

func TestWaitGoesOnAfterForeignRelease(t *testing.T) {
	var tab Table
	mustLock(t, &tab, 0, alice1, true)
	mustLock(t, &tab, 1, bob, true)
	result := waiting(t, &tab, context.Background(), root, time.Hour)
	tab.Release(bob.ID)
	waits := waiting(t, &tab, context.Background(), bob, time.Hour)
	tab.Release(alice1.ID)
	for _, r := range []<-chan error{result, waits} {
		if err := outcome(t, r); err != nil {
			t.Errorf("Wait: %v", err)
		}
	}
}

func TestWaitEndsWithContext(t *testing.T) {
	var tab Table
	mustLock(t, &tab, 0, alice1, true)
	gone := errors.New("reader is gone")
	ctx, cancel := context.WithCancelCause(context.Background())
	result := waiting(t, &tab, ctx, bob, time.Hour)
	cancel(gone)
	if err := outcome(t, result); !errors.Is(err, gone) {
		t.Errorf("Wait: %v, want the context's cause", err)
	}
}

func TestWaitWithoutPatience(t *testing.T) {
	var tab Table
	mustLock(t, &tab, 0, alice1, true)
	if _, err := tab.Wait(context.Background(), 0, bob, Shared, 0); !errors.Is(err, ErrLocked) {
		t.Errorf("Wait: %v", err)
	}
}

// TestConcurrent has many clients lock, wait and leave; an exclusive lock must
// be alone at every moment.
func TestConcurrent(t *testing.T) {
	var tab Table
	var wg sync.WaitGroup
	for id := range uint64(16) {
		wg.Add(1)
		go func() {
			defer wg.Done()
			c := Client{ID: id + 1, UID: uint32(id % 3)}
			for i := range 200 {
				exclusive := i%3 == 0
				h, err := tab.Lock(context.Background(), 0, c, exclusive)
				if err != nil {
					_, _ = tab.Wait(context.Background(), 0, c, Shared, time.Microsecond)
					continue
				}
				for _, g := range tab.Holders() {
					if g.Client.ID != c.ID && (exclusive || g.Exclusive || g.Client.UID != c.UID) {
						t.Errorf("%+v holds its lock besides %+v (exclusive %t)", g, c, exclusive)
					}
				}
				if i%2 == 0 {
					if _, err := tab.Unlock(0, c, h); err != nil {
						t.Errorf("Unlock: %v", err)
					}
				} else {
					tab.Release(c.ID)
				}
			}
		}()
	}
	wg.Wait()
	if left := tab.Holders(); len(left) != 0 {
		t.Errorf("locks left: %+v", left)
	}
}

func BenchmarkWaitFree(b *testing.B) {
	var tab Table
	if _, err := tab.Lock(context.Background(), 0, alice1, true); err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := tab.Wait(context.Background(), 0, alice1, Shared, time.Second); err != nil {
			b.Fatal(err)
		}
	}
}
