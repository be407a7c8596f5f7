package vusb

import (
	"fmt"
	"strings"

	"openct/internal/vusb/card"
)

// model is how a virtual counterpart of a driver's devices is made.
type model struct {
	driver string
	make   func(card.Card) Model
}

// models lists them by driver name, in the order of the driver table.
func models() []model {
	return []model{
		{"etoken64", func(c card.Card) Model { return NewEToken64(c) }},
		{"etoken", func(c card.Card) Model { return NewEToken(c) }},
		{"ccid", func(c card.Card) Model { return NewCCID(CCIDProfile{}, c) }},
	}
}

// New makes the virtual device for a driver, with a fresh card of the named
// kind in it ("piv", "echo" ...; see card.New).
func New(driver, cardName string) (Model, error) {
	var known []string
	for _, m := range models() {
		if m.driver == driver {
			c, err := card.New(cardName)
			if err != nil {
				return nil, err
			}
			return m.make(c), nil
		}
		known = append(known, m.driver)
	}
	return nil, fmt.Errorf("no virtual device for driver %q; there are: %s", driver, strings.Join(known, ", "))
}
