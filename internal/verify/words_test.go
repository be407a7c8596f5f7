package verify

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"openct/internal/ifd"
)

// People can edit a report. A result that no run has is not kept, a second masking
// changes nothing.
func TestMaskResult(t *testing.T) {
	for _, tt := range []struct {
		name       string
		do         Do
		text, want string
	}{
		{"open", Open, "ok", "ok"},
		{"close, another word", Close, "ok, Erika", "unknown"},
		{"a failure", Transmit, "error: device refused the transfer (stall)", "error: device refused the transfer (stall)"},
		{"a failure without a name", Open, "error: an error of another kind", "error: an error of another kind"},
		{"a failure that a person wrote", Open, "error: at Erika's", "error: an error of another kind"},
		{"a failure and more", Transmit, "error: device was unplugged by Erika", "error: an error of another kind"},
		{"a card", Status, "card", "card"},
		{"no card", Status, "no card", "no card"},
		{"a card's owner", Status, "card of Erika", "unknown"},
		{"an ATR", Reset, "ATR 3B 02 14 50", "ATR 3B 02 00 00"},
		{"an ATR and more", Reset, "ATR 3B 02 14 50 Erika", "ATR 3B 02 00 00"},
		{"no ATR", Reset, "Erika", "unknown"},
		{"a protocol", Protocol, "T=1", "T=1"},
		{"none of the protocols", Protocol, "T=Erika", "unknown"},
		{"a response", Transmit, "9000, 256 bytes", "9000, 256 bytes"},
		{"no status word", Transmit, "no status word, 1 bytes", "no status word, 1 bytes"},
		{"four digits that are no status word", Transmit, "4711, 2 bytes", "unknown"},
		{"a response and more", Transmit, "9000, 256 bytes of Erika", "unknown"},
		{"a number with zeros before it", Transmit, "9000, 004711 bytes", "unknown"},
		{"a number too long", Transmit, "9000, 4711081500 bytes", "unknown"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := Step{Do: tt.do, Result: tt.text}
			for range 2 {
				if s.maskResult(); s.Result != tt.want {
					t.Errorf("got %q, want %q", s.Result, tt.want)
				}
			}
		})
	}
}

// What a report says of an error holds nothing but the sentinel's text.
func TestKindOf(t *testing.T) {
	for _, tt := range []struct {
		name string
		err  error
		want string
	}{
		{"no card", fmt.Errorf("Erika: %w", ifd.ErrNoCard), ifd.ErrNoCard.Error()},
		{"a wait that ended", fmt.Errorf("Erika: %w", context.DeadlineExceeded), "device did not answer in time"},
		{"another", errors.New("Erika"), noKind},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := kindOf(tt.err); got != tt.want {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
}
