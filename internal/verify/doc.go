// Package verify checks a real reader or token with a card in it, and makes a
// report of what it saw: verdicts for people, and a recording from which a test can
// be made.
//
// The checks are safe for the card: it is reset, files and applications are
// selected, and objects read that need no PIN. No PIN is sent, nothing is written,
// no key is used.
//
// A report can be published. It holds nothing that tells one card from another of
// its kind, by construction: of what the device sends, only what is known to be
// harmless is kept, and everything else becomes zero bytes (mask.go). An error is
// told by its kind, because the text of one can hold bytes of the device.
package verify
