package proto

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"openct/internal/hextest"
	"openct/internal/proto/prototest"
)

var lostT0 = []error{ErrProtocol, ErrResetRequired}

// Exchanges of every case in stream mode, and what else the card may do.
func TestT0Stream(t *testing.T) {
	const (
		select4  = "00 A4 00 00 02 3F 00 00"
		hSel     = "H 00 A4 00 00 02\n"
		acked    = hSel + "C A4\nH 3F 00\n"
		read2    = "00 B0 00 00 02"
		hRead2   = "H 00 B0 00 00 02\n"
		longData = "00 D6 00 00 00 01 00"
	)
	later := call{apdu: read2, is: []error{ErrResetRequired}, not: []error{ErrProtocol, errLink}}
	tests := []struct {
		name   string
		params T0Params
		calls  []call
		script string
		errs   []error
	}{
		{name: "T0-1 case 1", calls: []call{ok("00 44 00 00", "9000")},
			script: "H 00 44 00 00 00\nC 90 00"},
		{name: "T0-1 case 1, acknowledged", calls: []call{ok("00 44 00 00", "9000")},
			script: "H 00 44 00 00 00\nC 44 90 00"},
		{name: "T0-1 case 1, acknowledged without end", calls: []call{{apdu: "00 44 00 00", is: lostT0}, later},
			script: "H 00 44 00 00 00\nC 44 44"},
		{name: "T0-2 case 2", calls: []call{ok("00 B0 00 00 04", "11 22 33 44 90 00")},
			script: "H 00 B0 00 00 04\nC B0 11 22 33 44 90 00"},
		{name: "T0-3 case 3", calls: []call{ok(selectMF, "9000")},
			script: acked + "C 90 00"},
		{name: "T0-4 case 4, 61xx", calls: []call{ok(select4, "6F 02 81 00 90 00")},
			script: acked + "C 61 04\nH 00 C0 00 00 04\nC C0 6F 02 81 00 90 00"},
		{name: "T0-5 case 4, Le less than announced", calls: []call{ok("00 A4 00 00 02 3F 00 02", "6F 02 61 02")},
			script: acked + "C 61 04\nH 00 C0 00 00 02\nC C0 6F 02 61 02"},
		{name: "T0-6 case 4, 9000", calls: []call{ok("00 88 00 00 01 AA 03", "01 02 03 90 00")},
			script: "H 00 88 00 00 01\nC 88\nH AA\nC 90 00\nH 00 C0 00 00 03\nC C0 01 02 03 90 00"},
		{name: "T0-6 nothing to fetch after 9000", calls: []call{ok(select4, "9000")},
			script: acked + "C 90 00\nH 00 C0 00 00 00\nC 6F 00"},
		{name: "T0-6 9000, then another length", calls: []call{ok(select4, "6F 02 90 00")},
			script: acked + "C 90 00\nH 00 C0 00 00 00\nC 6C 02\nH 00 C0 00 00 02\nC C0 6F 02 90 00"},
		{name: "T0-6 9000, then more", calls: []call{ok(select4, "01 02 90 00")},
			script: acked + "C 90 00\nH 00 C0 00 00 00\nC 61 02\nH 00 C0 00 00 02\nC C0 01 02 90 00"},
		{name: "T0-7 case 4, refused", calls: []call{ok("00 A4 00 00 02 12 34 00", "6A82")},
			script: hSel + "C A4\nH 12 34\nC 6A 82"},
		{name: "T0-7 case 4, warning", calls: []call{ok(select4, "63C2")},
			script: acked + "C 63 C2"},
		{name: "T0-7 case 4, application status", calls: []call{ok(select4, "9F10")},
			script: acked + "C 9F 10"},
		{name: "T0-8 refused before the data", calls: []call{ok("00 A4 00 00 02 12 34 00", "6E00")},
			script: hSel + "C 6E 00"},
		{name: "T0-9 6Cxx", calls: []call{ok("00 B0 00 00 00", "AA BB 90 00")},
			script: "H 00 B0 00 00 00\nC 6C 02\nH 00 B0 00 00 02\nC B0 AA BB 90 00"},
		{name: "T0-9 6Cxx, more than Le", calls: []call{ok(read2, "AA BB 90 00")},
			script: hRead2 + "C 6C 04\nH 00 B0 00 00 04\nC B0 AA BB CC DD 90 00"},
		{name: "T0-9 6Cxx twice", calls: []call{ok(read2, "6C04")},
			script: hRead2 + "C 6C 03\nH 00 B0 00 00 03\nC 6C 04"},
		{name: "T0-9 6C00 means 256", calls: []call{ok(read2, "AA AA 90 00")},
			script: hRead2 + "C 6C 00\nH 00 B0 00 00 00\nC B0 AA*256 90 00"},
		{name: "T0-10 case 3 with 61xx", calls: []call{ok(selectMF, "6110")},
			script: acked + "C 61 10"},
		{name: "case 2 with 61xx", calls: []call{ok(read2, "6110")},
			script: hRead2 + "C 61 10"},
		{name: "T0-11 NULLs", calls: []call{ok(read2, "AA BB 90 00")},
			script: hRead2 + "C 60 60 B0 AA BB 90 00"},
		{name: "T0-12 NULL before the status word", calls: []call{ok(read2, "AA BB 90 00")},
			script: hRead2 + "C B0 AA BB 60 90 00"},
		{name: "T0-13 single bytes out", calls: []call{ok(selectMF, "9000")},
			script: hSel + "C 5B\nH 3F\nC 5B\nH 00\nC 90 00"},
		{name: "T0-14 mixed out", calls: []call{ok(selectMF, "9000")},
			script: hSel + "C 5B\nH 3F\nC A4\nH 00\nC 90 00"},
		{name: "T0-15 single bytes in", calls: []call{ok("00 B0 00 00 03", "01 02 03 90 00")},
			script: "H 00 B0 00 00 03\nC 4F 01 4F 02 B0 03 90 00"},
		{name: "programming voltage asked for", calls: []call{ok(selectMF, "9000")},
			script: hSel + "C 5A\nH 3F\nC A5\nH 00\nC 90 00"},
		{name: "T0-16 bad procedure byte", calls: []call{{apdu: read2, is: lostT0}, later},
			script: hRead2 + "C 12"},
		{name: "T0-16 bad procedure byte, case 3", calls: []call{{apdu: selectMF, is: lostT0}, later},
			script: hSel + "C 12"},
		{name: "T0-17 early status", calls: []call{ok("00 B0 00 00 04", "6982")},
			script: "H 00 B0 00 00 04\nC 69 82"},
		{name: "early status after some data", calls: []call{ok("00 B0 00 00 04", "01 62 82")},
			script: "H 00 B0 00 00 04\nC 4F 01 62 82"},
		{name: "T0-18 case 2, Le 256", calls: []call{ok("00 B0 00 00 00", strings.Repeat("AB", 256)+"9000")},
			script: "H 00 B0 00 00 00\nC B0 AB*256 90 00"},
		{name: "T0-19 too many NULLs", calls: []call{{apdu: read2, is: lostT0}, later},
			script: hRead2 + "C 60*801"},
		{name: "T0-19 as many NULLs as allowed", calls: []call{ok(read2, "9000")},
			script: hRead2 + "C 60*800 90 00"},
		{name: "T0-20 Le reached, more to come", calls: []call{ok("00 CB 3F FF 01 5C 00", strings.Repeat("AB", 256)+"6102")},
			script: "H 00 CB 3F FF 01\nC CB\nH 5C\nC 61 00\nH 00 C0 00 00 00\nC C0 AB*256 61 02"},
		{name: "T0-20 extended Le takes it all", calls: []call{ok("00 CB 3F FF 00 00 01 5C 00 00", strings.Repeat("AB", 256)+"01 02 90 00")},
			script: "H 00 CB 3F FF 01\nC CB\nH 5C\nC 61 00\nH 00 C0 00 00 00\nC C0 AB*256 61 02\nH 00 C0 00 00 02\nC C0 01 02 90 00"},
		{name: "61xx in two pieces", calls: []call{ok(select4, "01 02 03 90 00")},
			script: acked + "C 61 02\nH 00 C0 00 00 02\nC C0 01 02 61 01\nH 00 C0 00 00 01\nC C0 03 90 00"},
		{name: "61xx announces what never comes", calls: []call{ok(select4, "6102")},
			script: acked + "C 61 02\nH 00 C0 00 00 02\nC 61 02"},
		{name: "extended case 2 continues", calls: []call{ok("00 B0 00 00 00 01 02", strings.Repeat("AB", 256)+"01 02 90 00")},
			script: "H 00 B0 00 00 00\nC B0 AB*256 61 05\nH 00 C0 00 00 02\nC C0 01 02 90 00"},
		{name: "GET RESPONSE is neither chained nor secured", calls: []call{ok("1D A4 00 00 02 3F 00 00", "01 90 00")},
			script: "H 1D A4 00 00 02\nC A4\nH 3F 00\nC 61 01\nH 01 C0 00 00 01\nC C0 01 90 00"},
		{name: "GET RESPONSE in a proprietary class", calls: []call{ok("9C A4 00 00 02 3F 00 00", "01 90 00")},
			script: "H 9C A4 00 00 02\nC A4\nH 3F 00\nC 61 01\nH 9C C0 00 00 01\nC C0 01 90 00"},
		{name: "card wants more data than there is", calls: []call{{apdu: selectMF, is: lostT0}, later},
			script: acked + "C A4"},
		{name: "card wants to send more than was asked for", calls: []call{{apdu: read2, is: lostT0}, later},
			script: hRead2 + "C B0 AA BB B0"},
		{name: "silence", calls: []call{{apdu: read2, is: []error{errLink, ErrResetRequired}, not: []error{ErrProtocol}}, later},
			script: hRead2 + "C!", errs: []error{errLink}},
		{name: "silence in the data", calls: []call{{apdu: read2, is: []error{errLink, ErrResetRequired}}, later},
			script: hRead2 + "C B0\nC!", errs: []error{errLink}},
		{name: "silence before SW2", calls: []call{{apdu: read2, is: []error{errLink, ErrResetRequired}}, later},
			script: hRead2 + "C 90\nC!", errs: []error{errLink}},
		{name: "silence after the data", calls: []call{{apdu: selectMF, is: []error{errLink, ErrResetRequired}}, later},
			script: acked + "C!", errs: []error{errLink}},
		{name: "silence in GET RESPONSE", calls: []call{{apdu: select4, is: []error{errLink, ErrResetRequired}}, later},
			script: acked + "C 61 02\nH 00 C0 00 00 02\nC!", errs: []error{errLink}},
		{name: "silence in GET RESPONSE after 9000", calls: []call{{apdu: select4, is: []error{errLink, ErrResetRequired}}, later},
			script: acked + "C 90 00\nH 00 C0 00 00 00\nC!", errs: []error{errLink}},
		{name: "header cannot be sent", calls: []call{{apdu: read2, is: []error{errLink, ErrResetRequired}}, later},
			script: "H!", errs: []error{errLink}},
		{name: "data cannot be sent", calls: []call{{apdu: selectMF, is: []error{errLink, ErrResetRequired}}, later},
			script: hSel + "C A4\nH!", errs: []error{errLink}},
		{name: "bad commands leave the session alone", calls: []call{
			{apdu: "00 A4 00", is: []error{ErrInvalidAPDU}, not: []error{ErrResetRequired}},
			{apdu: longData + strings.Repeat("00", 256), is: []error{ErrInvalidAPDU}, not: []error{ErrResetRequired}},
			{apdu: "00 60 00 00", is: []error{ErrInvalidAPDU}, not: []error{ErrResetRequired}},
			{apdu: "00 9F 00 00", is: []error{ErrInvalidAPDU}, not: []error{ErrResetRequired}},
			ok("00 44 00 00", "9000")},
			script: "H 00 44 00 00 00\nC 90 00"},
		{name: "waits 2 s", calls: []call{ok("00 44 00 00", "9000")},
			script: "H 00 44 00 00 00\nC W 2000 90\nC W 2000 00"},
		{name: "waits WWT", params: T0Params{WWT: 3 * time.Second}, calls: []call{ok("00 44 00 00", "9000")},
			script: "H 00 44 00 00 00\nC W 3000 90\nC W 3000 00"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			p := tt.params
			p.Stream = true
			runCalls(t, NewT0(prototest.Stream(t, tt.script, tt.errs...), p), tt.calls)
		})
	}
}

