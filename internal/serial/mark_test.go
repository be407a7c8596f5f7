package serial

import (
	"bytes"
	"errors"
	"testing"

	"golang.org/x/sys/unix"

	"openct/internal/device"
)

func TestMarks(t *testing.T) {
	for _, tt := range []struct {
		name string
		in   []byte
		want []received
	}{
		{"plain", []byte{0x3B, 0x00}, []received{{b: 0x3B}, {b: 0x00}}},
		{"FF", []byte{0xFF, 0xFF, 0x01}, []received{{b: 0xFF}, {b: 0x01}}},
		{"bad byte", []byte{0x01, 0xFF, 0x00, 0x3B, 0x02}, []received{{b: 0x01}, {0x3B, true}, {b: 0x02}}},
		{"bad FF", []byte{0xFF, 0x00, 0xFF, 0x02}, []received{{0xFF, true}, {b: 0x02}}},
		{"bad 00", []byte{0xFF, 0x00, 0x00}, []received{{0x00, true}}},
		{"FF before a bad byte", []byte{0xFF, 0xFF, 0xFF, 0x00, 0x01}, []received{{b: 0xFF}, {0x01, true}}},
		{"no mark", []byte{0xFF, 0x12}, []received{{b: 0xFF}, {b: 0x12}}},
		{"cut short", []byte{0x01, 0xFF, 0x00}, []received{{b: 0x01}}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var m marks
			var got []received
			for _, b := range tt.in {
				got = m.add(got, b)
			}
			if len(got) != len(tt.want) {
				t.Fatalf("got %v, want %v", got, tt.want)
			}
			for i := range got {
				if got[i] != tt.want[i] {
					t.Errorf("got %v, want %v", got, tt.want)
				}
			}
		})
	}
}

// FuzzMarks: what the kernel would make of any bytes, good and bad, is those
// bytes again.
func FuzzMarks(f *testing.F) {
	f.Add([]byte{0x3B, 0xFF, 0x00}, []byte{0, 1, 0})
	f.Add([]byte{0xFF, 0xFF}, []byte{1, 1})
	f.Fuzz(func(t *testing.T, data, bad []byte) {
		var line []byte
		want := make([]received, len(data))
		for i, b := range data {
			want[i] = received{b, i < len(bad) && bad[i]&1 == 1}
			switch {
			case want[i].bad:
				line = append(line, 0xFF, 0x00, b)
			case b == 0xFF:
				line = append(line, 0xFF, 0xFF)
			default:
				line = append(line, b)
			}
		}
		var m marks
		var got []received
		for _, b := range line {
			got = m.add(got, b)
		}
		if len(got) != len(want) {
			t.Fatalf("%d of %d bytes", len(got), len(want))
		}
		for i := range got {
			if got[i] != want[i] {
				t.Fatalf("byte %d: %v, want %v", i, got[i], want[i])
			}
		}
	})
}

// A reader of the line is told which byte was bad, and nothing gets lost.
func TestReadTellsBadBytes(t *testing.T) {
	p := &Port{more: make(chan struct{}, 1), params: Params{CheckParity: true}}
	p.keepLocked([]byte{0x3B, 0xFF, 0x00, 0x12, 0x14, 0x50})
	buf := make([]byte, 8)
	for _, want := range []struct {
		bytes []byte
		err   error
	}{
		{[]byte{0x3B, 0x12}, ErrParity},
		{[]byte{0x14, 0x50}, nil},
	} {
		n, err := p.next(buf)
		if !bytes.Equal(buf[:n], want.bytes) || !errors.Is(err, want.err) {
			t.Errorf("% x, %v; want % x, %v", buf[:n], err, want.bytes, want.err)
		}
	}
}

// What nobody reads is lost beyond a bound, and that is told once.
func TestOverrun(t *testing.T) {
	p := &Port{more: make(chan struct{}, 1)}
	p.keepLocked(make([]byte, maxInput+1))
	buf := make([]byte, maxInput)
	if n, err := p.next(buf); n != maxInput || err != nil {
		t.Fatal(n, err)
	}
	if n, err := p.next(buf); n != 0 || !errors.Is(err, ErrOverrun) || !errors.Is(err, device.ErrIO) {
		t.Error(n, err)
	}
	p.keepLocked([]byte{9})
	if n, err := p.next(buf); n != 1 || err != nil {
		t.Error(n, err)
	}
}

// What a line makes of its settings decides whether it can do them.
func TestAccepted(t *testing.T) {
	want := Params{Speed: 9600, Parity: Even, StopBits: 2}.termios()
	for _, tt := range []struct {
		name   string
		change func(*unix.Termios)
		pty    bool
		ok     bool
	}{
		{"as asked", func(*unix.Termios) {}, false, true},
		{"divisor beside it", func(t *unix.Termios) { t.Ospeed = 9615 }, false, true},
		{"another speed", func(t *unix.Termios) { t.Ospeed = 19200 }, false, false},
		{"5 % off", func(t *unix.Termios) { t.Ospeed = 10080 }, false, false},
		{"no parity", func(t *unix.Termios) { t.Cflag &^= unix.PARENB }, false, false},
		{"no parity on a pseudo-terminal", func(t *unix.Termios) { t.Cflag &^= unix.PARENB }, true, true},
		{"the other parity", func(t *unix.Termios) { t.Cflag |= unix.PARODD }, false, false},
		{"one stop bit", func(t *unix.Termios) { t.Cflag &^= unix.CSTOPB }, true, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			have := *want
			tt.change(&have)
			if err := accepted(want, &have, tt.pty); (err == nil) != tt.ok {
				t.Errorf("%v", err)
			}
		})
	}
}

func TestParams(t *testing.T) {
	for _, tt := range []struct {
		p    Params
		text string
		us   int64 // of a byte
	}{
		{Params{Speed: 9600}, "9600 8N1", 1041},
		{Params{Speed: 9600, Parity: Even, StopBits: 2}, "9600 8E2", 1250},
		{Params{Speed: 115200, Parity: Odd}, "115200 8O1", 95},
		{Params{Speed: 1200, Bits: 7, StopBits: 2}, "1200 7N2", 8333},
	} {
		if got := tt.p.String(); got != tt.text {
			t.Errorf("%s, want %s", got, tt.text)
		}
		if got := tt.p.Time(1).Microseconds(); got != tt.us {
			t.Errorf("%s: a byte takes %d µs, want %d", tt.text, got, tt.us)
		}
	}
}
