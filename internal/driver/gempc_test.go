//go:build go1.25

package driver

import (
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
	"openct/internal/hextest"
	"openct/internal/ifd"
	"openct/internal/proto"
	"openct/internal/serial/serialtest"
)

// gbpBlock is a block of GBP; from the reader if nad is 24.
func gbpBlock(nad, pcb byte, inf []byte) []byte {
	b := append([]byte{nad, pcb, byte(len(inf))}, inf...)
	var lrc byte
	for _, c := range b {
		lrc ^= c
	}
	return append(b, lrc)
}

// gemSteps are exchanges with N(S) counting from 0: a command and its answer in
// turns.
func gemSteps(t testing.TB, inf ...string) []serialtest.Step {
	t.Helper()
	var steps []serialtest.Step
	for i, x := range inf {
		s := serialtest.Step{Kind: serialtest.Write, Data: gbpBlock(0x42, byte(i/2%2)<<6, unhex(x))}
		if i%2 == 1 {
			s = serialtest.Step{Kind: serialtest.Answer, Data: gbpBlock(0x24, byte(i/2%2)<<6, unhex(x))}
		}
		steps = append(steps, s)
	}
	return steps
}

// gemInf is what a step's block carries, in hexadecimal.
func gemInf(s serialtest.Step) string {
	if len(s.Data) < 5 || s.Data[0] != 0x42 && s.Data[0] != 0x24 {
		return ""
	}
	return fmt.Sprintf("%x", s.Data[3:len(s.Data)-1])
}

// gemNumber gives the blocks of a recording the numbers that they have after
// another number of exchanges: an I-block has N(S) in bit 7, an R-block N(R) in
// bit 5, and both count for the LRC.
type gemNumber struct{ next byte }

func (g *gemNumber) change(w *serialtest.Window) bool {
	if w.Phase == serialtest.Open {
		g.next = 0
	}
	changed, flip, begun := false, false, false
	for i, s := range w.Steps {
		if s.Kind != serialtest.Write && s.Kind != serialtest.Answer || len(s.Data) < 4 {
			continue
		}
		nad, pcb := s.Data[0], s.Data[1]
		if nad != 0x42 && nad != 0x24 {
			continue
		}
		if pcb&0xC0 == 0xC0 { // S(RESYNCH)
			g.next, begun, flip = 0, false, false
			continue
		}
		if !begun && pcb&0x80 == 0 {
			begun, flip = true, pcb>>6&1 != g.next
		}
		bit := byte(0x40)
		if pcb&0x80 != 0 {
			bit = 0x10
		}
		if flip {
			s.Data = slices.Clone(s.Data)
			s.Data[1] ^= bit
			s.Data[len(s.Data)-1] ^= bit
			w.Steps[i], changed = s, true
		}
		if s.Kind == serialtest.Answer && pcb&0x80 == 0 {
			g.next = s.Data[1]>>6&1 ^ 1
		}
	}
	return changed
}