func TestT0Blocks(t *testing.T) {
	const select4 = "00 A4 00 00 02 3F 00 00"
	later := call{apdu: selectMF, is: []error{ErrResetRequired}, not: []error{ErrProtocol, errLink}}
	tests := []struct {
		name   string
		params T0Params
		calls  []call
		script string
		errs   []error
	}{
		{name: "case 1", calls: []call{ok("00 44 00 00", "9000")},
			script: "H 00 44 00 00 00\nC 90 00"},
		{name: "case 2", calls: []call{ok("00 B0 00 00 02", "AA BB 90 00")},
			script: "H 00 B0 00 00 02\nC AA BB 90 00"},
		{name: "T0-21 case 3", calls: []call{ok(selectMF, "61 1C")},
			script: "H 00 A4 00 00 02 3F 00\nC 61 1C"},
		{name: "T0-22 case 4, data at once", calls: []call{ok(select4, "6F 02 81 00 90 00")},
			script: "H 00 A4 00 00 02 3F 00\nC 6F 02 81 00 90 00"},
		{name: "case 4, 61xx", calls: []call{ok(select4, "6F 02 81 00 90 00")},
			script: "H 00 A4 00 00 02 3F 00\nC 61 04\nH 00 C0 00 00 04\nC 6F 02 81 00 90 00"},
		{name: "6Cxx", calls: []call{ok("00 B0 00 00 00", "AA BB 90 00")},
			script: "H 00 B0 00 00 00\nC 6C 02\nH 00 B0 00 00 02\nC AA BB 90 00"},
		{name: "GET RESPONSE with another length", calls: []call{ok(select4, "AA BB 90 00")},
			script: "H 00 A4 00 00 02 3F 00\nC 61 00\nH 00 C0 00 00 00\nC 6C 02\nH 00 C0 00 00 02\nC AA BB 90 00"},
		{name: "Le 256", calls: []call{ok("00 B0 00 00 00", strings.Repeat("AB", 256)+"9000")},
			script: "H 00 B0 00 00 00\nC R 258 AB*256 90 00"},
		{name: "instructions 6x are left to the reader", calls: []call{ok("00 60 00 00", "6D00")},
			script: "H 00 60 00 00 00\nC 6D 00"},
		{name: "no status word", calls: []call{{apdu: selectMF, is: lostT0}, later},
			script: "H 00 A4 00 00 02 3F 00\nC 90"},
		{name: "silence", calls: []call{{apdu: selectMF, is: []error{errLink, ErrResetRequired}}, later},
			script: "H 00 A4 00 00 02 3F 00\nC! W 20000", errs: []error{errLink}},
		{name: "cannot be sent", calls: []call{{apdu: selectMF, is: []error{errLink, ErrResetRequired}}, later},
			script: "H!", errs: []error{errLink}},
		{name: "waits as told", params: T0Params{Timeout: 200 * time.Second}, calls: []call{ok("00 44 00 00", "9000")},
			script: "H 00 44 00 00 00\nC W 200000 90 00"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			runCalls(t, NewT0(prototest.Blocks(t, tt.script, tt.errs...), tt.params), tt.calls)
		})
	}
}

