package atr

import (
	"bytes"
	"encoding/hex"
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"openct/internal/hextest"
	"openct/internal/proto"
)

// meaning is what an ATR says, in the terms of the specification's table.
type meaning struct {
	Default   proto.ID
	Protocols []proto.ID
	TA1, TC1  int // Absent if not there
	IFSC      int
	BWI, CWI  int
	WI        int
	CRC       bool
	Hist      string
	TCK       int
}

func meaningOf(a *ATR) meaning {
	m := meaning{
		Default: a.Default(), Protocols: a.Protocols(), TA1: Absent, TC1: Absent,
		IFSC: a.IFSC(), BWI: a.BWI(), CWI: a.CWI(), WI: a.WI(), CRC: a.CRC(),
		Hist: strings.ToUpper(hex.EncodeToString(a.Historical)), TCK: a.TCK,
	}
	if b, ok := a.TA1(); ok {
		m.TA1 = int(b)
	}
	if n, ok := a.GuardTime(); ok {
		m.TC1 = n
	}
	return m
}

// ATRs of cards that exist, and some that only test a rule.
var vectors = []struct {
	name string
	atr  string
	want meaning
}{
	{"CardOS 4.2B, eToken PRO 64k", "3B F2 18 00 02 C1 0A 31 FE 58 C8 09 75",
		meaning{1, []proto.ID{1}, 0x18, 2, 254, 5, 8, 10, false, "C809", 0x75}},
	{"CardOS M4.0, eToken PRO 16k", "3B E2 00 FF C1 10 31 FE 55 C8 02 9C",
		meaning{1, []proto.ID{1}, Absent, 255, 254, 5, 5, 10, false, "C802", 0x9C}},
	{"CardOS M4.01", "3B F2 98 00 FF C1 10 31 FE 55 C8 03 15",
		meaning{1, []proto.ID{1}, 0x98, 255, 254, 5, 5, 10, false, "C803", 0x15}},
	{"CardOS 4.4", "3B D2 18 02 C1 0A 31 FE 58 C8 0D 51",
		meaning{1, []proto.ID{1}, 0x18, 2, 254, 5, 8, 10, false, "C80D", 0x51}},
	{"Datakey 330, iKey 2032", "3B FF 11 00 00 81 31 FE 4D 80 25 A0 00 00 00 56 57 44 4B 33 33 30 06 00 D0",
		meaning{1, []proto.ID{1}, 0x11, 0, 254, 4, 13, 10, false, "8025A0000000565744 4B3333300600", 0xD0}},
	{"STARCOS SPK 2.3", "3B B7 94 00 81 31 FE 65 53 50 4B 32 33 90 00 D1",
		meaning{1, []proto.ID{1}, 0x94, Absent, 254, 6, 5, 10, false, "53504B32339000", 0xD1}},
	{"STARCOS SPK 2.3, both protocols", "3B B7 94 00 C0 24 31 FE 65 53 50 4B 32 33 90 00 B4",
		meaning{0, []proto.ID{0, 1}, 0x94, Absent, 254, 6, 5, 0x24, false, "53504B32339000", 0xB4}},
	{"T=0 named", "3B 95 18 40 FF 62 01 02 01 04",
		meaning{0, []proto.ID{0}, 0x18, Absent, 32, 4, 13, 0xFF, false, "6201020104", Absent}},
	{"Rutoken S, T=0 implied", "3B 6F 00 FF 00 56 72 75 54 6F 6B 6E 73 30 20 00 00 90 00",
		meaning{0, []proto.ID{0}, Absent, 255, 32, 4, 13, 10, false, "00567275546F6B6E73302000009000", Absent}},
	{"ePass3000, no interface bytes", "3B 0F 00 65 46 53 05 30 05 71 DF 00 00 00 80 6A 82",
		meaning{0, []proto.ID{0}, Absent, Absent, 32, 4, 13, 10, false, "0065465305300571DF000000806A82", Absent}},
	{"eToken PRO 72k Java", "3B D5 18 00 81 31 3A 7D 80 73 C8 21 10 30",
		meaning{1, []proto.ID{1}, 0x18, 0, 58, 7, 13, 10, false, "8073C82110", 0x30}},
	{"CardOS 5", "3B D2 18 00 81 31 FE 58 C9 01 14",
		meaning{1, []proto.ID{1}, 0x18, 0, 254, 5, 8, 10, false, "C901", 0x14}},
	{"a TD that announces nothing", "3B 80 01 81",
		meaning{1, []proto.ID{1}, Absent, Absent, 32, 4, 13, 10, false, "", Absent}},
	{"inverse convention", "3F 65 25 00 2C 09 69 90 00",
		meaning{0, []proto.ID{0}, Absent, 0, 32, 4, 13, 10, false, "2C09699000", Absent}},
	{"recorded echo card", "3B 84 81 31 FE 45 45 43 48 4F 8E",
		meaning{1, []proto.ID{1}, Absent, Absent, 254, 4, 5, 10, false, "4543484F", 0x8E}},
	{"nothing but T0", "3B 00",
		meaning{0, []proto.ID{0}, Absent, Absent, 32, 4, 13, 10, false, "", Absent}},
	{"T=1 bytes in group 4, group 3 is T=15's", "3B 80 80 9F 11 71 40 21 01 81",
		meaning{0, []proto.ID{0, 1}, Absent, Absent, 64, 2, 1, 10, true, "", Absent}},
	{"T=15 alone is no protocol", "3B 80 0F 00",
		meaning{0, []proto.ID{0}, Absent, Absent, 32, 4, 13, 10, false, "", Absent}},
	{"five groups", "3B 80 81 81 81 81 01 81",
		meaning{1, []proto.ID{1}, Absent, Absent, 32, 4, 13, 10, false, "", Absent}},
	{"second IFSC does not count", "3B 80 81 91 20 11 FE 3F",
		meaning{1, []proto.ID{1}, Absent, Absent, 32, 4, 13, 10, false, "", Absent}},
	{"IFSC FF", "3B 80 81 11 FF EE", meaning{1, []proto.ID{1}, Absent, Absent, 254, 4, 13, 10, false, "", Absent}},
	{"IFSC 00", "3B 80 81 11 00 11", meaning{1, []proto.ID{1}, Absent, Absent, 32, 4, 13, 10, false, "", Absent}},
	{"reserved BWI", "3B 80 81 21 FF DE", meaning{1, []proto.ID{1}, Absent, Absent, 32, 9, 15, 10, false, "", Absent}},
	{"WI 0", "3B 80 40 00", meaning{0, []proto.ID{0}, Absent, Absent, 32, 4, 13, 10, false, "", Absent}},
}

