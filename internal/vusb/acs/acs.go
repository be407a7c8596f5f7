// Package acs has virtual readers of Advanced Card Systems: the ACR30 on USB
// and on a serial line, and the ACR38 in its own protocol.
package acs

import (
	"encoding/binary"

	"openct/internal/atr"
	"openct/internal/proto"
	"openct/internal/vusb"
	"openct/internal/vusb/card"
)

// Instructions (doc/devices/acs.md).
const (
	insStatus   = 0x01
	insSelect   = 0x02
	insNotify   = 0x06
	insOption   = 0x07
	insReset    = 0x80
	insPowerOff = 0x81
	insT0       = 0xA0
	insT1       = 0xA1
)

// Types of cards.
const (
	typeAuto = 0x00
	typeT0   = 0x0C
	typeT1   = 0x0D
)

// What a command comes to, before a reader puts its own code for it.
type result int

const (
	done result = iota
	noCard
	noPower
	unknown  // instruction
	wrong    // type of card
	badBytes // length of a command
)

// reader is what the models have in common. Its owner calls it from one
// goroutine at a time.
type reader struct {
	model string // ten bytes

	card     card.Card // nil: none
	t0       *card.T0
	t1       *card.T1
	offered  *atr.ATR
	selected byte
	speaks   proto.ID
	powered  bool
	emv      bool // refuses ATRs that are none of EMV's
}

func (r *reader) insert(c card.Card) {
	r.card, r.powered, r.offered = c, false, nil
	if c == nil {
		return
	}
	r.t0, r.t1 = card.NewT0(c), card.NewT1(c, card.T1Options{})
	r.offered, _ = atr.Parse(c.ATR())
}

// power is the state after plugging.
func (r *reader) power() { r.selected, r.powered, r.emv = typeAuto, false, false }

// run runs a command.
func (r *reader) run(ins byte, data []byte) ([]byte, result) {
	switch ins {
	case insStatus:
		return r.status(), done
	case insOption:
		if len(data) != 1 {
			return nil, badBytes
		}
		r.emv = data[0]&0x10 != 0
		return nil, done
	case insSelect:
		if len(data) != 1 {
			return nil, badBytes
		}
		if data[0] != typeAuto && data[0] != typeT0 && data[0] != typeT1 {
			return nil, wrong
		}
		r.selected = data[0]
		return nil, done
	case insPowerOff:
		r.powered = false
		return nil, done
	case insReset, insT0, insT1:
	default:
		return nil, unknown
	}
	switch {
	case r.card == nil:
		return nil, noCard
	case ins == insReset:
		return r.reset()
	case !r.powered:
		return nil, noPower
	case ins == insT1 && r.speaks == proto.T1:
		return r.t1.Block(data), done
	case ins == insT0 && r.speaks == proto.T0:
		return r.t0.TPDU(data), done
	}
	return nil, wrong
}

func (r *reader) status() []byte {
	s := append([]byte(r.model), 0xFF, 0xFF, 0x30, 0x64, r.selected, 0)
	switch {
	case r.card == nil:
	case r.powered:
		s[15] = 3
	default:
		s[15] = 1
	}
	return s
}

// reset powers the card up, and selects the protocol that was asked for where
// the card offers it.
func (r *reader) reset() ([]byte, result) {
	answer := r.t0.Reset()
	r.t1.Reset()
	r.powered, r.speaks = true, proto.T0
	if r.offered != nil {
		r.speaks = r.offered.Default()
		for id, t := range map[proto.ID]byte{proto.T0: typeT0, proto.T1: typeT1} {
			if r.selected == t && r.offered.Offers(id) {
				r.speaks = id
			}
		}
	}
	return answer, done
}

// describe makes descriptors of a reader with one vendor-class interface. Speed,
// power and strings are guesses.
func describe(product uint16, packet0 byte, speed vusb.Speed, name string, endpoints ...[]byte) vusb.Descriptors {
	dev := []byte{
		18, 1, 0x10, 0x01, 0x00, 0x00, 0x00, packet0,
		0x2F, 0x07, 0, 0, 0x00, 0x01, 1, 2, 0, 1,
	}
	binary.LittleEndian.PutUint16(dev[10:], product)
	config := []byte{
		9, 2, 0, 0, 1, 1, 0, 0x80, 50,
		9, 4, 0, 0, byte(len(endpoints)), 0xFF, 0, 0, 0,
	}
	for _, e := range endpoints {
		config = append(config, e...)
	}
	binary.LittleEndian.PutUint16(config[2:], uint16(len(config)))
	return vusb.Descriptors{Device: dev, Config: config, Strings: []string{"ACS", name}, Speed: speed}
}
