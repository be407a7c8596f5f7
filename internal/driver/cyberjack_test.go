//go:build go1.25

package driver

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"openct/internal/ifd"
	"openct/internal/proto"
	"openct/internal/serial/record"
	"openct/internal/serial/serialtest"
	"openct/internal/usb"
	"openct/internal/vusb"
	"openct/internal/vusb/card"
	virtual "openct/internal/vusb/token"
)

// cyberFrame is a block in its frame, in hex.
func cyberFrame(nad, pcb byte, inf string) string {
	b := append([]byte{nad, pcb, byte(len(inf) / 2)}, unhex(inf)...)
	b = append(b, xorAll(b))
	return hex.EncodeToString(append([]byte{0, byte(len(b)), byte(len(b) >> 8)}, b...))
}

// Lines of scripts: I-blocks to the reader and the card, and their answers.
// cyberRenumber numbers them.
func cyberAsk(inf string) string  { return ">02 " + cyberFrame(cyberReader, 0, inf) + "\n" }
func cyberSay(inf string) string  { return "<82 " + cyberFrame(0x21, 0, inf) + "\n" }
func cyberAPDUTo(s string) string { return ">02 " + cyberFrame(cyberCard, 0, s) + "\n" }
func cyberFrom(s string) string   { return "<82 " + cyberFrame(0x20, 0, s) + "\n" }

const (
	cyberBegin   = ">02 000400e2c10023\n"
	cyberResynch = ">02 000400e2c00022\n<82 0004002ee000ce\n"
)

var (
	cyberUp      = cyberBegin + cyberResynch + cyberAsk("20110000") + cyberSay("9000") + cyberResynch
	cyberUnits   = cyberAsk("2013008100") + cyberSay("8101019000")
	cyberLook    = cyberAsk("2013008000")
	cyberIsIn    = cyberLook + cyberSay("8001039000")
	cyberIsOut   = cyberLook + cyberSay("8001009000")
	cyberATR     = cyberAsk("20120101011400") + cyberSay("3b0214509001")
	cyberEjected = cyberAsk("20150100") + cyberSay("9000")
)

// cyberBlock is the block in a step's frame, nil if there is none.
func cyberBlock(s serialtest.Step) []byte {
	if (s.Kind != serialtest.Write && s.Kind != serialtest.Answer) || len(s.Data) < 7 || s.Data[0] != 0 ||
		int(s.Data[1])|int(s.Data[2])<<8 != len(s.Data)-3 {
		return nil
	}
	return s.Data[3:]
}

// cyberRenumber gives the blocks the numbers they have after others than in the
// recording.
func cyberRenumber() serialtest.Difference {
	var ns, nr byte // of the next block of the host, and of the reader
	return serialtest.Difference{
		Why: "the numbers of the blocks, after others than in the recording",
		Change: func(w *serialtest.Window) bool {
			changed := false
			for i, s := range w.Steps {
				b := bytes.Clone(cyberBlock(s))
				if b == nil {
					continue
				}
				host, pcb, intact := s.Kind == serialtest.Write, b[1], xorAll(b) == 0
				switch {
				case pcb == 0xC0:
					ns, nr = 0, 0
					continue
				case pcb&0xC0 == 0xC0:
					continue
				case pcb&0x80 == 0 && host:
					pcb = pcb&^0x40 | ns<<6
					ns ^= 1
				case pcb&0x80 == 0:
					pcb = pcb&^0x40 | nr<<6
					if intact {
						nr ^= 1
					}
				case host:
					pcb = pcb&^0x10 | nr<<4
				default:
					pcb = pcb&^0x10 | ns<<4
				}
				if pcb == b[1] {
					continue
				}
				b[len(b)-1] ^= b[1] ^ pcb
				b[1] = pcb
				w.Steps[i].Data = append(bytes.Clone(s.Data[:3]), b...)
				changed = true
			}
			return changed
		},
	}
}

