package hextest

import (
	"bytes"
	"testing"
)

func TestBytes(t *testing.T) {
	if got := Bytes(t, "00 a4|04\n\t00FF"); !bytes.Equal(got, []byte{0x00, 0xA4, 0x04, 0x00, 0xFF}) {
		t.Errorf("got % X", got)
	}
}
