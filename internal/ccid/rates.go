package ccid

import (
	"fmt"
	"math"
	"time"

	"openct/internal/atr"
	"openct/internal/ifd"
	"openct/internal/proto"
)

// speed is what reader and card are going to use: Fi and Di coded as TA1, and
// whether a PPS must ask the card for them.
type speed struct {
	fidi byte
	pps  bool // PPS1 is needed
}

// defaultFiDi is Fi 372, Di 1, what every card and reader starts with
// (ISO/IEC 7816-3, 8.3).
const defaultFiDi = 0x11

// rateTolerance: tables and factors round differently.
const rateTolerance = 1 // bit/s

// bitRate is the data rate in bit/s at a clock in kHz with the factors coded
// in fidi; 0 for reserved codes.
func bitRate(clock uint32, fidi byte) uint32 {
	f, okF := atr.Fi(fidi >> 4)
	d, okD := atr.Di(fidi & 0x0F)
	if !okF || !okD {
		return 0
	}
	return uint32(min(uint64(clock)*1000*uint64(d)/uint64(f), math.MaxUint32))
}

// chooseSpeed picks the fastest speed that card and reader share. table is the reader's list of rates, nil if every rate up to its
// highest will do. A card in specific mode leaves no choice; it is refused
// when the reader's table says that it cannot follow.
func (p Plan) chooseSpeed(a *atr.ATR, table []uint32) (speed, error) {
	ta1, ok := a.TA1()
	_, specific := a.Specific()
	if !ok {
		return speed{fidi: defaultFiDi}, nil
	}
	rate := bitRate(p.Clock, ta1)
	switch {
	case rate == 0:
		return speed{fidi: defaultFiDi}, nil
	case specific && table != nil && ta1 != defaultFiDi && !inTable(table, rate):
		return speed{}, fmt.Errorf("card insists on %d bit/s, which the reader cannot do: %w", rate, ifd.ErrNotSupported)
	case specific:
		return speed{fidi: ta1}, nil
	case p.quirk.noPPS, rate <= bitRate(p.Clock, defaultFiDi):
		return speed{fidi: defaultFiDi}, nil
	case p.canDo(rate, table):
		return speed{fidi: ta1, pps: true}, nil
	}
	// 97, 96, 95, 94: Fi 512 with Di 64, 32, 16, 8. A card takes any Di up to
	// the one it names.
	if ta1 > 0x94 && ta1 <= 0x97 {
		for fidi := ta1 - 1; fidi >= 0x94; fidi-- {
			if p.canDo(bitRate(p.Clock, fidi), table) {
				return speed{fidi: fidi, pps: true}, nil
			}
		}
	}
	return speed{fidi: defaultFiDi}, nil
}

func (p Plan) canDo(rate uint32, table []uint32) bool {
	return rate <= p.MaxRate && (table == nil || inTable(table, rate))
}

func inTable(table []uint32, rate uint32) bool {
	for _, r := range table {
		if int64(r)+rateTolerance >= int64(rate) && int64(r) <= int64(rate)+rateTolerance {
			return true
		}
	}
	return false
}

// parametersFor takes a card's parameters for protocol t from its ATR; fidi
// is what the speed is going to be.
func parametersFor(a *atr.ATR, t proto.ID, fidi byte) cardParameters {
	guard, _ := a.GuardTime()
	return cardParameters{
		t:       t,
		fidi:    fidi,
		crc:     a.CRC(),
		inverse: a.TS == atr.TSInverse,
		guard:   byte(guard),
		wi:      byte(a.WI()),
		bwiCwi:  byte(a.BWI()<<4 | a.CWI()),
		ifsc:    byte(a.IFSC()),
	}
}

// Floors of the waits for a card, and their ceiling: a waiting integer of 255
// means almost two hours.
const (
	minCardWait = 3 * time.Second
	maxCardWait = extensionLimit
	noRateWait  = time.Minute // nothing is known of the card's speed
)

// cardWait is how long the answer to one block or APDU may take if the reader
// asks for no more time: the longest command, the card's thinking, the longest
// answer (ISO/IEC 7816-3, 10.2 and 11.4.3).
func (p Plan) cardWait(a *atr.ATR, t proto.ID, fidi byte) time.Duration {
	f, okF := atr.Fi(fidi >> 4)
	d, okD := atr.Di(fidi & 0x0F)
	if a == nil || !okF || !okD {
		return noRateWait
	}
	r := atr.Rate{Clock: int(min(p.Clock, maxClock)) * 1000, F: f, D: d}
	guard := a.Guard(t, r)
	var wait time.Duration
	if t == proto.T0 {
		wwt := a.WWT(r)
		wait = max(261*guard+6*wwt, 5*guard+260*wwt)
	} else {
		wait = 260*guard + a.BWT(r) + 260*a.CWT(r) + time.Second + p.quirk.t1Extra
	}
	return min(max(wait, minCardWait), maxCardWait)
}