// cyberDifferences are what ours does otherwise than C OpenCT's driver.
func cyberDifferences() []serialtest.Difference {
	var all []serialtest.Difference
	every := func(why string, change func(w *serialtest.Window) bool) {
		all = append(all, serialtest.Difference{Why: why, Change: change})
	}
	at := func(line int, why, steps, reply string) {
		all = append(all, serialtest.At(fmt.Sprintf("cyberjack.jsonl:%d", line), why, serialtest.Script(steps, reply)))
	}
	request := func(w *serialtest.Window, command byte) bool {
		return w.Phase == serialtest.Request && w.Request[0] == command && w.Request[1] == 0
	}
	isLook := func(s serialtest.Step) bool {
		b := cyberBlock(s)
		return b != nil && s.Kind == serialtest.Write && bytes.HasSuffix(b[:len(b)-1], unhex("2013008000"))
	}

	every("the device's descriptor is known before a driver opens it", func(w *serialtest.Window) bool {
		n := len(w.Steps)
		w.Steps = slices.DeleteFunc(w.Steps, func(s serialtest.Step) bool { return strings.HasPrefix(s.Pipe, "80/06") })
		return len(w.Steps) != n
	})
	every("the core looks for the card by itself, and not while something else is under way", func(w *serialtest.Window) bool {
		n := len(w.Steps)
		if w.Phase == serialtest.Idle || request(w, 0x00) || request(w, 0x10) {
			return false
		}
		for i := 0; i < len(w.Steps); i++ {
			if isLook(w.Steps[i]) {
				w.Steps = slices.Delete(w.Steps, i, i+2)
				i--
			}
		}
		return len(w.Steps) != n
	})
	every("the reader is asked what it has, before its blocks are numbered from 0", func(w *serialtest.Window) bool {
		n := len(w.Steps)
		if w.Phase != serialtest.Open || n < 4 {
			return false
		}
		w.Steps = slices.Insert(w.Steps, n-2, cyberSteps(cyberUnits)...)
		return true
	})
	told := false
	every("a STATUS does not reset the reader, and a card that came is news once", func(w *serialtest.Window) bool {
		if w.Phase == serialtest.Open {
			told = false
		}
		if !request(w, 0x00) || w.Failed {
			return false
		}
		last := len(w.Reply) - 1
		in := w.Reply[last]&1 != 0
		if in != told {
			w.Reply[last] |= 2
		}
		told = in
		w.Steps = cyberSteps(cyberIsOut)
		if in {
			w.Steps = cyberSteps(cyberIsIn)
		}
		return true
	})

	// The reader's own state: whether it has power on the card.
	powered := false
	every("a RESET looks for the card first, takes its power before it gives it, and has an ATR alone", func(w *serialtest.Window) bool {
		if w.Phase == serialtest.Open {
			powered = false
		}
		for i, s := range w.Steps {
			if isLook(s) && i+1 < len(w.Steps) && bytes.Contains(w.Steps[i+1].Data, unhex("800100")) {
				powered = false
			}
		}
		if request(w, 0x00) && w.Failed {
			powered = false // the link begins anew
		}
		if !request(w, 0x10) {
			return false
		}
		if bytes.HasSuffix(w.Reply, unhex("026200")) {
			serialtest.Script(cyberIsOut, "")(w)
			return true
		}
		icc, reply := cyberATR, "03043b021450"
		if w.Scenario == "t1" {
			icc, reply = cyberAsk("20120101011400")+cyberSay("3bd218008131fe58c901149001"), "030b3bd218008131fe58c90114"
		}
		steps := cyberIsIn
		if powered {
			steps += cyberUp
		}
		powered = true
		serialtest.Script(steps+icc, reply)(w)
		return true
	})
	every("the card loses its power by EJECT, and at the end", func(w *serialtest.Window) bool {
		switch {
		case request(w, 0x12):
		case w.Phase == serialtest.Stop && powered:
		default:
			return false
		}
		powered = false
		w.Steps = append(w.Steps, cyberSteps(cyberEjected)...)
		return true
	})

	pin := func(text string) string {
		data := "80010f"
		if text == "" {
			data = "80011e"
		} else {
			data += fmt.Sprintf("50%02x%x", len(text), text)
		}
		data += "520f01060020000108ffffffffffffffff"
		return cyberAsk(fmt.Sprintf("20180100%02x%s", len(data)/2, data)) + cyberSay("9000")
	}
	const works = "a RESET after a RESET works"
	at(186, "what C OpenCT refuses without a text works, too", pin(""), "4500029000")
	at(194, "a card that was ejected has no power", "", "")
	at(201, works, cyberAPDUTo("00440000")+cyberFrom("9000"), "4500029000")
	at(203, works, pin("no session"), "4500029000")
	at(323, "that the card moved is answered, and does not disturb the exchange",
		cyberAPDUTo("00440000")+"<82 0004002ee500cb\n>02 000400e2d50037\n"+cyberFrom("9000"), "4500029000")
	at(577, "after a failed exchange the link begins anew", cyberUp+cyberIsIn, "42000101")
	verify := func(meaning, why string, change func(*serialtest.Window)) {
		every(why, func(w *serialtest.Window) bool {
			if !request(w, 0x14) || !strings.HasSuffix(w.Meaning, meaning) {
				return false
			}
			change(w)
			return true
		})
	}
	verify("'SW 63C2'", "a wrong PIN is the card's answer, with its counter", func(w *serialtest.Window) {
		w.Failed, w.Reply = false, unhex("45000263c2")
	})
	verify("'SW 6402'", "6402 is that the user typed two PINs", func(w *serialtest.Window) { w.Failed = true })
	return append(all, cyberRenumber())
}

