package model_test

import (
	"errors"
	"slices"
	"testing"

	"openct/internal/driver"
	"openct/internal/vusb/card"
	"openct/internal/vusb/model"
)

// A reader's card can be taken out and put in again, a token's cannot.
func TestInsert(t *testing.T) {
	fixed := []string{
		"etoken64", "etoken", "ikey2k", "ikey3k", "ePass3000", "egate", "eutron", "starkey", "rutoken",
	}
	for _, e := range driver.Table() {
		if e.Verified == driver.Untested || e.Name == "cm4000" || e.Connect != nil { // which are no USB devices
			continue
		}
		name := e.Name
		t.Run(name, func(t *testing.T) {
			c, err := model.NewCard(name, "echo")
			if err != nil {
				t.Fatal(err)
			}
			m, err := model.NewWith(name, c)
			if err != nil {
				t.Fatal(err)
			}
			for _, c := range []card.Card{nil, c} {
				if err := model.Insert(m, c); errors.Is(err, model.ErrFixed) != slices.Contains(fixed, name) {
					t.Errorf("card %v: %v", c != nil, err)
				}
			}
		})
	}
}
