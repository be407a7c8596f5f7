//go:build go1.25

package driver

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"

	"openct/internal/atr"
	"openct/internal/hextest"
	"openct/internal/ifd"
	"openct/internal/proto"
	"openct/internal/usb"
	"openct/internal/usb/usbtest"
)

// Answers to reset of the tokens (doc/devices).
const (
	iKey2kATR  = "3B FF 11 00 00 81 31 FE 4D 80 25 A0 00 00 00 56 57 44 4B 33 33 30 06 00 D0"
	starcosATR = "3B B7 94 00 81 31 FE 65 53 50 4B 32 33 90 00 D1"
	starcosT0  = "3B B7 94 00 C0 24 31 FE 65 53 50 4B 32 33 90 00 B4" // T=0 first
	ePassATR   = "3B 0F 00 65 46 53 05 30 05 71 DF 00 00 00 80 6A 82"
	eGateATR1  = "3B 95 18 40 FF 62 01 02 01 04"
	eutronATR1 = "3B F2 98 00 FF C1 10 31 FE 55 C8 03 15"
	rutokenATR = "3B 6F 00 FF 00 56 72 75 54 6F 6B 6E 73 30 20 00 00 90 00"
)

// selectMF and its answer without data.
const (
	selectMF = "00 A4 00 00 02 3F 00"
	ok       = "90 00"
)

// exchange is one APDU through a driver.
type exchange struct {
	command, response string
	err               error
}

// Resets as transcripts, and what follows in the CryptoIdentity's.
const iKey2kResetScript = `
	CLAIM 0 0
	IN  C1 00 0000 0000 len 64  T d     0D 63 00 05 2D 2D C0 80 80 60 80 01 19
	OUT 41 16 0000 0000 []      T d
	IN  C1 01 0000 0000 len 2   T d     00
	OUT 41 16 1901 0000 []      T 1000
	IN  C1 01 0000 0000 len 25  T 1000  ` + iKey2kATR + `
	OUT 41 16 0000 0000 []      T 1000
	IN  C1 01 0000 0000 len 2   T 1000  00
	OUT 41 16 0000 0000 []      T 1000
	IN  C1 01 0000 0000 len 32  T 1000  00
	OUT 41 16 1901 0000 []      T 1000
	IN  C1 01 0000 0000 len 25  T 1000  ` + iKey2kATR
const iKey3kResetScript = `
	CLAIM 0 0
	IN  C1 00 0000 0000 len 64  T d     0A 61 00 07 2D 2D C0 80 80 60
	OUT 41 16 0000 0000 []      T d
	IN  C1 01 0000 0000 len 2   T d     00
	OUT 41 16 2005 0000 []      T 1000
	IN  C1 01 0000 0000 len 32  T 1000  10 ` + starcosATR + ` 00*15
	OUT 41 16 0002 0000 []      T d
	IN  C1 01 0000 0000 len 4   T d     FF 11 11 FF`
const eutronResetScript = `
	CLAIM 0 0
	OUT 42 A3 0000 0000 []      T d
	OUT 42 A1 0000 0000 []      T d
	OUT 42 A2 0000 0000 []      T d
	OUT 42 A0 0000 0000 []      T d
	IN  C2 02 0000 0000 len 164 T 1000  5A 5A
	IN  C2 02 0000 0000 len 164 T 1000
	OUT 42 09 0000 0000 []      T d
	IN  C2 02 0000 0000 len 64  T 1000  3B F2 98 00 FF C1 10 31 FE 55
	IN  C2 02 0000 0000 len 54  T 1000  C8 03 15
	OUT 42 01 0000 0000 [FF 01 FE] T 1000`
