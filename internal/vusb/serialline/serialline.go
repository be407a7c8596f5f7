// Package serialline is the reader's end of a serial line. A Reader is behind
// it; a host reaches that through an adapter that is real to the kernel (FTDI),
// or through a pseudo-terminal (ServePTY).
package serialline

import (
	"openct/internal/serial"
)

// Reader is what is at the end of a line. Its calls come one after the other.
// What the reader says is sent when the host has done something; a reader that
// has news of its own cannot be told this way.
type Reader interface {
	// Set tells the settings of the host's end.
	Set(p serial.Params)

	// SetLines tells the lines that the host drives, and returns what the
	// reader sends then.
	SetLines(dtr, rts bool) []Char

	// Send takes a byte from the host and returns what comes back, an echo
	// first.
	Send(b byte) []Char

	// Inputs are the lines that the reader drives.
	Inputs() serial.Inputs
}

// Char is a byte as the host's end receives it.
type Char struct {
	Byte byte
	Bad  bool // with a wrong parity, or without its stop bit
}