func TestGemPCRecorded(t *testing.T) {
	const (
		lost = "after a failed exchange the card must be reset: nobody knows what it expects next"
		once = "a command is not sent again after S(RESYNCH): it may have been run"
		t0   = "the reader's command for APDUs is for T=1 alone: T=0 with data both ways takes two commands"
		tail = "a command's tail is the command's tail"
		none = "the protocol is the one that the reader has selected"
	)
	resynch := []serialtest.Step{
		{Kind: serialtest.Write, Data: unhex("42c00082")},
		{Kind: serialtest.Answer, Data: unhex("24e000c4")},
	}
	differences := []serialtest.Difference{
		{Why: "after the change of speed numbers begin anew, and nobody looks for the card", Change: func(w *serialtest.Window) bool {
			if w.Phase != serialtest.Open {
				return false
			}
			i := slices.IndexFunc(w.Steps, func(s serialtest.Step) bool { return s.Kind == serialtest.Set })
			if w.Steps[i+1].Data[1] != 0xC0 {
				w.Steps = slices.Insert(w.Steps, i+1, resynch...)
			}
			if n := len(w.Steps); gemInf(w.Steps[n-2]) == "17" {
				w.Steps = w.Steps[:n-2]
			}
			return true
		}},
		{Why: "nothing is fetched behind the end of a response", Change: func(w *serialtest.Window) bool {
			n := len(w.Steps)
			if n < 4 || gemInf(w.Steps[n-1]) != "e7" || gemInf(w.Steps[n-2]) != "15ffffffffff" {
				return false
			}
			w.Steps = w.Steps[:n-2]
			return true
		}},
		{Why: "no look at the card after a command that failed", Change: func(w *serialtest.Window) bool {
			n := len(w.Steps)
			if n < 4 || !w.Failed || w.Request[0] != 0x21 || gemInf(w.Steps[n-2]) != "17" {
				return false
			}
			w.Steps = w.Steps[:n-2]
			return true
		}},
	}
	reset := false                   // of the handler that is playing
	deadAt := []int{813, 1187, 1242} // after a failed exchange
	differences = append(differences,
		serialtest.Difference{Why: "C OpenCT's core looked for the card as well", Change: func(w *serialtest.Window) bool {
			if w.Phase != serialtest.Request || len(w.Steps) < 4 || gemInf(w.Steps[0]) != "17" || gemInf(w.Steps[2]) != "17" {
				return false
			}
			w.Steps = w.Steps[2:]
			return true
		}},
		serialtest.Difference{Why: "a card that was reset loses its power at the end", Change: func(w *serialtest.Window) bool {
			switch {
			case w.Phase == serialtest.Open:
				reset = false
			case w.Phase == serialtest.Request && w.Request[0] == 0x10:
				reset = true
			case w.Phase == serialtest.Stop && reset:
				if slices.Contains(deadAt, w.Line) {
					w.Steps = append(w.Steps, resynch...)
				}
				w.Steps = append(w.Steps, gemSteps(t, "11", "00")...)
				return true
			}
			return false
		}})
	at := func(line int, why string, change func(*serialtest.Window)) {
		differences = append(differences, serialtest.At(fmt.Sprintf("gempc.jsonl:%d", line), why, change))
	}
	script := func(line int, why, reply string, inf ...string) {
		at(line, why, func(w *serialtest.Window) {
			w.Steps, w.Reply, w.Failed = gemSteps(t, inf...), unhex(reply), reply == ""
		})
	}
	// keep is the first steps of a window; after them damaged bytes are asked
	// for again.
	keep := func(n int, again string) func(*serialtest.Window) {
		return func(w *serialtest.Window) {
			w.Steps, w.Failed = w.Steps[:n:n], again == ""
			if again == "" {
				return
			}
			seq := w.Steps[0].Data[1] >> 6
			w.Steps = append(w.Steps,
				serialtest.Step{Kind: serialtest.Write, Data: gbpBlock(0x42, 0x81|seq<<4, nil)},
				serialtest.Step{Kind: serialtest.Answer, Data: gbpBlock(0x24, seq<<6, unhex("00"+again))})
			w.Reply = append([]byte{0x45, 0, byte(len(again) / 2)}, unhex(again)...)
		}
	}
	inTwo := func(kind byte, most int) func(*serialtest.Window) {
		return func(w *serialtest.Window) {
			apdu := apduOf(w)
			rest := apdu[most:]
			w.Steps = gemSteps(t, fmt.Sprintf("%02xffffffff%02x%x", kind, len(rest), rest), "00", fmt.Sprintf("%02x%x", kind, apdu[:most]), "009000")
		}
	}
	begin := func(w *serialtest.Window) { w.Steps = append(slices.Clone(resynch), w.Steps...) }
	at(25, "a card that is found is news once", func(w *serialtest.Window) { w.Reply = unhex("020103") })
	script(49, "a command is repeated with the Le that the card names", "45000731323334359000",
		"1300b0400000", "e76c05", "1300b0400005", "0031323334359000")
	at(57, tail, inTwo(0x14, gemMaxInput))
	script(63, t0, "45000c6f088406a000000001019000", "1400a40000023f01", "e7610a", "1300c000000a", "006f088406a000000001019000")
	script(67, t0, "4500066f0884066106", "1400a40000023f01", "e7610a", "1300c0000004", "e76f0884066106")
	script(75, t0, "4500050302019000", "140088000003010203", "e76103", "1300c0000003", "000302019000")
	script(79, t0, "4500026a82", "1400a40000021234", "e76a82")
	at(97, "a card that left is news once", func(w *serialtest.Window) { w.Reply = unhex("020102") })
	script(103, "nothing is sent to a card that was seen leaving", "")
	at(196, tail, inTwo(0x15, gemMaxExchange))
	at(204, tail, inTwo(0x15, gemMaxExchange))
	at(212, none, func(w *serialtest.Window) { w.Failed = true })
	at(576, "a block may be 255 bytes long", func(w *serialtest.Window) {
		data := gemInf(w.Steps[1])[2:] // behind the status
		script := gemSteps(t, "1300b00000fc", "1b"+data, "13ffffffffff", "0000")
		w.Steps, w.Failed = script, false
		w.Reply = append([]byte{0x45, 0, 254}, unhex(data+"00")...)
	})
	script(580, "nothing is wrong after it", "4500029000", "140044000000", "009000")
	script(588, "nothing is wrong after it", "4300043b021450", "17", "0006", "1223", "003b021450")
	script(594, "nothing is wrong after it", "4500029000", "140044000000", "009000")
	at(732, once, keep(6, ""))
	script(744, lost, "")
	at(748, once, begin)
	at(792, once, keep(6, ""))
	const answer = "10111213141516179000"
	at(1056, "the rest of a block is waited for for a second, and the block then asked for again", keep(2, answer))
	at(1112, "the rest of a block is waited for for a second, and the block then asked for again", keep(2, answer))
	at(1166, once, keep(1, ""))
	at(1221, once, keep(1, ""))
	at(1273, "what does not begin as a block is asked for again, and the rest of it is thrown away", keep(2, answer))
	at(1331, "what does not begin as a block is asked for again, and the rest of it is thrown away", keep(2, answer))
	numbers := &gemNumber{}
	differences = append(differences, serialtest.Difference{Why: "numbers of the blocks, after more or fewer of them", Change: numbers.change})
	serialtest.Play(t, serialtest.Driver{
		Files:       []string{"testdata/readers/gempc.jsonl"},
		Open:        openGemPC,
		Differences: differences,
	})
}

