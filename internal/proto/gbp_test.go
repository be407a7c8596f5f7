package proto

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"strings"
	"testing"
	"time"
)

// gbpScript is a Link to a reader that is played a script: what the host sends,
// and what is answered. An answer of "-" is silence.
type gbpScript struct {
	t     *testing.T
	lines []string // "> 42...", "< 24..."
	in    []byte
	began bool
}

var errSilent = errors.New("silence")

func (s *gbpScript) Send(_ context.Context, b []byte) error {
	s.t.Helper()
	s.in, s.began = nil, false
	if len(s.lines) == 0 || s.lines[0] != "> "+hex.EncodeToString(b) {
		s.t.Errorf("sent %x, script: %q", b, s.lines)
		return errLink
	}
	s.lines = s.lines[1:]
	if len(s.lines) > 0 && s.lines[0][0] == '<' {
		s.in, _ = hex.DecodeString(s.lines[0][2:])
		s.lines = s.lines[1:]
	}
	return nil
}

func (s *gbpScript) Recv(_ context.Context, buf []byte, _ time.Duration) (int, error) {
	n := copy(buf, s.in)
	s.in = s.in[n:]
	switch {
	case n == len(buf):
		s.began = true
		return n, nil
	case n > 0 || s.began:
		return n, ErrCorrupted
	}
	return 0, errSilent
}

// The blocks are those of C OpenCT's proto-gbp.c but where a comment says
// otherwise.
func TestGBP(t *testing.T) {
	long := strings.Repeat("5a", 255)
	type exchange struct {
		command, want string
		err           error
	}
	a0 := exchange{"a0", "00", nil}
	tests := []struct {
		name   string
		script string
		do     []exchange
	}{
		{"numbers alternate", "> 420001a0e3\n< 2400010025\n> 424001a0a3\n< 2440010065\n> 420001a0e3\n< 2400010025", []exchange{a0, a0, a0}},
		{"255 bytes each way", "> 4200ff" + long + "e7\n< 2400ff" + long + "81", []exchange{{long, long, nil}}},
		{"wrong LRC", "> 420001a0e3\n< 24000100da\n> 428100c3\n< 2400010025\n> 424001a0a3\n< 2440010065", []exchange{a0, a0}},
		{"wrong LRC, other number", "> 420001a0e3\n< 2400010025\n> 424001a0a3\n< 24400100da\n> 429100d3\n< 2440010065", []exchange{a0, a0}},
		{"block cut short", "> 420001a0e3\n< 240001\n> 428100c3\n< 2400010025", []exchange{a0}},
		{"other number", "> 420001a0e3\n< 2440010065\n> 428200c0\n< 2400010025", []exchange{a0}},
		{"reader wants it again", "> 420001a0e3\n< 248100a5\n> 420001a0e3\n< 2400010025", []exchange{a0}},
		{"reader wants another one", "> 420001a0e3\n< 249100b5\n> 428200c0\n< 2400010025", []exchange{a0}},
		{"supervisory block", "> 420001a0e3\n< 24e000c4\n> 428200c0\n< 2400010025", []exchange{a0}},
		{"another NAD", "> 420001a0e3\n< 55aa00ff12345678\n> 428100c3\n< 2400010025", []exchange{a0}},
		// C OpenCT sends the command once more after S(RESYNCH); a PIN would be
		// tried twice.
		{"wrong LRC for ever", "> 424001a0a3\n< 2440010065\n" + // begins with 1, see below
			"> 420001a0e3\n< 24000100da\n> 428100c3\n< 24000100da\n> 428100c3\n< 24000100da\n" +
			"> 42c00082\n< 24e000c4\n> 420001a0e3\n< 2400010025", []exchange{a0, {"a0", "", ErrProtocol}, a0}},
		{"wants it again for ever", "> 420001a0e3\n< 248100a5\n> 420001a0e3\n< 248100a5\n> 420001a0e3\n< 248100a5\n> 42c00082\n< 24e000c4\n> 420001a0e3\n< 2400010025",
			[]exchange{{"a0", "", ErrProtocol}, a0}},
		{"silence, with number 1", "> 420001a0e3\n< 2400010025\n> 424001a0a3\n> 42c00082\n< 24e000c4\n> 420001a0e3\n< 2400010025",
			[]exchange{a0, {"a0", "", errSilent}, a0}},
		{"does not resynchronise", "> 420001a0e3\n> 42c00082\n< 24e000c5\n> 42c00082\n> 42c00082\n< 2400010025\n> 42c00082\n< 24e000c4\n> 420001a0e3\n< 2400010025",
			[]exchange{{"a0", "", errSilent}, {"a0", "", ErrProtocol}, a0}},
		{"empty command", "", []exchange{{"", "", ErrInvalidAPDU}}},
		{"command too long", "", []exchange{{long + "00", "", ErrInvalidAPDU}}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			link := &gbpScript{t: t}
			if tt.script != "" {
				link.lines = strings.Split(tt.script, "\n")
			}
			g := NewGBP(link)
			if strings.HasPrefix(tt.script, "> 4240") {
				g.seq = 1
			}
			for i, x := range tt.do {
				command, _ := hex.DecodeString(x.command)
				got, err := g.Exchange(t.Context(), command, nil, time.Second)
				if !errors.Is(err, x.err) || hex.EncodeToString(got) != x.want {
					t.Errorf("exchange %d: %x, %v; want %s, %v", i+1, got, err, x.want, x.err)
				}
			}
			if len(link.lines) > 0 {
				t.Errorf("never happened: %q", link.lines)
			}
		})
	}
}

