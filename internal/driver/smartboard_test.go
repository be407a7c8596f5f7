//go:build go1.25

package driver

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
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

// Scripts of a SmartBoard.
const (
	smartUp      = "set 115200 8E2 check\nlines 00\nlines 10\nlines 11\n"
	smartHello   = "break 1\nbreak 0\n> 00016a\n< 000160\n> 000160\n< 000b60534d415254424f415244\n"
	smartIn      = "> 000165\n< 00056108000002\n"
	smartOut     = "> 000165\n< 00056100000001\n"
	smartATR     = smartIn + "> 000162\n< 0005643b021450\n"
	smartCardT0  = smartATR + "> 00066100000a0010\n< 000162\n"
	smartCardT1  = smartIn + "> 000162\n< 000c643bd218008131fe58c90114\n> 0006611000007510\n< 000162\n"
	smartRead    = "> 00066700b0000002\n"
	smartReadT1  = "> 000a6700000500b0000002b7\n"
	smartBlock   = "< 00096400000411229000a7\n"
	smartRequest = "> 00056700810081\n" // R-block: again
)

func TestSmartBoardRecorded(t *testing.T) {
	const (
		lost = "after a failed exchange the card must be reset: nobody knows what it expects next"
		news = "a card that is found is news once"
		step = "> 000165\n< 000167\n"
		fits = "a command that does not fit into a frame is refused, and the card's session goes on"
	)
	at := func(line int, why, steps, reply string) serialtest.Difference {
		return serialtest.At(fmt.Sprintf("smartboard.jsonl:%d", line), why, serialtest.Script(steps, reply))
	}
	serialtest.Play(t, serialtest.Driver{
		Files: []string{"testdata/readers/smartboard.jsonl"},
		Open:  openSmartBoard,
		Differences: []serialtest.Difference{
			{
				Why: "the handler starts without asking for the card",
				Change: func(w *serialtest.Window) bool {
					n := len(w.Steps)
					if w.Phase != serialtest.Open || n < 2 || !slices.Equal(w.Steps[n-2].Data, []byte{0, 1, 0x65}) {
						return false
					}
					w.Steps = w.Steps[:n-2]
					return true
				},
			},
			at(27, news, smartIn, "020103"),
			at(115, "a card that left is news once", smartOut, "020102"),
			at(51, "a command is repeated with the Le that the card names",
				"> 00066700b0400000\n< 0003646c05\n> 00066700b0400005\n< 00086431323334359000", "45000731323334359000"),
			at(103, "the recording says that two more of the frames came", "> 0006670044000000\n< 000163\n< 000163\n< 000163\n< 0003649000", "4500029000"),
			at(119, "nothing is sent to a card that was seen leaving", "", ""),
			at(123, "without a card there is none to power", smartOut, ""),
			at(260, "a protocol that the card does not offer cannot be set", "", ""),
			at(315, "C OpenCT's core happened to look for the card as well", step+step+step+smartIn, "020103"),
			at(324, "the recording says that it went on like that", step+step+step+step, ""),
			at(343, lost, "", ""),
			at(359, lost, "", ""),
			at(379, lost, "", ""),
			at(391, "an event may come at any time", "> 0006670044000000\n< 000166\n< 0003649000", "4500029000"),
			at(396, "nothing is sent after the event that a card was removed", "", ""),
			at(400, "and puts no answer behind", "> 000165\n< 00056119010004\n> 000162\n< 0005643b021450\n> 00066100000a0010\n< 000162", "03043b021450"),
			at(406, "and puts no answer behind", "> 000165\n< 00056119010004\n> 000162\n< 0005643b021450\n> 00066100000a0010\n< 000162", "03043b021450"),
			{
				Why: "C OpenCT's core looked for the card a second after an exchange failed",
				Change: func(w *serialtest.Window) bool {
					n := len(w.Steps)
					if w.Phase != serialtest.Request || w.Request[0] != 0x21 || n < 2 || !slices.Equal(w.Steps[n-2].Data, []byte{0, 1, 0x65}) {
						return false
					}
					w.Steps = w.Steps[:n-2]
					return true
				},
			},
		},
	})
}