const eutronReadyScript = `
	OUT 42 65 0001 0000 []      T d
	OUT 42 A1 0000 0000 []      T d
	OUT 42 A0 0000 0000 []      T d
	OUT 42 01 0000 0000 [00 C1 01 FE 3E] T 1000
	IN  C2 02 0000 0000 len 499 T 20000 00 E1 01 FE 1E
	OUT 42 01 0000 0000 [00 00 07 00 A4 00 00 02 3F 00 9E] T 1000
	IN  C2 02 0000 0000 len 499 T 20000 00 00 02
	IN  C2 02 0000 0000 len 499 T 20000 90 00 92`
const eGateResetScript = `
	CLAIM 0 0
	OUT 40 90 0000 0000 []      T 2000
	IN  C0 A0 0000 0000 len 1   T 1000  00
	IN  C0 83 0000 0000 len 35  T 1000  ` + eGateATR1
const ePassResetScript = `
	CLAIM 0 0
	BULK 81 len 64 T 100 TIMEOUT
	BULK 02 [52 36 00 01 00 00] T d
	BULK 81 len 64 T d 52 36 00 00 00 16 AA BB ` + ePassATR + ` CC DD EE`
const rutokenResetScript = `
	CLAIM 0 0
	OUT 41 63 0000 0000 []      T d
	IN  C1 A0 0000 0000 len 1   T 1000  10
	IN  C1 62 0000 0000 len 19  T 1000  ` + rutokenATR
const cardManResetScript = `
	CLAIM 0 0
	OUT 42 20 0000 0000 []      T 2000
	INT 81 len 8 40
	OUT 42 30 0100 0002 []      T 2000
	OUT 42 10 0000 0000 []      T 2000
	INT 81 len 8 3B 02 14 50`
const starKeyResetScript = `
	CLAIM 0 0
	INT 81 len 32
	INT 81 len 32 ` + starcosATR

