package vusb_test

import (
	"errors"
	"testing"

	"openct/internal/usb"
	"openct/internal/vusb"
	"openct/internal/vusb/card"
	"openct/internal/vusb/token"
)

func TestClaimsAreExclusive(t *testing.T) {
	port := vusb.Plug("virtual", token.NewEToken64(card.NewEcho()))
	a, err := port.Open()
	if err != nil {
		t.Fatal(err)
	}
	b, err := port.Open()
	if err != nil {
		t.Fatal(err)
	}
	if err := a.Claim(0, 0); err != nil {
		t.Fatal(err)
	}
	if err := b.Claim(0, 0); !errors.Is(err, usb.ErrBusy) {
		t.Errorf("second claim: got %v, want %v", err, usb.ErrBusy)
	}
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	if err := b.Claim(0, 0); err != nil {
		t.Errorf("claim after the first owner closed: %v", err)
	}
	if err := b.Claim(1, 0); !errors.Is(err, usb.ErrNotFound) {
		t.Errorf("claim of no interface: got %v, want %v", err, usb.ErrNotFound)
	}
}