// fixTCK computes the check byte of vectors that only test a rule, so that
// the table need not.
func fixTCK(raw []byte) []byte {
	raw = bytes.Clone(raw)
	raw[len(raw)-1] ^= xor(raw[1:])
	return raw
}

func TestParse(t *testing.T) {
	for _, tt := range vectors {
		t.Run(tt.name, func(t *testing.T) {
			raw := hextest.Bytes(t, tt.atr)
			want := tt.want
			want.Hist = strings.ReplaceAll(want.Hist, " ", "")
			a, err := Parse(raw)
			if errors.Is(err, ErrFlawed) && want.TCK == Absent {
				raw = fixTCK(raw)
				a, err = Parse(raw)
			}
			if err != nil {
				t.Fatal(err)
			}
			got := meaningOf(a)
			if want.TCK == Absent && a.TCK != Absent {
				got.TCK = Absent
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
			for n := range raw {
				if Complete(raw[:n]) {
					t.Errorf("complete after %d of %d bytes", n, len(raw))
				}
				if need := Need(raw[:n]); n+need > len(raw) {
					t.Errorf("after %d of %d bytes: need %d more", n, len(raw), need)
				}
			}
			if !Complete(raw) {
				t.Errorf("not complete, need %d more", Need(raw))
			}
		})
	}
}

func TestParseErrors(t *testing.T) {
	tests := []struct {
		name string
		atr  string
		want error
		told string
	}{
		{"nothing", "", ErrInvalid, "0 bytes"},
		{"one byte", "3B", ErrInvalid, "1 bytes"},
		{"bad TS", "3C 02 14 50", ErrInvalid, "first byte 3C"},
		{"unconverted inverse convention", "03 02 14 50", ErrInvalid, "first byte 03"},
		{"TD1 missing", "3B F0 11 22", ErrInvalid, "TD1"},
		{"TC1 missing", "3B 60 00", ErrFlawed, "interface byte group 1"},
		{"TD2 missing", "3B 80 81", ErrFlawed, "interface byte group 2"},
		{"historical bytes missing", "3B 8F 80 01", ErrFlawed, "0 of 15 historical bytes"},
		{"bad TCK", "3B D2 18 02 C1 0A 31 FE 58 C8 0D 50", ErrFlawed, "TCK is 50, want 51"},
		{"no TCK", "3B D2 18 02 C1 0A 31 FE 58 C8 0D", ErrFlawed, "TCK is missing"},
		{"bytes behind TCK", "3B 80 01 81 00", ErrFlawed, "1 bytes too many"},
		{"bytes behind a wrong TCK", "3B 80 01 80 90 00", ErrFlawed, "TCK is 80, want 81, 2 bytes too many"},
		{"TCK where none belongs", "3B 00 00", ErrFlawed, "1 bytes too many"},
		{"endless TD chain", "3B" + strings.Repeat("80", 32), ErrFlawed, "interface byte group 32"},
		{"34 bytes", "3B 0F" + strings.Repeat("00", 32), ErrFlawed, "34 bytes, at most 33 allowed"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			a, err := Parse(hextest.Bytes(t, tt.atr))
			if !errors.Is(err, tt.want) || !strings.Contains(err.Error(), tt.told) {
				t.Errorf("error %v, want %v that tells %q", err, tt.want, tt.told)
			}
			if (a != nil) != (tt.want == ErrFlawed) {
				t.Errorf("ATR %v with %v", a, tt.want)
			}
		})
	}
}

