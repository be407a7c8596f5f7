//go:build go1.25

package driver

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"openct/internal/atr"
	"openct/internal/device"
	"openct/internal/ifd"
	"openct/internal/proto"
	"openct/internal/serial"
	"openct/internal/serial/serialtest"
)

// Scripts of a phoenix reader with a card that gives an ATR. The first reset
// finds RTS set.
const (
	opened   = "set 9600 8E2 check\n"
	taken    = "lines 10\n" // out of reset
	again    = "lines 11\nlines 10\n"
	other    = "set 9600 8O2 check\n"
	usual    = "set 9600 8E2 check\n"
	atrT0    = "< 3b021450\n"
	atrT1    = "< 3bd218008131fe58c90114\n"
	atrSpeed = "< 3b12941450\n" // TA1 94: Fi 512, Di up to 8
)

// onPhoenix opens the driver at a line that plays the script.
func onPhoenix(t *testing.T, script string, o ifd.Line) (ifd.Slot, *serialtest.Replay) {
	t.Helper()
	l := serialtest.New(t, script)
	r, err := openPhoenix(l, ifd.Options{Name: "Phoenix reader", Log: slog.New(slog.DiscardHandler), Line: o})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := r.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	})
	return r.Slots()[0], l
}

func TestPhoenixReset(t *testing.T) {
	const inverse = "03595bffcb6f69f6ff"
	for _, tt := range []struct {
		name   string
		script string
		atr    string
		want   error
		within time.Duration
	}{
		{"direct convention", taken + atrT0, "3b021450", nil, 300 * time.Millisecond},
		{"inverse convention", taken + "<! " + inverse + "\n" + other, "3f6525002c09699000", nil, 300 * time.Millisecond},
		{"inverse convention, adapter tells no parity", taken + "< " + inverse + "\n" + other, "3f6525002c09699000", nil, 300 * time.Millisecond},
		{"adapter throws away what has a wrong parity", taken + other + again + "< " + inverse, "3f6525002c09699000", nil, 3 * time.Second},
		{"one wrong parity, then none", taken + "< 3b02\n<! 14\n< 50\n" + other + again + "<! 3b021450\n" + usual, "3b021450", nil, 3 * time.Second},
		{"slow to leave the reset", taken + other + again + "<! 3b021450\n" + usual, "3b021450", nil, 3 * time.Second},
		{"parities that do not fit each other", taken + "<! 03\n< 595bff\n" + other + again + "< 03\n<! 59", "", serial.ErrParity, 3 * time.Second},
		{"noise", taken + "< 55aa00ff\n" + other + again + "< 12", "", ifd.ErrInvalidATR, 1300 * time.Millisecond},
		{"one byte", taken + "< 3b\n" + other + again + "< 3b", "", ifd.ErrInvalidATR, 3700 * time.Millisecond},
		{"half an answer, then silence", taken + "< 3bd218\n" + other + again, "", ifd.ErrInvalidATR, 5 * time.Second},
		{"a modem that answers", taken + "< 0d0a4f4b0d0a\n" + other + again + "< 0d0a4f4b0d0a", "", ifd.ErrInvalidATR, 3 * time.Second},
		{"silence", taken + other + again, "", ifd.ErrNoATR, 3300 * time.Millisecond},
		{"pulled in the middle", taken + "< 3b\nunplug", "", device.ErrUnplugged, 300 * time.Millisecond},
		{"no card", "inputs 10", "", ifd.ErrNoCard, 0},
		{"card taken out in the middle", taken + "< 3b\ninputs 10\n" + other + again, "", ifd.ErrNoCard, 5 * time.Second},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				slot, l := onPhoenix(t, opened+tt.script, ifd.Line{})
				begin := time.Now()
				raw, err := slot.Reset(context.Background())
				if !errors.Is(err, tt.want) || fmt.Sprintf("%x", raw) != tt.atr {
					t.Errorf("ATR %x, %v; want %s, %v", raw, err, tt.atr, tt.want)
				}
				if took := time.Since(begin); took > tt.within {
					t.Errorf("it took %v", took)
				}
				l.Done()
			})
		})
	}
}