// Golden transcripts, as in doc/devices:
// those of the iKeys, the e-gate, the CryptoIdentity and the Rutoken were run
// with C OpenCT's drivers, the ePass3000's and the StarKey's are from what is known of them.
// A script begins with the first transfer of a reset.
func TestTokenTranscripts(t *testing.T) {
	tests := []struct {
		name, driver string
		atr          string
		id           proto.ID
		script       string
		apdus        []exchange
	}{
		{"iKey 2032", "ikey2k", iKey2kATR, proto.T1, iKey2kResetScript + `
			OUT 41 17 0000 0007 [A4 00 00 02 3F 00 9E] T d
			IN  C1 01 0000 0000 len 255 T 20000 00 00 02 90 00 92 40 98 C1`,
			[]exchange{{selectMF, ok, nil}}},
		{"iKey 3000", "ikey3k", starcosATR, proto.T1, iKey3kResetScript, nil},
		{"iKey 3000 of another revision, T=0 first", "ikey3k", starcosT0, proto.T1,
			strings.NewReplacer("10 "+starcosATR+" 00*15", "11 "+starcosT0+" 00*14", "00 07 2D", "00 09 2D").Replace(iKey3kResetScript) + `
			OUT 41 17 0000 0007 [A4 00 00 02 3F 00 9E] T d
			IN  C1 01 0000 0000 len 255 T 20000 00 00 02 90 00 92`,
			[]exchange{{selectMF, ok, nil}}},
		{"an acknowledgement has no data stage", "ikey3k", starcosATR, proto.T1, iKey3kResetScript + `
			OUT 41 17 0000 0005 [B0 00 00 02 B7] T d
			IN  C1 01 0000 0000 len 255 00 20 02 11 22 11 00*200
			OUT 41 17 9000 9000 [] T d
			IN  C1 01 0000 0000 len 255 00 40 02 90 00 D2`,
			[]exchange{{"00 B0 00 00 02", "11 22 90 00", nil}}},
		{"CryptoIdentity", "eutron", eutronATR1, proto.T1, eutronResetScript + `
			IN  C2 02 0000 0000 len 7   T 1000  FF 01 FE` + eutronReadyScript,
			[]exchange{{selectMF, ok, nil}}},
		{"PPS response in two pieces", "eutron", eutronATR1, proto.T1, eutronResetScript + `
			IN  C2 02 0000 0000 len 7   T 1000  FF 01
			IN  C2 02 0000 0000 len 5   T 1000  FE` + eutronReadyScript,
			[]exchange{{selectMF, ok, nil}}},
		{"e-gate", "egate", eGateATR1, proto.Transparent, eGateResetScript + `
			IN  C0 A0 0000 0000 len 1   T 1000  00
			OUT 40 80 0000 0000 [C0 A4 00 00 02] T d
			IN  C0 A0 0000 0000 len 1   T 1000  10
			OUT 40 82 0000 0000 [3F 00] T d
			IN  C0 A0 0000 0000 len 1   T 1000  40
			IN  C0 A0 0000 0000 len 1   T 1000  40
			IN  C0 A0 0000 0000 len 1   T 1000  20
			IN  C0 81 0000 0000 len 2   T 1000  61 14
			IN  C0 A0 0000 0000 len 1   T 1000  00
			OUT 40 80 0000 0000 [C0 C0 00 00 14] T d
			IN  C0 A0 0000 0000 len 1   T 1000  10
			IN  C0 81 0000 0000 len 20  T 1000  01*20
			IN  C0 A0 0000 0000 len 1   T 1000  20
			IN  C0 81 0000 0000 len 2   T 1000  90 00`,
			[]exchange{
				{"C0 A4 00 00 02 3F 00", "61 14", nil},
				{"C0 C0 00 00 14", strings.Repeat("01 ", 20) + ok, nil},
			}},
		{"e-gate: busy after the reset, refusal before the data, answer in pieces", "egate", eGateATR1, proto.Transparent,
			strings.Replace(eGateResetScript, "IN  C0 A0 0000 0000 len 1   T 1000  00", `IN  C0 A0 0000 0000 len 1 4C
				IN  C0 A0 0000 0000 len 1 03`, 1) + `
			IN  C0 A0 0000 0000 len 1   T 1000  07
			OUT 40 80 0000 0000 [00 A4 00 00 02]
			IN  C0 A0 0000 0000 len 1   T 1000  2F
			IN  C0 81 0000 0000 len 2   T 1000  6E 00
			IN  C0 A0 0000 0000 len 1   T 1000  00
			OUT 40 80 0000 0000 [00 B0 00 00 00]
			IN  C0 A0 0000 0000 len 1   T 1000  11
			IN  C0 81 0000 0000 len 256 T 1000  01*200
			IN  C0 A0 0000 0000 len 1   T 1000  12
			IN  C0 81 0000 0000 len 56  T 1000  02*56
			IN  C0 A0 0000 0000 len 1   T 1000  23
			IN  C0 81 0000 0000 len 2   T 1000  90 00
			IN  C0 A0 0000 0000 len 1   T 1000  00
			OUT 40 80 0000 0000 [00 44 00 00 00] T d
			IN  C0 A0 0000 0000 len 1   T 1000  20
			IN  C0 81 0000 0000 len 2   T 1000  90 00`,
			[]exchange{
				{selectMF, "6E 00", nil},
				{"00 B0 00 00 00", strings.Repeat("01 ", 200) + strings.Repeat("02 ", 56) + ok, nil},
				{"00 44 00 00", ok, nil},
				{"00 B0 00 00 00 01 00", "", proto.ErrInvalidAPDU},
				{"00 A4 00 00 03 3F 00", "", proto.ErrInvalidAPDU},
				{"00 A4 00", "", proto.ErrInvalidAPDU},
			}},
		{"e-gate: data phase after case 1", "egate", eGateATR1, proto.Transparent, eGateResetScript + `
			IN  C0 A0 0000 0000 len 1 00
			OUT 40 80 0000 0000 [00 44 00 00 00]
			IN  C0 A0 0000 0000 len 1 10`,
			[]exchange{{"00 44 00 00", "", ifd.ErrComm}, {selectMF, "", proto.ErrResetRequired}}},
		{"e-gate: not ready", "egate", eGateATR1, proto.Transparent, eGateResetScript + `
			IN  C0 A0 0000 0000 len 1 80`,
			[]exchange{{selectMF, "", ifd.ErrComm}, {selectMF, "", proto.ErrResetRequired}}},
		{"e-gate: status word of one byte", "egate", eGateATR1, proto.Transparent, eGateResetScript + `
			IN  C0 A0 0000 0000 len 1 00
			OUT 40 80 0000 0000 [00 44 00 00 00]
			IN  C0 A0 0000 0000 len 1 20
			IN  C0 81 0000 0000 len 2 90`,
			[]exchange{{"00 44 00 00", "", ifd.ErrComm}}},
		{"e-gate: data announced, none there", "egate", eGateATR1, proto.Transparent, eGateResetScript + `
			IN  C0 A0 0000 0000 len 1 00
			OUT 40 80 0000 0000 [00 B0 00 00 04]
			IN  C0 A0 0000 0000 len 1 10
			IN  C0 81 0000 0000 len 4`,
			[]exchange{{"00 B0 00 00 04", "", ifd.ErrComm}}},
		{"ePass3000", "ePass3000", ePassATR, proto.T0, ePassResetScript + `
			BULK 02 [52 36 00 02 00 07 00 A4 00 00 02 3F 00] T d
			BULK 81 len 64 T 200000 52 36 00 00 00 02 61 1C
			BULK 02 [52 36 00 02 00 05 00 C0 00 00 1C] T d
			BULK 81 len 64 T 200000 52 36
			BULK 81 len 64 00 00 00 1E 01*28 90
			BULK 81 len 64 00
			BULK 02 [52 36 00 02 00 07 00 A4 00 00 02 3F 00]
			BULK 81 len 64 52 36 00 00 00 7A 02*58
			BULK 81 len 64 02*62 90 00
			BULK 02 [52 36 00 02 00 05 00 44 00 00 00]
			BULK 81 len 64
			BULK 81 len 64 T 200000 52 36 00 00 00 02 90 00
			BULK 02 [52 36 00 02 00 05 00 44 00 00 00]
			BULK 81 len 64`,
			[]exchange{
				{selectMF, "61 1C", nil},
				{"00 C0 00 00 1C", strings.Repeat("01 ", 28) + ok, nil},
				// newer firmware: data at once; the whole is two full packets
				{selectMF + " 00", strings.Repeat("02 ", 120) + ok, nil},
				{"00 44 00 00", ok, nil},
				{"00 44 00 00", "", ifd.ErrComm},
			}},
		{"ePass3000: wrong tag", "ePass3000", ePassATR, proto.T0, ePassResetScript + `
			BULK 02 [52 36 00 02 00 07 00 A4 00 00 02 3F 00]
			BULK 81 len 64 52 37 00 00 00 02 90 00`,
			[]exchange{{selectMF, "", ifd.ErrComm}, {selectMF, "", proto.ErrResetRequired}}},
		{"ePass3000: more than fits", "ePass3000", ePassATR, proto.T0, ePassResetScript + `
			BULK 02 [52 36 00 02 00 05 00 B0 00 00 02]
			BULK 81 len 64 52 36 00 00 FF FF 90 00`,
			[]exchange{{"00 B0 00 00 02", "", ifd.ErrComm}}},
		{"ePass3000: refused", "ePass3000", ePassATR, proto.T0, ePassResetScript + `
			BULK 02 [52 36 00 02 00 05 00 B0 00 00 02]
			BULK 81 len 64 52 36 00 07 00 00`,
			[]exchange{{"00 B0 00 00 02", "", ifd.ErrComm}}},
		{"StarKey", "starkey", starcosATR, proto.T1, starKeyResetScript + `
			OUT 40 06 0000 0000 [00 00 07 00 A4 00 00 02 3F 00 9E] T d
			IN  C0 86 0000 0000 len 37 T 20000 00 00 02 90 00 92`,
			[]exchange{{selectMF, ok, nil}}},
		{"StarKey: ATR in packets", "starkey", starcosATR, proto.T1, `
			INT 81 len 32 3B B7 94 00 81 31 FE 65
			INT 81 len 32 53 50 4B 32 33 90 00 D1`, nil},
		{"Rutoken: SELECT MF", "rutoken", rutokenATR, proto.Transparent, rutokenResetScript + `
			OUT 41 65 0000 0000 [00 A4 00 00 02] T d
			IN  C1 A0 0000 0000 len 1   T 1000  10
			IN  C1 A0 0000 0000 len 1   T 1000  10
			OUT 41 65 0000 0000 [3F 00] T d
			IN  C1 A0 0000 0000 len 1   T 1000  20
			IN  C1 A0 0000 0000 len 1   T 1000  20
			IN  C1 6F 0000 0000 len 2   T d     61 20
			IN  C1 A0 0000 0000 len 1   T 1000  00
			OUT 41 65 0000 0000 [00 C0 00 00 20] T d
			IN  C1 A0 0000 0000 len 1   T 1000  10
			IN  C1 A0 0000 0000 len 1   T 1000  10
			IN  C1 6F 0000 0000 len 32  T d     00 00 00 00 38 00 3F 00 01 00*8 43 00*14
			IN  C1 A0 0000 0000 len 1   T 1000  20
			IN  C1 A0 0000 0000 len 1   T 1000  20
			IN  C1 6F 0000 0000 len 2   T d     90 00
			IN  C1 A0 0000 0000 len 1   T 1000  00`,
			[]exchange{{"00 A4 00 00 02 00 3F 00",
				"62 3D 81 02 00 00 80 02 00 00 82 02 38 00 83 02 00 3F 8A 01 01 86 28 43 " + strings.Repeat("00 ", 39) + ok, nil}}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				dev := usbtest.Parse(t, tt.script)
				defer dev.Done(t)
				d, _ := ByName(tt.driver)
				slot, raw := session(t, d.Open, dev)
				if want := hextest.Bytes(t, tt.atr); string(raw) != string(want) {
					t.Fatalf("ATR % X, want % X", raw, want)
				}
				e := engine(t, slot, raw)
				if e.ID() != tt.id {
					t.Errorf("protocol %v, want %v", e.ID(), tt.id)
				}
				play(t, e, tt.apdus)
			})
		})
	}
}

