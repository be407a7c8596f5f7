package proto

import (
	"context"
	"testing"
	"time"

	"openct/internal/hextest"
	"openct/internal/proto/prototest"
)

// What a person reads when a session is lost, and afterwards.
func TestErrorTexts(t *testing.T) {
	tests := []struct {
		name   string
		script string
		errs   []error
		first  string
		later  string
	}{
		{"link", hSelect + "C!", []error{errLink},
			"T=1: device did not answer in time; card must be reset first",
			"card must be reset first (earlier: T=1: device did not answer in time)"},
		{"card", hSelect + "C\nH 00 81 00 81\nC\nH 00 81 00 81\nC\nH 00 C0 00 C0\nC\nH 00 C0 00 C0\nC\nH 00 C0 00 C0\nC", nil,
			"T=1: card does not follow the protocol: block is too short, and 3 resynchronisations did not help; card must be reset first",
			"card must be reset first (earlier: T=1: card does not follow the protocol: block is too short, and 3 resynchronisations did not help)"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			e := NewT1(prototest.Blocks(t, tt.script, tt.errs...), T1Params{})
			for _, want := range []string{tt.first, tt.later, tt.later} {
				_, err := e.Transmit(context.Background(), hextest.Bytes(t, selectMF), nil)
				if err == nil || err.Error() != want {
					t.Errorf("got  %v\nwant %s", err, want)
				}
			}
		})
	}
}

// A Link in stream mode that breaks its promise to fill the buffer is not
// believed.
func TestShortStream(t *testing.T) {
	short := &shortLink{}
	for _, e := range []Engine{NewT1(short, T1Params{Stream: true}), NewT0(short, T0Params{Stream: true})} {
		t.Run(e.ID().String(), func(t *testing.T) {
			runCalls(t, e, []call{{apdu: "00 B0 00 00 02", is: []error{ErrProtocol, ErrResetRequired}}})
		})
	}
	t.Run("T=0 data", func(t *testing.T) {
		e := NewT0(&shortLink{first: []byte{0xB0}}, T0Params{Stream: true})
		runCalls(t, e, []call{{apdu: "00 B0 00 00 02", is: []error{ErrProtocol, ErrResetRequired}}})
	})
}

type shortLink struct{ first []byte }

func (l *shortLink) Send(context.Context, []byte) error { return nil }

func (l *shortLink) Recv(_ context.Context, buf []byte, _ time.Duration) (int, error) {
	n := copy(buf, l.first)
	l.first = l.first[n:]
	return n, nil
}
