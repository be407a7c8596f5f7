//go:build go1.25

package driver

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"openct/internal/device"
	"openct/internal/ifd"
	"openct/internal/proto"
	"openct/internal/serial/serialtest"
)

// says is a step in which the reader on a serial line says something, and hears
// a step in which it hears a command.
func says(sw uint16, data string) string { return fmt.Sprintf("< %x\n", acr30Says(sw, unhex(data))) }
func hears(ins byte, data string) string {
	return fmt.Sprintf("> %x\n", acr30Message(ins, unhex(data)))
}

func TestACR30Message(t *testing.T) {
	for _, tt := range []struct {
		ins  byte
		data string
		want string
	}{
		{acsGetStatus, "", "01010000"},
		{acsReset, "", "01800081"},
		{acsNotify, "02", "0106010204"},
		{acsT0, "00a40000023f0000", "01A00800A40000023F000030"},
		{acsT0, strings.Repeat("00", 254), "01A0FE" + strings.Repeat("00", 254) + "5F"},
		{acsT0, strings.Repeat("00", 255), "01A0FF00FF" + strings.Repeat("00", 255) + "A1"},
		{acsT0, strings.Repeat("00", 261), "01A0FF0105" + strings.Repeat("00", 261) + "5A"},
	} {
		if got := string(acr30Message(tt.ins, unhex(tt.data))); got != "\x02"+tt.want+"\x03" {
			t.Errorf("%02x with %d bytes: %q, want %q", tt.ins, len(tt.data)/2, got, tt.want)
		}
	}
}

func TestACR30Parser(t *testing.T) {
	for _, tt := range []struct {
		name string
		wire string
		sw   uint16
		data string
		want error
	}{
		{"done", "\x020190000091\x03", 0x9000, "", nil},
		{"filled up", "\x020190000091\x03\x00\x00\x00\x00", 0x9000, "", nil},
		{"zeros first", "\x00\x00\x020190000091\x03", 0x9000, "", nil},
		{"lower case", "\x02019000043b021450e8\x03", 0x9000, "3b021450", nil},
		{"begins anew", "\x020190\x020190000091\x03", 0x9000, "", nil},
		{"wrong checksum", "\x020190000090\x03", 0, "", ifd.ErrComm},
		{"wrong header", "\x020290000092\x03", 0, "", ifd.ErrComm},
		{"half a byte", "\x02019000091\x03", 0, "", ifd.ErrComm},
		{"no digits", "\x02019000zz\x03", 0, "", ifd.ErrComm},
		{"too short", "\x0201900091\x03", 0, "", ifd.ErrComm},
		{"length of the length", "\x02019000FF6E\x03", 0, "", ifd.ErrComm},
		{"less than announced", "\x020190000392\x03", 0, "", ifd.ErrComm},
		{"nothing in it", "\x02\x03", 0, "", ifd.ErrComm},
		{"noise", "U", 0, "", ifd.ErrComm},
		{"an end without a beginning", "\x03", 0, "", ifd.ErrComm},
		{"no end", "\x02" + strings.Repeat("0", 4000), 0, "", ifd.ErrComm},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var p acr30Parser
			for i := range len(tt.wire) {
				r, done, err := p.take(tt.wire[i])
				if err != nil || done {
					if !errors.Is(err, tt.want) || r.sw != tt.sw || !bytes.Equal(r.data, unhex(tt.data)) {
						t.Errorf("%04x % x, %v", r.sw, r.data, err)
					}
					return
				}
			}
			t.Error("no message")
		})
	}
}

// FuzzACR30Parser: whatever comes, a message is bounded, and what is none is an
// error.
func FuzzACR30Parser(f *testing.F) {
	f.Add([]byte("\x020190000091\x03\x00\x00"))
	f.Add(acr30Says(acr30OK, counting(258)))
	f.Add([]byte("U\xAA\x0201FF0200FC\x03"))
	f.Fuzz(func(t *testing.T, wire []byte) {
		var p acr30Parser
		for _, b := range wire {
			r, done, err := p.take(b)
			switch {
			case done && err != nil, err != nil && !errors.Is(err, ifd.ErrComm):
				t.Fatalf("%v, %v", done, err)
			case done && len(r.data) > acr30MaxMessage:
				t.Fatalf("message of %d bytes", len(r.data))
			}
		}
	})
}

// Errors of the readers, in the middle of an exchange and at a reset.
func TestACSErrors(t *testing.T) {
	for _, tt := range []struct {
		err  error
		want error
	}{
		{acr30Reply{sw: 0x9000}.err(), nil},
		{acr30Reply{sw: 0x9001}.err(), nil},
		{acr30Reply{sw: 0x6002}.err(), ifd.ErrNoCard},
		{acr30Reply{sw: 0x6004}.err(), errACSNoPower},
		{acr30Reply{sw: 0x6005}.err(), ifd.ErrNotSupported},
		{acr30Reply{sw: 0x6020}.err(), errACSMute},
		{acr30Reply{sw: 0x6703}.err(), ifd.ErrComm},
		{acr38Error(0x00), nil},
		{acr38Error(0xFA), ifd.ErrNoCard},
		{acr38Error(0xF9), errACSNoPower},
		{acr38Error(0xF8), ifd.ErrInvalidATR},
		{acr38Error(0xFE), errACSMute},
		{acr38Error(0xFD), ifd.ErrComm},
		{acr38Error(0x77), ifd.ErrComm},
	} {
		if !errors.Is(tt.err, tt.want) {
			t.Errorf("%v, want %v", tt.err, tt.want)
		}
	}
}

