//go:build go1.25

package ccid

import (
	"bytes"
	"context"
	"fmt"
	"testing"
	"testing/synctest"

	"openct/internal/ifd"
	"openct/internal/proto"
)

// TestStatus: insertion, removal and exchange as Status tells them.
func TestStatus(t *testing.T) {
	for _, number := range []string{"P1", "P2"} {
		for _, interrupt := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s/interrupt %v", number, interrupt), func(t *testing.T) {
				bubble(t, func(t *testing.T) {
					p := profile(t, number)
					p.NoInterrupt = !interrupt
					b := plug(t, p).start()
					_, notifies := b.reader.(ifd.Notifier)
					if notifies != interrupt {
						t.Fatalf("Notifier: %v", notifies)
					}
					check := func(what string, present, changed bool) {
						t.Helper()
						synctest.Wait()
						got, err := b.slot(0).(ifd.Presence).Status(context.Background())
						if want := (ifd.Status{Present: present, Changed: changed}); err != nil || got != want {
							t.Fatalf("%s: %+v, %v; want %+v", what, got, err, want)
						}
					}
					check("empty", false, false)
					b.model.Insert(0, &testCard{atr: atrT0})
					check("inserted", true, true)
					check("still there", true, false)
					b.engine(0)
					check("powered", true, false)
					b.model.Remove(0)
					b.model.Insert(0, &testCard{atr: atrT0})
					check("exchanged", true, true)
					check("still there", true, false)
					b.model.Remove(0)
					check("removed", false, true)
				})
			})
		}
	}
}

// TestTokenHasNoPresence: what cannot be taken out is not asked after.
func TestTokenHasNoPresence(t *testing.T) {
	bubble(t, func(t *testing.T) {
		b := plug(t, profile(t, "P7"), &testCard{atr: atrT0}).start()
		if _, ok := b.slot(0).(ifd.Presence); ok {
			t.Error("Presence")
		}
		if _, ok := b.reader.(ifd.Notifier); ok {
			t.Error("Notifier")
		}
	})
}

// TestEscape: vendor commands pass only when they are allowed.
func TestEscape(t *testing.T) {
	bubble(t, func(t *testing.T) {
		p := profile(t, "P1")
		p.Vendor, p.Product = 0x076B, 0x5121
		b := plug(t, p, &testCard{atr: atrT0}).start()
		if n := len(b.reader.Slots()); n != 1 {
			t.Errorf("%d slots without escape, want 1", n)
		}
		_, err := b.slot(0).Protocol(context.Background(), proto.Escape, nil)
		wantErr(t, "Protocol(escape)", err, ifd.ErrNotSupported)

		b = plug(t, p, &testCard{atr: atrT0})
		o := b.options()
		o.Escape = true
		b.startWith(o)
		if n := len(b.reader.Slots()); n != 2 {
			t.Fatalf("%d slots with escape, want 2", n)
		}
		raw, err := b.slot(1).Reset(context.Background())
		if err != nil || !bytes.Equal(raw, []byte{0xFF}) {
			t.Fatalf("ATR % X, %v", raw, err)
		}
		for i, id := range []proto.ID{proto.Escape, proto.Default} {
			e, err := b.slot(i).Protocol(context.Background(), proto.Escape, nil)
			if err != nil {
				t.Fatalf("slot %d, protocol %v: %v", i, id, err)
			}
			b.transmit(e, []byte{0xA0, 0x01}, []byte{0xA0, 0x01})
		}
	})
}