// engine makes the engine for a card that was just reset.
func engine(t *testing.T, slot ifd.Slot, raw []byte) proto.Engine {
	t.Helper()
	a, err := atr.Parse(raw)
	if err != nil {
		t.Fatal(err)
	}
	e, err := slot.Protocol(context.Background(), proto.Default, a)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

// play sends APDUs.
func play(t *testing.T, e proto.Engine, apdus []exchange) {
	t.Helper()
	for _, x := range apdus {
		got, err := e.Transmit(context.Background(), hextest.Bytes(t, x.command), nil)
		if !errors.Is(err, x.err) {
			t.Errorf("%s: error %v, want %v", x.command, err, x.err)
		} else if want := hextest.Bytes(t, x.response); string(got) != string(want) {
			t.Errorf("%s: got % X, want % X", x.command, got, want)
		}
	}
}

// Protocols a token does not speak are refused, and those it speaks are given
// under each of their names.
func TestTokenProtocols(t *testing.T) {
	tests := []struct {
		name string
		slot ifd.Slot
		atr  string
		yes  []proto.ID
		no   []proto.ID
	}{
		{"ikey2k", &iKey{}, iKey2kATR, []proto.ID{proto.Default, proto.T1}, []proto.ID{proto.T0, proto.Transparent, 77}},
		{"ikey3k, T=0 first", &iKey{}, starcosT0, []proto.ID{proto.Default, proto.T1}, []proto.ID{proto.T0, proto.GBP}},
		{"ikey3k, T=0 alone", &iKey{}, eGateATR1, nil, []proto.ID{proto.Default, proto.T0, proto.T1}},
		{"ePass3000", &ePass3000{}, ePassATR, []proto.ID{proto.Default, proto.T0}, []proto.ID{proto.T1, proto.Transparent}},
		{"ePass3000, T=1 card", &ePass3000{}, starcosATR, nil, []proto.ID{proto.Default, proto.T0, proto.T1}},
		{"egate", &eGate{}, eGateATR1, []proto.ID{proto.Default, proto.T0, proto.Transparent}, []proto.ID{proto.T1, proto.Escape}},
		{"starkey", &starKey{}, starcosATR, []proto.ID{proto.Default, proto.T1}, []proto.ID{proto.T0, proto.Transparent}},
		{"rutoken", &rutoken{}, rutokenATR, []proto.ID{proto.Default, proto.T0, proto.Transparent}, []proto.ID{proto.T1, -7}},
		{"cardman", &cardMan{}, ePassATR, []proto.ID{proto.Default, proto.T0}, []proto.ID{proto.T1, proto.Transparent}},
		{"cardman, T=1 card", &cardMan{}, starcosATR, nil, []proto.ID{proto.Default, proto.T0, proto.T1}},
		{"cardman, both", &cardMan{}, starcosT0, []proto.ID{proto.Default, proto.T0}, []proto.ID{proto.T1}},
		{"eutron, T=0 alone", &eutron{}, "3B 00", nil, []proto.ID{proto.T1, proto.Transparent}},
		{"eutron, T=0 first", &eutron{}, starcosT0, nil, []proto.ID{proto.T0, proto.Transparent}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			a, err := atr.Parse(hextest.Bytes(t, tt.atr))
			if err != nil {
				t.Fatal(err)
			}
			for _, p := range tt.yes {
				if _, err := tt.slot.Protocol(context.Background(), p, a); err != nil {
					t.Errorf("protocol %d: %v", p, err)
				}
			}
			for _, p := range tt.no {
				if _, err := tt.slot.Protocol(context.Background(), p, a); !errors.Is(err, ifd.ErrNotSupported) {
					t.Errorf("protocol %d: got %v, want %v", p, err, ifd.ErrNotSupported)
				}
			}
		})
	}
}