// engineFor resets the card and makes its engine.
func engineFor(t *testing.T, slot ifd.Slot, id proto.ID) proto.Engine {
	t.Helper()
	raw, err := slot.Reset(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	a, err := atr.Parse(raw)
	if err != nil {
		t.Fatal(err)
	}
	e, err := slot.Protocol(context.Background(), id, a)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

// What may happen on a line gives one error, in a bounded time, and the next
// reset works.
func TestPhoenixExchange(t *testing.T) {
	const (
		read    = ">> 00b0000002\n" // READ BINARY, T=0
		readT1  = ">> 00000500b0000002b7\n"
		please  = ">> 00810081\n" // R-block: again
		resynch = ">> 00c000c0\n"
	)
	for _, tt := range []struct {
		name   string
		atr    string
		script string
		resp   string
		want   error
		within time.Duration
	}{
		{"T=0", atrT0, read + "< b011229000", "11229000", nil, time.Second},
		{"T=0, NULL bytes", atrT0, read + "< 6060b011226090 00", "11229000", nil, time.Second},
		{"T=0, wrong parity", atrT0, read + "< b011\n<! 22\n< 9000", "", serial.ErrParity, time.Second},
		{"T=0, card refuses a byte", atrT0, "> 00b0000002\n< 00\n<! b0\n< 000002", "", serial.ErrParity, time.Second},
		{"T=0, card stops", atrT0, read + "< b011", "", device.ErrTimeout, 3 * time.Second},
		{"T=0, card stops before SW2", atrT0, read + "< b0112290", "", device.ErrTimeout, 3 * time.Second},
		{"T=0, silence", atrT0, read, "", device.ErrTimeout, 3 * time.Second},
		{"T=0, NULL for ever", atrT0, read + "< " + strings.Repeat("60", 801), "", proto.ErrProtocol, time.Second},
		{"T=0, noise", atrT0, read + "< 12", "", proto.ErrProtocol, time.Second},
		{"collision", atrT0, "> 00b0000002\n< 00b0000003", "", ifd.ErrComm, time.Second},
		{"nothing comes back", atrT0, "> 00b0000002", "", ifd.ErrComm, 2 * time.Second},
		{"pulled in the middle", atrT0, read + "< b011\nunplug", "", device.ErrUnplugged, time.Second},
		{"card taken out in the middle", atrT0, read + "< b011\ninputs 10", "", ifd.ErrNoCard, 3 * time.Second},
		{"T=1", atrT1, readT1 + "< 00000411229000a7", "11229000", nil, time.Second},
		{"T=1, wrong parity once", atrT1, readT1 + "< 0000041122\n<! 9000a7\n" + please + "< 00000411229000a7", "11229000", nil, 2 * time.Second},
		{"T=1, wrong parities, and the rest comes late", atrT1, readT1 + "< 0000041122\n<! @2ms 90\n<! @4ms 00\n< @6ms a7\n" + please + "< 00000411229000a7", "11229000", nil, 2 * time.Second},
		{"T=1, wrong checksum once", atrT1, readT1 + "< 00000411229000a6\n" + please + "< 00000411229000a7", "11229000", nil, 2 * time.Second},
		{"T=1, card stops once", atrT1, readT1 + "< 0000041122\n" + please + "< 00000411229000a7", "11229000", nil, 3 * time.Second},
		{"T=1, no block once", atrT1, readT1 + please + "< 00000411229000a7", "11229000", nil, 5 * time.Second},
		{"T=1, silence", atrT1, readT1 + please + please + resynch + resynch + resynch, "", proto.ErrProtocol, 25 * time.Second},
		{"T=1, card taken out", atrT1, readT1 + "inputs 10", "", ifd.ErrNoCard, 5 * time.Second},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				slot, l := onPhoenix(t, opened+taken+tt.atr, ifd.Line{})
				e := engineFor(t, slot, proto.Default)
				l.Done()
				l.Next(tt.name, tt.script)
				begin := time.Now()
				resp, err := e.Transmit(context.Background(), []byte{0x00, 0xB0, 0x00, 0x00, 0x02}, nil)
				if !errors.Is(err, tt.want) || fmt.Sprintf("%x", resp) != tt.resp {
					t.Errorf("response %x, %v; want %s, %v", resp, err, tt.resp, tt.want)
				}
				if took := time.Since(begin); took > tt.within {
					t.Errorf("it took %v", took)
				}
				l.Done()
				if tt.want == nil || errors.Is(tt.want, device.ErrUnplugged) {
					return
				}
				l.Next("next reset", "inputs 00\n"+again+tt.atr)
				if _, err := slot.Reset(context.Background()); err != nil {
					t.Errorf("next reset: %v", err)
				}
				l.Done()
			})
		})
	}
}

// A cancelled exchange ends at once.
func TestPhoenixCancelled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		slot, l := onPhoenix(t, opened+taken+atrT0+">> 00b0000002", ifd.Line{})
		e := engineFor(t, slot, proto.Default)
		ctx, cancel := context.WithTimeout(context.Background(), time.Millisecond)
		defer cancel()
		if _, err := e.Transmit(ctx, []byte{0x00, 0xB0, 0x00, 0x00, 0x02}, nil); !errors.Is(err, context.DeadlineExceeded) {
			t.Error(err)
		}
		l.Done()
	})
}