// ATRs of cards in use that break the standard, and what they tell all the
// same.
func TestFlawedATRs(t *testing.T) {
	for _, tt := range []struct {
		name string
		atr  string
		want meaning
	}{
		{"wrong TCK", "3B D2 18 02 C1 0A 31 FE 58 C8 0D 50",
			meaning{1, []proto.ID{1}, 0x18, 2, 254, 5, 8, 10, false, "C80D", 0x50}},
		{"a status word behind the ATR", "3B 84 80 01 01 11 20 03 36 90 00",
			meaning{0, []proto.ID{0, 1}, Absent, Absent, 32, 4, 13, 10, false, "01112003", 0x36}},
		{"a TCK at T=0", "3B 8B 00 52 75 74 6F 6B 65 6E 6C 74 53 44 E3",
			meaning{0, []proto.ID{0}, Absent, Absent, 32, 4, 13, 10, false, "5275746F6B656E6C745344", Absent}},
		{"two of five historical bytes missing", "3B 65 00 00 B0 46 41",
			meaning{0, []proto.ID{0}, Absent, 0, 32, 4, 13, 10, false, "B04641", Absent}},
		{"cut short behind TA3", "3B F2 18 00 02 C1 0A 31 FE",
			meaning{1, []proto.ID{1}, 0x18, 2, 254, 4, 13, 10, false, "", Absent}},
		{"T=15 in TD1", "3B 80 1F C7 80 31",
			meaning{0, []proto.ID{0}, Absent, Absent, 32, 4, 13, 10, false, "", 0x80}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			a, err := Parse(hextest.Bytes(t, tt.atr))
			if !errors.Is(err, ErrFlawed) {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.want, meaningOf(a)); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
		})
	}
}

