package atr

import "openct/internal/proto"

// Defaults where the card says nothing (ISO/IEC 7816-3, 8.3, 10.2, 11.4).
const (
	DefaultFi   = 372
	DefaultDi   = 1
	defaultWI   = 10
	DefaultIFSC = 32
	defaultBWI  = 4
	defaultCWI  = 13

	maxIFSC = 254
	maxBWI  = 9 // higher ones are reserved
)

// Protocols are the protocols the card speaks after this reset, in the order
// it names them, at least one. In specific mode it is that one alone.
func (a *ATR) Protocols() []proto.ID {
	if t, ok := a.Specific(); ok {
		return []proto.ID{t}
	}
	var ts []proto.ID
	var seen uint16
	for _, g := range a.Groups {
		if g.TD == Absent {
			continue
		}
		t := g.TD & 0x0F
		if t != global && seen&(1<<t) == 0 {
			seen |= 1 << t
			ts = append(ts, proto.ID(t))
		}
	}
	if ts == nil {
		return []proto.ID{proto.T0}
	}
	return ts
}

// Default is the protocol the card uses unless another is selected: the one of
// the specific mode, else the first it names, else 0.
func (a *ATR) Default() proto.ID { return a.Protocols()[0] }

// Offers says whether the card speaks protocol t after this reset.
func (a *ATR) Offers(t proto.ID) bool {
	for _, p := range a.Protocols() {
		if p == t {
			return true
		}
	}
	return false
}

// Specific says whether TA2 puts the card in specific mode: it speaks t at
// once and must not be sent a PPS.
func (a *ATR) Specific() (t proto.ID, ok bool) {
	if ta2 := a.ta2(); ta2 != Absent {
		return proto.ID(ta2 & 0x0F), true
	}
	return 0, false
}

// Implicit says whether TA2 tells not to use TA1's Fi and Di, but values that
// the reader knows without being told.
func (a *ATR) Implicit() bool {
	ta2 := a.ta2()
	return ta2 != Absent && ta2&0x10 != 0
}

// ta2 is TA2, or Absent. Where TD1 names T=15, which the standard does not
// allow and cards do all the same, the TA that follows tells voltage classes.
func (a *ATR) ta2() int {
	if len(a.Groups) < 2 || a.Groups[1].T == global {
		return Absent
	}
	return a.Groups[1].TA
}

// Contactless says whether a reader made this ATR up for a contactless card:
// such a card has none, and the reader announces T=0 and T=1 with the bytes
// 8n 80 01 (PC/SC part 3, 3.1.3.2.3). What it speaks to the reader is as good
// as T=1.
func (a *ATR) Contactless() bool {
	bare := func(g Group, td int) bool {
		return g.TA == Absent && g.TB == Absent && g.TC == Absent && g.TD == td
	}
	return len(a.Groups) == 3 && bare(a.Groups[0], 0x80) && bare(a.Groups[1], 0x01) && bare(a.Groups[2], Absent)
}

// TA1 is the byte with FI (high nibble) and DI (low nibble), 11 if the card
// did not send it.
func (a *ATR) TA1() (b byte, ok bool) {
	if ta := a.Groups[0].TA; ta != Absent {
		return byte(ta), true
	}
	return 0x11, false
}

// FiDi are the factors of TA1; the defaults when TA1 is absent or reserved.
func (a *ATR) FiDi() (fi, di int) {
	b, _ := a.TA1()
	fi, okF := Fi(b >> 4)
	di, okD := Di(b & 0x0F)
	if !okF || !okD {
		return DefaultFi, DefaultDi
	}
	return fi, di
}

// GuardTime is the extra guard time N of TC1, 0 to 255; 255 is special (see
// Guard). ok says whether the card sent it.
func (a *ATR) GuardTime() (n int, ok bool) {
	if tc := a.Groups[0].TC; tc != Absent {
		return tc, true
	}
	return 0, false
}

// WI is T=0's waiting time integer, 1 to 255.
func (a *ATR) WI() int {
	if len(a.Groups) > 1 && a.Offers(0) && a.Groups[1].TC > 0 {
		return a.Groups[1].TC
	}
	return defaultWI
}

// IFSC is the longest information field the card can take in T=1, 1 to 254.
func (a *ATR) IFSC() int {
	switch ta := a.firstT1(func(g Group) int { return g.TA }); ta {
	case Absent, 0x00:
		return DefaultIFSC
	default: // FF is reserved, and seen on cards that mean "as long as can be"
		return min(ta, maxIFSC)
	}
}

// BWI is T=1's block waiting time integer, 0 to 9.
func (a *ATR) BWI() int {
	if tb := a.firstT1(func(g Group) int { return g.TB }); tb != Absent {
		return min(tb>>4, maxBWI)
	}
	return defaultBWI
}

// CWI is T=1's character waiting time integer, 0 to 15.
func (a *ATR) CWI() int {
	if tb := a.firstT1(func(g Group) int { return g.TB }); tb != Absent {
		return tb & 0x0F
	}
	return defaultCWI
}

// CRC says whether T=1 blocks end in a CRC; otherwise it is an LRC.
func (a *ATR) CRC() bool {
	tc := a.firstT1(func(g Group) int { return g.TC })
	return tc != Absent && tc&1 != 0
}

// firstT1 finds the first byte of a kind that is specific to T=1: in a group after
// the second whose TD before names T=1. Groups one and two are global or T=0's
// whatever TD1 says (ISO/IEC 7816-3, 8.2.3), but see ta2.
func (a *ATR) firstT1(kind func(Group) int) int {
	for i, g := range a.Groups {
		if i >= 2 && g.T == int(proto.T1) && kind(g) != Absent {
			return kind(g)
		}
	}
	return Absent
}
