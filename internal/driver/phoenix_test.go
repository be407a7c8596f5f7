//go:build go1.25

package driver

import (
	"encoding/hex"
	"fmt"
	"slices"
	"testing"

	"openct/internal/atr"
	"openct/internal/serial"
	"openct/internal/serial/serialtest"
)

// phoenixDifferences are what both drivers do otherwise than C OpenCT's.
// hold is RTS while the card is held in reset.
func phoenixDifferences(hold bool) []serialtest.Difference {
	only := func(w *serialtest.Window, kinds ...serialtest.Kind) bool {
		n := len(w.Steps)
		w.Steps = slices.DeleteFunc(w.Steps, func(s serialtest.Step) bool { return !slices.Contains(kinds, s.Kind) })
		return len(w.Steps) != n
	}
	checked := serial.Params{Speed: 9600, Bits: 8, Parity: serial.Even, StopBits: 2, CheckParity: true}
	reset := func(w *serialtest.Window) bool {
		return w.Phase == serialtest.Request && w.Request[0] == 0x10
	}
	first := map[string]bool{} // scenario: its first reset was seen
	differences := []serialtest.Difference{
		{
			Why: "the handler starts without a card, and resets none before a client asks for it",
			Change: func(w *serialtest.Window) bool {
				if w.Phase != serialtest.Open {
					return false
				}
				only(w, serialtest.Inputs)
				w.Failed = false
				return true
			},
		},
		{
			Why: "two stop bits, for the guard time, and the parity of received bytes is checked",
			Change: func(w *serialtest.Window) bool {
				if w.Phase == serialtest.Open {
					w.Steps = append(w.Steps, serialtest.Step{Kind: serialtest.Set, Params: checked})
				}
				return w.Phase == serialtest.Open
			},
		},
		{
			Why: "STATUS looks at CTS and does not reset the card",
			Change: func(w *serialtest.Window) bool {
				return w.Phase == serialtest.Request && w.Request[0] == 0x00 && w.Request[1] == 0 && only(w, serialtest.Inputs)
			},
		},
	}
	if !hold {
		return differences
	}
	return append(differences, serialtest.Difference{
		Why: "the first reset of a card that was never taken out of it",
		Change: func(w *serialtest.Window) bool {
			i := slices.IndexFunc(w.Steps, func(s serialtest.Step) bool { return s.Kind == serialtest.Lines })
			if !reset(w) || first[w.Scenario] || i < 0 {
				return false
			}
			first[w.Scenario] = true
			w.Steps = slices.Delete(w.Steps, i, i+1)
			return true
		},
	})
}

