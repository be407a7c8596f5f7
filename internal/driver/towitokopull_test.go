//go:build go1.25

package driver

import (
	"bytes"
	"context"
	"errors"
	"testing"
	"testing/synctest"

	"openct/internal/ifd"
	"openct/internal/vusb/card"
	virtual "openct/internal/vusb/towitoko"
)

// A memory card that is taken out, or exchanged for another one, while it is read does
// not end in bytes that nobody has read from it.
func TestTowitokoPulledWhileRead(t *testing.T) {
	full := func() *card.Memory {
		m := card.NewSLE4432()
		copy(m.Bytes()[4:], bytes.Repeat([]byte{0xFF}, m.Size()-4))
		return m
	}
	for _, tt := range []struct {
		name string
		card *card.Memory
		pull bool
		to   card.Card // what is in the slot then
		err  error
	}{
		{"stays", card.NewSLE4432(), false, nil, nil},
		{"stays, all bits set", full(), false, nil, nil},
		{"taken out", card.NewSLE4432(), true, nil, ifd.ErrNoCard},
		{"exchanged", card.NewSLE4432(), true, card.NewSLE4432(), ifd.ErrNoCard},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx := context.Background()
				v := virtual.New(virtual.External, tt.card)
				core := onTowitoko(t, newVirtualLine(v))
				s := slotOf(t, core, 0)
				if _, err := s.Reset(ctx); err != nil {
					t.Fatal(err)
				}
				if tt.pull {
					answers := 0
					v.Change = func(_ int, out []byte) []byte {
						if answers++; answers == 4 {
							v.Insert(0, tt.to)
						}
						return out
					}
				}
				buf := make([]byte, 100)
				n, err := s.ReadMemory(ctx, 0, buf)
				if !errors.Is(err, tt.err) || err == nil && !bytes.Equal(buf[:n], tt.card.Bytes()[:len(buf)]) {
					t.Errorf("read %x, %v", buf[:n], err)
				}
				st, err := s.Status(ctx)
				if in := !tt.pull || tt.to != nil; err != nil || st.Present != in {
					t.Errorf("status %+v, %v", st, err)
				}
				if _, err := s.ReadMemory(ctx, 0, buf); (err != nil) != tt.pull {
					t.Errorf("next read: %v", err)
				}
			})
		})
	}
}