// Speed and protocol are agreed upon before the first command.
func TestPhoenixNegotiates(t *testing.T) {
	const (
		read   = ">> 00b0000002\n< b011229000\n"
		fast   = "set 55800 8E2 check\n"
		tested = fast + usual // the line can do it
	)
	for _, tt := range []struct {
		name   string
		line   ifd.Line
		id     proto.ID
		script string
		want   error
	}{
		{"not asked for", ifd.Line{}, proto.Default, taken + atrSpeed + read, nil},
		{"faster", ifd.Line{Speed: 115200}, proto.Default,
			taken + atrSpeed + tested + ">> ff10947b\n< ff10947b\n" + fast + read, nil},
		{"as fast as allowed", ifd.Line{Speed: 30000}, proto.Default,
			taken + atrSpeed + "set 27900 8E2 check\n" + usual + ">> ff10937c\n< ff10937c\nset 27900 8E2 check\n" + read, nil},
		{"card offers nothing", ifd.Line{Speed: 115200}, proto.Default, taken + atrT0 + read, nil},
		{"card keeps its speed", ifd.Line{Speed: 115200}, proto.Default,
			taken + atrSpeed + tested + ">> ff10947b\n< ff00ff\n" + read, nil},
		{"card does not answer", ifd.Line{Speed: 115200}, proto.Default,
			taken + atrSpeed + tested + ">> ff10947b\n" + again + atrSpeed + read, nil},
		{"card answers nonsense", ifd.Line{Speed: 115200}, proto.Default,
			taken + atrSpeed + tested + ">> ff10947b\n< ff109400\n" + again + atrSpeed + read, nil},
		{"protocol that is not the first", ifd.Line{}, proto.T1,
			taken + "< 3b80800101\n>> ff01fe\n< ff01fe\n>> 00000500b0000002b7\n< 00000411229000a7\n", nil},
		{"and the card refuses it", ifd.Line{}, proto.T1, taken + "< 3b80800101\n>> ff01fe\n", atr.ErrPPS},
		{"protocol that is not there", ifd.Line{}, proto.T1, taken + atrT0, ifd.ErrNotSupported},
		{"specific mode", ifd.Line{}, proto.Default, taken + "< 3b929410001450\n" + fast + read, nil},
		{"another clock", ifd.Line{Clock: 6_000_000}, proto.Default, "set 16129 8E2 check\n" + taken + atrT0 + read, nil},
		{"extra guard time", ifd.Line{}, proto.Default, taken + "< 3b42021450\n" + read, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				script := tt.script
				if tt.line.Clock == 0 {
					script = opened + script
				}
				slot, l := onPhoenix(t, script, tt.line)
				ctx := context.Background()
				raw, err := slot.Reset(ctx)
				if err != nil {
					t.Fatal(err)
				}
				a, err := atr.Parse(raw)
				if err != nil {
					t.Fatal(err)
				}
				e, err := slot.Protocol(ctx, tt.id, a)
				if !errors.Is(err, tt.want) {
					t.Fatalf("Protocol: %v, want %v", err, tt.want)
				}
				if err == nil {
					resp, err := e.Transmit(ctx, []byte{0x00, 0xB0, 0x00, 0x00, 0x02}, nil)
					if err != nil || fmt.Sprintf("%x", resp) != "11229000" {
						t.Errorf("response %x, %v", resp, err)
					}
				}
				l.Done()
			})
		})
	}
}

// Bytes to a card with extra guard time are so far apart.
func TestPhoenixGuardTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		slot, l := onPhoenix(t, opened+taken+"< 3b42641450", ifd.Line{}) // TC1 64: 100 etu
		e := engineFor(t, slot, proto.Default)
		l.Next("read", ">> 00b0000002\n< b011229000")
		begin := time.Now()
		if _, err := e.Transmit(context.Background(), []byte{0x00, 0xB0, 0x00, 0x00, 0x02}, nil); err != nil {
			t.Fatal(err)
		}
		if took, etu := time.Since(begin), time.Second/9600; took < 5*112*etu {
			t.Errorf("five bytes took %v", took)
		}
		l.Done()
	})
}

// After something was sent, another protocol takes a reset.
func TestPhoenixProtocolTwice(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		slot, l := onPhoenix(t, opened+taken+"< 3b80800101\n>> 00b0000002\n< b011229000\n"+again+"< 3b80800101\n>> ff01fe\n< ff01fe", ifd.Line{})
		e := engineFor(t, slot, proto.Default)
		if _, err := e.Transmit(context.Background(), []byte{0x00, 0xB0, 0x00, 0x00, 0x02}, nil); err != nil {
			t.Fatal(err)
		}
		a, err := atr.Parse([]byte{0x3B, 0x80, 0x80, 0x01, 0x01})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := slot.Protocol(context.Background(), proto.T1, a); err != nil {
			t.Error(err)
		}
		l.Done()
	})
}

