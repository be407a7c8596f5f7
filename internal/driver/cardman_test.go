//go:build go1.25

package driver

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"

	"openct/internal/ifd"
	serialrecord "openct/internal/serial/record"
	"openct/internal/serial/serialtest"
	"openct/internal/usb"
	"openct/internal/usb/record"
	"openct/internal/usb/usbtest"
)

func TestCardManRecorded(t *testing.T) {
	const (
		set     = ">42/30/0100/0002 "
		status  = ">42/20 "
		present = "<81 c0"
		absent  = "<81 00"
		cold    = ">42/10 "
		warm    = ">42/10/0001/0000 "
		off     = ">42/11 "

		procedure = "data come before the status word: no byte is a procedure byte"
		whole     = "a command goes out whole: the reader runs T=0 itself"
		lost      = "after a failed exchange the card must be reset: nobody knows what it expects next"
		news      = "a card that is found is news once"
		again     = "a reset without an ATR is tried once more, a warm one then"
		none      = "without a card there is none to reset"
	)
	lines := func(text ...string) []serialtest.Step {
		steps, err := serialrecord.Steps(strings.Join(text, "\n"))
		if err != nil {
			t.Fatal(err)
		}
		return steps
	}
	without := func(w *serialtest.Window, lines ...string) bool {
		n := len(w.Steps)
		w.Steps = slices.DeleteFunc(w.Steps, func(s serialtest.Step) bool { return slices.Contains(lines, s.String()) })
		return len(w.Steps) != n
	}
	is := func(w *serialtest.Window, command byte) bool {
		return w.Phase == serialtest.Request && w.Request[0] == command
	}
	differences := []serialtest.Difference{
		{Why: "the line's parameters are set at a reset, and not at each look at the card", Change: func(w *serialtest.Window) bool {
			return without(w, set)
		}},
		{Why: "no PPS for a card that begins with T=0, nor for one without it", Change: func(w *serialtest.Window) bool {
			return without(w, ">42/01 ff1011fe", ">42/01 ff1111ff", "<81 0404")
		}},
		{Why: "a reset looks whether a card is in, and is a cold one first", Change: func(w *serialtest.Window) bool {
			i := slices.IndexFunc(w.Steps, func(s serialtest.Step) bool { return s.String() == warm })
			if i < 0 {
				return false
			}
			w.Steps = slices.Replace(w.Steps, i, i+1, lines(status, present, set, cold)...)
			return true
		}},
		{Why: "no second look at the card after what has failed", Change: func(w *serialtest.Window) bool {
			n := len(w.Steps)
			if n < 3 || !w.Failed || is(w, 0x21) || w.Steps[n-2].String() != status {
				return false
			}
			w.Steps = w.Steps[:n-2]
			return true
		}},
		{Why: "the handler starts without a look at the card", Change: func(w *serialtest.Window) bool {
			return w.Phase == serialtest.Open && without(w, status, "<81 40", absent)
		}},
		{Why: "a card that was reset loses its power at the end", Change: func(w *serialtest.Window) bool {
			if w.Phase != serialtest.Stop || w.Scenario == "empty" {
				return false
			}
			w.Steps = append(w.Steps, lines(off)...)
			return true
		}},
	}
	at := func(line int, why string, change func(*serialtest.Window)) {
		differences = append(differences, serialtest.At(fmt.Sprintf("cardman.jsonl:%d", line), why, change))
	}
	script := func(line int, why, reply string, steps ...string) {
		at(line, why, serialtest.Script(strings.Join(steps, "\n"), reply))
	}
	answer := func(reply string) func(*serialtest.Window) {
		return func(w *serialtest.Window) { w.Reply, w.Failed = unhex(reply), false }
	}
	at(14, news, answer("020103"))
	script(42, procedure, "4500081011121314159000", ">42/02 00b0001006", "<81 1011121314159000")
	script(59, procedure, "45000410119000", ">42/02 00b0001002", "<81 10119000")
	script(76, procedure, "45000a10111213141516179000", ">42/02 00b0001008", "<81 1011121314151617", "<81 9000")
	script(92, "a command is repeated with the Le that the card names", "45000731323334359000",
		">42/02 00b0400000", "<81 6c05", ">42/02 00b0400005", "<81 31323334359000")
	script(98, whole, "4500029000", ">42/02 00a40000023f00", "<81 9000")
	script(104, whole, "45000c6f088406a000000001019000",
		">42/02 00a40000023f01", "<81 610a", ">42/02 00c000000a", "<81 6f088406a0000000", "<81 01019000")
	script(110, whole, "4500026a82", ">42/02 00a40000021234", "<81 6a82")
	script(116, whole, "4500029000", ">42/02 002000010831323334ffffffff", "<81 9000")
	script(122, "a protocol that the card does not offer cannot be set", "")
	at(129, "the protocol that is in use is not selected again", func(w *serialtest.Window) { w.Steps = nil })
	script(146, "nothing is sent to a card that was seen leaving", "")
	script(159, none, "", status, absent)
	script(337, none, "", status, absent)
	at(327, "one look is enough", func(w *serialtest.Window) { w.Steps = w.Steps[2:] })
	script(400, lost, "")
	at(417, "half a status word is none", func(w *serialtest.Window) { w.Failed = true })
	script(423, lost, "")
	script(450, lost, "")
	at(467, "a card without power is another one", answer("42000103"))
	script(474, again, "03043b021450", status, present, set, cold, "<81 55aa00ff", warm, "<81 3b021450")
	script(506, again, "03043b021450", status, present, set, cold, warm, "<81 3b021450")
	serialtest.Play(t, serialtest.Driver{
		Files:       []string{"testdata/readers/cardman.jsonl"},
		OpenUSB:     openCardMan,
		Differences: differences,
	})
}