// gemUp is what opening does on the line.
func gemUp(t testing.TB) string {
	return gemText(gemSteps(t, "0a02", "00")) + "set 38400 8N1\n> 42c00082\n< 24e000c4\n" +
		gemText(gemSteps(t, "010008", "00", "22053fe010", "0047656d436f72652d52312e32312d474d"))
}

func gemText(steps []serialtest.Step) string {
	var b strings.Builder
	for _, s := range steps {
		b.WriteString(s.String() + "\n")
	}
	return b.String()
}

func TestGemPCOpens(t *testing.T) {
	up := gemUp(t)
	resynch := "> 42c00082\n"
	speed := gemText(gemSteps(t, "0a02"))
	after := "set 38400 8N1\n" + resynch + "< 24e000c4\n"
	for _, tt := range []struct {
		name, script, reader string
		want                 error
	}{
		{"GemPC 410", up, "GemPC 410", nil},
		{"at 38400 bit/s already", speed + after + gemText(gemSteps(t, "010008", "00", "22053fe010", "004f524f532d52322e3234524d")), "GCR 400", nil},
		{"no such mode, other firmware", speed + after + gemText(gemSteps(t, "010008", "01", "22053fe010", "0041")), "a reader", nil},
		{"nothing there", speed + "set 38400 8N1\n" + resynch + resynch + resynch, "", device.ErrTimeout},
		{"a modem", speed + "< 0d0a4552524f520d0a\n> 428100c3\nset 38400 8N1\n" + strings.Repeat(resynch+"< 0d0a4552524f520d0a\n", 3), "", proto.ErrProtocol},
		{"mode refused", speed + after + gemText(gemSteps(t, "010008", "a0")), "", ifd.ErrComm},
		{"no firmware", speed + after + gemText(gemSteps(t, "010008", "00", "22053fe010", "03")), "", ifd.ErrComm},
		{"pulled", speed + "unplug", "", device.ErrUnplugged},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := serialtest.New(t, tt.script)
				begin := time.Now()
				r, err := openGemPC(l, ifd.Options{Name: "a reader", Log: slog.New(slog.DiscardHandler)})
				if !errors.Is(err, tt.want) {
					t.Errorf("error %v, want %v", err, tt.want)
				}
				if err == nil && r.Name() != tt.reader {
					t.Errorf("its name is %q, want %q", r.Name(), tt.reader)
				}
				if took := time.Since(begin); took > 9*time.Second {
					t.Errorf("it took %v", took)
				}
				l.Done()
			})
		})
	}
}

