// Package card holds virtual smart cards and the card's side of the
// transmission protocols. Virtual tokens and readers put one of them behind
// their USB side.
package card

// Card is a virtual card at APDU level. Its owner calls it from one goroutine
// at a time.
type Card interface {
	// ATR is the card's answer to reset.
	ATR() []byte

	// Reset is a power cycle or a warm reset: security state and selected
	// application are forgotten, retry counters and keys are not.
	Reset()

	// Transmit runs one command APDU, short or extended, and returns the
	// response with its status word; never fewer than two bytes. The response
	// is valid until the next call.
	Transmit(apdu []byte) []byte
}
