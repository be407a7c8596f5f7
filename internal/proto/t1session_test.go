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

func TestNegotiateIFSD(t *testing.T) {
	tests := []struct {
		name   string
		value  int
		script string
		errs   []error
		is     []error
		ifsd   int
	}{
		{"V7b accepted", 254, "H 00 C1 01 FE 3E\nC 00 E1 01 FE 1E\n" + hSelect + "C R 259 00 00 02 90 00 92", nil, nil, 254},
		{"V7d iKey, with junk behind", 0xB4, "H 00 C1 01 B4 74\nC 00 E1 01 B4 54 40 98 C1\n" + hSelect + cOK, nil, nil, 0xB4},
		{"second attempt", 254, "H 00 C1 01 FE 3E\nC 00 E1\nH 00 C1 01 FE 3E\nC 00 E1 01 FE 1E\n" + hSelect + cOK, nil, nil, 254},
		{"refused three times", 254, strings.Repeat("H 00 C1 01 FE 3E\nC 00 82 00 82\n", 3) + hSelect + "C R 37 00 00 02 90 00 92", nil, []error{ErrProtocol}, 32},
		{"another value", 254, strings.Repeat("H 00 C1 01 FE 3E\nC 00 E1 01 20 C0\n", 3) + hSelect + cOK, nil, []error{ErrProtocol}, 32},
		{"0", 0, hSelect + cOK, nil, []error{errAny}, 32},
		{"255", 255, hSelect + cOK, nil, []error{errAny}, 32},
		{"no answer", 254, "H 00 C1 01 FE 3E\nC!", []error{errLink}, []error{errLink, ErrResetRequired}, 32},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			e := NewT1(prototest.Blocks(t, tt.script, tt.errs...), T1Params{})
			err := e.NegotiateIFSD(context.Background(), tt.value)
			if (err != nil) != (len(tt.is) > 0) {
				t.Fatalf("error %v, want %v", err, tt.is)
			}
			for _, want := range tt.is {
				if want != errAny && !errors.Is(err, want) {
					t.Errorf("error %v, want %v", err, want)
				}
			}
			if e.IFSD() != tt.ifsd {
				t.Errorf("IFSD %d, want %d", e.IFSD(), tt.ifsd)
			}
			if e.lost == nil {
				runCalls(t, e, []call{ok(selectMF, "9000")})
			} else if err := e.NegotiateIFSD(context.Background(), 32); !errors.Is(err, ErrResetRequired) {
				t.Errorf("after the session was lost: %v", err)
			}
		})
	}
}

var errAny = errors.New("any error")

