package ccid

import (
	"context"
	"errors"
	"time"
)

// transport carries whole messages between the host and one reader. send and
// recv may run at the same time, but each by one goroutine. Errors are those
// of package usb, whatever the transport: ErrUnplugged, ErrTimeout, ErrIO. The
// end of ctx ends a call, with an error that wraps the context's.
type transport interface {
	// name is the reader's name in errors, a device node as a rule.
	name() string

	// send writes one message.
	send(ctx context.Context, msg []byte) error

	// recv reads one message, valid until the next call, and at least as long
	// as its header says: errMalformed if not.
	recv(ctx context.Context, timeout time.Duration) ([]byte, error)

	// abort runs the class request of that name, the first half of aborting a
	// command; errNoAbort where there is no such thing.
	abort(ctx context.Context, slot, seq byte) error

	// gone is closed when the reader has left.
	gone() <-chan struct{}

	// close ends pending calls. A second one does nothing.
	close() error
}

// removalReporter is a transport by which a reader reports, between its
// messages, that a card was taken out. onRemoval is called before the first
// recv, and f by recv with the slot's number.
type removalReporter interface{ onRemoval(f func(slot int)) }

// errNoAbort: the transport has no way to abort a command.
var errNoAbort = errors.New("transport cannot abort a command")

// How long transfers may take that do not wait for a card.
const (
	sendTimeout    = 5 * time.Second // a message to the reader
	restTimeout    = 5 * time.Second // the rest of a message that has begun
	controlTimeout = 3 * time.Second // a class request
)

// maxEmpty is how many empty transfers in a row a reader may send where a
// message is due. Some send one ahead of every message.
const maxEmpty = 10

// messageLimit is the longest message accepted or sent, whatever the class
// descriptor says: an extended APDU of 65536+9 bytes and the header fit, and
// it is the largest dwMaxCCIDMessageLength known.
const messageLimit = 65554