func TestT0Cancel(t *testing.T) {
	t.Run("before anything was sent", func(t *testing.T) {
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		e := NewT0(prototest.Blocks(t, "H 00 44 00 00 00\nC 90 00"), T0Params{})
		if _, err := e.Transmit(ctx, hextest.Bytes(t, "00 44 00 00"), nil); !errors.Is(err, context.Canceled) || errors.Is(err, ErrResetRequired) {
			t.Errorf("error %v", err)
		}
		runCalls(t, e, []call{ok("00 44 00 00", "9000")})
	})
	t.Run("while the card asks for time", func(t *testing.T) {
		ctx, cancel := context.WithCancel(context.Background())
		e := NewT0(&cancelLink{cancel: cancel, after: 100}, T0Params{Stream: true})
		if _, err := e.Transmit(ctx, hextest.Bytes(t, "00 44 00 00"), nil); !errors.Is(err, context.Canceled) || !errors.Is(err, ErrResetRequired) {
			t.Errorf("error %v", err)
		}
	})
}

// cancelLink is a card that sends NULLs; somebody else gives up meanwhile.
type cancelLink struct {
	cancel func()
	after  int
}

func (l *cancelLink) Send(context.Context, []byte) error { return nil }

func (l *cancelLink) Recv(_ context.Context, buf []byte, _ time.Duration) (int, error) {
	if l.after--; l.after == 0 {
		l.cancel()
	}
	buf[0] = procNULL
	return 1, nil
}

