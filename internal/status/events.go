package status

import (
	"slices"
	"time"

	"openct/internal/printable"
)

// Event is something that has happened at a reader, as its handler tells it in the
// side file: what is over before anybody looks is there, too.
type Event struct {
	Seq       uint64    `json:"seq"` // counts from 1 in the life of a handler
	Time      time.Time `json:"time"`
	Event     EventKind `json:"event"`
	Slot      int       `json:"slot"`      // of lock, unlock, conflict
	Exclusive bool      `json:"exclusive"` // of lock and unlock
	Client    Client    `json:"client,omitzero"`
	Holder    Client    `json:"holder,omitzero"` // of conflict: who has the lock
	Error     string    `json:"error,omitempty"`
}

// EventKind says what an event is.
type EventKind string

const (
	Connected    EventKind = "connected"    // a client has connected
	Disconnected EventKind = "disconnected" // its connection has ended
	Locked       EventKind = "locked"       // a client has locked a card
	Unlocked     EventKind = "unlocked"     // a client has unlocked a card, or has disconnected
	Conflict     EventKind = "conflict"     // a client was refused because of another one's lock
	Failed       EventKind = "failed"       // a request has failed because of an error of card or device
)

// Client is a connection to a handler.
type Client struct {
	Connection uint64 `json:"connection"` // never used twice in the life of a handler
	PID        int    `json:"pid"`
	UID        uint32 `json:"uid"`
}

// Connection is a client that is connected now.
type Connection struct {
	Client
	Since time.Time `json:"since"`
}

// MaxEvents is how many events a side file has: more than a reader's clients bring
// about between two tellings of its handler, unless they do little else.
const MaxEvents = 64

const maxEventText = 200 // bytes of a text in an event

// cleanEvents are the latest events, in their order.
func cleanEvents(events []Event) []Event {
	events = slices.Clone(events[max(0, len(events)-MaxEvents):])
	for i := range events {
		e := &events[i]
		e.Event = EventKind(cut(printable.Line(string(e.Event)), maxEventText))
		e.Error = cut(printable.Line(e.Error), maxEventText)
	}
	return events
}
