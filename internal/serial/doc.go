// Package serial is the serial line under the drivers of readers that are
// connected by one: a UART, or an adapter that the kernel shows as one.
//
// Drivers see a Line, so that a test can be the reader at its other end
// (package serialtest). Open makes one of a node such as /dev/ttyUSB0.
//
// A Line is for one user at a time, but for Gone, Name and Close, which may be
// called at any time, also by others.
//
// A pseudo-terminal is taken as well, with what it lacks: it has no modem
// lines (SetLines does nothing, Lines returns ErrNoLines), always carries eight
// bits without parity whatever Set asked for, and loses a break. Some adapters
// have no modem lines either.
package serial
