// Package model makes the virtual device for a driver by its name.
package model

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"openct/internal/vusb"
	"openct/internal/vusb/acs"
	"openct/internal/vusb/card"
	"openct/internal/vusb/ccidreader"
	"openct/internal/vusb/gempc"
	"openct/internal/vusb/kaan"
	"openct/internal/vusb/phoenix"
	"openct/internal/vusb/serialline"
	"openct/internal/vusb/smartboard"
	"openct/internal/vusb/token"
	"openct/internal/vusb/towitoko"
)

// model is how a virtual counterpart of a driver's devices is made.
type model struct {
	driver string
	atr    []byte // the card's ATR, where it cannot be any; nil: its own
	make   func(card.Card) vusb.Model
}

// models lists them by driver name, in the order of the driver table. An
// ePass3000, an e-gate and a CardMan know T=0 alone, and have an ATR that does not make
// clients take the card in it for their own. The iKey 2032 and the Rutoken hand
// out ATRs of one length only.
func models() []model {
	t0 := card.T0ATR("OpenCT")
	return []model{
		{"etoken64", nil, func(c card.Card) vusb.Model { return token.NewEToken64(c) }},
		{"etoken", nil, func(c card.Card) vusb.Model { return token.NewEToken(c) }},
		{"ikey2k", token.IKey2kATR[:], func(c card.Card) vusb.Model { return token.NewIKey2k(c) }},
		{"ikey3k", nil, func(c card.Card) vusb.Model { return token.NewIKey3k(c) }},
		{"ePass3000", t0, func(c card.Card) vusb.Model { return token.NewEPass3000(c) }},
		{"egate", t0, func(c card.Card) vusb.Model { return token.NewEGate(c) }},
		{"eutron", nil, func(c card.Card) vusb.Model { return token.NewEutron(c) }},
		{"starkey", nil, func(c card.Card) vusb.Model { return token.NewStarKey(c) }},
		{"rutoken", card.RutokenATR[:], func(c card.Card) vusb.Model { return token.NewRutoken(c) }},
		{"cardman", t0, func(c card.Card) vusb.Model { return token.NewCardMan(c) }},
		{"pertosmart1030", nil, func(c card.Card) vusb.Model { return acs.NewACR30(c) }},
		{"acr30u", nil, func(c card.Card) vusb.Model { return acs.NewACR30(c) }},
		{"pertosmart1038", nil, func(c card.Card) vusb.Model { return acs.NewACR38(c) }},
		{"cyberjack", nil, func(c card.Card) vusb.Model { return token.NewCyberJack(c) }},
		{"phoenix", nil, func(c card.Card) vusb.Model { return serialline.NewFTDI(phoenix.New(c)) }},
		{"smartmouse", nil, func(c card.Card) vusb.Model { return serialline.NewFTDI(phoenix.NewSmartMouse(c)) }},
		{"smartboard", nil, func(c card.Card) vusb.Model { return serialline.NewFTDI(smartboard.New(c)) }},
		{"towitoko", nil, func(c card.Card) vusb.Model { return serialline.NewFTDI(towitoko.New(towitoko.External, c)) }},
		{"gempc", nil, func(c card.Card) vusb.Model { return serialline.NewFTDI(gempc.New(c)) }},
		{"kaan", nil, func(c card.Card) vusb.Model { return serialline.NewFTDI(newKaan(c, false)) }},
		{"b1", nil, func(c card.Card) vusb.Model { return serialline.NewFTDI(newKaan(c, true)) }},
		{"ccid", nil, func(c card.Card) vusb.Model { return ccidreader.New(ccidreader.Profile{}, c) }},
	}
}

// typedPIN is what the user types at a keypad: a PIV card's PIN.
const typedPIN = "123456"

// newKaan is a terminal with a keypad.
func newKaan(c card.Card, b1 bool) serialline.Reader {
	t := kaan.New(c)
	t.B1, t.PIN = b1, typedPIN
	return t
}

// New makes the virtual device for a driver, with a fresh card of the named
// kind in it ("piv", "echo" ...; see card.New). "ccid:P3" is the CCID reader of
// that profile (ccidreader.Profiles). A Rutoken translates what it
// carries: a PIV card is not found in it, the card "rutoken" is.
func New(driver, cardName string) (vusb.Model, error) {
	c, err := NewCard(driver, cardName)
	if err != nil {
		return nil, err
	}
	return NewWith(driver, c)
}