// The StarKey sends its ATR once. A later reset has it from memory, after the
// card has answered.
func TestStarKeyResetsAgain(t *testing.T) {
	tests := []struct {
		name, script string
		want         error
	}{
		{"the card lives", `
			OUT 40 06 0000 0000 [00 C0 00 C0]
			IN  C0 86 0000 0000 len 37 00 E0 00 E0`, nil},
		{"the card is dead", `
			OUT 40 06 0000 0000 [00 C0 00 C0]
			IN  C0 86 0000 0000 len 37 TIMEOUT`, usb.ErrTimeout},
		{"another ATR", "INT 81 len 32 " + starcosT0, nil},
		{"pulled", "INT 81 len 32 UNPLUG", usb.ErrUnplugged},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				dev := usbtest.Parse(t, "INT 81 len 32 "+starcosATR+"\n"+tt.script)
				defer dev.Done(t)
				slot, first := session(t, openStarKey, dev)
				got, err := slot.Reset(context.Background())
				if !errors.Is(err, tt.want) {
					t.Fatalf("error %v, want %v", err, tt.want)
				}
				want := first
				if tt.name == "another ATR" {
					want = hextest.Bytes(t, starcosT0)
				}
				if err == nil && string(got) != string(want) {
					t.Errorf("ATR % X, want % X", got, want)
				}
			})
		})
	}
	t.Run("never an ATR", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			dev := usbtest.Parse(t, "")
			r, err := openStarKey(dev, ifd.Options{})
			if err != nil {
				t.Fatal(err)
			}
			if _, err := r.Slots()[0].Reset(context.Background()); !errors.Is(err, ifd.ErrNoATR) {
				t.Errorf("got %v, want %v", err, ifd.ErrNoATR)
			}
		})
	})
}