// cyberSteps is for scripts in this file.
func cyberSteps(script string) []serialtest.Step {
	steps, err := record.Steps(script)
	if err != nil {
		panic(err)
	}
	return steps
}

func TestCyberJackRecorded(t *testing.T) {
	serialtest.Play(t, serialtest.Driver{
		Files:       []string{"testdata/readers/cyberjack.jsonl"},
		OpenUSB:     openCyberJack,
		Differences: cyberDifferences(),
	})
}

// What the recording has no case of, as scripts behind the opening.
func TestCyberJackExchange(t *testing.T) {
	const (
		read  = "00b0000002"
		fetch = "00c0000004"
	)
	type result struct {
		out  string
		err  error
		took time.Duration // at most
	}
	ctx := context.Background()
	transmit := func(t *testing.T, c *cyberJack, apdu string) ([]byte, error) {
		return engineFor(t, c.slot, proto.Default).Transmit(ctx, unhex(apdu), nil)
	}
	reading := func(t *testing.T, c *cyberJack) ([]byte, error) { return transmit(t, c, read) }
	resetting := func(_ *testing.T, c *cyberJack) ([]byte, error) { return c.slot.Reset(ctx) }
	asking := func(_ *testing.T, c *cyberJack) ([]byte, error) {
		st, err := c.slot.Status(ctx)
		return fmt.Appendf(nil, "%+v", st), err
	}
	status := func(present, changed bool) string {
		return fmt.Sprintf("%x", fmt.Sprintf("%+v", ifd.Status{Present: present, Changed: changed}))
	}
	card := cyberIsIn + cyberATR
	long := strings.Repeat("5a", 252) + "9000"
	for _, tt := range []struct {
		name   string
		script string
		do     func(*testing.T, *cyberJack) ([]byte, error)
		want   result
	}{
		{"command", card + cyberAPDUTo(read) + cyberFrom("11229000"), reading, result{"11229000", nil, 0}},
		{"answer of several packets", card + cyberAPDUTo(read) + cyberFrom(long), reading, result{long, nil, 0}},
		{"answer that fills its packet", card + cyberAPDUTo(read) + cyberFrom(strings.Repeat("5a", 55)+"9000"), reading,
			result{strings.Repeat("5a", 55) + "9000", nil, 0}},
		{"a response that is only announced", card + cyberAPDUTo("008800000101"+"00") + cyberFrom("6104") + cyberAPDUTo(fetch) + cyberFrom("112233449000"),
			func(t *testing.T, c *cyberJack) ([]byte, error) { return transmit(t, c, "00880000010100") }, result{"112233449000", nil, 0}},
		{"a key, and time without a value", card + cyberAPDUTo(read) +
			"<82 0004002ec400ea\n>02 000400e2e40006\n<82 00040020c300e3\n>02 00040002e300e1\n<82 0004002ee600c8\n<82 0004002ef600d8\n" + cyberFrom("11229000"),
			reading, result{"11229000", nil, 0}},
		{"time for the reader, during a command to the card", card + cyberAPDUTo(read) + "<82 00050021c30101e2\n>02 00050012e30101f1\n" + cyberFrom("11229000"),
			reading, result{"11229000", nil, 0}},
		{"silence", card + cyberAPDUTo(read), reading, result{"", usb.ErrTimeout, 20 * time.Second}},
		{"keys without end", card + cyberAPDUTo(read) + strings.Repeat("<82 0004002ee600c8\n", cyberBlocks), reading, result{"", usb.ErrTimeout, 0}},
		{"frame of 65535 bytes", card + cyberAPDUTo(read) + strings.Repeat("<82 00ffff\n>02 00040002810083\n", 2) + "<82 00ffff\n>02 00040002c000c2\n<82 00040020e000c0\n" +
			cyberAPDUTo(read) + cyberFrom("11229000"), reading, result{"11229000", nil, 0}},
		{"reader pulled", card + cyberAPDUTo(read) + "unplug", reading, result{"", usb.ErrUnplugged, 0}},
		{"card in", cyberIsIn, asking, result{status(true, false), nil, 0}},
		{"card out", cyberIsOut, asking, result{status(false, false), nil, 0}},
		{"card exchanged", "<82 0004002ef500db\n" + cyberLook + ">02 000400e2d50037\n" + cyberSay("8001039000"), asking, result{status(true, true), nil, 0}},
		{"status refused", cyberLook + cyberSay("6d00"), asking, result{status(false, false), ifd.ErrNotSupported, 0}},
		{"no card", cyberIsOut, resetting, result{"", ifd.ErrNoCard, 0}},
		{"card leaves meanwhile", cyberIsIn + cyberAsk("20120101011400") + cyberSay("6200"), resetting, result{"", ifd.ErrNoCard, 0}},
		{"mute card", cyberIsIn + cyberAsk("20120101011400") + cyberSay("6400"), resetting, result{"", ifd.ErrNoATR, 0}},
		{"memory card", cyberIsIn + cyberAsk("20120101011400") + cyberSay("a21310919000"), resetting, result{"", ifd.ErrNoATR, 0}},
		{"nonsense as ATR", cyberIsIn + cyberAsk("20120101011400") + cyberSay("55aa9001"), resetting, result{"", ifd.ErrInvalidATR, 0}},
		{"card has power already", cyberIsIn + cyberAsk("20120101011400") + cyberSay("6201") + cyberUp + cyberATR, resetting, result{"3b021450", nil, 0}},
		{"asked for with a text", cyberAsk("201201010780010550024361"+"00") + cyberSay("3b0214509001"),
			func(_ *testing.T, c *cyberJack) ([]byte, error) { return c.slot.Request(ctx, 5*time.Second, "Ca") }, result{"3b021450", nil, 0}},
		{"no display", "", func(_ *testing.T, c *cyberJack) ([]byte, error) { return nil, c.Display(ctx, "hello") }, result{"", ifd.ErrNotSupported, 0}},
		{"PIN without a card", "", func(_ *testing.T, c *cyberJack) ([]byte, error) {
			return c.slot.Verify(ctx, ifd.PINRequest{Control: 1, Offset: 6, APDU: unhex("00200001")})
		}, result{"", ifd.ErrNoCard, 0}},
		{"EJECT that the reader does not know", cyberAsk("20150100") + cyberSay("6d00"), func(_ *testing.T, c *cyberJack) ([]byte, error) {
			return nil, c.slot.Eject(ctx, 0, "")
		}, result{"", nil, 0}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := serialtest.New(t, cyberNumbered(cyberBegin+cyberResynch+cyberAsk("20110000")+cyberSay("9000")+cyberUnits+cyberResynch+tt.script))
				r, err := openCyberJack(l.USB(), ifd.Options{})
				if err != nil {
					t.Fatal(err)
				}
				c, begin := r.(*cyberJack), time.Now()
				out, err := tt.do(t, c)
				if !errors.Is(err, tt.want.err) || err == nil && hex.EncodeToString(out) != tt.want.out {
					t.Errorf("%x, %v; want %s, %v", out, err, tt.want.out, tt.want.err)
				}
				if took := time.Since(begin); took > tt.want.took+time.Second {
					t.Errorf("it took %v", took)
				}
				l.Done()
			})
		})
	}
}

