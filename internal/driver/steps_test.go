package driver

import (
	"bytes"
	"errors"
	"testing"

	"openct/internal/ifd"
)

// TestRawATR: an answer that tells the protocol is an ATR, whatever else is
// wrong with it.
func TestRawATR(t *testing.T) {
	for _, tt := range []struct {
		name   string
		answer []byte
		want   error
	}{
		{"sound", []byte{0x3B, 0x02, 0x14, 0x50}, nil},
		{"historical bytes missing", []byte{0x3B, 0x65, 0x00, 0x00, 0xB0, 0x46, 0x41}, nil},
		{"a status word behind it", []byte{0x3B, 0x80, 0x01, 0x81, 0x90, 0x00}, nil},
		{"nothing", nil, ifd.ErrNoATR},
		{"no TS", []byte{0x00, 0x02, 0x14, 0x50}, ifd.ErrInvalidATR},
		{"no protocol", []byte{0x3B, 0xF0, 0x11}, ifd.ErrInvalidATR},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := rawATR(tt.answer)
			if !errors.Is(err, tt.want) {
				t.Errorf("error %v, want %v", err, tt.want)
			}
			if err == nil && !bytes.Equal(got, tt.answer) {
				t.Errorf("% X of % X", got, tt.answer)
			}
		})
	}
}
