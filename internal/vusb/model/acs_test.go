//go:build go1.25

package model_test

import (
	"context"
	"errors"
	"log/slog"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"openct/internal/driver"
	"openct/internal/ifd"
	"openct/internal/proto"
	"openct/internal/reader"
	"openct/internal/usb"
	"openct/internal/vusb"
	"openct/internal/vusb/acs"
	"openct/internal/vusb/card"
	"openct/internal/vusb/model"
)

// acsModel is a virtual reader of which cards come and go.
type acsModel interface {
	vusb.Model
	Insert(card.Card)
}

// acsModels has one for each driver.
var acsModels = map[string]func(card.Card) acsModel{
	"pertosmart1030": func(c card.Card) acsModel { return acs.NewACR30(c) },
	"acr30u":         func(c card.Card) acsModel { return acs.NewACR30(c) },
	"pertosmart1038": func(c card.Card) acsModel { return acs.NewACR38(c) },
}

// counter counts transfers.
type counter struct {
	vusb.Model
	n atomic.Int64
}

func (c *counter) Control(ctx context.Context, s usb.Setup, out []byte, length int) ([]byte, error) {
	c.n.Add(1)
	return c.Model.Control(ctx, s, out, length)
}

func (c *counter) Out(ctx context.Context, ep uint8, data []byte) error {
	c.n.Add(1)
	return c.Model.Out(ctx, ep, data)
}

func (c *counter) In(ctx context.Context, ep uint8, max int) ([]byte, error) {
	c.n.Add(1)
	return c.Model.In(ctx, ep, max)
}

// openACS opens a virtual reader with its driver. The reader's name is what the
// driver gives it.
func openACS(t *testing.T, name string, m vusb.Model) (*vusb.Port, *reader.Slot, string) {
	t.Helper()
	port := vusb.Plug("virtual", m)
	dev, err := port.Open()
	if err != nil {
		t.Fatal(err)
	}
	e, _ := driver.ByName(name)
	r, err := e.Open(dev, ifd.Options{Name: e.Reader})
	if err != nil {
		t.Fatal(err)
	}
	rd := reader.New(r, slog.New(slog.DiscardHandler), func(int, ifd.Status) {})
	t.Cleanup(func() { rd.Close() })
	s, err := rd.Slot(0)
	if err != nil {
		t.Fatal(err)
	}
	return port, s, r.Name()
}

// A reader tells of its cards, and nobody asks it.
func TestACSCards(t *testing.T) {
	for name, newModel := range acsModels {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := newModel(nil)
				count := &counter{Model: m}
				_, slot, _ := openACS(t, name, count)
				ctx := t.Context()
				moves := func(c card.Card, in bool) {
					t.Helper()
					m.Insert(c)
					time.Sleep(time.Second)
					if slot.Present() != in {
						t.Fatalf("present: %v, want %v", !in, in)
					}
				}
				read := func() error {
					_, err := slot.Transmit(ctx, []byte{0, 0xB0, 0, 2, 2}, nil)
					return err
				}
				if _, err := slot.Reset(ctx); !errors.Is(err, ifd.ErrNoCard) {
					t.Errorf("no card: reset: %v", err)
				}
				time.Sleep(time.Second)
				before := count.n.Load()
				time.Sleep(24 * time.Hour)
				if n := count.n.Load(); n != before {
					t.Errorf("%d transfers in a day in which nothing happened", n-before)
				}
				moves(newTestCard(nil), true)
				if _, err := slot.Reset(ctx); err != nil {
					t.Fatalf("card in: reset: %v", err)
				}
				if err := read(); err != nil {
					t.Errorf("card in: %v", err)
				}
				moves(nil, false)
				if err := read(); !errors.Is(err, ifd.ErrNoCard) {
					t.Errorf("card out: %v", err)
				}
				moves(newTestCard(nil), true)
				if _, err := slot.Reset(ctx); err != nil {
					t.Fatalf("next card: reset: %v", err)
				}
				// Exchanged for another one while a command is on its way.
				m.Insert(newTestCard(nil))
				if err := read(); !errors.Is(err, ifd.ErrNoCard) {
					t.Errorf("exchanged: %v", err)
				}
				if _, err := slot.Reset(ctx); err != nil {
					t.Errorf("exchanged: reset: %v", err)
				}
				if err := read(); err != nil {
					t.Errorf("exchanged, after a reset: %v", err)
				}
				// Pulled in the middle.
				m.Insert(nil)
				if err := read(); !errors.Is(err, ifd.ErrNoCard) {
					t.Errorf("pulled: %v", err)
				}
				if st, err := slot.Status(ctx); err != nil || st.Present {
					t.Errorf("pulled: %+v, %v", st, err)
				}
			})
		})
	}
}

// A card of both protocols speaks either, and the one that was asked for last.
func TestACSProtocols(t *testing.T) {
	both := []byte{0x3B, 0xB7, 0x94, 0x00, 0xC0, 0x24, 0x31, 0xFE, 0x65, 0x53, 0x50, 0x4B, 0x32, 0x33, 0x90, 0x00, 0xB4}
	for name, newModel := range acsModels {
		t.Run(name, func(t *testing.T) {
			_, slot, _ := openACS(t, name, newModel(newTestCard(both)))
			ctx := t.Context()
			if _, err := slot.Reset(ctx); err != nil {
				t.Fatal(err)
			}
			for _, p := range []int{1, 0, 1} {
				if err := slot.SetProtocol(ctx, proto.ID(p)); err != nil {
					t.Fatalf("T=%d: %v", p, err)
				}
				got, err := slot.Transmit(ctx, []byte{0, 0xB0, 0, 2, 2}, nil)
				if err != nil || len(got) != 4 {
					t.Errorf("T=%d: % X, %v", p, got, err)
				}
			}
		})
	}
}

// An ACR30 that acr30u serves is called what it calls itself.
func TestACR30UName(t *testing.T) {
	for name, want := range map[string]string{
		"acr30u": "ACR30 VIRT", "pertosmart1030": "PertoSmart (AC1030, USB)", "pertosmart1038": "PertoSmart EMV (AC1038, USB)",
	} {
		m, err := model.New(name, "echo")
		if err != nil {
			t.Fatal(err)
		}
		if _, _, got := openACS(t, name, m); got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
}

// The reader is pulled while nothing happens.
func TestACSPulledIdle(t *testing.T) {
	for name, newModel := range acsModels {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				port, slot, _ := openACS(t, name, newModel(nil))
				time.Sleep(time.Minute)
				port.Unplug()
				synctest.Wait()
				if _, err := slot.Reset(t.Context()); !errors.Is(err, usb.ErrUnplugged) {
					t.Errorf("reset: %v", err)
				}
			})
		})
	}
}