// phoenixWindows are the places at which both differ; file is the recording.
func phoenixWindows(file string, hold bool) []serialtest.Difference {
	const (
		lost    = "after a failed exchange the card must be reset: nobody knows what it expects next"
		missing = "missing bytes are noticed, and not made up"
		again   = "an answer to reset that makes no sense is asked for once more with the other parity, and is no answer"
		atrEnd  = "the answer to reset ends where it says"
		ifsc    = "blocks as long as the card takes them by its ATR"
		length  = "a command is repeated with the Le that the card names"
		numbers = "the numbers of the blocks, after fewer of them"
	)
	inReset, out := "lines 10\n", "lines 11\n"
	if hold {
		inReset, out = out, inReset
	}
	refuse := serialtest.Script("", "")
	fail := func(w *serialtest.Window) { w.Failed = true }
	answer := func(reply string, also ...serialtest.Step) func(*serialtest.Window) {
		return func(w *serialtest.Window) {
			w.Reply, w.Failed = unhex(reply), false
			w.Steps = append(w.Steps, also...)
		}
	}
	odd := serialtest.Step{Kind: serialtest.Set,
		Params: serial.Params{Speed: 9600, Bits: 8, Parity: serial.Odd, StopBits: 2, CheckParity: true}}
	twice := func(first, answer string) func(*serialtest.Window) {
		return serialtest.Script(first+out+answer+"set 9600 8O2 check\n"+inReset+out, "")
	}
	even := func(w *serialtest.Window) {
		w.Steps = slices.Insert(w.Steps, 0, serialtest.Step{Kind: serialtest.Set,
			Params: serial.Params{Speed: 9600, Bits: 8, Parity: serial.Even, StopBits: 2, CheckParity: true}})
	}
	// repeated is a READ BINARY whose Le was wrong, once more.
	repeated := func(inverse bool) func(*serialtest.Window) {
		cmd, answer := unhex("00b0400005"), unhex("b031323334359000")
		if inverse {
			atr.Invert(cmd)
			atr.Invert(answer)
		}
		return func(w *serialtest.Window) {
			w.Reply = unhex("45000731323334359000")
			w.Steps = append(w.Steps, serialtest.Step{Kind: serialtest.Write, Data: cmd, Echo: cmd},
				serialtest.Step{Kind: serialtest.Answer, Data: answer})
		}
	}
	// chained puts the command, sent in pieces, into one block.
	chained := func(pcb byte) func(*serialtest.Window) {
		return func(w *serialtest.Window) {
			var card []serialtest.Step
			for i, s := range w.Steps {
				if i > 0 && (s.Kind == serialtest.Answer && s.Data[1]&0x80 == 0 || len(card) > 0) {
					card = append(card, s)
				}
			}
			w.Steps = append([]serialtest.Step{block(pcb, apduOf(w))}, card...)
		}
	}
	first := func(pcb byte) func(*serialtest.Window) {
		return func(w *serialtest.Window) { w.Steps[0] = block(pcb, apduOf(w)) }
	}
	firstReset := inReset
	if hold {
		firstReset = "" // it never left it
	}
	var all []serialtest.Difference
	at := func(line int, why string, change func(*serialtest.Window)) {
		all = append(all, serialtest.At(fmt.Sprintf("%s:%d", file, line), why, change))
	}
	at(25, "a card that is found is news once", func(w *serialtest.Window) { w.Reply = unhex("020103") })
	at(64, length, repeated(false))
	at(154, "a protocol that the card does not offer cannot be set", fail)
	at(169, "nothing is sent to a card that was seen leaving", refuse)
	at(174, "without a card there is none to reset", refuse)
	at(183, "an empty reader has a status", answer("020102"))
	at(240, atrEnd, answer("03093f6525002c09699000", odd))
	at(262, length, repeated(true))
	at(332, lost, refuse)
	at(336, atrEnd, answer("03093f6525002c09699000"))
	at(346, missing, fail)
	at(352, lost, refuse)
	at(423, ifsc, chained(0x00))
	at(433, ifsc, chained(0x40))
	at(461, numbers, first(0x00))
	at(467, numbers, first(0x40))
	at(471, "a protocol that the card does not offer cannot be set", fail)
	at(563, lost, refuse)
	at(587, again, twice(inReset, ""))
	at(638, lost, refuse)
	at(642, lost, refuse)
	at(663, lost, refuse)
	at(681, lost, refuse)
	at(685, again, twice(inReset, "< 55aa00ff\n"))
	at(695, "a card without an ATR is not talked to", refuse)
	at(724, again, twice(firstReset, "< 3b02\n"))
	at(734, "a card without an ATR is not talked to", refuse)
	at(738, "the parity, after it", even)
	at(748, missing, fail)
	at(754, lost, refuse)
	at(758, lost, refuse)
	at(764, lost, refuse)
	at(843, "a block that does not come is asked for; a card that stays silent is an error",
		serialtest.Script(">> 00000500b0001008ad\n>> 00810081\n>> 00810081\n>> 00c000c0\n>> 00c000c0\n>> 00c000c0", ""))
	at(849, lost, refuse)
	return all
}

// apduOf is the command of a TRANSACT request: tag, two bytes of length, APDU.
func apduOf(w *serialtest.Window) []byte { return w.Request[5:] }

// block is a T=1 block from the host.
func block(pcb byte, inf []byte) serialtest.Step {
	b := append([]byte{0, pcb, byte(len(inf))}, inf...)
	var lrc byte
	for _, c := range b {
		lrc ^= c
	}
	b = append(b, lrc)
	return serialtest.Step{Kind: serialtest.Write, Data: b, Echo: b}
}

func unhex(s string) []byte {
	b, err := hex.DecodeString(s)
	if err != nil {
		panic(err)
	}
	return b
}

func TestPhoenixRecorded(t *testing.T) {
	serialtest.Play(t, serialtest.Driver{
		Files:       []string{"testdata/readers/phoenix.jsonl"},
		Open:        openPhoenix,
		Differences: append(phoenixDifferences(true), phoenixWindows("phoenix.jsonl", true)...),
	})
}

func TestSmartMouseRecorded(t *testing.T) {
	serialtest.Play(t, serialtest.Driver{
		Files:       []string{"testdata/readers/smartmouse.jsonl"},
		Open:        openSmartMouse,
		Differences: append(phoenixDifferences(false), phoenixWindows("smartmouse.jsonl", false)...),
	})
}
