// Package serialtest has what tests of serial readers need: a line at whose
// other end a recorded reader is (Play, Replay), and pseudo-terminals (Pty).
//
// A recording is what C OpenCT's ifdhandler and a reader's model said to each
// other, one JSON object a line. Load cuts it into windows: the opening, each
// client's request, what happened between requests, the end. In each of them a
// driver must do what C OpenCT's did, in that order: bytes written, settings
// changed, DTR and RTS, breaks. What has no effect is not compared: settings
// and lines that were so already, flushes, drains, looks at the modem lines.
//
// Recordings of readers on USB play as well: what went out in control and bulk
// transfers is compared, and what came in waits on its endpoint. The driver
// reads as it likes.
//
// Where ours behaves differently on purpose, a Difference says so with its
// reason; one that changes nothing is an error.
package serialtest