// onSmartBoard opens the driver at a line that plays the script.
func onSmartBoard(t *testing.T, script string) (*smartBoard, *serialtest.Replay) {
	t.Helper()
	l := serialtest.New(t, smartUp+smartHello+script)
	r, err := openSmartBoard(l, ifd.Options{Name: "Cherry Smartboard", Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	return r.(*smartBoard), l
}

func TestSmartBoardOpens(t *testing.T) {
	for _, tt := range []struct {
		name   string
		script string
		want   error
	}{
		{"SmartBoard", smartUp + smartHello, nil},
		{"wants the command again", smartUp + "break 1\nbreak 0\n> 00016a\n< 000167\n> 00016a\n< 000160\n> 000160\n< 000160", nil},
		{"nothing there", smartUp + "break 1\nbreak 0\n> 00016a", device.ErrTimeout},
		{"a modem", smartUp + "break 1\nbreak 0\n> 00016a\n< 0d0a4552524f520d0a", ifd.ErrComm},
		{"another answer", smartUp + "break 1\nbreak 0\n> 00016a\n< 000160\n> 000160\n< 000164", ifd.ErrIncompatible},
		{"never content", smartUp + "break 1\nbreak 0\n" + strings.Repeat("> 00016a\n< 000167\n", 4), ifd.ErrComm},
		{"pulled", smartUp + "unplug", device.ErrUnplugged},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := serialtest.New(t, tt.script)
				begin := time.Now()
				_, err := openSmartBoard(l, ifd.Options{Log: slog.New(slog.DiscardHandler)})
				if !errors.Is(err, tt.want) {
					t.Errorf("%v, want %v", err, tt.want)
				}
				if took := time.Since(begin); took > 2500*time.Millisecond {
					t.Errorf("it took %v", took)
				}
				l.Done()
			})
		})
	}
}

func TestSmartBoardReset(t *testing.T) {
	for _, tt := range []struct {
		name   string
		script string
		atr    string
		want   error
	}{
		{"card", smartATR, "3b021450", nil},
		{"no card", smartOut, "", ifd.ErrNoCard},
		{"card is mute", smartIn + "> 000162\n< 000164", "", ifd.ErrNoATR},
		{"card leaves meanwhile", smartIn + "> 000162\n< 000166\n< 000164", "", ifd.ErrNoCard},
		{"nonsense as ATR", smartIn + "> 000162\n< 00056455aa00ff", "", ifd.ErrInvalidATR},
		{"another answer", smartIn + "> 000162\n< 000162", "", ifd.ErrComm},
		{"silence", smartIn + "> 000162", "", device.ErrTimeout},
		{"half a frame", smartIn + "> 000162\n< 0005643b02", "", device.ErrTimeout},
		{"wrong parity", smartIn + "> 000162\n< 000564\n<! 3b\n< 021450", "", serial.ErrParity},
		{"nonsense, then a break helps", "> 000165\n< 55aa00ff12\n" + smartHello + smartATR, "3b021450", nil},
		{"silence, then a break helps", "> 000165\n" + smartHello + smartATR, "3b021450", nil},
		{"and a break does not help", "> 000165\nbreak 1\nbreak 0\n> 00016a", "", device.ErrTimeout},
		{"pulled in the middle", smartIn + "> 000162\n< 0005643b\nunplug", "", device.ErrUnplugged},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s, l := onSmartBoard(t, tt.script)
				begin := time.Now()
				raw, err := s.Reset(context.Background())
				if !errors.Is(err, tt.want) || fmt.Sprintf("%x", raw) != tt.atr {
					t.Errorf("ATR %x, %v; want %s, %v", raw, err, tt.atr, tt.want)
				}
				if took := time.Since(begin); took > 3*time.Second {
					t.Errorf("it took %v", took)
				}
				l.Done()
			})
		})
	}
}