func TestResynchronise(t *testing.T) {
	const good = "H 00 C0 00 C0\nC 00 E0 00 E0\n"
	ctx := context.Background()

	t.Run("revives a lost session", func(t *testing.T) {
		e := NewT1(prototest.Blocks(t, hSelect+"C!\n"+good+hSelect+cOK, errLink), T1Params{})
		runCalls(t, e, []call{{apdu: selectMF, is: []error{ErrResetRequired}}})
		if err := e.Resynchronise(ctx); err != nil {
			t.Fatal(err)
		}
		runCalls(t, e, []call{ok(selectMF, "9000")})
	})
	t.Run("restores block sizes and negotiates IFSD again", func(t *testing.T) {
		e := NewT1(prototest.Blocks(t, "H 00 C1 01 FE 3E\nC 00 E1 01 FE 1E\n"+
			hSelect+"C 00 C1 01 40 80\nH 00 E1 01 40 A0\n"+cOK+
			good+"H 00 C1 01 FE 3E\nC R 37 00 E1 01 FE 1E\n"), T1Params{})
		if err := e.NegotiateIFSD(ctx, 254); err != nil {
			t.Fatal(err)
		}
		runCalls(t, e, []call{ok(selectMF, "9000")})
		if e.IFSC() != 64 {
			t.Errorf("IFSC %d before", e.IFSC())
		}
		if err := e.Resynchronise(ctx); err != nil {
			t.Fatal(err)
		}
		if e.IFSC() != 32 || e.IFSD() != 254 || e.ns != 0 || e.nr != 0 {
			t.Errorf("IFSC %d, IFSD %d, at %d/%d", e.IFSC(), e.IFSD(), e.ns, e.nr)
		}
	})
	t.Run("card does not confirm IFSD again", func(t *testing.T) {
		e := NewT1(prototest.Blocks(t, "H 00 C1 01 FE 3E\nC 00 E1 01 FE 1E\n"+
			good+strings.Repeat("H 00 C1 01 FE 3E\nC 00 82 00 82\n", 3)+good), T1Params{})
		if err := e.NegotiateIFSD(ctx, 254); err != nil {
			t.Fatal(err)
		}
		for range 2 {
			if err := e.Resynchronise(ctx); err != nil {
				t.Fatal(err)
			}
		}
		if e.IFSD() != 32 {
			t.Errorf("IFSD %d", e.IFSD())
		}
	})
	t.Run("third attempt", func(t *testing.T) {
		e := NewT1(prototest.Blocks(t, "H 00 C0 00 C0\nC 00 E0 00 E1\nH 00 C0 00 C0\nC 00 80 00 80\n"+good), T1Params{})
		if err := e.Resynchronise(ctx); err != nil {
			t.Fatal(err)
		}
	})
	t.Run("no attempt succeeds", func(t *testing.T) {
		e := NewT1(prototest.Blocks(t, strings.Repeat("H 00 C0 00 C0\nC 00 80 00 80\n", 3)), T1Params{})
		if err := e.Resynchronise(ctx); !errors.Is(err, ErrProtocol) || !errors.Is(err, ErrResetRequired) {
			t.Fatal(err)
		}
	})
	t.Run("link fails", func(t *testing.T) {
		e := NewT1(prototest.Blocks(t, "H!", errLink), T1Params{})
		if err := e.Resynchronise(ctx); !errors.Is(err, errLink) || !errors.Is(err, ErrResetRequired) {
			t.Fatal(err)
		}
	})
	t.Run("stream is emptied first", func(t *testing.T) {
		e := NewT1(prototest.Stream(t, "C 01 02 03\nC!\n"+good, errLink), T1Params{Stream: true})
		if err := e.Resynchronise(ctx); err != nil {
			t.Fatal(err)
		}
	})
	t.Run("CRC", func(t *testing.T) {
		e := NewT1(prototest.Blocks(t, "H 00 C0 00 F3 99\nC 00 E0 00 D0 AA\n"), T1Params{CRC: true})
		if err := e.Resynchronise(ctx); err != nil {
			t.Fatal(err)
		}
	})
}

// cardFunc is a Link whose card is a function from the host's block to the
// card's.
type cardFunc func(block []byte) []byte

type funcLink struct {
	card  cardFunc
	reply []byte
	sends int
}

func (l *funcLink) Send(_ context.Context, b []byte) error {
	l.sends++
	l.reply = l.card(b)
	return nil
}
func (l *funcLink) Recv(_ context.Context, buf []byte, _ time.Duration) (int, error) {
	return copy(buf, l.reply), nil
}

func TestT1Cancel(t *testing.T) {
	t.Run("before anything was sent", func(t *testing.T) {
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		e := NewT1(prototest.Blocks(t, hSelect+cOK), T1Params{})
		if _, err := e.Transmit(ctx, hextest.Bytes(t, selectMF), nil); !errors.Is(err, context.Canceled) || errors.Is(err, ErrResetRequired) {
			t.Errorf("error %v", err)
		}
		if err := e.NegotiateIFSD(ctx, 254); !errors.Is(err, context.Canceled) || errors.Is(err, ErrResetRequired) {
			t.Errorf("error %v", err)
		}
		if err := e.Resynchronise(ctx); !errors.Is(err, context.Canceled) || errors.Is(err, ErrResetRequired) {
			t.Errorf("error %v", err)
		}
		runCalls(t, e, []call{ok(selectMF, "9000")})
	})
	t.Run("while the card asks for time", func(t *testing.T) {
		ctx, cancel := context.WithCancel(context.Background())
		n := 0
		link := &funcLink{card: func([]byte) []byte {
			if n++; n == 1000 {
				cancel()
			}
			return []byte{0, 0xC3, 1, 1, 0xC3}
		}}
		e := NewT1(link, T1Params{})
		if _, err := e.Transmit(ctx, hextest.Bytes(t, selectMF), nil); !errors.Is(err, context.Canceled) || !errors.Is(err, ErrResetRequired) {
			t.Errorf("error %v", err)
		}
		if link.sends != 1000 {
			t.Errorf("%d blocks sent", link.sends)
		}
	})
}

// flood is a card that answers in I-blocks with inf, of which the last of n
// says that it is the last.
func flood(n int, inf []byte) *funcLink {
	f := t1Format{}
	seq, left := byte(0), n
	return &funcLink{card: func([]byte) []byte {
		pcb := seq * pcbISeq
		if seq ^= 1; left != 1 {
			pcb |= pcbIMore
		}
		left--
		return f.encode(make([]byte, t1MaxBlock), pcb, inf)
	}}
}