// cyberNumbered is a script with the blocks' numbers.
func cyberNumbered(script string) string {
	w := &serialtest.Window{Phase: serialtest.Open, Steps: cyberSteps(script)}
	cyberRenumber().Change(w)
	var b strings.Builder
	for _, s := range w.Steps {
		b.WriteString(s.String() + "\n")
	}
	return b.String()
}

// cyberSeed is a script as usbtest has it.
func cyberSeed(script string) string {
	var b strings.Builder
	for _, s := range cyberSteps(cyberNumbered(script)) {
		if s.Kind == serialtest.Write {
			b.WriteString("BULK 02 []\n")
		} else {
			fmt.Fprintf(&b, "BULK 82 len 64 % X\n", s.Data)
		}
	}
	return b.String()
}

// A user at the keypad.
func TestCyberJackPIN(t *testing.T) {
	perform := func(apdu string) ifd.PINRequest {
		return ifd.PINRequest{Timeout: 15 * time.Second, Message: "PIN", Control: 1, Offset: 6, APDU: unhex(apdu)}
	}
	for _, tt := range []struct {
		name    string
		answer  uint16
		request ifd.PINRequest
		resp    string
		want    error
	}{
		{"right", 0, perform("0020008008ffffffffffffffff"), "9000", nil},
		{"without room", 0, perform("00200080"), "6a80", nil},
		{"types nothing", 0x6400, perform("0020008008ffffffffffffffff"), "", ifd.ErrUserTimeout},
		{"cancels", 0x6401, perform("0020008008ffffffffffffffff"), "", ifd.ErrUserAbort},
		{"no command", 0, perform("0020"), "", proto.ErrInvalidAPDU},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				piv, err := card.New("piv", nil)
				if err != nil {
					t.Fatal(err)
				}
				m := virtual.NewCyberJack(piv)
				m.Answer = tt.answer
				c := openVirtualCyberJack(t, m)
				e := engineFor(t, c.slot, proto.Default)
				if _, err := e.Transmit(context.Background(), unhex("00a404000ba000000308000010000100"), nil); err != nil {
					t.Fatal(err)
				}
				resp, err := c.slot.Verify(context.Background(), tt.request)
				if !errors.Is(err, tt.want) || hex.EncodeToString(resp) != tt.resp {
					t.Errorf("%x, %v; want %s, %v", resp, err, tt.resp, tt.want)
				}
				if text := m.Text(); text != "PIN" && !errors.Is(tt.want, proto.ErrInvalidAPDU) {
					t.Errorf("display shows %q", text)
				}
				if resp, err := e.Transmit(context.Background(), unhex("00cb3fff055c035fc10200"), nil); err != nil || len(resp) < 2 {
					t.Errorf("after it: %x, %v", resp, err)
				}
			})
		})
	}
}

