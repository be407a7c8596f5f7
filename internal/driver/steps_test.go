package driver

import (
	"bytes"
	"context"
	"errors"
	"testing"
	"time"

	"openct/internal/ifd"
	"openct/internal/usb"
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

// taker is a device that takes so many bytes of what it is sent.
type taker struct {
	usb.Device
	bytes int
	err   error
}

func (d taker) Control(context.Context, usb.Setup, []byte, time.Duration) (int, error) {
	return d.bytes, d.err
}

// TestSendAll: a device that takes a part of what it was sent has failed.
func TestSendAll(t *testing.T) {
	for _, tt := range []struct {
		name string
		dev  taker
		want error
	}{
		{"all", taker{bytes: 4}, nil},
		{"nothing", taker{bytes: 0}, ifd.ErrComm},
		{"one byte less", taker{bytes: 3}, ifd.ErrComm},
		{"stall", taker{bytes: 4, err: usb.ErrStall}, usb.ErrStall},
	} {
		t.Run(tt.name, func(t *testing.T) {
			err := sendAll(context.Background(), tt.dev, usb.Setup{}, []byte{1, 2, 3, 4}, time.Second)
			if !errors.Is(err, tt.want) || tt.want == nil && err != nil {
				t.Errorf("got %v, want %v", err, tt.want)
			}
		})
	}
}