func TestT1Limits(t *testing.T) {
	inf := make([]byte, 254)
	tests := []struct {
		name   string
		blocks int // 0: for ever
		inf    []byte
		is     error
		lost   bool
		want   int
	}{
		{"long", 258, inf, nil, false, 258 * 254},
		{"too long", 259, inf, ErrTooLong, false, 0},
		{"endless", 0, inf, ErrTooLong, true, 0},
		{"empty blocks, some", 20, nil, ErrProtocol, false, 0}, // and no status word
		{"empty blocks, endless", 0, nil, ErrProtocol, true, 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			link := flood(tt.blocks, tt.inf)
			e := NewT1(link, T1Params{IFSD: 254})
			got, err := e.Transmit(context.Background(), hextest.Bytes(t, selectMF), nil)
			if !errors.Is(err, tt.is) || errors.Is(err, ErrResetRequired) != tt.lost {
				t.Errorf("error %v, want %v, session lost: %v", err, tt.is, tt.lost)
			}
			if len(got) != tt.want {
				t.Errorf("%d bytes", len(got))
			}
			if link.sends > 2000 {
				t.Errorf("%d blocks sent", link.sends)
			}
		})
	}
}

func TestT1CommandLength(t *testing.T) {
	e := NewT1(&funcLink{}, T1Params{})
	if _, err := e.Transmit(context.Background(), make([]byte, MaxCommand+1), nil); !errors.Is(err, ErrInvalidAPDU) || errors.Is(err, ErrResetRequired) {
		t.Errorf("error %v", err)
	}
}

func TestT1KeepsNothing(t *testing.T) {
	e := NewT1(prototest.Blocks(t, "H 00 00 09 00 20 00 81 04 31 32 33 34 A8\n"+cOK), T1Params{})
	runCalls(t, e, []call{ok("00 20 00 81 04 31 32 33 34", "9000")})
	if bytes.Contains(e.sendBuf[:], []byte("1234")) || e.current.apdu != nil {
		t.Error("engine still holds the command's data")
	}
}

func TestCRC(t *testing.T) {
	if got := crc16([]byte("123456789")); got != 0x6F91 {
		t.Errorf("%04X, want 6F91", got)
	}
}

// A card that asks for more time for ever is left alone at some time.
func TestEndlessWaiting(t *testing.T) {
	const ask, grant = "C 00 C3 01 FF 3D\n", "H 00 E3 01 FF 1D\n"
	// 255 times 2 s are 510 s, and the hour has 3600.
	script := hSelect + strings.Repeat(ask+grant, 7) + ask
	e := NewT1(prototest.Blocks(t, script), T1Params{BWT: 2 * time.Second})
	_, err := e.Transmit(context.Background(), hextest.Bytes(t, selectMF), nil)
	if !errors.Is(err, ErrProtocol) || !errors.Is(err, ErrResetRequired) {
		t.Errorf("got %v, want %v", err, ErrProtocol)
	}
}

// One session with several NADs: the numbers of the blocks go on.
func TestSetNAD(t *testing.T) {
	link := prototest.Blocks(t, `
H 12 00 04 20 11 00 00 27
C 21 00 02 90 00 B3
H 02 40 05 00 B0 00 00 02 F5
C 20 40 04 11 22 90 00 C7
H 12 00 05 20 13 01 80 00 A5
C 20 00 02 90 00 B2          # of the card, not of the terminal
H 12 82 00 90
C 21 00 05 80 01 01 90 00 34
`)
	e := NewT1(link, T1Params{NAD: 0x12})
	for _, c := range []struct {
		nad  byte
		call call
	}{
		{0x12, ok("20 11 00 00", "9000")},
		{0x02, ok("00 B0 00 00 02", "11229000")},
		{0x12, ok("20 13 01 80 00", "8001019000")},
	} {
		e.SetNAD(c.nad)
		runCalls(t, e, []call{c.call})
	}
}

// A longer wait is for the answers to come, until it is taken back.
func TestSetTimeout(t *testing.T) {
	e := NewT1(prototest.Blocks(t, hSelect+"C W 90000 00 00 02 90 00 92\nH 00 40 05 00 B0 00 00 02 F7\nC W 20000 00 40 02 90 00 D2"), T1Params{})
	e.SetTimeout(90 * time.Second)
	runCalls(t, e, []call{ok(selectMF, "9000")})
	e.SetTimeout(0)
	runCalls(t, e, []call{ok("00 B0 00 00 02", "9000")})
}