// What may happen on the line gives one error, in a bounded time, and the next
// reset works.
func TestGemPCExchange(t *testing.T) {
	const (
		t0Card = "003b021450"
		t1Card = "003bd218008131fe58c90114"
	)
	power := func(atr string) []string { return []string{"17", "0004", "1223", atr} }
	for _, tt := range []struct {
		name   string
		reset  []string // exchanges
		fails  error    // of the reset
		more   []string // exchanges of the command 00 B0 00 00 02
		tail   string   // script behind them
		resp   string
		want   error
		within time.Duration
	}{
		{"T=0", power(t0Card), nil, []string{"1300b0000002", "0011229000"}, "", "11229000", nil, time.Second},
		{"T=1", power(t1Card), nil, []string{"1500b0000002", "0011229000"}, "", "11229000", nil, time.Second},
		{"T=1, in parts", power(t1Card), nil, []string{"1500b0000002", "1b11", "15ffffffffff", "1b22", "15ffffffffff", "e76282"}, "", "11226282", nil, time.Second},
		{"T=1, the card stopped", power(t1Card), nil, []string{"1500b0000002", "e56f00"}, "", "6f00", nil, time.Second},
		{"T=1, parts without an end", power(t1Card), nil, []string{"1500b0000002", "1b11", "15ffffffffff", "1b"}, "", "", ifd.ErrComm, time.Second},
		{"T=1, parts for ever", power(t1Card), nil,
			[]string{"1500b0000002", "1b" + strings.Repeat("11", 254), "15ffffffffff", "1b" + strings.Repeat("11", 254)}, "", "", ifd.ErrComm, time.Second},
		{"T=1, no status word", power(t1Card), nil, []string{"1500b0000002", "0090"}, "", "", ifd.ErrComm, time.Second},
		{"T=0, longer than asked for", power(t0Card), nil, []string{"1300b0000002", "001122334455669000"}, "", "11229000", nil, time.Second},
		{"card is silent", power(t0Card), nil, []string{"1300b0000002", "a2"}, "", "", ifd.ErrComm, time.Second},
		{"parity error", power(t1Card), nil, []string{"1500b0000002", "a3"}, "", "", ifd.ErrComm, time.Second},
		{"status that nobody knows", power(t1Card), nil, []string{"1500b0000002", "77"}, "", "", ifd.ErrComm, time.Second},
		{"card pulled in the middle", power(t0Card), nil, []string{"1300b0000002", "f7"}, "", "", ifd.ErrNoCard, time.Second},
		{"card gone", power(t1Card), nil, []string{"1500b0000002", "fb"}, "", "", ifd.ErrNoCard, time.Second},
		{"silence", power(t0Card), nil, []string{"1300b0000002"}, "", "", device.ErrTimeout, 21 * time.Second},
		{"answer of no bytes", power(t0Card), nil, []string{"1300b0000002", ""}, "", "", ifd.ErrComm, time.Second},
		{"reader pulled", power(t0Card), nil, []string{"1300b0000002"}, "< 2400\nunplug", "", device.ErrUnplugged, time.Second},
		{"nonsense for ever", power(t0Card), nil, []string{"1300b0000002"},
			"< 55aa00ff12\n> 428100c3\n< 55aa00ff12\n> 428100c3\n< 55aa00ff12", "", proto.ErrProtocol, time.Second},
		{"reset: no card", []string{"17", "0000"}, ifd.ErrNoCard, nil, "", "", nil, 0},
		{"reset: card pulled in the middle", []string{"17", "0004", "1223", "fb"}, ifd.ErrNoCard, nil, "", "", nil, 0},
		{"reset: mute, and no EMV", []string{"17", "0004", "1223", "a2", "1213", "a2", "12", "a0", "170047", "01"}, ifd.ErrNoATR, nil, "", "", nil, 0},
		{"reset: mute in EMV", []string{"17", "0004", "1223", "a2", "1213", "a2", "12", "a0", "170047", "00", "12", "a2"}, ifd.ErrNoATR, nil, "", "", nil, 0},
		{"reset: ATR too long", []string{"17", "0004", "1223", "00" + strings.Repeat("3b", 34)}, ifd.ErrInvalidATR, nil, "", "", nil, 0},
		{"reset: nonsense as ATR", []string{"17", "0004", "1223", "0055aa00ff"}, ifd.ErrInvalidATR, nil, "", "", nil, 0},
		{"reset: empty ATR", []string{"17", "0004", "1223", "00", "1213", "003b021450"}, nil, []string{"1300b0000002", "0011229000"}, "", "11229000", nil, time.Second},
		{"reset: status without a byte", []string{"17", "00"}, ifd.ErrComm, nil, "", "", nil, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				// The numbers begin with 0 behind the two exchanges of the open.
				l := serialtest.New(t, gemUp(t))
				r, err := openGemPC(l, ifd.Options{Name: "a reader", Log: slog.New(slog.DiscardHandler)})
				if err != nil {
					t.Fatal(err)
				}
				l.Done()
				slot := r.Slots()[0]
				l.Next("reset and command", gemText(gemSteps(t, append(slices.Clone(tt.reset), tt.more...)...))+tt.tail)
				raw, err := slot.Reset(t.Context())
				if !errors.Is(err, tt.fails) {
					t.Fatalf("reset: %v, want %v", err, tt.fails)
				}
				var e proto.Engine
				if err == nil {
					e = engine(t, slot, raw)
					begin := time.Now()
					resp, err := e.Transmit(t.Context(), []byte{0x00, 0xB0, 0x00, 0x00, 0x02}, nil)
					if !errors.Is(err, tt.want) || fmt.Sprintf("%x", resp) != tt.resp {
						t.Errorf("response %x, %v; want %s, %v", resp, err, tt.resp, tt.want)
					}
					if took := time.Since(begin); took > tt.within {
						t.Errorf("it took %v", took)
					}
					if tt.want != nil {
						if _, err := e.Transmit(t.Context(), []byte{0x00, 0xB0, 0x00, 0x00, 0x02}, nil); !errors.Is(err, proto.ErrResetRequired) {
							t.Errorf("without a reset: %v", err)
						}
					}
				}
				l.Done()
				if errors.Is(tt.want, device.ErrUnplugged) {
					return
				}
				numbers := &gemNumber{next: byte(len(tt.reset)+len(tt.more)) / 2 % 2}
				next := &serialtest.Window{Phase: serialtest.Request, Steps: gemSteps(t, power(t0Card)...)}
				numbers.change(next)
				script := gemText(next.Steps)
				if errors.Is(tt.want, device.ErrTimeout) || errors.Is(tt.want, proto.ErrProtocol) {
					script = "> 42c00082\n< 24e000c4\n" + gemText(gemSteps(t, power(t0Card)...))
				}
				l.Next("next reset", script)
				if _, err := slot.Reset(t.Context()); err != nil {
					t.Errorf("next reset: %v", err)
				}
				l.Done()
			})
		})
	}
}

