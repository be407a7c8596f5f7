//go:build go1.25

package reader

import (
	"context"
	"log/slog"
	"runtime"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"openct/internal/ifd"
)

func turnSlot(t *testing.T) *Slot {
	t.Helper()
	r := New(&fakeReader{slots: []ifd.Slot{&fakeSlot{}}}, slog.New(slog.DiscardHandler), func(int, ifd.Status) {})
	t.Cleanup(func() { r.Close() })
	s, err := r.Slot(0)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// Whoever waits for the card has begun when Leave returns, though there is one
// processor for both.
func TestLeaveLetsTheNextBegin(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	s, ctx := turnSlot(t), context.Background()
	const rounds = 20
	begun := 0
	for range rounds {
		if err := s.Enter(ctx); err != nil {
			t.Fatal(err)
		}
		waiting, done := make(chan struct{}), make(chan struct{})
		var began atomic.Bool
		go func() {
			defer close(done)
			close(waiting)
			if err := s.Enter(ctx); err != nil {
				t.Error(err)
				return
			}
			began.Store(true)
			s.Leave()
		}()
		<-waiting
		runtime.Gosched() // it waits now
		s.Leave()
		if began.Load() {
			begun++
		}
		<-done
	}
	// Go's scheduler takes a goroutine out of its turn once in a while, every 61st time.
	if begun < rounds-2 {
		t.Errorf("of %d, %d had begun", rounds, begun)
	}
}

// Whoever waits for the card gets it before those who came later, and before those
// who had it and ask at once for more: no client starves.
func TestTurnsInOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, ctx := turnSlot(t), context.Background()
		const clients, turns = 16, 5
		if err := s.Enter(ctx); err != nil {
			t.Fatal(err)
		}
		order := make(chan int, clients*turns)
		for c := range clients {
			go func() {
				for range turns {
					if err := s.Enter(ctx); err != nil {
						t.Error(err)
						return
					}
					order <- c
					s.Leave()
				}
			}()
			synctest.Wait() // this one waits for the card, before the next one
		}
		s.Leave()
		for want := range clients {
			if got := <-order; got != want {
				t.Fatalf("turn %d is client %d's", want, got)
			}
		}
		for range clients * (turns - 1) {
			<-order
		}
	})
}
