package ctbcs

import (
	"bytes"
	"encoding/hex"
	"errors"
	"strings"
	"testing"
	"time"

	"openct/internal/ifd"
	"openct/internal/proto"
)

var pin = ifd.PINRequest{Control: 0x01, Offset: 0x06, APDU: []byte{0x00, 0x20, 0x00, 0x01, 0x08, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF}}

func TestCommands(t *testing.T) {
	long := "a text that is longer than thirty-two characters"
	for _, tt := range []struct {
		name string
		got  []byte
		want string
	}{
		{"reset of the terminal", ResetCT(), "20110000"},
		{"reset of a card", ResetICC(2), "2011020100"},
		{"request", RequestICC(1, 0, ""), "2012010100"},
		{"request, no text, as C OpenCT's programs say it", RequestICC(1, 0, "@"), "2012010100"},
		{"request with a time", RequestICC(1, 5*time.Second, ""), "201201010380010500"},
		{"request with time and text", RequestICC(1, 5*time.Second, "Insert card"), "2012010110800105500b496e73657274206361726400"},
		{"request with too long a time", RequestICC(1, time.Hour, ""), "20120101038001ff00"},
		{"request with half a second", RequestICC(1, time.Second/2, ""), "201201010380010100"},
		{"request with a negative time", RequestICC(1, -1, ""), "2012010100"},
		{"eject", EjectICC(1, 0, ""), "20150100"},
		{"eject with time and text", EjectICC(1, 5*time.Second, "Bye"), "20150100088001055003427965"},
		{"status", GetICCStatus(1), "2013018000"},
		{"units", GetUnits(), "2013008100"},
		{"output", Output("HI"), "201740000450024849"},
		{"output of a text that is too long", Output(long), "201740002250" + "20" + hex.EncodeToString([]byte(long[:32]))},
		{"output of nothing", Output(""), "20174000025000"},
		{"output of no text", Output("@"), "20174000025000"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := hex.EncodeToString(tt.got); got != tt.want {
				t.Errorf("\n got %s\nwant %s", got, tt.want)
			}
		})
	}
}

func TestPINCommands(t *testing.T) {
	with := func(change func(*ifd.PINRequest)) ifd.PINRequest {
		r := pin
		change(&r)
		return r
	}
	for _, tt := range []struct {
		name string
		make func(byte, ifd.PINRequest) ([]byte, error)
		r    ifd.PINRequest
		want string // "": refused
	}{
		{"verify", Verify, pin, "2018010011520f01060020000108ffffffffffffffff"},
		{
			"verify with time and text", Verify,
			with(func(r *ifd.PINRequest) { r.Timeout, r.Message = 30*time.Second, "PIN" }),
			"201801001980011e500350494e520f01060020000108ffffffffffffffff",
		},
		{
			"four bytes: the terminal adds Lc and PIN", Verify,
			with(func(r *ifd.PINRequest) { r.APDU = r.APDU[:4] }), "20180100085206010600200001",
		},
		{"three bytes", Verify, with(func(r *ifd.PINRequest) { r.APDU = r.APDU[:3] }), ""},
		{
			"modify", Modify,
			with(func(r *ifd.PINRequest) { r.APDU = []byte{0x0E, 0x00, 0x24, 0x00, 0x01} }),
			"201901000952070106" + "0e00240001",
		},
		{"modify without a new position", Modify, with(func(r *ifd.PINRequest) { r.APDU = nil }), ""},
		{"modify with three bytes", Modify, with(func(r *ifd.PINRequest) { r.APDU = []byte{0x0E, 0x00, 0x24, 0x00} }), ""},
		{"the longest", Verify, with(func(r *ifd.PINRequest) { r.APDU = make([]byte, 125) }), "2018010081527f0106" + strings.Repeat("00", 125)},
		{"longer than the longest", Verify, with(func(r *ifd.PINRequest) { r.APDU = make([]byte, 126) }), ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := tt.make(1, tt.r)
			if tt.want == "" {
				if !errors.Is(err, proto.ErrInvalidAPDU) {
					t.Errorf("%x, %v", got, err)
				}
				return
			}
			if err != nil || hex.EncodeToString(got) != tt.want {
				t.Errorf("%v\n got %x\nwant %s", err, got, tt.want)
			}
		})
	}
}

