// Package agent is the line between a test on the host and the machine it
// drives: JSON messages, one a line, over a virtio serial port. The host side
// is Client, the guest side Serve.
//
// A serial port has no connections: when the guest reboots, a new agent opens
// the same port, and what was under way is lost. Client.Sync finds the agent
// again.
package agent

import "time"

// A request asks for one thing; the replies to it carry its ID.
type request struct {
	ID uint64

	// Op is opPing, opRun, opPut, opUnit or opLine.
	Op string

	// Run: a script for /bin/sh, what it reads, and after how long it and
	// everything it started are killed.
	Script  string        `json:",omitempty"`
	Stdin   []byte        `json:",omitempty"`
	Timeout time.Duration `json:",omitempty"`

	// Put: a file to write. Line: a Unix socket, and the line to write there.
	Path string `json:",omitempty"`
	Mode uint32 `json:",omitempty"`
	Data []byte `json:",omitempty"`

	// Unit: a systemd unit, the states that are waited for, and for how long
	// (Timeout).
	Unit   string   `json:",omitempty"`
	States []string `json:",omitempty"`
}

const (
	opPing = "ping"
	opRun  = "run"
	opPut  = "put"
	opUnit = "unit"
	opLine = "line"
)

// A reply is a piece of output, or the end of the request.
type reply struct {
	ID     uint64
	Stdout []byte `json:",omitempty"`
	Stderr []byte `json:",omitempty"`

	Done     bool   `json:",omitempty"`
	Exit     int    `json:",omitempty"` // exit code; 128+n for signal n
	TimedOut bool   `json:",omitempty"`
	State    string `json:",omitempty"` // the unit's last
	Error    string `json:",omitempty"` // the agent could not do it
}
