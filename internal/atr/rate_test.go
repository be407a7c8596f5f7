package atr

import (
	"testing"
	"time"

	"openct/internal/hextest"
)

func TestTimes(t *testing.T) {
	parse := func(s string) *ATR {
		a, err := Parse(fixTCKIfAny(hextest.Bytes(t, s)))
		if err != nil {
			t.Fatal(err)
		}
		return a
	}
	plain := parse("3B 00")
	r := Rate{Clock: 3_571_000}
	tests := []struct {
		name string
		got  time.Duration
		want time.Duration // to the millisecond, or to the microsecond below one
	}{
		{"etu", r.ETU(), 104 * time.Microsecond},
		{"etu at Fi 512, Di 16, 5 MHz", Rate{5_000_000, 512, 16}.ETU(), 6 * time.Microsecond},
		{"WWT, WI 10", plain.WWT(r), 1000 * time.Millisecond},
		{"BWT, BWI 4", plain.BWT(r), 1601 * time.Millisecond},
		{"BWT, BWI 5", parse("3B F2 18 00 02 C1 0A 31 FE 58 C8 09 75").BWT(r), 3201 * time.Millisecond},
		{"BWT, BWI 6", parse("3B B7 94 00 81 31 FE 65 53 50 4B 32 33 90 00 D1").BWT(r), 6401 * time.Millisecond},
		{"CWT, CWI 13", plain.CWT(r), 854 * time.Millisecond},
		{"CWT, CWI 8", parse("3B F2 18 00 02 C1 0A 31 FE 58 C8 09 75").CWT(r), 27 * time.Millisecond},
		{"guard, N 0", plain.Guard(0, r), 1250 * time.Microsecond},
		{"guard, N 255, T=0", parse("3B 40 FF").Guard(0, r), 1250 * time.Microsecond},
		{"guard, N 255, T=1", parse("3B 40 FF").Guard(1, r), 1145 * time.Microsecond},
		{"guard, N 12", parse("3B 40 0C").Guard(0, r), 2500 * time.Microsecond},
		{"guard, N 12, TA1 counts with a T=15 group", parse("3B D0 18 0C 80 1F 03 00").Guard(0, r), 1354 * time.Microsecond},
		{"nonsense factors", Rate{1, 1 << 30, 1}.ETU(), time.Hour},
		{"default clock", Rate{}.ETU(), 104 * time.Microsecond},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			unit := time.Millisecond
			if tt.want < 10*time.Millisecond {
				unit = time.Microsecond
			}
			if diff := tt.got - tt.want; diff < -unit || diff > unit {
				t.Errorf("%v, want %v", tt.got, tt.want)
			}
		})
	}
}

// fixTCKIfAny corrects the check byte where the ATR has one.
func fixTCKIfAny(raw []byte) []byte {
	if a, _ := Parse(raw); a != nil && a.TCK != Absent {
		return fixTCK(raw)
	}
	return raw
}

func TestTables(t *testing.T) {
	tests := []struct {
		name string
		code byte
		fi   int
		di   int
	}{
		{"0", 0x0, 372, 0}, {"1", 0x1, 372, 1}, {"2", 0x2, 558, 2}, {"3", 0x3, 744, 4},
		{"4", 0x4, 1116, 8}, {"5", 0x5, 1488, 16}, {"6", 0x6, 1860, 32}, {"7", 0x7, 0, 64},
		{"8", 0x8, 0, 12}, {"9", 0x9, 512, 20}, {"A", 0xA, 768, 0}, {"B", 0xB, 1024, 0},
		{"C", 0xC, 1536, 0}, {"D", 0xD, 2048, 0}, {"E", 0xE, 0, 0}, {"F", 0xF, 0, 0},
		{"not a nibble", 0x10, 0, 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			fi, okF := Fi(tt.code)
			di, okD := Di(tt.code)
			if fi != tt.fi || okF != (tt.fi != 0) || di != tt.di || okD != (tt.di != 0) {
				t.Errorf("Fi %d %v, Di %d %v", fi, okF, di, okD)
			}
		})
	}
}

func TestFiDi(t *testing.T) {
	for _, tt := range []struct {
		name, atr string
		fi, di    int
	}{
		{"default", "3B 00", 372, 1},
		{"94", "3B 10 94", 512, 8},
		{"18", "3B 10 18", 372, 12},
		{"reserved F", "3B 10 71", 372, 1},
		{"reserved D", "3B 10 90", 372, 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			a, err := Parse(hextest.Bytes(t, tt.atr))
			if err != nil {
				t.Fatal(err)
			}
			if fi, di := a.FiDi(); fi != tt.fi || di != tt.di {
				t.Errorf("%d, %d, want %d, %d", fi, di, tt.fi, tt.di)
			}
		})
	}
}