// TestManyFlawedATRs damages sound ATRs in every way that leaves TD1 in them:
// none is refused, and none is taken for another protocol.
func TestManyFlawedATRs(t *testing.T) {
	sound := []struct {
		atr      string
		protocol proto.ID // that TD1 names, or 0
		needed   int      // bytes up to TD1, or up to T0 where there is none
	}{
		{"3B F2 18 00 02 C1 0A 31 FE 58 C8 09 75", 1, 6},
		{"3B FF 11 00 00 81 31 FE 4D 80 25 A0 00 00 00 56 57 44 4B 33 33 30 06 00 D0", 1, 6},
		{"3B B7 94 00 C0 24 31 FE 65 53 50 4B 32 33 90 00 B4", 0, 5},
		{"3B 95 18 40 FF 62 01 02 01 04", 0, 4},
		{"3B 6F 00 FF 00 56 72 75 54 6F 6B 6E 73 30 20 00 00 90 00", 0, 2},
		{"3B 0F 00 65 46 53 05 30 05 71 DF 00 00 00 80 6A 82", 0, 2},
		{"3B 8F 80 01 80 4F 0C A0 00 00 03 06 03 00 03 00 00 00 00 68", 0, 3},
		{"3F 65 25 00 2C 09 69 90 00", 0, 2},
		{"3B 80 81 11 FF EF", 1, 3},
	}
	n := 0
	check := func(raw []byte, protocol proto.ID, what string) {
		t.Helper()
		n++
		a, err := Parse(raw)
		switch {
		case a == nil:
			t.Errorf("%s: % X refused: %v", what, raw, err)
		case !errors.Is(err, ErrFlawed):
			t.Errorf("%s: % X: error %v, want %v", what, raw, err, ErrFlawed)
		case a.Default() != protocol:
			t.Errorf("%s: % X is T=%d, want T=%d", what, raw, a.Default(), protocol)
		}
	}
	for _, s := range sound {
		raw := hextest.Bytes(t, s.atr)
		if _, err := Parse(raw); err != nil {
			t.Fatalf("% X: %v", raw, err)
		}
		for keep := s.needed; keep < len(raw); keep++ {
			check(raw[:keep], s.protocol, "cut short")
		}
		for extra := 1; extra <= 24; extra++ {
			check(append(bytes.Clone(raw), make([]byte, extra)...), s.protocol, "zeros behind it")
		}
		check(append(bytes.Clone(raw), raw...), s.protocol, "sent twice")
		check(append(bytes.Clone(raw), 0x90, 0x00), s.protocol, "a status word behind it")
		if a, _ := Parse(raw); a.TCK != Absent {
			for bit := range 8 {
				wrong := bytes.Clone(raw)
				wrong[len(wrong)-1] ^= 1 << bit
				check(wrong, s.protocol, "wrong TCK")
			}
		}
	}
	if n < 200 {
		t.Errorf("only %d ATRs", n)
	}
}

func TestContactless(t *testing.T) {
	for _, tt := range []struct {
		name string
		atr  string
		want bool
	}{
		{"storage card", "3B 8F 80 01 80 4F 0C A0 00 00 03 06 03 00 03 00 00 00 00 68", true},
		{"smart card", "3B 84 80 01 01 11 20 03 36", true},
		{"no historical bytes", "3B 80 80 01 01", true},
		{"with TA1", "3B 96 18 80 01 80 51 00 61 10 30 9F", false},
		{"TA3", "3B 80 80 11 FE 00", false},
		{"T=1 alone", "3B 80 01 81", false},
		{"T=0", "3B 00", false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			a, err := Parse(hextest.Bytes(t, tt.atr))
			if a == nil {
				t.Fatal(err)
			}
			if got := a.Contactless(); got != tt.want {
				t.Errorf("%v, want %v", got, tt.want)
			}
		})
	}
}

func TestParseKeepsACopy(t *testing.T) {
	raw := hextest.Bytes(t, "3B 02 AA BB")
	a, err := Parse(raw)
	if err != nil {
		t.Fatal(err)
	}
	raw[2] = 0
	if !bytes.Equal(a.Raw, []byte{0x3B, 2, 0xAA, 0xBB}) || a.Historical[0] != 0xAA {
		t.Errorf("changed with the caller's buffer: % X", a.Raw)
	}
}

