package atr

import (
	"bytes"
	"errors"
	"testing"

	"openct/internal/hextest"
	"openct/internal/proto"
)

func TestBuildPPS(t *testing.T) {
	const both, t1, specific = "3B B7 94 00 C0 24 31 FE 65 53 50 4B 32 33 90 00 B4",
		"3B F2 98 00 FF C1 10 31 FE 55 C8 03 15", "3B 80 90 01 01 10"
	tests := []struct {
		name string
		atr  string
		t    proto.ID
		pps1 int
		want string
		err  error
	}{
		{"T=1, default speed", t1, 1, Absent, "FF 01 FE", nil},
		{"T=0, default speed", both, 0, Absent, "FF 00 FF", nil},
		{"T=1 with TA1", t1, 1, 0x98, "FF 11 98 76", nil},
		{"TC1 = FF makes no PPS2", t1, 1, 0x11, "FF 11 11 FF", nil},
		{"second protocol", both, 1, 0x94, "FF 11 94 7A", nil},
		{"not offered", t1, 0, Absent, "", ErrNotOffered},
		{"not a protocol", t1, 15, Absent, "", ErrNotOffered},
		{"specific mode", specific, 1, Absent, "", ErrSpecific},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			a, err := Parse(hextest.Bytes(t, tt.atr))
			if err != nil {
				t.Fatal(err)
			}
			got, err := a.PPS(tt.t, tt.pps1)
			if !errors.Is(err, tt.err) {
				t.Fatalf("error %v, want %v", err, tt.err)
			}
			if want := hextest.Bytes(t, tt.want); !bytes.Equal(got, want) {
				t.Errorf("% X, want % X", got, want)
			}
		})
	}
}

func TestCheckPPS(t *testing.T) {
	tests := []struct {
		name     string
		request  string
		response string
		accepted bool
		err      error
	}{
		{"echo without speed", "FF 01 FE", "FF 01 FE", false, nil},
		{"echo with speed", "FF 11 98 76", "FF 11 98 76", true, nil},
		{"speed refused", "FF 11 98 76", "FF 01 FE", false, nil},
		{"other speed", "FF 11 98 76", "FF 11 11 FF", false, ErrPPS},
		{"other protocol", "FF 01 FE", "FF 00 FF", false, ErrPPS},
		{"bad checksum", "FF 11 98 76", "FF 11 98 77", false, ErrPPS},
		{"not a PPS", "FF 01 FE", "00 01 01", false, ErrPPS},
		{"too short", "FF 01 FE", "FF 01", false, ErrPPS},
		{"nothing", "FF 01 FE", "", false, ErrPPS},
		{"announces more than it has", "FF 11 98 76", "FF 11 EE", false, ErrPPS},
		{"too long", "FF 01 FE", "FF 01 FE 00", false, ErrPPS},
		{"speed nobody asked for", "FF 01 FE", "FF 11 11 FF", false, ErrPPS},
		{"PPS2 nobody asked for", "FF 01 FE", "FF 21 01 DF", false, ErrPPS},
		{"bad request", "FF", "FF 01 FE", false, ErrPPS},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			accepted, err := CheckPPS(hextest.Bytes(t, tt.request), hextest.Bytes(t, tt.response))
			if !errors.Is(err, tt.err) {
				t.Errorf("error %v, want %v", err, tt.err)
			}
			if accepted != tt.accepted {
				t.Errorf("accepted %v, want %v", accepted, tt.accepted)
			}
		})
	}
}

func TestNeedPPS(t *testing.T) {
	for _, tt := range []struct {
		name string
		b    string
		want int
	}{
		{"nothing", "", 3},
		{"two bytes are not complete", "FF 01", 1},
		{"complete", "FF 01 FE", 0},
		{"PPS1 announced", "FF 11 98", 1},
		{"all announced", "FF 71", 4},
		{"too many", "FF 01 FE 00", 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := NeedPPS(hextest.Bytes(t, tt.b)); got != tt.want {
				t.Errorf("%d, want %d", got, tt.want)
			}
		})
	}
}

func FuzzPPS(f *testing.F) {
	for _, s := range []string{"FF 01 FE", "FF 11 98 76", "FF 00 FF", "FF 71 11 22 33 44", ""} {
		f.Add([]byte(hextest.Bytes(f, "FF 11 98 76")), []byte(hextest.Bytes(f, s)))
	}
	f.Fuzz(func(t *testing.T, request, response []byte) {
		accepted, err := CheckPPS(request, response)
		if err != nil && (accepted || !errors.Is(err, ErrPPS)) {
			t.Fatalf("accepted %v with %v", accepted, err)
		}
		const longest = 6 // PPSS, PPS0, PPS1, PPS2, PPS3, PCK (ISO/IEC 7816-3, 9.2)
		if err == nil && (xor(response) != 0 || len(response) > longest || NeedPPS(response) != 0) {
			t.Fatalf("took % X for a PPS response", response)
		}
		if accepted && request[2] != response[2] {
			t.Fatalf("accepted % X for % X", response, request)
		}
	})
}
