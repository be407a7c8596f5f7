package card

import (
	"fmt"
	"strings"
)

// kind is a card that can be asked for by name.
type kind struct {
	name string
	make func(atr []byte) (Card, error) // atr nil: the card's own
}

// kinds lists the cards in the order in which texts name them.
func kinds() []kind {
	return []kind{
		{"piv", func(atr []byte) (Card, error) { return newPIVCard(atr) }},
		{"echo", func(atr []byte) (Card, error) {
			if atr == nil {
				return NewEcho(), nil
			}
			return NewEchoATR(atr), nil
		}},
		{"cardos", func(atr []byte) (Card, error) { return NewCardOS(atr), nil }},
		{"sim", func(atr []byte) (Card, error) { return NewSIM(atr), nil }},
		{"rutoken", func(atr []byte) (Card, error) { return NewRutoken(atr), nil }},
		{"24c02", func([]byte) (Card, error) { return New24C(256), nil }},
		{"24c16", func([]byte) (Card, error) { return New24C(2048), nil }},
		{"24c32", func([]byte) (Card, error) { return New24C(4096), nil }},
		{"sle4432", func([]byte) (Card, error) { return NewSLE4432(), nil }},
		{"sle4442", func([]byte) (Card, error) { return NewSLE4442(), nil }},
		{"sle4418", func([]byte) (Card, error) { return NewSLE4418(), nil }},
		{"sle4428", func([]byte) (Card, error) { return NewSLE4428(), nil }},
		{"eurochip", func([]byte) (Card, error) { return NewEurochip(), nil }},
	}
}

// Names lists the names New knows.
func Names() []string {
	var names []string
	for _, k := range kinds() {
		names = append(names, k.name)
	}
	return names
}

// New makes a fresh card of the named kind (see Names)
// with an ATR that suits the reader the card goes into; nil leaves the card its
// own, which offers T=1.
func New(name string, atr []byte) (Card, error) {
	for _, k := range kinds() {
		if k.name == name {
			return k.make(atr)
		}
	}
	return nil, fmt.Errorf("no virtual card is called %q: choose one of %s", name, strings.Join(Names(), ", "))
}
