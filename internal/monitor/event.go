package monitor

import (
	"time"

	"openct/internal/status"
)

// Kind says what has happened. The texts are an interface (openct-control(8)).
type Kind string

const (
	Present   Kind = "present"   // a reader that is served when monitor starts
	Plugged   Kind = "plugged"   // a device that OpenCT would serve is plugged in
	Unplugged Kind = "unplugged" // it has left
	Ready     Kind = "ready"     // programs can use a reader
	Stopped   Kind = "stopped"   // its handler has ended; the device is still there, as far as that is known
	CardIn    Kind = "card-in"
	CardOut   Kind = "card-out"
	Fault     Kind = "fault"    // a handler has failed
	Missed    Kind = "missed"   // more has happened at a reader than its handler remembers
	Init      Kind = "init"     // openct-control init
	Shutdown  Kind = "shutdown" // openct-control shutdown

	Connected    = Kind(status.Connected)
	Disconnected = Kind(status.Disconnected)
	Locked       = Kind(status.Locked)
	Unlocked     = Kind(status.Unlocked)
	Conflict     = Kind(status.Conflict)
	Failed       = Kind(status.Failed)
)

// Event is one thing that has happened. All texts can be shown. The members of its
// JSON are an interface (openct-control(8)); what an event does not have is left out.
type Event struct {
	Time      time.Time `json:"time"`
	Event     Kind      `json:"event"`
	Reader    *int      `json:"reader,omitempty"`
	Name      string    `json:"name,omitempty"`
	Slot      *int      `json:"slot,omitempty"`
	Slots     []Slot    `json:"slots,omitempty"`   // of present, ready
	Clients   []Client  `json:"clients,omitempty"` // of present
	Locks     []Lock    `json:"locks,omitempty"`   // of present
	Exclusive *bool     `json:"exclusive,omitempty"`
	Client    *Client   `json:"client,omitempty"`
	Holder    *Client   `json:"holder,omitempty"` // of the lock by which the client was refused
	Error     string    `json:"error,omitempty"`
	Missed    uint64    `json:"missed,omitempty"`
	Driver    string    `json:"driver,omitempty"`
	Device    string    `json:"device,omitempty"`
	ID        string    `json:"id,omitempty"`
	Port      string    `json:"port,omitempty"`
	Serial    string    `json:"serial,omitempty"`
	Unit      string    `json:"unit,omitempty"`
	Handler   int       `json:"handler,omitempty"` // process
}

// Slot is a card slot and whether a card is in it.
type Slot struct {
	Slot int  `json:"slot"`
	Card bool `json:"card"`
}

// Client is a program that is connected to a reader's handler.
type Client struct {
	PID     int    `json:"pid"`
	UID     uint32 `json:"uid"`
	User    string `json:"user,omitempty"`
	Program string `json:"program,omitempty"` // empty where that is not to be seen
}

// Lock is a lock that a client holds.
type Lock struct {
	Slot      int    `json:"slot"`
	Exclusive bool   `json:"exclusive"`
	Client    Client `json:"client"`
}