// gbpHostile answers each block with the next bytes of a fuzzer.
type gbpHostile struct {
	data  []byte
	in    []byte
	sends int
}

func (h *gbpHostile) Send(_ context.Context, b []byte) error {
	h.sends++
	n := 0
	if len(h.data) > 0 {
		n = min(int(h.data[0]), len(h.data)-1)
		h.in, h.data = h.data[1:1+n], h.data[1+n:]
	}
	if h.in = bytes.Clone(h.in[:min(n, len(h.in))]); len(h.in) > 3 && h.in[0]&1 == 1 {
		h.in[0], h.in[2] = gbpReader, byte(len(h.in)-4) // a block that is right but for its PCB
		h.in[len(h.in)-1] = xorOf(h.in[:len(h.in)-1])
	}
	return nil
}

func (h *gbpHostile) Recv(_ context.Context, buf []byte, _ time.Duration) (int, error) {
	n := copy(buf, h.in)
	h.in = h.in[n:]
	switch {
	case n == len(buf):
		return n, nil
	case n > 0:
		return n, ErrCorrupted
	}
	return 0, errSilent
}

// Whatever a reader answers, an exchange ends after a few blocks, and what it
// returns fits into one.
func FuzzGBP(f *testing.F) {
	f.Add([]byte{5, 0x24, 0x00, 0x01, 0x00, 0x25, 5, 0x24, 0x40, 0x01, 0x00, 0x65})
	f.Add([]byte{4, 0x24, 0x81, 0x00, 0xA5, 4, 0x24, 0xE0, 0x00, 0xC4})
	f.Add([]byte{8, 0x55, 0xAA, 0x00, 0xFF, 0x12, 0x34, 0x56, 0x78})
	f.Fuzz(func(t *testing.T, data []byte) {
		h := &gbpHostile{data: data}
		g := NewGBP(h)
		for range 4 {
			h.sends = 0
			got, err := g.Exchange(t.Context(), []byte{0x17}, nil, time.Second)
			if h.sends > 2*gbpTries {
				t.Fatalf("%d blocks for one exchange", h.sends)
			}
			if len(got) > gbpMaxInf || err == nil && g.dead || err != nil && !g.dead {
				t.Fatalf("%d bytes, %v, dead %v", len(got), err, g.dead)
			}
		}
	})
}
