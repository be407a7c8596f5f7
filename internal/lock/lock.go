// Package lock is the table of who has locked which card slot of one reader,
// and what that forbids to others (spec/socket-protocol.md, 6).
//
// A client is a connection; its user is what the kernel said when it
// connected. A lock is shared or exclusive. Shared locks go along with shared
// locks of the same user. Nobody is special, root is not. All locks of a
// client go when it disconnects.
//
// An operation on a card should call Wait before it queues for the slot and
// Check once the slot is its own: a lock may have been granted in between.
package lock

import (
	"context"
	"errors"
	"sync"
	"time"
)

// MaxPerClient is how many locks one client may hold over all slots.
const MaxPerClient = 64

// States callers branch on.
var (
	ErrLocked  = errors.New("slot is locked by another client")
	ErrNoLock  = errors.New("no such lock")
	ErrTooMany = errors.New("client holds too many locks")
)

// Client is who asks.
type Client struct {
	ID  uint64 // of the connection, never used twice in the life of a table
	UID uint32
	PID int32
}

// Grant is one lock somebody holds.
type Grant struct {
	Slot      int
	Client    Client
	Exclusive bool
	Handle    uint32 // counts from 0 over all slots
	Since     time.Time
}

// Table holds the locks of one reader. The zero value is empty and ready;
// methods may be called concurrently.
type Table struct {
	mu       sync.Mutex
	grants   []Grant       // in the order of granting
	next     uint32        // handle of the next grant; wraps
	released chan struct{} // closed at the next release; nil while nobody waits
}

// Lock grants c a lock and returns its handle; 0 is a valid one. It never
// waits: ErrLocked if it conflicts with another client's, ErrTooMany beyond
// MaxPerClient. A client's own locks never conflict.
func (t *Table) Lock(slot int, c Client, exclusive bool) (handle uint32, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	own := 0
	for i := range t.grants {
		g := &t.grants[i]
		if g.Client.ID == c.ID {
			own++
		} else if g.Slot == slot && (exclusive || g.Exclusive || g.Client.UID != c.UID) {
			return 0, ErrLocked
		}
	}
	if own >= MaxPerClient {
		return 0, ErrTooMany
	}
	handle = t.next
	t.next++
	t.grants = append(t.grants, Grant{slot, c, exclusive, handle, time.Now()})
	return handle, nil
}

// Unlock gives back the lock c holds on slot under handle. All three must
// match, otherwise ErrNoLock.
func (t *Table) Unlock(slot int, c Client, handle uint32) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.removeLocked(func(g *Grant) bool {
		return g.Slot == slot && g.Client.ID == c.ID && g.Handle == handle
	}) == 0 {
		return ErrNoLock
	}
	return nil
}

// Release gives back all locks of the client with this ID and returns how
// many there were.
func (t *Table) Release(id uint64) int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.removeLocked(func(g *Grant) bool { return g.Client.ID == id })
}

func (t *Table) removeLocked(match func(*Grant) bool) int {
	kept := t.grants[:0]
	for i := range t.grants {
		if !match(&t.grants[i]) {
			kept = append(kept, t.grants[i])
		}
	}
	n := len(t.grants) - len(kept)
	clear(t.grants[len(kept):])
	t.grants = kept
	if n > 0 && t.released != nil {
		close(t.released)
		t.released = nil
	}
	return n
}

// Check tells whether c may use the card in slot now: ErrLocked if another
// client holds it exclusively, or another user's client holds it at all. c
// need not hold a lock itself.
func (t *Table) Check(slot int, c Client) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.checkLocked(slot, c, false)
}

// CheckAlone is the stricter rule of the old TRANSACT_OLD command: ErrLocked
// if any other client holds any lock on slot. Nothing waits for it.
func (t *Table) CheckAlone(slot int, c Client) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.checkLocked(slot, c, true)
}

func (t *Table) checkLocked(slot int, c Client, alone bool) error {
	for i := range t.grants {
		g := &t.grants[i]
		if g.Slot == slot && g.Client.ID != c.ID && (alone || g.Exclusive || g.Client.UID != c.UID) {
			return ErrLocked
		}
	}
	return nil
}

// Wait is Check with patience: it returns nil as soon as c may use slot,
// ErrLocked after limit, and ctx's error when ctx ends first. It softens what
// a lock does to other programs' short operations; a client that asks for a
// lock is answered at once.
func (t *Table) Wait(ctx context.Context, slot int, c Client, limit time.Duration) error {
	var expired <-chan time.Time
	for {
		t.mu.Lock()
		err := t.checkLocked(slot, c, false)
		if err == nil || limit <= 0 {
			t.mu.Unlock()
			return err
		}
		if t.released == nil {
			t.released = make(chan struct{})
		}
		released := t.released
		t.mu.Unlock()

		if expired == nil {
			timer := time.NewTimer(limit)
			defer timer.Stop()
			expired = timer.C
		}
		select {
		case <-released:
		case <-expired:
			limit = 0 // the last look
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// Holders returns a copy of all locks, oldest first.
func (t *Table) Holders() []Grant {
	t.mu.Lock()
	defer t.mu.Unlock()
	return append([]Grant(nil), t.grants...)
}