func TestSpecificMode(t *testing.T) {
	tests := []struct {
		name     string
		atr      string
		specific bool
		implicit bool
		def      proto.ID
		offers   []proto.ID
		refuses  []proto.ID
	}{
		{"negotiable", "3B B7 94 00 C0 24 31 FE 65 53 50 4B 32 33 90 00 B4", false, false, 0, []proto.ID{0, 1}, []proto.ID{2, 15, -1}},
		{"TA2 forces the second protocol", "3B 80 90 01 01 10", true, false, 1, []proto.ID{1}, []proto.ID{0}},
		{"TA2 with implicit factors", "3B 80 90 11 01 00", true, true, 1, []proto.ID{1}, []proto.ID{0}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			a, err := Parse(hextest.Bytes(t, tt.atr))
			if err != nil {
				t.Fatal(err)
			}
			if _, ok := a.Specific(); ok != tt.specific {
				t.Errorf("specific %v, want %v", ok, tt.specific)
			}
			if a.Implicit() != tt.implicit {
				t.Errorf("implicit %v, want %v", a.Implicit(), tt.implicit)
			}
			if a.Default() != tt.def {
				t.Errorf("default T=%d, want %d", a.Default(), tt.def)
			}
			for _, p := range tt.offers {
				if !a.Offers(p) {
					t.Errorf("T=%d not offered", p)
				}
			}
			for _, p := range tt.refuses {
				if a.Offers(p) {
					t.Errorf("T=%d offered", p)
				}
			}
		})
	}
}

// Bytes for T=15 in the second group are against the standard, and seen.
func TestT15InSecondGroup(t *testing.T) {
	a, err := Parse(fixTCK(hextest.Bytes(t, "3B 80 1F C7 00")))
	if err != nil {
		t.Fatal(err)
	}
	if _, specific := a.Specific(); specific {
		t.Error("the card is in specific mode")
	}
}

func TestInvert(t *testing.T) {
	b := []byte{0x03, 0x3F, 0xFF, 0x00, 0x59}
	Invert(b)
	if want := []byte{0x3F, 0x03, 0x00, 0xFF, 0x65}; !bytes.Equal(b, want) {
		t.Errorf("% X, want % X", b, want)
	}
}

func FuzzParse(f *testing.F) {
	for _, v := range vectors {
		f.Add(hextest.Bytes(f, v.atr))
	}
	f.Add(hextest.Bytes(f, "3B"+strings.Repeat("80", 32)))
	f.Fuzz(func(t *testing.T, raw []byte) {
		a, err := Parse(raw)
		if (a == nil) != (err != nil && !errors.Is(err, ErrFlawed)) || err != nil && errors.Is(err, ErrFlawed) == errors.Is(err, ErrInvalid) {
			t.Fatalf("ATR %v with error %v", a, err)
		}
		if err == nil && !Complete(raw) {
			t.Fatalf("parsed, yet %d more bytes needed", Need(raw))
		}
		// A stream reader that follows Need ends, never beyond MaxLen.
		for n := 0; n < len(raw); {
			need := Need(raw[:n])
			if need < 0 || n+need > MaxLen {
				t.Fatalf("after %d bytes: need %d more", n, need)
			}
			if need == 0 {
				break
			}
			n = min(n+need, len(raw))
		}
		if a == nil {
			return
		}
		if !bytes.Equal(a.Raw, raw) {
			t.Fatalf("kept % X of % X", a.Raw, raw)
		}
		if !a.Offers(a.Default()) {
			t.Fatalf("default T=%d not offered: %v", a.Default(), a.Protocols())
		}
		if n := a.IFSC(); n < 1 || n > 254 {
			t.Fatalf("IFSC %d", n)
		}
		if a.BWI() > 9 || a.WI() < 1 {
			t.Fatalf("BWI %d, WI %d", a.BWI(), a.WI())
		}
		fi, di := a.FiDi()
		r := Rate{F: fi, D: di}
		for _, d := range []int64{int64(a.BWT(r)), int64(a.CWT(r)), int64(a.WWT(r)), int64(a.Guard(1, r))} {
			if d <= 0 {
				t.Fatalf("a time of %d ns", d)
			}
		}
	})
}