// What the recording has no case of: a reset, and a command after it.
func TestCardMan(t *testing.T) {
	const (
		in    = "OUT 42 20 0000 0000 []\nINT 81 len 8 40\n"
		power = "OUT 42 30 0100 0002 []\nOUT 42 10 0000 0000 []\n"
		reset = in + power + "INT 81 len 8 3B 02 14 50\n"
		warm  = "OUT 42 10 0001 0000 []\n"
		full  = "INT 81 len 8 01*8\n"
		left  = "OUT 42 20 0000 0000 []\nINT 81 len 8 00"
	)
	read := func(le string) string { return "OUT 42 02 0000 0000 [00 B0 00 00 " + le + "]\n" }
	tests := []struct {
		name, script string
		reset        error
		le           string // of the command; empty: none is sent
		want         string
		transmit     error
	}{
		{"warm reset", in + power + warm + "INT 81 len 8 3B 02 14 50\n" + read("01") + "INT 81 len 8 07 90 00", nil, "01", "07 90 00", nil},
		{"no ATR", in + power + warm, ifd.ErrNoATR, "", "", nil},
		{"ATR that stops", in + power + "INT 81 len 8 3B 02\n" + warm, ifd.ErrInvalidATR, "", "", nil},
		{"ATR without an end", in + power + "INT 81 len 8 3F FF*7\n" + strings.Repeat("INT 81 len 8 FF*8\n", 4) + warm, ifd.ErrInvalidATR, "", "", nil},
		{"status of two bytes", "OUT 42 20 0000 0000 []\nINT 81 len 8 40 40", ifd.ErrComm, "", "", nil},
		{"status refused", "OUT 42 20 0000 0000 [] STALL", usb.ErrStall, "", "", nil},
		{"reset refused", in + "OUT 42 30 0100 0002 []\nOUT 42 10 0000 0000 [] STALL", usb.ErrStall, "", "", nil},
		{"256 bytes in full packets and a status word", reset + read("00") + strings.Repeat(full, 32) + "INT 81 len 8 90 00",
			nil, "00", strings.Repeat("01 ", 256) + "90 00", nil},
		{"last packet full, and an empty one behind it", reset + read("06") + "INT 81 len 8 01*6 90 00\nINT 81 len 8\n", nil, "06", strings.Repeat("01 ", 6) + "90 00", nil},
		{"empty packet ahead", reset + read("01") + "INT 81 len 8\nINT 81 len 8 07 90 00", nil, "01", "07 90 00", nil},
		{"nothing but empty packets", reset + read("01") + strings.Repeat("INT 81 len 8\n", cardManPackets), nil, "01", "", ifd.ErrComm},
		{"rest of an answer does not come", reset + read("0A") + full + left, nil, "0A", "", usb.ErrTimeout},
		{"no answer", reset + read("0A") + left, nil, "0A", "", ifd.ErrNoCard},
		{"no answer from a card that is in", reset + read("0A") + "OUT 42 20 0000 0000 []\nINT 81 len 8 C0", nil, "0A", "", usb.ErrTimeout},
		{"more than was asked for", reset + read("01") + full, nil, "01", "", ifd.ErrComm},
		{"no status word", reset + read("01") + "INT 81 len 8 07 55 AA", nil, "01", "", ifd.ErrComm},
		{"one byte", reset + read("01") + "INT 81 len 8 90", nil, "01", "", ifd.ErrComm},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				dev := usbtest.Parse(t, tt.script)
				r, err := openCardMan(dev, ifd.Options{})
				if err != nil {
					t.Fatal(err)
				}
				slot := r.Slots()[0]
				raw, err := slot.Reset(t.Context())
				if !errors.Is(err, tt.reset) {
					t.Errorf("reset: error %v, want %v", err, tt.reset)
				}
				if tt.le != "" {
					play(t, engine(t, slot, raw), []exchange{{"00 B0 00 00 " + tt.le, tt.want, tt.transmit}})
				}
				if tt.name == "last packet full, and an empty one behind it" {
					// It belongs to no answer, and does not stop the next one.
					dev.Next(mustOps(t, "OUT 42 20 0000 0000 []\nINT 81 len 8 C0"))
					if st, err := slot.(ifd.Presence).Status(t.Context()); err != nil || !st.Present {
						t.Errorf("status: %+v, %v", st, err)
					}
				}
				dev.Done(t)
			})
		})
	}
}

