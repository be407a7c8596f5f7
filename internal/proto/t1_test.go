package proto

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"openct/internal/hextest"
	"openct/internal/proto/prototest"
)

// call is one APDU: its response, or what its error is.
type call struct {
	apdu string
	resp string
	is   []error // errors.Is all of them
	not  []error // and none of these
}

func ok(apdu, resp string) call { return call{apdu: apdu, resp: resp} }

// runCalls sends APDUs one after the other through an engine.
func runCalls(t *testing.T, e Engine, calls []call) {
	t.Helper()
	for i, c := range calls {
		got, err := e.Transmit(context.Background(), hextest.Bytes(t, c.apdu), nil)
		if len(c.is) == 0 && err != nil {
			t.Fatalf("APDU %d: %v", i+1, err)
		}
		for _, want := range c.is {
			if !errors.Is(err, want) {
				t.Errorf("APDU %d: error %v, want %v", i+1, err, want)
			}
		}
		for _, not := range c.not {
			if errors.Is(err, not) {
				t.Errorf("APDU %d: error %v should not be %v", i+1, err, not)
			}
		}
		if want := hextest.Bytes(t, c.resp); !bytes.Equal(got, want) {
			t.Errorf("APDU %d: response % X, want % X", i+1, got, want)
		}
	}
}

var errLink = errors.New("device did not answer in time")

const (
	selectMF   = "00 A4 00 00 02 3F 00"
	update40   = "00 D6 00 00 28 00 01 02 03 04 05 06 07 08 09 0A 0B 0C 0D 0E 0F 10 11 12 13 14 15 16 17 18 19 1A 1B 1C 1D 1E 1F 20 21 22 23 24 25 26 27"
	bytes0to1F = "00 01 02 03 04 05 06 07 08 09 0A 0B 0C 0D 0E 0F 10 11 12 13 14 15 16 17 18 19 1A 1B 1C 1D 1E 1F"

	hSelect  = "H 00 00 07 00 A4 00 00 02 3F 00 9E\n"
	hUpdate1 = "H 00 20 20 00 D6 00 00 28 00 01 02 03 04 05 06 07 08 09 0A 0B 0C 0D 0E 0F 10 11 12 13 14 15 16 17 18 19 1A E5\n"
	hUpdate2 = "H 00 40 0D 1B 1C 1D 1E 1F 20 21 22 23 24 25 26 27 56\n"
	cOK      = "C 00 00 02 90 00 92\n"
	cFirst32 = "C 00 20 20 " + bytes0to1F + " 00\n"
)