func TestPassThrough(t *testing.T) {
	var got []byte
	exchange := func(_ context.Context, apdu, resp []byte) ([]byte, error) {
		got = apdu
		switch apdu[0] {
		case 1:
			return nil, errLink
		case 2:
			return append(resp, make([]byte, MaxResponse+1)...), nil
		}
		return append(resp, 0x90, 0x00), nil
	}
	for _, e := range []Engine{NewTransparent(exchange), NewEscape(exchange)} {
		t.Run(e.ID().String(), func(t *testing.T) {
			runCalls(t, e, []call{
				ok("00", "9000"),
				{apdu: "", is: []error{ErrInvalidAPDU}},
				{apdu: "01", is: []error{errLink}, not: []error{ErrResetRequired}},
				{apdu: "02", is: []error{ErrTooLong}, not: []error{ErrResetRequired}},
				ok(selectMF, "9000"),
			})
			if len(got) != 7 {
				t.Errorf("passed % X", got)
			}
			ctx, cancel := context.WithCancel(context.Background())
			cancel()
			if _, err := e.Transmit(ctx, []byte{0}, nil); !errors.Is(err, context.Canceled) {
				t.Errorf("error %v", err)
			}
			if resp, err := e.Transmit(context.Background(), []byte{0}, []byte{1, 2, 3}); err != nil || len(resp) != 2 {
				t.Errorf("appended to what was there: % X, %v", resp, err)
			}
		})
	}
}

func TestNames(t *testing.T) {
	var list []string
	for _, n := range Names() {
		list = append(list, n.Name)
		if n.ID.String() != n.Name {
			t.Errorf("%d is called %q and %q", n.ID, n.Name, n.ID)
		}
	}
	want := "T=0, T=1, GBP, transparent, I2C short, I2C long, 2Wire, 3Wire, Eurochip Countercard, escape"
	if got := strings.Join(list, ", "); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	if Default.String() != "default" || ID(77).String() != "protocol 77" {
		t.Errorf("%v, %v", Default, ID(77))
	}
}

func TestIDs(t *testing.T) {
	if id := NewT0(nil, T0Params{}).ID(); id != 0 {
		t.Errorf("T=0 is %d", id)
	}
	if id := NewT1(nil, T1Params{}).ID(); id != 1 {
		t.Errorf("T=1 is %d", id)
	}
}