// What may happen on the line gives one error, in a bounded time, and the next
// reset works.
func TestSmartBoardExchange(t *testing.T) {
	for _, tt := range []struct {
		name   string
		card   string
		script string
		resp   string
		want   error
		within time.Duration
	}{
		{"T=0", smartCardT0, smartRead + "< 00056411229000", "11229000", nil, time.Second},
		{"T=0, events before the answer", smartCardT0, smartRead + "< 000166\n< 000165\n< 00056411229000", "11229000", nil, time.Second},
		{"T=0, the card works", smartCardT0, smartRead + strings.Repeat("< @1s 000163\n", 30) + "< @1s 00056411229000", "11229000", nil, 2 * time.Minute},
		{"T=0, the card works and then nothing comes", smartCardT0, smartRead + "< @1500ms 000163", "", device.ErrTimeout, 5 * time.Second},
		{"T=0, nothing but events", smartCardT0, smartRead + strings.Repeat("< 000165\n", 16), "", ifd.ErrComm, time.Second},
		{"T=0, silence", smartCardT0, smartRead, "", device.ErrTimeout, 3 * time.Second},
		{"T=0, half an answer", smartCardT0, smartRead + "< 00056411", "", device.ErrTimeout, 2 * time.Second},
		{"T=0, nonsense", smartCardT0, smartRead + "< 55aa00ff12", "", ifd.ErrComm, time.Second},
		{"T=0, length 0", smartCardT0, smartRead + "< 0000", "", ifd.ErrComm, time.Second},
		{"T=0, longest frame", smartCardT0, smartRead + "< 00ff64" + strings.Repeat("11", 252) + "9000", "11119000", nil, time.Second},
		{"T=0, longer than asked for", smartCardT0, smartRead + "< 0009641122334455669000", "11229000", nil, time.Second},
		{"T=0, no status word", smartCardT0, smartRead + "< 00026490", "", proto.ErrProtocol, time.Second},
		{"T=0, wrong parity", smartCardT0, smartRead + "< 000564\n<! 11\n< 229000", "", serial.ErrParity, time.Second},
		{"T=0, another answer", smartCardT0, smartRead + "< 000162", "", ifd.ErrComm, time.Second},
		{"T=0, card pulled", smartCardT0, smartRead + "< 000166\n< 000164", "", ifd.ErrNoCard, time.Second},
		{"T=0, card pulled, and silence", smartCardT0, smartRead + "< 000166", "", ifd.ErrNoCard, 3 * time.Second},
		{"T=0, reader pulled", smartCardT0, smartRead + "< 0005\nunplug", "", device.ErrUnplugged, time.Second},
		{"T=1", smartCardT1, smartReadT1 + smartBlock, "11229000", nil, time.Second},
		{"T=1, nonsense once", smartCardT1, smartReadT1 + "< 55aa00ff12\n" + smartRequest + smartBlock, "11229000", nil, 2 * time.Second},
		{"T=1, half an answer once", smartCardT1, smartReadT1 + "< 0009640000\n" + smartRequest + smartBlock, "11229000", nil, 2 * time.Second},
		{"T=1, wrong parity once", smartCardT1, smartReadT1 + "< 000964\n<! 00\n< 000411229000a7\n" + smartRequest + smartBlock, "11229000", nil, 2 * time.Second},
		{"T=1, wrong checksum once", smartCardT1, smartReadT1 + "< 00096400000411229000a6\n" + smartRequest + smartBlock, "11229000", nil, 2 * time.Second},
		{"T=1, silence", smartCardT1, smartReadT1, "", device.ErrTimeout, 5 * time.Second},
		{"T=1, card pulled", smartCardT1, smartReadT1 + "< 000166\n< 000164", "", ifd.ErrNoCard, time.Second},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s, l := onSmartBoard(t, tt.card)
				e := engineFor(t, s, proto.Default)
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
				l.Next("next reset", tt.card)
				if _, err := s.Reset(context.Background()); err != nil {
					t.Errorf("next reset: %v", err)
				}
			})
		})
	}
}

// A card that calls itself busy is given up after minutes.
func TestSmartBoardBusyForEver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, l := onSmartBoard(t, smartCardT0)
		e := engineFor(t, s, proto.Default)
		var busy strings.Builder
		for i := range 200 {
			fmt.Fprintf(&busy, "< @%ds 000163\n", i+1)
		}
		l.Next("busy", smartRead+busy.String())
		begin := time.Now()
		_, err := e.Transmit(context.Background(), []byte{0x00, 0xB0, 0x00, 0x00, 0x02}, nil)
		if took := time.Since(begin); !errors.Is(err, device.ErrTimeout) || took < maxBusy || took > maxBusy+5*time.Second {
			t.Errorf("after %v: %v", took, err)
		}
	})
}

// A frame has room for 249 bytes of command data. More is refused before
// anything is sent, and the session goes on.
func TestSmartBoardLimits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		data := strings.Repeat("5a", 249)
		s, l := onSmartBoard(t, smartCardT0+"> 00ff6700d60000f9"+data+"\n< 0003649000")
		e := engineFor(t, s, proto.Default)
		if got, want := proto.LimitsOf(e), (proto.Limits{Command: 255, Response: 254}); got != want {
			t.Errorf("limits %+v, want %+v", got, want)
		}
		long := append([]byte{0x00, 0xD6, 0x00, 0x00, 250}, make([]byte, 250)...)
		if _, err := e.Transmit(context.Background(), long, nil); !errors.Is(err, proto.ErrInvalidAPDU) {
			t.Errorf("250 bytes: %v", err)
		}
		if _, err := e.Transmit(context.Background(), unhex("00d60000f9"+data), nil); err != nil {
			t.Errorf("249 bytes: %v", err)
		}
		l.Done()
	})
}

