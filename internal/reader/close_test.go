//go:build go1.25

package reader

import (
	"context"
	"log/slog"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"openct/internal/ifd"
)

// stubborn is a slot whose Status goes on for a while after its context has ended.
type stubborn struct {
	fakeSlot
	takes time.Duration
	busy  atomic.Bool
}

func (s *stubborn) Status(ctx context.Context) (ifd.Status, error) {
	s.busy.Store(true)
	<-ctx.Done()
	time.Sleep(s.takes)
	s.busy.Store(false)
	return ifd.Status{}, ctx.Err()
}

// stubbornReader notes whether its slot is in use when it is closed.
type stubbornReader struct {
	fakeReader
	slot *stubborn
	used bool
}

func (r *stubbornReader) Close() error { r.used = r.slot.busy.Load(); return nil }

// A reader is closed when its slots are no longer in use: drivers power the card down
// then. One that does not end in time is closed all the same.
func TestCloseWaitsForTheSlots(t *testing.T) {
	for _, tt := range []struct {
		name  string
		takes time.Duration
		used  bool
	}{
		{"ends with its context", 0, false},
		{"ends soon", closeWait / 2, false},
		{"does not end in time", time.Minute, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := &stubborn{takes: tt.takes}
				r := &stubbornReader{fakeReader{slots: []ifd.Slot{s}}, s, false}
				rd := New(r, slog.New(slog.DiscardHandler), func(int, ifd.Status) {})
				synctest.Wait() // it is asked for its card
				if err := rd.Close(); err != nil {
					t.Error(err)
				}
				if r.used != tt.used {
					t.Errorf("slot in use when the reader was closed: %v, want %v", r.used, tt.used)
				}
			})
		})
	}
}
