package daemon

import (
	"slices"
	"sync"
	"time"

	"openct/internal/lock"
	"openct/internal/status"
)

// history is who is connected and what has happened lately. It remembers what
// the side file holds, and no more.
type history struct {
	mu          sync.Mutex
	seq         uint64
	events      []status.Event // the latest, oldest first
	connections []status.Connection
}

// add notes an event. A client that is refused again and again is noted once.
func (h *history) add(e status.Event) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if e.Event == status.Conflict && len(h.events) > 0 {
		last := h.events[len(h.events)-1]
		if last.Event == e.Event && last.Client == e.Client && last.Slot == e.Slot {
			return
		}
	}
	h.seq++
	e.Seq, e.Time = h.seq, time.Now()
	if len(h.events) == status.MaxEvents {
		h.events = slices.Delete(h.events, 0, 1)
	}
	h.events = append(h.events, e)
	switch e.Event {
	case status.Connected:
		h.connections = append(h.connections, status.Connection{Client: e.Client, Since: e.Time})
	case status.Disconnected:
		h.connections = slices.DeleteFunc(h.connections, func(c status.Connection) bool { return c.Client == e.Client })
	}
}

// now copies it.
func (h *history) now() (events []status.Event, connections []status.Connection) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Clone(h.events), slices.Clone(h.connections)
}

// clients is how many are connected.
func (h *history) clients() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.connections)
}

func clientOf(c lock.Client) status.Client {
	return status.Client{Connection: c.ID, PID: int(c.PID), UID: c.UID}
}

// noteLock notes that a lock of the client has begun or ended.
func (c *client) noteLock(kind status.EventKind, slot int, exclusive bool) {
	c.note(status.Event{Event: kind, Slot: slot, Exclusive: exclusive, Client: clientOf(c.who)})
}

// noteConflict notes that the client was refused, and whose lock that was. The
// lock may have ended meanwhile.
func (c *client) noteConflict(slot int) {
	e := status.Event{Event: status.Conflict, Slot: slot, Client: clientOf(c.who)}
	for _, g := range c.locks.Holders() {
		if g.Slot == slot && g.Client.ID != c.who.ID {
			e.Holder, e.Exclusive = clientOf(g.Client), g.Exclusive
			break
		}
	}
	c.note(e)
}