// A card that was taken out and put in again between two looks is another one.
func TestGemPCExchanged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := serialtest.New(t, gemUp(t))
		r, err := openGemPC(l, ifd.Options{Log: slog.New(slog.DiscardHandler)})
		if err != nil {
			t.Fatal(err)
		}
		l.Next("cards", gemText(gemSteps(t, "17", "0004", "1223", "003b021450", "17", "0006", "17", "0004", "17", "0004", "17", "0000")))
		defer l.Done()
		slot := r.Slots()[0]
		if _, err := slot.Reset(t.Context()); err != nil {
			t.Fatal(err)
		}
		for i, want := range []ifd.Status{{Present: true}, {Present: true, Changed: true}, {Present: true}, {}} {
			if st, err := slot.(ifd.Presence).Status(t.Context()); err != nil || st != want {
				t.Errorf("look %d: %+v, %v, want %+v", i+1, st, err, want)
			}
		}
	})
}

func TestGemPCProtocols(t *testing.T) {
	g := &gemPC{}
	for _, tt := range []struct {
		atr     string
		yes, no []proto.ID
	}{
		{ePassATR, []proto.ID{proto.Default, proto.T0}, []proto.ID{proto.T1, proto.Transparent, proto.GBP}},
		{starcosATR, []proto.ID{proto.Default, proto.T1}, []proto.ID{proto.T0, proto.Transparent}},
		{starcosT0, []proto.ID{proto.Default, proto.T0}, []proto.ID{proto.T1}},
	} {
		a, err := atr.Parse(hextest.Bytes(t, tt.atr))
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range tt.yes {
			if _, err := g.Protocol(t.Context(), p, a); err != nil {
				t.Errorf("%s: protocol %d: %v", tt.atr, p, err)
			}
		}
		for _, p := range tt.no {
			if _, err := g.Protocol(t.Context(), p, a); !errors.Is(err, ifd.ErrNotSupported) {
				t.Errorf("%s: protocol %d: %v", tt.atr, p, err)
			}
		}
	}
}
