package atr

import (
	"time"

	"openct/internal/proto"
)

// DefaultClock is the card clock assumed where a reader tells none, in Hz: at
// 372 clocks per bit it makes 9600 bit/s.
const DefaultClock = 3_571_200

// Clock rate conversion Fi by FI (ISO/IEC 7816-3, table 7). 0: reserved.
var fiTable = [16]int{
	0: 372, 1: 372, 2: 558, 3: 744, 4: 1116, 5: 1488, 6: 1860,
	9: 512, 10: 768, 11: 1024, 12: 1536, 13: 2048,
}

// Baud rate adjustment Di by DI (ISO/IEC 7816-3, table 8). 0: reserved.
var diTable = [16]int{1: 1, 2: 2, 3: 4, 4: 8, 5: 16, 6: 32, 7: 64, 8: 12, 9: 20}

// Fi decodes FI, the high nibble of TA1; ok is false for reserved codes.
func Fi(code byte) (fi int, ok bool) {
	if code > 15 {
		return 0, false
	}
	fi = fiTable[code]
	return fi, fi != 0
}

// Di decodes DI, the low nibble of TA1; ok is false for reserved codes.
func Di(code byte) (di int, ok bool) {
	if code > 15 {
		return 0, false
	}
	di = diTable[code]
	return di, di != 0
}

// Rate is the speed on the contacts: the clock in Hz and the factors in use.
// Fields that are not positive count as DefaultClock, DefaultFi, DefaultDi.
type Rate struct {
	Clock int
	F, D  int
}

func (r Rate) withDefaults() (clock, f, d int64) {
	clock, f, d = int64(r.Clock), int64(r.F), int64(r.D)
	if clock <= 0 {
		clock = DefaultClock
	}
	if f <= 0 {
		f = DefaultFi
	}
	if d <= 0 {
		d = DefaultDi
	}
	return clock, f, d
}

// etus is the duration of n bits on the line.
func (r Rate) etus(n int64) time.Duration {
	clock, f, d := r.withDefaults()
	return seconds(float64(n) * float64(f) / float64(d) / float64(clock))
}

// ETU is the duration of one bit, the elementary time unit.
func (r Rate) ETU() time.Duration { return r.etus(1) }

// Guard is the least time between two characters sent to the card in protocol
// t: 12 etu and N of TC1, in units of the factors in use or, where the card
// has a T=15 group, of TA1's. N = 255 means the least the protocol allows, 12
// etu in T=0 and 11 in T=1 (ISO/IEC 7816-3, 8.3).
func (a *ATR) Guard(t proto.ID, r Rate) time.Duration {
	n, _ := a.GuardTime()
	if n == 255 {
		if t == proto.T1 {
			return r.etus(11)
		}
		return r.etus(12)
	}
	unit := r
	for _, g := range a.Groups {
		if g.T == global {
			unit.F, unit.D = a.FiDi()
		}
	}
	return r.etus(12) + unit.etus(int64(n))
}

// WWT is T=0's work waiting time, the longest silence between two characters:
// WI * 960 * Fi / f (ISO/IEC 7816-3, 10.2).
func (a *ATR) WWT(r Rate) time.Duration {
	clock, f, _ := r.withDefaults()
	return seconds(float64(a.WI()) * 960 * float64(f) / float64(clock))
}

// CWT is T=1's character waiting time, the longest silence within a block:
// 11 + 2^CWI etu (ISO/IEC 7816-3, 11.4.3).
func (a *ATR) CWT(r Rate) time.Duration { return r.etus(11 + 1<<a.CWI()) }

// BWT is T=1's block waiting time, the longest time until the card's answer:
// 11 etu + 2^BWI * 960 * 372 / f (ISO/IEC 7816-3, 11.4.3).
func (a *ATR) BWT(r Rate) time.Duration {
	clock, _, _ := r.withDefaults()
	return r.etus(11) + seconds(float64(int64(1)<<a.BWI())*960*DefaultFi/float64(clock))
}

// seconds converts with an upper bound of an hour: nonsense factors must not
// overflow into a negative wait.
func seconds(s float64) time.Duration {
	return time.Duration(min(s, 3600) * float64(time.Second))
}