// Reading an answer: what comes of it, or the state that its error wraps.
func TestResponses(t *testing.T) {
	reset := func(b []byte) (string, error) { d, _, err := ATR(b); return hex.EncodeToString(d), err }
	present := func(b []byte) (string, error) {
		in, err := Present(b)
		return map[bool]string{true: "in"}[in], err
	}
	off := func(b []byte) (string, error) { return map[bool]string{true: "off"}[Off(b)], nil }
	done := func(b []byte) (string, error) { return "", Done("output", b) }
	ejected := func(b []byte) (string, error) { return "", Ejected(b) }
	entered := func(b []byte) (string, error) { d, err := PINResponse(b); return hex.EncodeToString(d), err }
	for _, tt := range []struct {
		name, resp string
		read       func([]byte) (string, error)
		want       string
		err        error
	}{
		{"asynchronous card", "3b0214509001", reset, "3b021450", nil},
		{"synchronous card", "a21310919000", reset, "a2131091", nil},
		{"synchronous card of unknown type", "a213109162a5", reset, "a2131091", nil},
		{"no card in time", "6200", reset, "", ifd.ErrNoCard},
		{"no card", "64a1", reset, "", ifd.ErrNoCard},
		{"mute card", "6400", reset, "", ifd.ErrNoATR},
		{"request cancelled", "6401", reset, "", ifd.ErrUserAbort},
		{"request is unknown", "6d00", reset, "", ifd.ErrNotSupported},
		{"no such slot", "6a00", reset, "", ifd.ErrNotSupported},
		{"any other status word", "6f00", reset, "", ifd.ErrComm},
		{"one byte", "90", reset, "", ifd.ErrComm},
		{"card is in", "8001019000", present, "in", nil},
		{"card is in and powered", "8001059000", present, "in", nil},
		{"card is out", "8001009000", present, "", nil},
		{"old firmware: card is in", "019000", present, "in", nil},
		{"old firmware: card is out", "009000", present, "", nil},
		{"status of wrong length", "8002019000", present, "", ifd.ErrComm},
		{"status of two bytes", "00009000", present, "", ifd.ErrComm},
		{"status of no bytes", "9000", present, "", ifd.ErrComm},
		{"status refused", "6f00", present, "", ifd.ErrComm},
		{"status empty", "", present, "", ifd.ErrComm},
		{"card has no power", "8001039000", off, "off", nil},
		{"card has power", "8001059000", off, "", nil},
		{"card, the terminal does not tell more", "8001019000", off, "", nil},
		{"no card, power", "8001009000", off, "", nil},
		{"status refused, power", "6f00", off, "", nil},
		{"shown", "9000", done, "", nil},
		{"no display", "6a00", done, "", ifd.ErrNotSupported},
		{"display answers nothing", "", done, "", ifd.ErrComm},
		{"ejected", "9000", ejected, "", nil},
		{"taken out", "9001", ejected, "", nil},
		{"not taken out", "6200", ejected, "", ifd.ErrUserTimeout},
		{"eject refused", "6a00", ejected, "", ifd.ErrNotSupported},
		{"eject empty", "00", ejected, "", ifd.ErrComm},
		{"right PIN", "9000", entered, "9000", nil},
		{"wrong PIN", "63c2", entered, "63c2", nil},
		{"nothing typed", "6400", entered, "", ifd.ErrUserTimeout},
		{"cancelled", "6401", entered, "", ifd.ErrUserAbort},
		{"new PINs differ", "6402", entered, "", ifd.ErrPINMismatch},
		{"no answer to a PIN", "", entered, "", ifd.ErrComm},
	} {
		t.Run(tt.name, func(t *testing.T) {
			resp, err := hex.DecodeString(tt.resp)
			if err != nil {
				t.Fatal(err)
			}
			got, err := tt.read(resp)
			if got != tt.want || !errors.Is(err, tt.err) {
				t.Errorf("%q, %v; want %q, %v", got, err, tt.want, tt.err)
			}
		})
	}
}