// Conversations of every kind, by their numbers, and the rules of ISO/IEC 7816-3,
// 11.6, that they do not reach.
func TestT1(t *testing.T) {
	lost := []error{ErrProtocol, ErrResetRequired}
	later := []error{ErrResetRequired}
	tests := []struct {
		name   string
		params T1Params
		start  [2]uint8 // N(S), expected N(S) of the card
		calls  []call
		script string
		errs   []error
		end    [2]uint8
	}{
		{name: "V1 plain exchange",
			calls: []call{ok(selectMF, "9000"), ok("00 CA 01 82 00", "C8 09 90 00"), ok(selectMF, "9000")},
			script: hSelect + cOK + `
				H 00 40 05 00 CA 01 82 00 0C
				C 00 40 04 C8 09 90 00 15
				` + hSelect + cOK,
			end: [2]uint8{1, 1}},
		{name: "V2 chaining out",
			calls:  []call{ok(update40, "9000")},
			script: hUpdate1 + "C 00 90 00 90\n" + hUpdate2 + cOK,
			end:    [2]uint8{0, 1}},
		{name: "V3 chaining in",
			calls: []call{ok("00 B0 00 00 28", bytes0to1F+"20 21 22 23 24 25 26 27 90 00")},
			script: "H 00 00 05 00 B0 00 00 28 9D\n" + cFirst32 + `
				H 00 90 00 90
				C 00 40 0A 20 21 22 23 24 25 26 27 90 00 DA`,
			end: [2]uint8{1, 0}},
		{name: "V4 waiting time extension, in seconds for a card that says nothing",
			calls: []call{ok("00 46 00 00 00", "9000")},
			script: `
				H 00 00 05 00 46 00 00 00 43
				C W 20000 00 C3 01 05 C7
				H 00 E3 01 05 E7
				C W 25000 00 C3 01 01 C3
				H 00 E3 01 01 E3
				C W 21000 00 00 02 90 00 92`,
			end: [2]uint8{1, 1}},
		{name: "V4 next wait is the plain one again",
			calls: []call{ok(update40, "9000")},
			script: hUpdate1 + `
				C 00 C3 01 05 C7
				H 00 E3 01 05 E7
				C W 25000 00 90 00 90
				` + hUpdate2 + "C W 20000 00 00 02 90 00 92",
			end: [2]uint8{0, 1}},
		{name: "V4 extension is a multiple of BWT", params: T1Params{BWT: 3200 * time.Millisecond},
			calls:  []call{ok(selectMF, "9000")},
			script: hSelect + "C 00 C3 01 05 C7\nH 00 E3 01 05 E7\nC W 36000 00 00 02 90 00 92",
			end:    [2]uint8{1, 1}},
		{name: "V4 wait is bounded", params: T1Params{BWT: 51 * time.Second},
			calls:  []call{ok(selectMF, "9000")},
			script: hSelect + "C W 76500 00 C3 01 FF 3D\nH 00 E3 01 FF 1D\nC W 600000 00 00 02 90 00 92",
			end:    [2]uint8{1, 1}},
		{name: "V4 more extensions than attempts",
			calls:  []call{ok(selectMF, "9000")},
			script: hSelect + strings.Repeat("C 00 C3 01 01 C3\nH 00 E3 01 01 E3\n", 50) + cOK,
			end:    [2]uint8{1, 1}},
		{name: "V5a card reports a checksum error",
			calls:  []call{ok(selectMF, "9000")},
			script: hSelect + "C 00 81 00 81\n" + hSelect + cOK,
			end:    [2]uint8{1, 1}},
		{name: "V5b card asks for the same block again",
			calls:  []call{ok(selectMF, "9000")},
			script: hSelect + "C 00 80 00 80\n" + hSelect + cOK,
			end:    [2]uint8{1, 1}},
		{name: "V5c bad LRC",
			calls:  []call{ok(selectMF, "9000")},
			script: hSelect + "C 00 00 02 90 00 93\nH 00 81 00 81\n" + cOK,
			end:    [2]uint8{1, 1}},
		{name: "V5d bad block inside card chaining",
			calls: []call{ok("00 B0 00 00 22", bytes0to1F+"20 21 90 00")},
			script: "H 00 00 05 00 B0 00 00 22 97\n" + cFirst32 + `
				H 00 90 00 90
				C 00 40 04 20 21 90 00 00
				H 00 91 00 91
				C 00 40 04 20 21 90 00 D5`,
			end: [2]uint8{1, 0}},
		{name: "V6 resynchronisation after three bad replies",
			calls: []call{ok(selectMF, "9000")},
			script: hSelect + `
				C 00 00 02 90 00 00
				H 00 81 00 81
				C 00 00 02 90 00 00
				H 00 81 00 81
				C 00 00 02 90 00 00
				H 00 C0 00 C0
				C 00 E0 00 E0
				` + hSelect + cOK,
			end: [2]uint8{1, 1}},
		{name: "V6b second APDU of a session", start: [2]uint8{1, 1},
			calls: []call{ok(selectMF, "9000")},
			script: `
				H 00 40 07 00 A4 00 00 02 3F 00 DE
				C 00 40 02 90 00 00
				H 00 91 00 91
				C 00 40 02 90 00 00
				H 00 91 00 91
				C 00 40 02 90 00 00
				H 00 C0 00 C0
				C 00 E0 00 E0
				` + hSelect + cOK,
			end: [2]uint8{1, 1}},
		{name: "V6c resynchronisation begins the command anew",
			calls: []call{ok(update40, "9000")},
			script: hUpdate1 + "C 00 90 00 90\n" + hUpdate2 + `
				C 00
				H 00 81 00 81
				C 00
				H 00 81 00 81
				C 00
				H 00 C0 00 C0
				C 00 E0 00 E0
				` + hUpdate1 + "C 00 90 00 90\n" + hUpdate2 + cOK,
			end: [2]uint8{0, 1}},
		{name: "V6c response so far is forgotten",
			calls: []call{ok("00 B0 00 00 22", bytes0to1F+"9000")},
			script: "H 00 00 05 00 B0 00 00 22 97\n" + cFirst32 + `
				H 00 90 00 90
				C
				H 00 91 00 91
				C
				H 00 91 00 91
				C
				H 00 C0 00 C0
				C 00 E0 00 E0
				H 00 00 05 00 B0 00 00 22 97
				` + cFirst32 + "H 00 90 00 90\nC 00 40 02 90 00 D2",
			end: [2]uint8{1, 0}},
		{name: "GET RESPONSE is not repeated",
			calls: []call{{apdu: "00 C0 00 00 02", is: lost}, {apdu: selectMF, is: later}},
			script: "H 00 00 05 00 C0 00 00 02 C7\n" + `
				C 00
				H 00 81 00 81
				C 00
				H 00 81 00 81
				C 00`},
		{name: "nor is a command that runs once",
			params: T1Params{Once: func(apdu []byte) bool { return apdu[1] == 0xA4 }},
			calls:  []call{{apdu: selectMF, is: lost}},
			script: hSelect + `
				C 00
				H 00 81 00 81
				C 00
				H 00 81 00 81
				C 00`},
		{name: "aborted GET RESPONSE",
			calls: []call{{apdu: "00 C0 00 00 02", is: []error{ErrAborted}, not: []error{ErrResetRequired}}},
			script: "H 00 00 05 00 C0 00 00 02 C7\n" + `
				C 00 C2 00 C2
				H 00 E2 00 E2
				C
				H 00 81 00 81
				C
				H 00 81 00 81
				C
				H 00 C0 00 C0
				C 00 E0 00 E0`},
		{name: "V6d resynchronisation never answered",
			calls: []call{{apdu: selectMF, is: lost}, {apdu: selectMF, is: later, not: []error{ErrProtocol}}},
			script: hSelect + `
				C 00 00 02 90 00 00
				H 00 81 00 81
				C 00 00 02 90 00 00
				H 00 81 00 81
				C 00 00 02 90 00 00
				H 00 C0 00 C0
				C 00 00 02 90 00 92     # valid, and not what was asked for
				H 00 C0 00 C0
				C 00 E1 01 20 C0
				H 00 C0 00 C0
				C FF FF`},
		{name: "resynchronised three times, never better",
			calls: []call{{apdu: selectMF, is: lost}},
			script: strings.Repeat(hSelect+`
				C 00 00 02 90 00 00
				H 00 81 00 81
				C 00 00 02 90 00 00
				H 00 81 00 81
				C 00 00 02 90 00 00
				H 00 C0 00 C0
				C 00 E0 00 E0
				`, 3) + hSelect + `
				C 00 00 02 90 00 00
				H 00 81 00 81
				C 00 00 02 90 00 00
				H 00 81 00 81
				C 00 00 02 90 00 00`},
		{name: "requests are not answered while resynchronising",
			calls: []call{ok(selectMF, "9000")},
			script: hSelect + `
				C
				H 00 81 00 81
				C
				H 00 81 00 81
				C
				H 00 C0 00 C0
				C 00 C3 01 05 C7
				H 00 C0 00 C0
				C 00 E0 00 E0
				` + hSelect + cOK,
			end: [2]uint8{1, 1}},
		{name: "V7a card raises IFSC while the host chains",
			calls: []call{ok("00 D6 00 00 5F"+strings.Repeat("AA", 95), "9000")},
			script: "H 00 20 20 00 D6 00 00 5F AA*27 23\n" + `
				C 00 C1 01 40 80
				H 00 E1 01 40 A0
				C 00 90 00 90
				H 00 60 40 AA*64 20
				C 00 80 00 80
				H 00 00 04 AA*4 04
				` + cOK,
			end: [2]uint8{1, 1}},
		{name: "V7a a chunk under way keeps its size",
			calls: []call{ok(update40, "9000")},
			script: hUpdate1 + `
				C 00 C1 01 40 80
				H 00 E1 01 40 A0
				C 00 80 00 80
				` + hUpdate1 + "C 00 90 00 90\n" + hUpdate2 + cOK,
			end: [2]uint8{0, 1}},
		{name: "V7a a token's own limit holds", params: T1Params{MaxIFSC: 32},
			calls: []call{ok("00 D6 00 00 5F"+strings.Repeat("AA", 95), "9000")},
			script: "H 00 20 20 00 D6 00 00 5F AA*27 23\n" + `
				C 00 C1 01 FE 3E
				H 00 E1 01 FE 1E
				C 00 90 00 90
				H 00 60 20 AA*32 40
				C 00 80 00 80
				H 00 20 20 AA*32 00
				C 00 90 00 90
				H 00 40 04 AA*4 44
				` + cOK,
			end: [2]uint8{0, 1}},
		{name: "V7c IFSC 0 is refused",
			calls:  []call{ok(selectMF, "9000")},
			script: hSelect + "C 00 C1 01 00 C0\nH 00 82 00 82\n" + cOK,
			end:    [2]uint8{1, 1}},
		{name: "V7c IFSC 255 is refused",
			calls:  []call{ok(selectMF, "9000")},
			script: hSelect + "C 00 C1 01 FF 3F\nH 00 82 00 82\n" + cOK,
			end:    [2]uint8{1, 1}},
		{name: "IFSC requests without end",
			calls: []call{ok(selectMF, "9000")},
			script: hSelect + strings.Repeat("C 00 C1 01 40 80\nH 00 E1 01 40 A0\n", 8) + `
				C 00 C1 01 40 80
				H 00 82 00 82
				` + cOK,
			end: [2]uint8{1, 1}},
		{name: "V8a block received twice",
			calls: []call{ok("00 B0 00 00 22", bytes0to1F+"20 21 90 00")},
			script: "H 00 00 05 00 B0 00 00 22 97\n" + cFirst32 + "H 00 90 00 90\n" + cFirst32 + `
				H 00 92 00 92
				C 00 40 04 20 21 90 00 D5`,
			end: [2]uint8{1, 0}},
		{name: "V8b wrong number",
			calls:  []call{ok(selectMF, "9000")},
			script: hSelect + "C 00 40 02 90 00 D2\nH 00 82 00 82\n" + cOK,
			end:    [2]uint8{1, 1}},
		{name: "V9 no answer on USB",
			calls:  []call{{apdu: selectMF, is: []error{errLink, ErrResetRequired}, not: []error{ErrProtocol}}, {apdu: selectMF, is: later, not: []error{errLink}}},
			script: hSelect + "C!", errs: []error{errLink}},
		{name: "V9 block cannot be sent",
			calls:  []call{{apdu: selectMF, is: []error{errLink, ErrResetRequired}}, {apdu: selectMF, is: later}},
			script: "H!", errs: []error{errLink}},
		{name: "link reports a parity error",
			calls:  []call{ok(selectMF, "9000")},
			script: hSelect + "C!\nH 00 81 00 81\n" + cOK, errs: []error{ErrCorrupted},
			end: [2]uint8{1, 1}},
		{name: "V10 card aborts while the host chains",
			calls: []call{{apdu: update40, is: []error{ErrAborted}, not: []error{ErrResetRequired, ErrProtocol}}, ok(selectMF, "9000")},
			script: hUpdate1 + `
				C 00 C2 00 C2
				H 00 E2 00 E2
				C 00 90 00 90
				H 00 40 07 00 A4 00 00 02 3F 00 DE
				` + cOK,
			end: [2]uint8{0, 1}},
		{name: "V10 card aborts its own chain",
			calls: []call{{apdu: "00 B0 00 00 22", is: []error{ErrAborted}}, ok(selectMF, "9000")},
			script: "H 00 00 05 00 B0 00 00 22 97\n" + cFirst32 + `
				H 00 90 00 90
				C 00 C2 00 C2
				H 00 E2 00 E2
				C 00 90 00 90
				H 00 40 07 00 A4 00 00 02 3F 00 DE
				C 00 40 02 90 00 D2`,
			end: [2]uint8{0, 0}},
		{name: "V10 answer to the abort got lost",
			calls: []call{{apdu: update40, is: []error{ErrAborted}}},
			script: hUpdate1 + `
				C 00 C2 00 C2
				H 00 E2 00 E2
				C 00 91 00 91
				H 00 E2 00 E2
				C 00 90 00 90`,
			end: [2]uint8{1, 0}},
		{name: "V10 aborted command is not begun anew",
			calls: []call{{apdu: update40, is: []error{ErrAborted}, not: []error{ErrResetRequired}}, ok(selectMF, "9000")},
			script: hUpdate1 + `
				C 00 C2 00 C2
				H 00 E2 00 E2
				C 00 00 02 90 00 92
				H 00 82 00 82
				C
				H 00 81 00 81
				C
				H 00 C0 00 C0
				C 00 E0 00 E0
				` + hSelect + cOK,
			end: [2]uint8{1, 1}},
		{name: "V11 empty block in a chain",
			calls: []call{ok("00 B0 00 00 02", "AA BB 90 00")},
			script: `
				H 00 00 05 00 B0 00 00 02 B7
				C 00 20 00 20
				H 00 90 00 90
				C 00 40 04 AA BB 90 00 C5`,
			end: [2]uint8{1, 0}},
		{name: "V12 LEN FF",
			calls:  []call{ok(selectMF, "9000")},
			script: hSelect + "C 00 00 FF 90 00 6F\nH 00 82 00 82\n" + cOK,
			end:    [2]uint8{1, 1}},
		{name: "V12 two bytes are not checked against what was sent",
			calls:  []call{ok(selectMF, "9000")},
			script: hSelect + "C 00 00\nH 00 81 00 81\n" + cOK,
			end:    [2]uint8{1, 1}},
		{name: "V12 block shorter than it says",
			calls:  []call{ok(selectMF, "9000")},
			script: hSelect + "C 00 00 07 00 A4\nH 00 81 00 81\n" + cOK,
			end:    [2]uint8{1, 1}},
		{name: "V12 R-block with data",
			calls:  []call{ok(selectMF, "9000")},
			script: hSelect + "C 00 80 01 00 81\nH 00 82 00 82\n" + cOK,
			end:    [2]uint8{1, 1}},
		{name: "V12 card asks for a resynchronisation",
			calls:  []call{ok(selectMF, "9000")},
			script: hSelect + "C 00 C0 00 C0\nH 00 82 00 82\n" + cOK,
			end:    [2]uint8{1, 1}},
		{name: "V12 unknown S-block",
			calls:  []call{ok(selectMF, "9000")},
			script: hSelect + "C 00 C5 00 C5\nH 00 82 00 82\n" + cOK,
			end:    [2]uint8{1, 1}},
		{name: "V12 answer to no request",
			calls:  []call{ok(selectMF, "9000")},
			script: hSelect + "C 00 E0 00 E0\nH 00 82 00 82\n" + cOK,
			end:    [2]uint8{1, 1}},
		{name: "V12 extension by 0",
			calls:  []call{ok(selectMF, "9000")},
			script: hSelect + "C 00 C3 01 00 C2\nH 00 82 00 82\n" + cOK,
			end:    [2]uint8{1, 1}},
		{name: "V12 reserved bits in an I-block",
			calls:  []call{ok(selectMF, "9000")},
			script: hSelect + "C 00 01 02 90 00 93\nH 00 82 00 82\n" + cOK,
			end:    [2]uint8{1, 1}},
		{name: "V12 reserved bits in an R-block",
			calls:  []call{ok(selectMF, "9000")},
			script: hSelect + "C 00 A0 00 A0\nH 00 82 00 82\n" + cOK,
			end:    [2]uint8{1, 1}},
		{name: "longer than IFSD",
			calls:  []call{ok(selectMF, "9000")},
			script: hSelect + "C 00 00 21 00*33 21\nH 00 82 00 82\n" + cOK,
			end:    [2]uint8{1, 1}},
		{name: "other address",
			calls:  []call{ok(selectMF, "9000")},
			script: hSelect + "C 21 00 02 90 00 B3\nH 00 82 00 82\n" + cOK,
			end:    [2]uint8{1, 1}},
		{name: "address is mirrored", params: T1Params{NAD: 0x12},
			calls:  []call{ok(selectMF, "9000")},
			script: "H 12 00 07 00 A4 00 00 02 3F 00 8C\nC 21 00 02 90 00 B3",
			end:    [2]uint8{1, 1}},
		{name: "V13 CRC", params: T1Params{CRC: true},
			calls:  []call{ok(selectMF, "9000")},
			script: "H 00 00 07 00 A4 00 00 02 3F 00 10 35\nC R 38 00 80 00 00 00\nH 00 81 00 AC 27\nC 00 80 00 B5 FF\nH 00 00 07 00 A4 00 00 02 3F 00 10 35\nC 00 00 02 90 00 9C 6D",
			end:    [2]uint8{1, 1}},
		{name: "V14 junk behind the block",
			calls:  []call{ok(selectMF, "9000")},
			script: hSelect + "C R 37 00 00 02 90 00 92 00 00 00",
			end:    [2]uint8{1, 1}},
		{name: "answer before the command was complete",
			calls: []call{ok(update40, "9000")},
			script: hUpdate1 + cOK + `
				H 00 82 00 82
				C 00 90 00 90
				` + hUpdate2 + cOK,
			end: [2]uint8{0, 1}},
		{name: "card asks for one block for ever",
			calls: []call{{apdu: selectMF, is: lost}},
			script: strings.Repeat(strings.Repeat(hSelect+"C 00 80 00 80\n", 3)+"H 00 C0 00 C0\nC 00 E0 00 E0\n", 3) +
				strings.Repeat(hSelect+"C 00 80 00 80\n", 3)},
		{name: "card acknowledges for ever while it should answer",
			calls: []call{ok("00 B0 00 00 22", bytes0to1F+"9000")},
			script: "H 00 00 05 00 B0 00 00 22 97\n" + cFirst32 + `
				H 00 90 00 90
				C 00 90 00 90
				H 00 90 00 90
				C 00 90 00 90
				H 00 90 00 90
				C 00 90 00 90
				H 00 C0 00 C0
				C 00 E0 00 E0
				H 00 00 05 00 B0 00 00 22 97
				` + cFirst32 + "H 00 90 00 90\nC 00 40 02 90 00 D2",
			end: [2]uint8{1, 0}},
		{name: "acknowledges a command that was complete",
			calls:  []call{ok(selectMF, "9000")},
			script: hSelect + "C 00 90 00 90\nH 00 82 00 82\n" + cOK,
			end:    [2]uint8{1, 1}},
		{name: "answer to an extension got lost, and its time counts again",
			calls: []call{ok(selectMF, "9000")},
			script: hSelect + `
				C 00 C3 01 05 C7
				H 00 E3 01 05 E7
				C W 25000 00 81 00 81
				H 00 E3 01 05 E7
				C W 25000 00 00 02 90 00 92`,
			end: [2]uint8{1, 1}},
		{name: "no status word",
			calls:  []call{{apdu: selectMF, is: []error{ErrProtocol}, not: []error{ErrResetRequired}}, ok(selectMF, "9000")},
			script: hSelect + "C 00 00 01 90 91\nH 00 40 07 00 A4 00 00 02 3F 00 DE\nC 00 40 02 90 00 D2",
			end:    [2]uint8{0, 0}},
		{name: "empty command",
			calls: []call{{apdu: "", is: []error{ErrInvalidAPDU}, not: []error{ErrResetRequired}}, ok(selectMF, "9000")}, script: hSelect + cOK,
			end: [2]uint8{1, 1}},
		{name: "block sizes in range", params: T1Params{IFSC: 256, IFSD: 300},
			calls: []call{ok("00 D6 00 00 FF"+strings.Repeat("00", 255), "9000")},
			script: `
				H 00 20 FE 00 D6 00 00 FF 00*249 F7
				C R 259 00 90 00 90
				H 00 40 06 00*6 46
				` + cOK,
			end: [2]uint8{0, 1}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			link := prototest.Blocks(t, tt.script, tt.errs...)
			e := NewT1(link, tt.params)
			e.ns, e.nr = tt.start[0], tt.start[1]
			runCalls(t, e, tt.calls)
			if e.lost == nil && [2]uint8{e.ns, e.nr} != tt.end {
				t.Errorf("session at %d/%d, want %v", e.ns, e.nr, tt.end)
			}
		})
	}
}

