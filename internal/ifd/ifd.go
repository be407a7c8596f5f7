// Package ifd is the contract between the reader core and the drivers. IFD is
// ISO 7816's and OpenCT's word for a card reader (interface device). A driver
// must implement Reader and Slot; everything else a reader can do is one more
// small interface, and not implementing it means "not supported".
package ifd

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"openct/internal/atr"
	"openct/internal/proto"
	"openct/internal/serial"
)

// Reader is one open reader or token. The core closes it once.
type Reader interface {
	// Slots returns the card slots, at least one, the same at every call.
	Slots() []Slot

	// Name is the reader's name for people and in the status file: Options.Name
	// or, for a reader that knows a better one, its own.
	Name() string

	// Gone is closed when the reader has left, whatever it was connected with.
	Gone() <-chan struct{}

	// Close powers cards down where the reader can, and gives the device back.
	Close() error
}

// Slot is one place for a card. The core calls a slot's methods one at a
// time; different slots of a reader may be called concurrently.
type Slot interface {
	// Reset powers the card up or resets it and returns its ATR, unchecked.
	// A failed Reset leaves the slot ready for another one. ErrNoCard says
	// that there is none, ErrNoATR that it stays silent, as a memory card does.
	Reset(ctx context.Context) ([]byte, error)

	// Protocol makes the engine for the card just reset: the protocol p, or
	// the one the driver and the ATR call for when p is proto.Default. It
	// does what the reader needs for that (PPS, parameters). A protocol the
	// ATR does not offer is ErrNotSupported. a is nil for a card that
	// answered without a parsable ATR.
	Protocol(ctx context.Context, p proto.ID, a *atr.ATR) (proto.Engine, error)
}

// Status of a slot.
type Status struct {
	Present bool
	Changed bool // removed, inserted or exchanged since the last call
}

// Presence is a slot that can lose its card while the reader stays. A slot
// without it holds a card that cannot be taken out: a token. Status does not
// wait for a card: ErrBusy says that the reader cannot be asked at the moment.
type Presence interface {
	Status(ctx context.Context) (Status, error)
}

// Event is news a reader volunteers: slot's card came or went.
type Event struct {
	Slot    int
	Present bool
}

// Notifier is a reader that reports insertion and removal by itself. The
// channel is closed when the reader is closed or its device gone. Where
// Presence exists without Notifier, the core asks now and then.
type Notifier interface {
	Events() <-chan Event
}

// Requester is a slot that can wait for a card, prompting on its display.
type Requester interface {
	Request(ctx context.Context, timeout time.Duration, message string) ([]byte, error)
}

// Ejector is a slot that can eject its card, or at least power it down.
type Ejector interface {
	Eject(ctx context.Context, timeout time.Duration, message string) error
}

// Verifier is a slot whose reader has a keypad. Verify runs a VERIFY command
// with a PIN the user types on the reader and returns the card's response.
type Verifier interface {
	Verify(ctx context.Context, v PINRequest) ([]byte, error)
}

// Modifier is a Verifier that can change a PIN, too.
type Modifier interface {
	Modify(ctx context.Context, v PINRequest) ([]byte, error)
}

// PINRequest is OpenCT's PIN_DATA (internal/socket/PROTOCOL.md).
type PINRequest struct {
	Timeout time.Duration // for the user's first key; 0: the reader's default
	Message string        // prompt; empty: the reader's default
	Control byte          // bit 0 set: ASCII, clear: BCD; high nibble: fixed PIN length, 0 variable
	Offset  byte          // where the PIN goes in the APDU, counted from 1
	APDU    []byte        // command, with room for the PIN
}

// Displayer is a reader with a display. An empty message clears it.
type Displayer interface {
	Display(ctx context.Context, message string) error
}

// Keypad is a reader that knows whether it has a keypad and a display.
type Keypad interface {
	HasKeypad() bool
	HasDisplay() bool
}

// Memory is a slot that can hold a synchronous memory card, which answers no
// reset of ISO 7816-3. Where Reset returns ErrNoATR or an empty ATR, the core
// asks what kind of memory card is in (proto.DetectMemory) and makes its engine
// itself: Protocol is for asynchronous cards alone. A slot that can present a
// PSC is a proto.PSCLink, too.
type Memory interface {
	proto.MemoryLink

	// PowerMemory takes the card's power and gives it back.
	PowerMemory(ctx context.Context) error
}

// KnownMemory is a slot whose reader may know the memory card that was reset: its
// protocol, and what stands for its ATR. proto.Default: it does not.
type KnownMemory interface {
	Memory
	MemoryCard() (p proto.ID, header []byte)
}

// Relay is a slot that another handler serves. That handler chooses the card's
// protocol and has its session: an empty answer to Reset is that of a memory card,
// Protocol is asked for every card, with a nil ATR for one that has none, and the
// engine that it makes is a proto.MemoryEngine. The other handler has clients of
// its own.
type Relay interface {
	Slot

	// Lock keeps the other handler's clients off the card, until Unlock. Both are
	// called in turn for each kind of lock.
	Lock(ctx context.Context, exclusive bool) error
	Unlock(ctx context.Context, exclusive bool) error

	// Abandon ends the connection to the other handler, and with it all locks. That
	// handler resets the card before anybody else has it.
	Abandon(why error)
}

// Connector is the way to a reader that another handler serves. Nothing on this
// machine tells when that reader is there.
type Connector interface {
	// Connect opens the reader, or says why that is not there. It tries once.
	Connect(ctx context.Context) (Reader, error)

	// Close gives up the way, after the reader was closed.
	Close() error
}

// Options is what a driver may be told when it opens a device.
type Options struct {
	Name   string       // the reader's name in the driver's table entry
	Log    *slog.Logger // never nil; APDU bytes go through apdulog only
	Escape bool         // vendor escape commands are allowed (openct.conf)
	Line   Line         // for a reader on a serial line

	// OpenLine opens the serial line of a reader; nil: serial.Open.
	OpenLine func(path string) (serial.Line, error)
}

// Open opens the serial line of a reader.
func (o Options) Open(path string) (serial.Line, error) {
	if o.OpenLine != nil {
		return o.OpenLine(path)
	}
	return serial.Open(path)
}

// Line is what a reader statement of openct.conf may tell of a reader on a
// serial line that has no way of telling it.
type Line struct {
	Clock    int  // of the card, in Hz; 0: what the driver takes for usual
	Speed    int  // bit/s up to which the card may be made faster; 0: not at all
	NoSwitch bool // the reader does not know whether a card is in
}

// States of a card or reader that callers branch on; test with errors.Is.
var (
	ErrNoCard       = errors.New("no card in the slot")
	ErrNoATR        = errors.New("card does not answer to reset")
	ErrInvalidATR   = errors.New("card returned an invalid ATR")
	ErrBusy         = errors.New("reader is busy with another card")
	ErrNotSupported = errors.New("not supported by this reader or card")
	ErrIncompatible = errors.New("device does not behave like this kind of reader")
	ErrComm         = errors.New("reader or card sent invalid data")
	ErrUserTimeout  = errors.New("user did not type in time")
	ErrUserAbort    = errors.New("user cancelled")
	ErrPINMismatch  = errors.New("the two new PINs differ")
)
