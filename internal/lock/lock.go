// Package lock is the table of who has locked which card slot of one reader,
// and what that forbids to others (PROTOCOL.md of package socket, "Locks").
//
// A client is a connection; its user is what the kernel said when it
// connected. A lock is shared or exclusive. Shared locks go along with shared
// locks of the same user. Nobody is special, root is not. All locks of a
// client go when it disconnects.
//
// An operation on a card calls Wait before it queues for the slot and Check
// once it has the slot: a lock may have been granted in between.
package lock

import (
	"context"
	"errors"
	"sync"
	"time"
)

// MaxPerClient is how many locks one client may hold over all slots.
const MaxPerClient = 64

// endWait is how long a lock's holder that has hung up is waited for: its last
// request may still be at work on the card.
const endWait = 2 * time.Second

// States callers branch on.
var (
	ErrLocked  = errors.New("slot is locked by another client")
	ErrNoLock  = errors.New("no such lock")
	ErrTooMany = errors.New("client holds too many locks")
)

// Client is the client that a request comes from.
type Client struct {
	ID  uint64 // of the connection, never used twice in the life of a table
	UID uint32
	PID int32

	// HungUp tells whether the client has closed its connection; its locks are
	// about to be released then. nil: it never has.
	HungUp func() bool
}

// Grant is one lock that a client holds.
type Grant struct {
	Slot      int
	Client    Client
	Exclusive bool
	Handle    uint32 // counts from 0 over all slots
	Since     time.Time
}

// Use is what a client does beside other clients' locks.
type Use bool

const (
	// Shared use is forbidden by another client's exclusive lock, and by any
	// lock of another user.
	Shared Use = false
	// Exclusive use is forbidden by every lock of another client.
	Exclusive Use = true
)

// Table holds the locks of one reader. The zero value is empty and ready;
// methods may be called concurrently.
type Table struct {
	mu       sync.Mutex
	grants   []Grant       // in the order of granting
	next     uint32        // handle of the next grant; wraps
	released chan struct{} // closed at the next release; nil while nobody waits
}

// Lock grants c a lock and returns its handle; 0 is a valid one. ErrLocked if
// it conflicts with another client's, ErrTooMany beyond MaxPerClient. A client's
// own locks never conflict. Lock waits for a holder that has hung up, and for
// nobody else: when one program ends and the next one starts, the end comes
// first.
func (t *Table) Lock(ctx context.Context, slot int, c Client, exclusive bool) (handle uint32, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if _, err := t.waitLocked(ctx, slot, c, Use(exclusive), 0); err != nil {
		return 0, err
	}
	own := 0
	for i := range t.grants {
		if t.grants[i].Client.ID == c.ID {
			own++
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

// Unlock gives back the lock c holds on slot under handle, and returns it. All
// three must match, otherwise ErrNoLock.
func (t *Table) Unlock(slot int, c Client, handle uint32) (Grant, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	removed := t.removeLocked(func(g *Grant) bool {
		return g.Slot == slot && g.Client.ID == c.ID && g.Handle == handle
	})
	if len(removed) == 0 {
		return Grant{}, ErrNoLock
	}
	return removed[0], nil
}

// Release gives back all locks of the client with this ID and returns them.
func (t *Table) Release(id uint64) []Grant {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.removeLocked(func(g *Grant) bool { return g.Client.ID == id })
}

func (t *Table) removeLocked(match func(*Grant) bool) (removed []Grant) {
	kept := t.grants[:0]
	for _, g := range t.grants {
		if match(&g) {
			removed = append(removed, g)
		} else {
			kept = append(kept, g)
		}
	}
	clear(t.grants[len(kept):])
	t.grants = kept
	if len(removed) > 0 && t.released != nil {
		close(t.released)
		t.released = nil
	}
	return removed
}

// Check tells whether c may use the card in slot now, or ErrLocked. c need not
// hold a lock itself.
func (t *Table) Check(slot int, c Client, use Use) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.conflictLocked(slot, c, use) != nil {
		return ErrLocked
	}
	return nil
}

// conflictLocked is the first lock that forbids c this use of slot.
func (t *Table) conflictLocked(slot int, c Client, use Use) *Grant {
	for i := range t.grants {
		g := &t.grants[i]
		if g.Slot == slot && g.Client.ID != c.ID && (use == Exclusive || g.Exclusive || g.Client.UID != c.UID) {
			return g
		}
	}
	return nil
}

// Wait is Check with patience: it returns nil as soon as c may use slot,
// ErrLocked after limit, and ctx's error when ctx ends first; left is what the
// wait has left of limit. It softens what a lock does to other programs' short
// operations; a client that asks for a lock is answered at once. A holder that
// has hung up is waited for beyond limit, as Lock does.
func (t *Table) Wait(ctx context.Context, slot int, c Client, use Use, limit time.Duration) (left time.Duration, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.waitLocked(ctx, slot, c, use, limit)
}

// waitLocked is Wait with the mutex held, which it gives up while it waits.
func (t *Table) waitLocked(ctx context.Context, slot int, c Client, use Use, limit time.Duration) (left time.Duration, err error) {
	forHolder := false // the wait is for a holder that has hung up
	for {
		g := t.conflictLocked(slot, c, use)
		switch {
		case g == nil && forHolder:
			return 0, nil
		case g == nil:
			return limit, nil
		case limit > 0:
		case forHolder || g.Client.HungUp == nil || !g.Client.HungUp():
			return 0, ErrLocked
		default:
			forHolder, limit = true, endWait
		}
		if limit, err = t.releaseLocked(ctx, limit); err != nil {
			return 0, err
		}
	}
}

// releaseLocked waits for the next release of any lock, and returns what that
// has left of limit, 0 or less for nothing.
func (t *Table) releaseLocked(ctx context.Context, limit time.Duration) (left time.Duration, err error) {
	if t.released == nil {
		t.released = make(chan struct{})
	}
	released := t.released
	t.mu.Unlock()
	defer t.mu.Lock()
	begin := time.Now()
	timer := time.NewTimer(limit)
	defer timer.Stop()
	select {
	case <-released:
		return limit - time.Since(begin), nil
	case <-timer.C:
		return 0, nil
	case <-ctx.Done():
		return 0, context.Cause(ctx)
	}
}

// Holders returns a copy of all locks, oldest first.
func (t *Table) Holders() []Grant {
	t.mu.Lock()
	defer t.mu.Unlock()
	return append([]Grant(nil), t.grants...)
}
