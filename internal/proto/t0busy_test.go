//go:build go1.25

package proto

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"
)

// busyLink is a card that asks for more time whenever its time is nearly up.
type busyLink struct{ wwt time.Duration }

func (busyLink) Send(context.Context, []byte) error { return nil }

func (l busyLink) Recv(_ context.Context, buf []byte, _ time.Duration) (int, error) {
	time.Sleep(l.wwt - time.Second)
	buf[0] = 0x60
	return 1, nil
}

// A card that asks for more time without end does not get it: no more than in T=1.
func TestT0BusyForEver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const wwt = 25 * time.Second // WI 255 at the usual clock
		e := NewT0(busyLink{wwt}, T0Params{Stream: true, WWT: wwt})
		begin := time.Now()
		_, err := e.Transmit(context.Background(), []byte{0x00, 0xB0, 0x00, 0x00, 0x02}, nil)
		if took := time.Since(begin); !errors.Is(err, ErrProtocol) || took > time.Hour+wwt {
			t.Errorf("%v, after %v", err, took)
		}
	})
}