// NewCard makes the card for New alone.
func NewCard(driver, cardName string) (card.Card, error) {
	m, err := find(driver)
	if err != nil {
		return nil, err
	}
	c, err := card.New(cardName, m.atr)
	if err != nil {
		return nil, err
	}
	if _, ok := c.(*card.Memory); ok && !slices.Contains(memoryReaders, m.driver) {
		return nil, fmt.Errorf("virtual device for driver %q holds no memory card such as %q; these do: %s",
			driver, cardName, strings.Join(memoryReaders, ", "))
	}
	return c, nil
}

// ErrFixed says that a device's card cannot be taken out.
var ErrFixed = errors.New("this device's card cannot be taken out")

// Insert puts a card into a virtual device, into its first slot; nil takes it out.
func Insert(m vusb.Model, c card.Card) error {
	err := ErrFixed
	put := func(reader any) {
		switch r := reader.(type) {
		case interface{ Insert(card.Card) }:
			r.Insert(c)
			err = nil
		case interface{ Insert(int, card.Card) }:
			r.Insert(0, c)
			err = nil
		}
	}
	switch r := m.(type) {
	case *serialline.FTDI:
		r.Do(func(r serialline.Reader) { put(r) })
	case *ccidreader.Reader:
		if c != nil {
			put(r)
			break
		}
		r.Remove(0)
		err = nil
	default:
		put(r)
	}
	return err
}

// memoryReaders are the drivers whose virtual devices can hold a memory card.
var memoryReaders = []string{"towitoko", "kaan", "b1"}

// NewWith is New with a card of the caller's.
func NewWith(driver string, c card.Card) (vusb.Model, error) {
	m, err := find(driver)
	if err != nil {
		return nil, err
	}
	return m.make(c), nil
}

// ATR is the answer to reset a card needs in the virtual device for a driver,
// nil if any will do that offers T=1.
func ATR(driver string) []byte {
	m, _ := find(driver)
	return m.atr
}

// serialReaders are the readers at a serial line.
var serialReaders = map[string]func(card.Card) serialline.Reader{
	"phoenix":        func(c card.Card) serialline.Reader { return phoenix.New(c) },
	"smartmouse":     func(c card.Card) serialline.Reader { return phoenix.NewSmartMouse(c) },
	"smartboard":     func(c card.Card) serialline.Reader { return smartboard.New(c) },
	"towitoko":       func(c card.Card) serialline.Reader { return towitoko.New(towitoko.External, c) },
	"kaan":           func(c card.Card) serialline.Reader { return newKaan(c, false) },
	"b1":             func(c card.Card) serialline.Reader { return newKaan(c, true) },
	"pertosmart1030": func(c card.Card) serialline.Reader { return acs.NewACR30S(c) },
	"gempc":          func(c card.Card) serialline.Reader { return gempc.New(c) },
}

// Line makes the virtual reader at a serial line for a driver, with a card of the
// caller's; nil if there is none.
func Line(driver string, c card.Card) serialline.Reader {
	if make := serialReaders[driver]; make != nil {
		return make(c)
	}
	return nil
}

// serialModel is a reader behind a USB-serial adapter. words say, with commas
// between them, what is special: "t0" or "inverse" about the card's ATR,
// "instant" that no byte takes time, "serial" nothing, for a reader that is on
// USB without any word.
func serialModel(name, words string, newReader func(card.Card) serialline.Reader) (model, error) {
	m := model{driver: name}
	instant := false
	for _, w := range strings.Split(words, ",") {
		switch w {
		case "t0":
			m.atr = card.T0ATR("OpenCT")
		case "inverse":
			m.atr = []byte{0x3F, 0x03, 'I', 'N', 'V'}
		case "instant":
			instant = true
		case "serial":
		default:
			return model{}, fmt.Errorf("virtual device %q has no variant %q; the variants are t0, inverse, instant, serial", name, w)
		}
	}
	m.make = func(c card.Card) vusb.Model {
		a := serialline.NewFTDI(newReader(c))
		a.Instant = instant
		return a
	}
	return m, nil
}

func find(driver string) (model, error) {
	if number, ok := strings.CutPrefix(driver, "ccid:"); ok {
		p, ok := ccidreader.ProfileNamed(number)
		if !ok {
			return model{}, fmt.Errorf("no CCID profile %q", number)
		}
		return model{driver, nil, func(c card.Card) vusb.Model {
			r := ccidreader.New(p, c)
			r.PIN = typedPIN
			return r
		}}, nil
	}
	if name, words, ok := strings.Cut(driver, ":"); ok && serialReaders[name] != nil {
		return serialModel(name, words, serialReaders[name])
	}
	var known []string
	for _, m := range models() {
		if m.driver == driver {
			return m, nil
		}
		known = append(known, m.driver)
	}
	return model{}, fmt.Errorf("no virtual device for driver %q; drivers with a virtual device: %s", driver, strings.Join(known, ", "))
}
