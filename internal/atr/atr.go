// Package atr reads a card's answer to reset and does the protocol and
// parameters selection (PPS) that may follow it, both after ISO/IEC 7816-3.
//
//	TS T0 [TA1][TB1][TC1][TD1] [TA2][TB2][TC2][TD2] ... T1..TK [TCK]
//
// Protocols are the plain T= numbers, 0 to 14. Bytes come from a card and are
// not trusted: whatever they are, the result is an ATR, an error, or both.
// Many cards in use send an ATR that breaks the standard behind the bytes that
// matter; of those, what can be read is used, and the error says what is wrong.
package atr

import (
	"errors"
	"fmt"
	"strings"
)

// MaxLen is the longest answer to reset, TS included (ISO/IEC 7816-3, 8.2.1).
const MaxLen = 33

// First byte, TS: the convention of the bytes that follow. The reader of the
// line has converted them already; see Invert.
const (
	TSDirect  = 0x3B
	TSInverse = 0x3F
)

// Bits of T0 and TDi that announce interface bytes.
const (
	announceTA = 0x10
	announceTB = 0x20
	announceTC = 0x40
	announceTD = 0x80
)

// global is the T number of bytes that concern no protocol: clock stop,
// voltage classes (ISO/IEC 7816-3, 8.2.3).
const global = 15

// What can be wrong with an answer to reset; test with errors.Is.
var (
	// ErrInvalid: the bytes do not tell which protocol the card speaks.
	ErrInvalid = errors.New("not a valid answer to reset")

	// ErrFlawed: the bytes tell the protocol, but break the standard
	// elsewhere: some are missing at the end or too many, or TCK is wrong.
	// Parse returns what it could read, and the caller may use it.
	ErrFlawed = errors.New("answer to reset has errors")
)

// Absent stands for an interface byte the card did not send.
const Absent = -1

// Group is one group of interface bytes, each 0 to 255 or Absent.
type Group struct {
	// T is the protocol that the TD before this group named, 15 for global
	// bytes, Absent for the first group.
	T              int
	TA, TB, TC, TD int
}

// ATR is an answer to reset, taken apart. Read it through its methods; they
// know the defaults.
type ATR struct {
	Raw        []byte  // as received, a copy
	TS         byte    // TSDirect or TSInverse
	Groups     []Group // Groups[0] has TA1, TB1, TC1, TD1; never empty
	Historical []byte  // 0 to 15 bytes, part of Raw
	TCK        int     // check byte, or Absent
}

// Parse takes an answer to reset apart. The error wraps ErrInvalid (the ATR is
// nil) or ErrFlawed (the ATR has what could be read; interface bytes that are
// missing are Absent, so that their defaults apply).
func Parse(raw []byte) (*ATR, error) {
	if len(raw) < 2 {
		return nil, fmt.Errorf("%w: %d bytes, need 2", ErrInvalid, len(raw))
	}
	if raw[0] != TSDirect && raw[0] != TSInverse {
		return nil, fmt.Errorf("%w: first byte %02X, want 3B or 3F", ErrInvalid, raw[0])
	}
	a := &ATR{Raw: append([]byte(nil), raw...), TS: raw[0], TCK: Absent}
	var flaws []string
	if len(raw) > MaxLen {
		flaws = append(flaws, fmt.Sprintf("%d bytes, at most %d allowed", len(raw), MaxLen))
	}
	body := a.Raw[1:min(len(raw), MaxLen)] // T0 and what follows it

	rest, checked, whole := a.interfaceBytes(body)
	if !whole {
		if body[0]&announceTD != 0 && a.Groups[0].TD == Absent {
			return nil, fmt.Errorf("%w: ends before TD1, which names the protocol", ErrInvalid)
		}
		flaws = append(flaws, fmt.Sprintf("ends within interface byte group %d", len(a.Groups)))
	}
	k := int(body[0] & 0x0F)
	if whole && len(rest) < k {
		whole = false
		flaws = append(flaws, fmt.Sprintf("%d of %d historical bytes", len(rest), k))
	}
	k = min(k, len(rest))
	a.Historical, rest = rest[:k:k], rest[k:]

	switch {
	case !whole || !checked:
	case len(rest) == 0:
		flaws = append(flaws, "TCK is missing")
	default:
		a.TCK, rest = int(rest[0]), rest[1:]
		if sum := xor(body[:len(body)-len(rest)]); sum != 0 {
			flaws = append(flaws, fmt.Sprintf("TCK is %02X, want %02X", a.TCK, a.TCK^int(sum)))
		}
	}
	if len(rest) > 0 {
		flaws = append(flaws, fmt.Sprintf("%d bytes too many", len(rest)))
	}
	if flaws != nil {
		return a, fmt.Errorf("%w: %s", ErrFlawed, strings.Join(flaws, ", "))
	}
	return a, nil
}

// interfaceBytes reads the groups that T0, the first byte of body, and each TD
// announce, and returns the bytes behind them. checked says whether a TCK is
// due: as soon as anything but T=0 is named (ISO/IEC 7816-3, 8.2.5). whole is
// false when body ends before all announced bytes have come.
func (a *ATR) interfaceBytes(body []byte) (rest []byte, checked, whole bool) {
	announced, t, rest := body[0], Absent, body[1:]
	for {
		g := Group{T: t, TA: Absent, TB: Absent, TC: Absent, TD: Absent}
		whole = true
		for _, f := range []struct {
			bit  byte
			into *int
		}{{announceTA, &g.TA}, {announceTB, &g.TB}, {announceTC, &g.TC}, {announceTD, &g.TD}} {
			if announced&f.bit == 0 {
				continue
			}
			if len(rest) == 0 {
				whole = false
				break
			}
			*f.into, rest = int(rest[0]), rest[1:]
		}
		a.Groups = append(a.Groups, g)
		if g.TD == Absent {
			return rest, checked, whole
		}
		announced, t = byte(g.TD), g.TD&0x0F
		checked = checked || t != 0
	}
}

// Need says how many more bytes of an answer to reset are missing after b, as
// far as b tells: at least so many follow. 0 means b is complete, or MaxLen
// bytes long and never going to be. b starts with TS and is in direct
// convention (see Invert); whether TS is valid is left to Parse.
func Need(b []byte) int {
	if len(b) < 2 {
		return 2 - len(b)
	}
	want := 2 + int(b[1]&0x0F)
	announced, at, checked := b[1], 2, false
	for {
		n := 0
		for bit := byte(announceTA); bit != 0; bit <<= 1 {
			if announced&bit != 0 {
				n++
			}
		}
		want, at = want+n, at+n
		if announced&announceTD == 0 || at > len(b) {
			break
		}
		announced = b[at-1]
		checked = checked || announced&0x0F != 0
	}
	if checked {
		want++
	}
	return max(0, min(want, MaxLen)-len(b))
}

// Complete says whether a reader of single bytes may stop.
func Complete(b []byte) bool { return Need(b) == 0 }

// Invert converts bytes that a receiver in direct convention took from a card
// in inverse convention, in place: it reads such a card's TS as 03, which
// becomes 3F (ISO/IEC 7816-3, 8.1).
func Invert(b []byte) {
	for i, c := range b {
		c = c>>4 | c<<4
		c = c>>2&0x33 | c<<2&0xCC
		c = c>>1&0x55 | c<<1&0xAA
		b[i] = ^c
	}
}

func xor(b []byte) (sum byte) {
	for _, c := range b {
		sum ^= c
	}
	return sum
}