func openVirtualCyberJack(t *testing.T, m *virtual.CyberJack) *cyberJack {
	t.Helper()
	dev, err := vusb.Plug("virtual", m).Open()
	if err != nil {
		t.Fatal(err)
	}
	r, err := openCyberJack(dev, ifd.Options{Name: "cyberjack reader"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := r.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	})
	return r.(*cyberJack)
}

// Display, EJECT ICC and a card that moves, at a virtual reader.
func TestCyberJackVirtual(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, ctx := virtual.NewCyberJack(card.NewEcho()), context.Background()
		m.End = true
		c := openVirtualCyberJack(t, m)
		if !c.HasDisplay() || !c.HasKeypad() {
			t.Error("no display or no keypad")
		}
		if err := c.Display(ctx, "Hello"); err != nil || m.Text() != "Hello" {
			t.Errorf("display shows %q, %v", m.Text(), err)
		}
		e := engineFor(t, c.slot, proto.Default)
		if err := c.slot.Eject(ctx, 0, ""); err != nil {
			t.Errorf("eject: %v", err)
		}
		if _, err := e.Transmit(ctx, unhex("00ee000001"), nil); !errors.Is(err, proto.ErrResetRequired) {
			t.Errorf("a card without power: %v", err)
		}
		for range 2 {
			e = engineFor(t, c.slot, proto.Default)
			if _, err := e.Transmit(ctx, unhex("00ee000001"), nil); err != nil {
				t.Errorf("after a reset: %v", err)
			}
		}
		m.Remove()
		if st, err := c.slot.Status(ctx); err != nil || st != (ifd.Status{Changed: true}) {
			t.Errorf("removed: %+v, %v", st, err)
		}
		m.Insert(card.NewEcho())
		if _, err := c.slot.Reset(ctx); err != nil {
			t.Errorf("inserted: %v", err)
		}
		if st, err := c.slot.Status(ctx); err != nil || st != (ifd.Status{Present: true}) {
			t.Errorf("a card that was reset since it came: %+v, %v", st, err)
		}
		m.Remove()
		if _, err := c.slot.Reset(ctx); !errors.Is(err, ifd.ErrNoCard) {
			t.Errorf("reset without a card: %v", err)
		}
	})
}

// A reader that does not tell what it has is a reader with one slot.
func TestCyberJackMute(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := virtual.NewCyberJack(card.NewEcho())
		m.Mute = true
		if c := openVirtualCyberJack(t, m); c.HasDisplay() || c.HasKeypad() {
			t.Error("display or keypad")
		}
	})
}