// A card's coming and going is told by the answers to the status request, by
// events in their place, and by events between commands.
func TestSmartBoardStatus(t *testing.T) {
	for _, tt := range []struct {
		name   string
		script string
		status ifd.Status
		want   error
	}{
		{"in", smartIn, ifd.Status{Present: true}, nil},
		{"in and powered", "> 000165\n< 00056119010004", ifd.Status{Present: true}, nil},
		{"out", smartOut, ifd.Status{}, nil},
		{"inserted", "> 000165\n< 000165", ifd.Status{Present: true, Changed: true}, nil},
		{"removed", "> 000165\n< 000166", ifd.Status{Changed: true}, nil},
		{"exchanged in between", "< 000166\n< 000165\n" + smartIn, ifd.Status{Present: true, Changed: true}, nil},
		{"a surplus frame before", "< 0003649000\n" + smartIn, ifd.Status{Present: true}, nil},
		{"an answer of no bytes", "> 000165\n< 000161", ifd.Status{}, ifd.ErrComm},
		{"another answer", "> 000165\n< 000164", ifd.Status{}, ifd.ErrComm},
		{"silence", "> 000165", ifd.Status{}, device.ErrTimeout},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s, l := onSmartBoard(t, tt.script)
				st, err := s.Status(context.Background())
				if st != tt.status || !errors.Is(err, tt.want) {
					t.Errorf("%+v, %v; want %+v, %v", st, err, tt.status, tt.want)
				}
				l.Done()
			})
		})
	}
}

// A card that came before a reset is not news after it: the session begun then is
// its own.
func TestSmartBoardResetOfAnotherCard(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, l := onSmartBoard(t, "< 000166\n< 000165\n"+smartATR+smartIn)
		if _, err := s.Reset(context.Background()); err != nil {
			t.Fatal(err)
		}
		if st, err := s.Status(context.Background()); err != nil || st != (ifd.Status{Present: true}) {
			t.Errorf("%+v, %v", st, err)
		}
		l.Done()
	})
}

// Nor does a card get what was meant for the one that was in before it: a PIN above all.
func TestSmartBoardExchangedCard(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, l := onSmartBoard(t, smartCardT0+"< 000166\n< 000165\n")
		e := engineFor(t, s, proto.Default)
		for _, want := range []error{ifd.ErrNoCard, proto.ErrResetRequired} {
			if resp, err := e.Transmit(context.Background(), unhex("002000810431323334"), nil); !errors.Is(err, want) {
				t.Errorf("%x, %v; want %v", resp, err, want)
			}
		}
		l.Done()
	})
}

// FuzzSmartBoard: whatever comes over the line, nothing breaks or waits for
// ever.
func FuzzSmartBoard(f *testing.F) {
	hello := unhex("000160000b60534d415254424f415244")
	f.Add(append(slices.Clone(hello), unhex("000561080000020005643b02145000016200056411229000")...))
	f.Add(append(slices.Clone(hello), unhex("00056108000002000c643bd218008131fe58c9011400016200096400000411229000a7")...))
	f.Add(append(slices.Clone(hello), unhex("000165000166000167000163")...))
	f.Add([]byte{0x55, 0xAA, 0x00, 0xFF, 0x12})
	f.Fuzz(func(t *testing.T, in []byte) {
		synctest.Test(t, func(t *testing.T) {
			l := &frameLine{noiseLine: noiseLine{gone: make(chan struct{})}, frames: in}
			r, err := openSmartBoard(l, ifd.Options{Log: slog.New(slog.DiscardHandler)})
			if err != nil {
				return
			}
			s, ctx := r.Slots()[0], context.Background()
			for range 3 {
				_, _ = r.(*smartBoard).Status(ctx)
				raw, err := s.Reset(ctx)
				if err != nil {
					continue
				}
				e, err := s.Protocol(ctx, proto.Default, mustATR(t, raw))
				if err != nil {
					continue
				}
				if resp, err := e.Transmit(ctx, []byte{0x00, 0xB0, 0x00, 0x00, 0x02}, nil); err == nil && len(resp) < 2 {
					t.Errorf("response %x", resp)
				}
			}
		})
	})
}

// frameLine gives one more frame, or whatever it is, for everything that is
// written.
type frameLine struct {
	noiseLine
	frames []byte
}

func (l *frameLine) Break(context.Context, time.Duration) error { return nil }

func (l *frameLine) Write(context.Context, []byte) error {
	n := 1
	if len(l.frames) > 1 {
		n = 2 + int(l.frames[1])
	}
	n = min(n, len(l.frames))
	l.in, l.frames = append(l.in, l.frames[:n]...), l.frames[n:]
	return nil
}

// mustATR parses an ATR that a driver found to be one.
func mustATR(t *testing.T, raw []byte) *atr.ATR {
	a, err := atr.Parse(raw)
	if a == nil && errors.Is(err, atr.ErrInvalid) {
		t.Errorf("ATR %x: %v", raw, err)
	}
	return a
}
