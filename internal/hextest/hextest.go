// Package hextest reads the bytes of tests, written in hexadecimal.
package hextest

import (
	"encoding/hex"
	"strings"
	"testing"
	"unicode"
)

// Bytes decodes s; spaces, line ends and bars between the digits group them for
// the eye. What is not hexadecimal fails the test.
func Bytes(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.Map(func(r rune) rune {
		if r == '|' || unicode.IsSpace(r) {
			return -1
		}
		return r
	}, s))
	if err != nil {
		t.Fatalf("%q: %v", s, err)
	}
	return b
}
