//go:build go1.25

package driver

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"

	"openct/internal/ifd"
	"openct/internal/proto"
	"openct/internal/vusb/card"
	virtual "openct/internal/vusb/token"
)

// A card that is taken out, or exchanged for another one, faster than the core looks
// does not answer with the reader's status word.
func TestCyberJackExchangedCard(t *testing.T) {
	removed := func(m *virtual.CyberJack) { m.Remove() }
	exchanged := func(m *virtual.CyberJack) { m.Remove(); m.Insert(card.NewEcho()) }
	command := func(ctx context.Context, _ *cyberSlot, e proto.Engine) ([]byte, error) {
		return e.Transmit(ctx, unhex("00ee000303"), nil)
	}
	pin := func(ctx context.Context, s *cyberSlot, _ proto.Engine) ([]byte, error) {
		return s.Verify(ctx, ifd.PINRequest{Control: 1, Offset: 6, APDU: unhex("0020008008ffffffffffffffff")})
	}
	for _, tt := range []struct {
		name string
		do   func(*virtual.CyberJack)
		use  func(context.Context, *cyberSlot, proto.Engine) ([]byte, error)
	}{
		{"removed, command", removed, command},
		{"exchanged, command", exchanged, command},
		{"removed, PIN", removed, pin},
		{"exchanged, PIN", exchanged, pin},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := virtual.NewCyberJack(card.NewEcho())
				c, ctx := openVirtualCyberJack(t, m), context.Background()
				e := engineFor(t, c.slot, proto.Default)
				tt.do(m)
				if resp, err := tt.use(ctx, c.slot, e); !errors.Is(err, ifd.ErrNoCard) {
					t.Errorf("%x, %v", resp, err)
				}
				if resp, err := tt.use(ctx, c.slot, e); !errors.Is(err, proto.ErrResetRequired) {
					t.Errorf("once more: %x, %v", resp, err)
				}
			})
		})
	}
}
