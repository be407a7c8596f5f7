// Package linetest is the host at the line of a virtual reader.
package linetest

import (
	"encoding/hex"
	"testing"

	"openct/internal/hextest"
	"openct/internal/vusb/serialline"
)

// Send sends bytes to a reader and returns what comes back.
func Send(r serialline.Reader, b []byte) (answer []byte) {
	for _, c := range b {
		for _, char := range r.Send(c) {
			answer = append(answer, char.Byte)
		}
	}
	return answer
}

// Exchange sends the first of each two texts to a reader, and wants the second as its
// answer. Both are in hexadecimal.
func Exchange(t testing.TB, r serialline.Reader, exchanges ...[2]string) {
	t.Helper()
	for _, x := range exchanges {
		if got := hex.EncodeToString(Send(r, hextest.Bytes(t, x[0]))); got != x[1] {
			t.Errorf("%s: %s, want %s", x[0], got, x[1])
		}
	}
}
