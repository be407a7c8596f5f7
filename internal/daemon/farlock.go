package daemon

import (
	"context"
	"errors"
	"sync"
	"time"

	"openct/internal/ifd"
	"openct/internal/reader"
)

// farLock is the lock that a slot has at the other handler that serves it, as long
// as clients here hold locks: one for each kind.
type farLock struct {
	mu        sync.Mutex
	shared    int // locks of clients here
	exclusive int
}

func (f *farLock) count(exclusive bool) *int {
	if exclusive {
		return &f.exclusive
	}
	return &f.shared
}

// take is for a client here that was granted a lock. If the other handler refuses
// it, nothing is taken.
func (f *farLock) take(ctx context.Context, slot *reader.Slot, exclusive bool) error {
	relay, ok := slot.Relay()
	if !ok {
		return nil
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	n := f.count(exclusive)
	if *n == 0 {
		if err := relay.Lock(ctx, exclusive); err != nil {
			return err
		}
	}
	*n++
	return nil
}

// give is for a lock here that has ended. One that the other handler does not take
// back ends with the connection to it.
func (f *farLock) give(ctx context.Context, slot *reader.Slot, exclusive bool) {
	relay, ok := slot.Relay()
	if !ok {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	n := f.count(exclusive)
	if *n--; *n == 0 {
		if err := relay.Unlock(ctx, exclusive); err != nil {
			relay.Abandon(err)
		}
	}
}

// farReset is how long the card of a client that has left may take to be reset.
const farReset = time.Minute

// resetLeft resets a card that a client had locked exclusively when its connection
// ended, before the other handler's clients get it: to those, the lock has the
// connection's end of this handler, and of no client here.
func (h *handler) resetLeft(n int) {
	slot, err := h.reader.Slot(n)
	if err != nil {
		return
	}
	relay, ok := slot.Relay()
	if !ok {
		return // the next command resets it
	}
	ctx, cancel := context.WithTimeout(context.Background(), farReset)
	defer cancel()
	if err = slot.Enter(ctx); err == nil {
		if h.left[n].Swap(false) {
			_, err = slot.Reset(ctx)
		}
		slot.Leave()
	}
	if err != nil && !errors.Is(err, ifd.ErrNoCard) {
		relay.Abandon(err)
	}
}
