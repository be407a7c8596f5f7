package record_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"openct/internal/serial"
	"openct/internal/serial/record"
	"openct/internal/serial/serialtest"
)

// A line without modem lines plays back as one.
func TestRecordNoLines(t *testing.T) {
	const script = "nolines\n> 00\n< 01"
	l := serialtest.New(t, script)
	r := record.New(l)
	r.SetLines(true, false)
	r.Write(t.Context(), []byte{0x00})
	r.Read(t.Context(), make([]byte, 1), time.Second)
	if _, err := r.Lines(); !errors.Is(err, serial.ErrNoLines) {
		t.Errorf("got %v", err)
	}
	l.Done()
	var got []string
	for _, s := range r.Take() {
		got = append(got, s.String())
	}
	if diff := cmp.Diff(script, strings.Join(got, "\n")); diff != "" {
		t.Errorf("recorded steps (-want +got):\n%s", diff)
	}
}

// What is done with a line that plays a script is that script again.
func TestRecordPlaysBack(t *testing.T) {
	const script = `set 9600 8E2 check
lines 10
< 3b021450
> 00b0000002
< 00b0000002b01122
<! 90
inputs 10
break 1
break 0
> ff
unplug`
	l := serialtest.New(t, script)
	r := record.New(l)
	ctx, buf := t.Context(), make([]byte, 64)
	even := serial.Params{Speed: 9600, Parity: serial.Even, StopBits: 2, CheckParity: true}
	for range 2 { // the second changes nothing
		r.Set(even)
		r.SetLines(true, false)
	}
	r.Read(ctx, buf[:2], time.Second)
	r.Read(ctx, buf, time.Second)
	r.Write(ctx, []byte{0x00, 0xB0})
	r.Write(ctx, []byte{0x00, 0x00, 0x02})
	r.Read(ctx, buf, time.Second) // ends at the byte with the wrong parity
	r.Lines()
	r.Lines()
	r.Break(ctx, time.Millisecond)
	r.Write(ctx, []byte{0xFF})
	r.Read(ctx, buf, time.Second)
	l.Done()
	var got []string
	for _, s := range r.Take() {
		got = append(got, s.String())
	}
	if diff := cmp.Diff(script, strings.Join(got, "\n")); diff != "" {
		t.Errorf("recorded steps (-want +got):\n%s", diff)
	}
	if again := r.Take(); len(again) > 0 {
		t.Errorf("%v a second time", again)
	}
}

func TestParseParams(t *testing.T) {
	tests := []struct {
		name, speed, format string
		want                serial.Params
		ok                  bool
	}{
		{"even parity", "9600", "8E2", serial.Params{Speed: 9600, Bits: 8, Parity: serial.Even, StopBits: 2}, true},
		{"no parity", "115200", "7N1", serial.Params{Speed: 115200, Bits: 7, StopBits: 1}, true},
		{"more than a speed", "9600baud", "8E2", serial.Params{}, false},
		{"negative speed", "-9600", "8E2", serial.Params{}, false},
		{"more than a format", "9600", "8E2x", serial.Params{}, false},
		{"less than a format", "9600", "8E", serial.Params{}, false},
		{"unknown parity", "9600", "8M2", serial.Params{}, false},
		{"too many bits", "9600", "9N1", serial.Params{}, false},
		{"too many stop bits", "9600", "8N3", serial.Params{}, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := record.ParseParams(tt.speed, tt.format)
			if (err == nil) != tt.ok || got != tt.want {
				t.Errorf("got %+v, %v", got, err)
			}
		})
	}
}