// onACR30 opens the driver at a serial line that plays a script.
func onACR30(t *testing.T, script string) (ifd.Slot, *serialtest.Replay) {
	t.Helper()
	l := serialtest.New(t, hears(acsNotify, "02")+says(0x9000, "")+hears(acsOption, "00")+says(0x9000, "")+script)
	r, err := openPertoSmart1030Line(l, ifd.Options{Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	return r.Slots()[0], l
}

// reset1030 is a reset of a card that speaks T=0.
var reset1030 = hears(acsPowerOff, "") + says(0x9000, "") + hears(acsSelect, "00") + says(0x9000, "") +
	hears(acsReset, "") + says(0x9000, "3b021450")

// What a card and a reader say to a reset.
func TestACR30Reset(t *testing.T) {
	begin := hears(acsPowerOff, "") + says(0x9000, "") + hears(acsSelect, "00") + says(0x9000, "") + hears(acsReset, "")
	for _, tt := range []struct {
		name   string
		script string
		want   error
		within time.Duration
	}{
		{"fine", reset1030, nil, time.Second},
		{"news before the answer", begin + says(0xFF01, "") + says(0xFF00, "4143") + says(0x9000, "3b021450"), nil, time.Second},
		{"an answer too many", begin + says(0x9000, "3b021450") + says(0x6020, ""), nil, time.Second},
		{"no card", begin + says(0x6002, ""), ifd.ErrNoCard, time.Second},
		{"mute card", begin + says(0x6020, ""), ifd.ErrNoATR, time.Second},
		{"memory card", begin + says(0x9010, "a2131091"), ifd.ErrNoATR, time.Second},
		{"no ATR", begin + says(0x9000, ""), ifd.ErrNoATR, time.Second},
		{"nonsense for an ATR", begin + says(0x9000, "123456"), ifd.ErrInvalidATR, time.Second},
		{"no power", begin + says(0x6004, ""), errACSNoPower, time.Second},
		{"an answer that stops", begin + "< 0230313930", ifd.ErrComm, 2 * time.Second},
		{"an answer that stops at every byte", begin + "< @1s 02\n< @2s 30\n< @3s 31", ifd.ErrComm, 5 * time.Second},
		{"silence", begin, device.ErrTimeout, 31 * time.Second},
		{"news without end", begin + strings.Repeat(says(0xFF01, ""), 100), device.ErrTimeout, 31 * time.Second},
		{"pulled", begin + "unplug", device.ErrUnplugged, time.Second},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				slot, l := onACR30(t, tt.script)
				start := time.Now()
				_, err := slot.Reset(context.Background())
				if !errors.Is(err, tt.want) {
					t.Errorf("%v, want %v", err, tt.want)
				}
				if took := time.Since(start); took > tt.within {
					t.Errorf("it took %v", took)
				}
				l.Done()
				if errors.Is(tt.want, device.ErrUnplugged) {
					return
				}
				l.Next("next reset", reset1030)
				if _, err := slot.Reset(context.Background()); err != nil {
					t.Errorf("next reset: %v", err)
				}
				l.Done()
			})
		})
	}
}

// An answer that comes when nobody waits for it any more is not taken for that
// of the next command.
func TestACR30LateAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		slot, l := onACR30(t, reset1030)
		e := engineFor(t, slot, proto.Default)
		l.Next("command", hears(acsT0, "00b000000002")+strings.Replace(says(0x9000, "11229000"), "< ", "< @200s ", 1))
		if _, err := e.Transmit(context.Background(), []byte{0x00, 0xB0, 0x00, 0x00, 0x02}, nil); !errors.Is(err, device.ErrTimeout) {
			t.Errorf("command: %v", err)
		}
		time.Sleep(time.Minute)
		l.Next("next reset", reset1030)
		e = engineFor(t, slot, proto.Default)
		l.Next("next command", hears(acsT0, "00b000000002")+says(0x9000, "33449000"))
		resp, err := e.Transmit(context.Background(), []byte{0x00, 0xB0, 0x00, 0x00, 0x02}, nil)
		if err != nil || fmt.Sprintf("%x", resp) != "33449000" {
			t.Errorf("next command: %x, %v", resp, err)
		}
		l.Done()
	})
}

// An answer too many is not taken for that of the next command either.
func TestACR30AnswerTooMany(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		slot, l := onACR30(t, reset1030)
		e := engineFor(t, slot, proto.Default)
		for _, want := range []string{"11229000", "33449000", "55669000"} {
			l.Next("command", hears(acsT0, "00b000000002")+says(0x9000, want)+strings.Replace(says(0x9000, "77889000"), "< ", "< @5ms ", 1))
			resp, err := e.Transmit(context.Background(), []byte{0x00, 0xB0, 0x00, 0x00, 0x02}, nil)
			if err != nil || fmt.Sprintf("%x", resp) != want {
				t.Errorf("%x, %v; want %s", resp, err, want)
			}
			time.Sleep(10 * time.Millisecond)
		}
		l.Done()
	})
}

// A reader that was powered just now may miss the first command.
func TestACR30SlowStart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := serialtest.New(t, hears(acsNotify, "02")+hears(acsNotify, "02")+says(0x9000, "")+hears(acsOption, "00")+says(0x9000, ""))
		if _, err := openPertoSmart1030Line(l, ifd.Options{}); err != nil {
			t.Error(err)
		}
		l.Done()
	})
}

// Where no such reader is, the handler does not start.
func TestACR30Absent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := serialtest.New(t, hears(acsNotify, "02")+hears(acsNotify, "02"))
		start := time.Now()
		if _, err := openPertoSmart1030Line(l, ifd.Options{}); !errors.Is(err, device.ErrTimeout) {
			t.Error(err)
		}
		if took := time.Since(start); took > 12*time.Second {
			t.Errorf("it took %v", took)
		}
		l.Done()
	})
}