// Whether a card is in is asked of the switch, where there is one.
func TestPhoenixPresence(t *testing.T) {
	for _, tt := range []struct {
		name   string
		script string
		line   ifd.Line
		lines  bool
		asked  bool
		in     bool
	}{
		{"CTS low", "inputs 00", ifd.Line{}, true, true, true},
		{"CTS high", "inputs 10", ifd.Line{}, true, true, false},
		{"no switch", "inputs 10", ifd.Line{NoSwitch: true}, true, false, true},
		{"no modem lines", "", ifd.Line{}, false, false, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			l := serialtest.New(t, opened+tt.script)
			if !tt.lines {
				l.NoLines()
			}
			r, err := openPhoenix(l, ifd.Options{Log: slog.New(slog.DiscardHandler), Line: tt.line})
			if err != nil {
				t.Fatal(err)
			}
			p, asked := r.Slots()[0].(ifd.Presence)
			if asked != tt.asked {
				t.Fatalf("the switch is asked: %v", asked)
			}
			if asked {
				if st, err := p.Status(context.Background()); err != nil || st.Present != tt.in {
					t.Errorf("%+v, %v", st, err)
				}
			}
			l.Done()
		})
	}
}

// FuzzPhoenix: whatever comes over the line, nothing breaks or waits for ever.
func FuzzPhoenix(f *testing.F) {
	f.Add([]byte{0x3B, 0x02, 0x14, 0x50}, []byte{0xB0, 0x11, 0x22, 0x90, 0x00})
	f.Add([]byte{0x03, 0x59, 0x5B, 0xFF, 0xCB, 0x6F, 0x69, 0xF6, 0xFF}, []byte{0xF6, 0xFF})
	f.Add([]byte{0x3B, 0xD2, 0x18, 0x00, 0x81, 0x31, 0xFE, 0x58, 0xC9, 0x01, 0x14}, []byte{0x00, 0x00, 0x02, 0x90, 0x00, 0x92})
	f.Add([]byte{0x3B, 0x12, 0x94, 0x14, 0x50}, []byte{0xFF, 0x10, 0x94, 0x7B, 0x60, 0x60})
	f.Add([]byte{0x3B, 0x92, 0x94, 0x00, 0x14, 0x50}, []byte{})
	f.Fuzz(func(t *testing.T, reset, answer []byte) {
		synctest.Test(t, func(t *testing.T) {
			l := &noiseLine{gone: make(chan struct{})}
			r, err := openPhoenix(l, ifd.Options{Log: slog.New(slog.DiscardHandler), Line: ifd.Line{Speed: 115200}})
			if err != nil {
				t.Fatal(err)
			}
			ctx := context.Background()
			l.in = reset
			raw, err := r.Slots()[0].Reset(ctx)
			if err != nil {
				return
			}
			a, err := atr.Parse(raw)
			if err != nil {
				return
			}
			l.in = answer
			e, err := r.Slots()[0].Protocol(ctx, proto.Default, a)
			if err != nil {
				return
			}
			resp, err := e.Transmit(ctx, []byte{0x00, 0xB0, 0x00, 0x00, 0x02}, nil)
			if err == nil && len(resp) < 2 {
				t.Errorf("response %x", resp)
			}
		})
	})
}

// noiseLine gives back what is sent, unless it is mute, and some bytes.
type noiseLine struct {
	serial.Line
	mute     bool
	dsr      bool // DSR follows DTR
	dtr      bool
	echo, in []byte
	gone     chan struct{}
}

func (l *noiseLine) Name() string                  { return "noise" }
func (l *noiseLine) Gone() <-chan struct{}         { return l.gone }
func (l *noiseLine) Set(serial.Params) error       { return nil }
func (l *noiseLine) SetLines(dtr, _ bool) error    { l.dtr = dtr; return nil }
func (l *noiseLine) Lines() (serial.Inputs, error) { return serial.Inputs{DSR: l.dsr && l.dtr}, nil }
func (l *noiseLine) Flush(serial.Queue) error      { l.echo = nil; return nil }
func (l *noiseLine) Write(_ context.Context, b []byte) error {
	if !l.mute {
		l.echo = append(l.echo, b...)
	}
	return nil
}

func (l *noiseLine) Read(_ context.Context, buf []byte, timeout time.Duration) (int, error) {
	for _, q := range []*[]byte{&l.echo, &l.in} {
		if n := copy(buf, *q); n > 0 {
			*q = (*q)[n:]
			return n, nil
		}
	}
	time.Sleep(timeout)
	return 0, device.ErrTimeout
}