func TestT1Stream(t *testing.T) {
	tests := []struct {
		name   string
		calls  []call
		script string
		errs   []error
	}{
		{"header, then the rest",
			[]call{ok(selectMF, "9000")},
			hSelect + "C 00 00 02\nC W 20000 90 00 92", nil},
		{"block of 254 bytes",
			[]call{ok(selectMF, strings.Repeat("00", 252)+"9000")},
			hSelect + "C 00 00 FE 00*252 90 00 6E", nil},
		{"damaged block is followed by silence",
			[]call{ok(selectMF, "9000")},
			hSelect + "C 00 00 02 90 00 93 01 02 03\nC! W 30\nH 00 81 00 81\n" + cOK, []error{errLink}},
		{"LEN FF",
			[]call{ok(selectMF, "9000")},
			hSelect + "C 00 00 FF 01 02 03\nC! W 30\nH 00 82 00 82\n" + cOK, []error{errLink}},
		{"parity error in the header",
			[]call{ok(selectMF, "9000")},
			hSelect + "C!\nC!\nH 00 81 00 81\n" + cOK, []error{ErrCorrupted, errLink}},
		{"parity error in the body",
			[]call{ok(selectMF, "9000")},
			hSelect + "C 00 00 02\nC!\nC!\nH 00 81 00 81\n" + cOK, []error{ErrCorrupted, errLink}},
		{"silence",
			[]call{{apdu: selectMF, is: []error{errLink, ErrResetRequired}}},
			hSelect + "C!", []error{errLink}},
		{"silence in the body",
			[]call{{apdu: selectMF, is: []error{errLink, ErrResetRequired}}},
			hSelect + "C 00 00 02\nC!", []error{errLink}},
		{"fault that leaves no doubt where the block ends",
			[]call{ok(selectMF, "9000")},
			hSelect + "C 00 40 02 90 00 D2\nH 00 82 00 82\n" + cOK, nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			link := prototest.Stream(t, tt.script, tt.errs...)
			runCalls(t, NewT1(link, T1Params{Stream: true, IFSD: 254, CWT: 30 * time.Millisecond}), tt.calls)
		})
	}
}
