//go:build go1.25

package model_test

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"openct/internal/ifd"
	"openct/internal/vusb/card"
	"openct/internal/vusb/model"
	"openct/internal/vusb/token"
)

// A CardMan and the cards that come and go in it.
func TestCardManCards(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := token.NewCardMan(nil)
		_, slot := openToken(t, "cardman", r)
		ctx := t.Context()
		read := func() error {
			_, err := slot.Transmit(ctx, []byte{0, 0xB0, 0, 2, 2}, nil)
			return err
		}
		if _, err := slot.Reset(ctx); !errors.Is(err, ifd.ErrNoCard) {
			t.Errorf("no card: reset: %v", err)
		}
		r.Insert(newTestCard(model.ATR("cardman")))
		if st, err := slot.Status(ctx); err != nil || !st.Present || !st.Changed {
			t.Errorf("card in: %+v, %v", st, err)
		}
		if _, err := slot.Reset(ctx); err != nil {
			t.Fatalf("card in: reset: %v", err)
		}
		if err := read(); err != nil {
			t.Errorf("card in: %v", err)
		}
		// Pulled in the middle: noticed when no answer comes.
		start := time.Now()
		r.Remove()
		if err := read(); !errors.Is(err, ifd.ErrNoCard) || time.Since(start) > 21*time.Second {
			t.Errorf("card pulled: %v after %v", err, time.Since(start))
		}
		// Exchanged while nobody looked: not the card that was reset.
		r.Insert(newTestCard(model.ATR("cardman")))
		if _, err := slot.Reset(ctx); err != nil {
			t.Fatalf("next card: reset: %v", err)
		}
		r.Insert(newTestCard(model.ATR("cardman")))
		if st, err := slot.Status(ctx); err != nil || !st.Present || !st.Changed {
			t.Errorf("exchanged: %+v, %v", st, err)
		}
		if err := read(); err == nil {
			t.Error("exchanged: the new card has a session without a reset")
		}
		// A card of T=1 is reset, and refused afterwards.
		r.Insert(newTestCard(card.T1ATR("ONE")))
		if _, err := slot.Reset(ctx); err != nil {
			t.Errorf("T=1 card: reset: %v", err)
		}
		if err := read(); !errors.Is(err, ifd.ErrNotSupported) {
			t.Errorf("T=1 card: %v", err)
		}
	})
}

// A card has no power once its reader was closed.
func TestCardManClose(t *testing.T) {
	r := token.NewCardMan(newTestCard(model.ATR("cardman")))
	t.Run("reader", func(t *testing.T) {
		_, slot := openToken(t, "cardman", r)
		if _, err := slot.Reset(t.Context()); err != nil {
			t.Fatal(err)
		}
		if !r.Powered() {
			t.Error("the card has no power after its reset")
		}
	})
	if r.Powered() {
		t.Error("the card has power after the reader was closed")
	}
}