func TestUnits(t *testing.T) {
	for _, tt := range []struct {
		name, resp string
		want       Features
	}{
		{"all", "8103014050" + "9000", Features{1, true, true}},
		{"two slots", "8102010" + "29000", Features{2, false, false}},
		{"display alone", "810201409000", Features{1, true, false}},
		{"keypad alone", "810201509000", Features{1, false, true}},
		{"printer, slot 0 and slot 15", "810360000f9000", Features{1, false, false}},
		{"not known", "6d00", Features{Slots: 1}},
		{"wrong length", "810401409000", Features{Slots: 1}},
		{"empty", "", Features{Slots: 1}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			resp, err := hex.DecodeString(tt.resp)
			if err != nil {
				t.Fatal(err)
			}
			if got := Units(resp); got != tt.want {
				t.Errorf("got %+v, want %+v", got, tt.want)
			}
		})
	}
}

func TestStatusWords(t *testing.T) {
	for _, tt := range []struct {
		name            string
		resp            []byte
		unknown, active bool
	}{
		{"done", []byte{0x90, 0x00}, false, false},
		{"unknown INS", []byte{0x6D, 0x00}, true, false},
		{"wrong parameters", []byte{0x6B, 0x00}, true, false},
		{"powered already", []byte{0x62, 0x01}, false, true},
		{"short", []byte{0x6D}, false, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if Unknown(tt.resp) != tt.unknown || Active(tt.resp) != tt.active {
				t.Errorf("unknown %v, active %v", Unknown(tt.resp), Active(tt.resp))
			}
		})
	}
	if !Asynchronous(0x9001) || Asynchronous(0x9000) || Asynchronous(0x62A6) {
		t.Error("9001 alone is an asynchronous card")
	}
}

// FuzzResponse: no answer of a terminal does harm, and a success has a status
// word.
func FuzzResponse(f *testing.F) {
	for _, seed := range []string{"3b0214509001", "8001019000", "8103014050" + "9000", "6200", "90", ""} {
		b, err := hex.DecodeString(seed)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, resp []byte) {
		if data, sw, err := ATR(resp); err == nil && !bytes.Equal(append(append([]byte{}, data...), byte(sw>>8), byte(sw)), resp) {
			t.Errorf("ATR %x, %04x of %x", data, sw, resp)
		}
		if got, err := PINResponse(resp); err == nil && len(got) < 2 {
			t.Errorf("PIN response %x", got)
		}
		if in, err := Present(resp); in && err != nil {
			t.Errorf("present, and %v", err)
		}
		if n := Units(resp).Slots; n < 1 || n > ICC14 {
			t.Errorf("%d slots", n)
		}
		if err := Ejected(resp); err == nil && len(resp) < 2 {
			t.Error("ejected without a status word")
		}
	})
}

// FuzzPINCommand: Lc and the lengths of the data objects fit what follows them.
func FuzzPINCommand(f *testing.F) {
	f.Add(byte(1), byte(6), "PIN", int64(15*time.Second), pin.APDU)
	f.Add(byte(0), byte(0), "@", int64(0), []byte{})
	f.Fuzz(func(t *testing.T, control, offset byte, text string, timeout int64, apdu []byte) {
		r := ifd.PINRequest{Control: control, Offset: offset, Message: text, Timeout: time.Duration(timeout), APDU: apdu}
		for _, make := range []func(byte, ifd.PINRequest) ([]byte, error){Verify, Modify} {
			b, err := make(1, r)
			if err != nil {
				continue
			}
			if int(b[4]) != len(b)-5 {
				t.Fatalf("Lc %d of %x", b[4], b)
			}
			for b = b[5:]; len(b) > 0; b = b[2+b[1]:] {
				if len(b) < 2 || len(b) < 2+int(b[1]) {
					t.Fatalf("data objects end with %x", b)
				}
			}
		}
	})
}
