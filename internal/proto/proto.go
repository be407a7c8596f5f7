// Package proto holds the transmission protocols between host and card:
// T=1, T=0, transparent, escape, and those of memory cards. An engine is a
// state machine over a Link; it does no I/O of its own and knows neither USB nor sockets.
package proto

import (
	"context"
	"errors"
	"time"
)

// ID names a protocol in OpenCT's numbering (C OpenCT, protocol.c).
type ID int

const (
	Default     ID = -1 // what the ATR names first
	T0          ID = 0
	T1          ID = 1
	TwoWire     ID = 16
	ThreeWire   ID = 17
	I2CShort    ID = 18
	I2CLong     ID = 19
	GBP         ID = 21
	Eurochip    ID = 22
	Escape      ID = 24
	Transparent ID = 128
)

// Link carries an engine's blocks to the card and back. A driver provides it.
// ctx is Transmit's, and its end ends a transfer under way.
type Link interface {
	// Send writes one whole block or, in stream mode, some bytes.
	Send(ctx context.Context, block []byte) error

	// Recv reads into buf. In block mode it returns one whole block of at
	// most len(buf) bytes; in stream mode it fills buf completely or fails.
	// It fails when nothing came within timeout.
	Recv(ctx context.Context, buf []byte, timeout time.Duration) (int, error)
}

// Engine exchanges APDUs with one card in one protocol. It is not safe for
// concurrent use: a card does one thing at a time.
type Engine interface {
	// ID is the protocol it speaks.
	ID() ID

	// Transmit sends one command APDU and appends the response APDU, data
	// and status word, to resp[:0]. The end of ctx ends the exchange, also
	// in the middle of a block.
	// After an error that wraps ErrResetRequired every further call fails
	// with it until the card is reset and a new engine made.
	Transmit(ctx context.Context, apdu, resp []byte) ([]byte, error)
}

// States of an exchange that callers branch on; test with errors.Is.
var (
	// ErrInvalidAPDU: the command cannot be sent in this protocol. The
	// session is untouched.
	ErrInvalidAPDU = errors.New("invalid command APDU")

	// ErrTooLong: the card's response exceeds MaxResponse.
	ErrTooLong = errors.New("response too long")

	// ErrAborted: the card gave up the exchange (S(ABORT)); the session lives.
	ErrAborted = errors.New("card aborted the exchange")

	// ErrProtocol: the card broke the protocol and could not be brought back.
	ErrProtocol = errors.New("card does not follow the protocol")

	// ErrResetRequired: the session is lost and the card must be reset.
	ErrResetRequired = errors.New("card must be reset first")

	// ErrCorrupted is for a Link to return from Recv, wrapped as it likes: a
	// block came and was damaged on its way (a parity error, a block cut
	// short), and the line is fit for the next one. T=1 asks the card to
	// repeat it; any other error of a Link ends the session.
	ErrCorrupted = errors.New("block arrived corrupted")
)

// MaxCommand is the longest command APDU: header, extended Lc, 65535 bytes of
// data, extended Le (ISO/IEC 7816-4).
const MaxCommand = 4 + 3 + 65535 + 2

// MaxResponse is the longest response APDU: 65536 bytes of data and the
// status word (ISO/IEC 7816-4, extended Le).
const MaxResponse = 65536 + 2