func mustOps(t *testing.T, script string) []record.IO {
	t.Helper()
	ops, err := record.ParseScript(script)
	if err != nil {
		t.Fatal(err)
	}
	return ops
}

// What is left of an answer that nobody waited for is not the next one's.
func TestCardManStale(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dev := usbtest.Parse(t, "OUT 42 20 0000 0000 []") // nothing comes in time
		defer dev.Done(t)
		r, err := openCardMan(dev, ifd.Options{})
		if err != nil {
			t.Fatal(err)
		}
		slot := r.Slots()[0].(ifd.Presence)
		if _, err := slot.Status(t.Context()); !errors.Is(err, usb.ErrTimeout) {
			t.Fatalf("error %v, want %v", err, usb.ErrTimeout)
		}
		dev.Next(mustOps(t, "INT 81 len 8 C0\nOUT 42 20 0000 0000 []\nINT 81 len 8 00"))
		if st, err := slot.Status(t.Context()); err != nil || st.Present {
			t.Errorf("status: %+v, %v", st, err)
		}
	})
}

// A card that was taken out and put in again between two looks is another one.
func TestCardManExchanged(t *testing.T) {
	dev := usbtest.Parse(t, cardManResetScript+`
		OUT 42 20 0000 0000 []
		INT 81 len 8 C0
		OUT 42 20 0000 0000 []
		INT 81 len 8 40
		OUT 42 20 0000 0000 []
		INT 81 len 8 40`)
	defer dev.Done(t)
	slot, _ := session(t, openCardMan, dev)
	for i, want := range []ifd.Status{{Present: true}, {Present: true, Changed: true}, {Present: true}} {
		if st, err := slot.(ifd.Presence).Status(t.Context()); err != nil || st != want {
			t.Errorf("look %d: %+v, %v, want %+v", i+1, st, err, want)
		}
	}
}
