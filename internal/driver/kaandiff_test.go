//go:build go1.25

package driver

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"slices"

	"openct/internal/serial/serialtest"
)

// kaanDifferences are what both drivers do otherwise than C OpenCT's.
func kaanDifferences(more ...serialtest.Difference) []serialtest.Difference {
	var all []serialtest.Difference
	every := func(why string, change func(w *serialtest.Window) bool) {
		all = append(all, serialtest.Difference{Why: why, Change: change})
	}
	// at is for the windows of a scenario that have a meaning.
	at := func(scenario, meaning, why string, change func(w *serialtest.Window)) {
		every(why, func(w *serialtest.Window) bool {
			if w.Scenario != scenario || w.Phase != serialtest.Request || w.Meaning != meaning {
				return false
			}
			change(w)
			return true
		})
	}

	every("the core asks for cards, and not while a client's request is under way", polls)
	every("REQUEST ICC is asked for with CT-BCS's INS, and without an Lc of 0", func(w *serialtest.Window) bool {
		changed := false
		for i, s := range w.Steps {
			cmd, ok := bytes.CutPrefix(infOf(s), []byte{0x20, 0x17, 0x01})
			if s.Kind != serialtest.Write || !ok {
				continue
			}
			cmd = append([]byte{0x20, 0x12, 0x01}, cmd...)
			if len(cmd) == 6 {
				cmd = cmd[:5]
			}
			w.Steps[i].Data = t1Block(s.Data[0], s.Data[1], cmd)
			changed = true
		}
		return changed
	})
	told := map[byte]bool{}
	every("a card that came or went is news once", func(w *serialtest.Window) bool {
		if w.Phase == serialtest.Open {
			clear(told)
		}
		if !isStatus(w) {
			return false
		}
		i := len(w.Reply) - 1
		in := w.Reply[i]&1 != 0
		news := in != told[w.Request[1]]
		told[w.Request[1]] = in
		if news {
			w.Reply[i] |= 2
		}
		return news
	})
	at("freeze", "STATUS", "a card that came and went is news", func(w *serialtest.Window) { w.Reply = unhex("020102") })

	const sent = "what C OpenCT refuses without a text works, too"
	at("t0", "OUTPUT None", "an OUTPUT without a text clears the display", script("", ask(0x12, "20174000025000"), say(0x21, "9000")))
	at("t0", "PERFORM_VERIFY", sent,
		script("4500029000", ask(0x12, "2018010011520f01060020000108ffffffffffffffff"), say(0x21, "9000")))
	every("EJECT ICC is a command of the terminal's", func(w *serialtest.Window) bool {
		if w.Meaning != "EJECT_ICC" {
			return false
		}
		cmd := "20150100"
		if len(w.Request) > 2 {
			cmd = "20150100088001055003427965"
		}
		script("", ask(0x12, cmd), say(0x21, "9000"))(w)
		return true
	})
	const other = "a protocol that the card does not offer cannot be set"
	at("t0", "SET_PROTOCOL 1", other, refuse)
	at("t0", "SET_PROTOCOL 0", "a card that was ejected has no protocol", refuse)
	at("t0", "SET_PROTOCOL 16", "whether a card is one of memory, a reset tells", func(w *serialtest.Window) {
		script("", ask(0x12, "2010010100"), say(0x21, "3b0214509001"))(w)
		w.Failed = true
	})
	for _, meaning := range []string{"OUTPUT b'HELLO'", "PERFORM_VERIFY message b'PIN'"} {
		at("old", meaning, "what the terminal does not have is refused", refuse)
	}
	at("t0", "TRANSACT: no card", "nothing is sent to a card that was seen leaving", refuse)

	const lost = "a session that was lost is begun anew, and the next reset works"
	reset := []serialtest.Step{ask(0x12, "2010010100"), say(0x21, "3b0214509001"), ask(0x12, "80600100032201"+"01"), say(0x21, "9000")}
	resynch := []serialtest.Step{{Kind: serialtest.Write, Data: unhex("12c000d2")}, {Kind: serialtest.Answer, Data: unhex("21e000c1")}}
	at("fault-none", "RESET", lost, func(w *serialtest.Window) {
		if w.Failed {
			script("03043b021450", append(slices.Clone(resynch), reset...)...)(w)
		}
	})
	at("fault-garbage", "TRANSACT: R-block: EDC error", "the terminal repeats what it was asked to, and need not be resynchronised",
		script("4500029000", ask(0x02, "00440000"), serialtest.Step{Kind: serialtest.Answer, Data: unhex("208100a1")},
			serialtest.Step{Kind: serialtest.Write, Data: unhex("02820080")}, say(0x20, "9000")))

	const half = "half a block is asked for again, and what is after it works"
	at("fault-short", "TRANSACT: half a block", half, func(w *serialtest.Window) {
		w.Steps = append(w.Steps, serialtest.Step{Kind: serialtest.Write, Data: unhex("02810083")}, say(0x20, "10111213141516179000"))
		w.Reply, w.Failed = unhex("45000a10111213141516179000"), false
	})
	for _, meaning := range []string{"TRANSACT: after it", "TRANSACT: after a reset"} {
		at("fault-short", meaning, half, script("4500029000", ask(0x02, "00440000"), say(0x20, "9000")))
	}
	at("fault-short", "RESET", half, func(w *serialtest.Window) {
		if w.Failed {
			script("03043b021450", reset...)(w)
		}
	})
	// What the terminal knows nothing of is read as I2C, twice.
	read := func(n int) []serialtest.Step {
		data := make([]byte, n)
		for i := range data {
			data[i] = memoryByte(i)
		}
		return []serialtest.Step{
			ask(0x02, hex.EncodeToString([]byte{0x00, 0xB0, 0x00, 0x00, byte(n)})),
			chunk(0x20, data), {Kind: serialtest.Write, Data: unhex("02800082")}, say(0x20, "9000"),
		}
	}
	at("sync-sw", "RESET", "what kind of memory card is in is found out by reading", func(w *serialtest.Window) {
		if len(w.Steps) > 2 && bytes.HasSuffix(infOf(w.Steps[1]), unhex("62a7")) {
			steps := append(slices.Clone(w.Steps[:2]), ask(0x12, "2010010100"), say(0x21, "a213109162a7"), ask(0x12, "80600100032201"+"80"), say(0x21, "9000"))
			w.Steps = slices.Concat(steps, read(32), read(32))
		}
	})

	all = append(all, more...)
	powered := map[byte]bool{}
	every("cards are powered down at the end", func(w *serialtest.Window) bool {
		switch {
		case w.Phase == serialtest.Open:
			clear(powered)
		case w.Phase == serialtest.Request && (w.Request[0] == 0x10 || w.Meaning == "SET_PROTOCOL 16"):
			powered[w.Request[1]] = !w.Failed
		case w.Phase == serialtest.Request && w.Request[0] == 0x12:
			powered[w.Request[1]] = false
		case w.Phase == serialtest.Stop && len(powered) > 0:
			for slot := byte(0); slot < 2; slot++ {
				if powered[slot] {
					w.Steps = append(w.Steps, ask(0x12, fmt.Sprintf("2015%02x00", slot+1)), say(0x21, "9000"))
				}
			}
			return true
		}
		return false
	})
	return append(all, renumber())
}

// memoryByte is byte i of the recording's memory cards.
func memoryByte(i int) byte {
	if header := unhex("a2131091"); i < len(header) {
		return header[i]
	}
	return byte(7*i + 1)
}

// ask and say are I-blocks of the host and of the terminal; renumber numbers them.
func ask(nad byte, inf string) serialtest.Step {
	return serialtest.Step{Kind: serialtest.Write, Data: t1Block(nad, 0, unhex(inf))}
}

func say(nad byte, inf string) serialtest.Step {
	return serialtest.Step{Kind: serialtest.Answer, Data: t1Block(nad, 0, unhex(inf))}
}

// chunk is an I-block that another one follows.
func chunk(nad byte, inf []byte) serialtest.Step {
	return serialtest.Step{Kind: serialtest.Answer, Data: t1Block(nad, 0x20, inf)}
}

// script makes a window these steps with this reply.
func script(reply string, steps ...serialtest.Step) func(*serialtest.Window) {
	return func(w *serialtest.Window) {
		w.Steps, w.Reply, w.Failed = slices.Clone(steps), unhex(reply), false
	}
}

// refuse makes a window one in which nothing is sent.
func refuse(w *serialtest.Window) { w.Steps, w.Reply, w.Failed = nil, nil, true }

func isStatus(w *serialtest.Window) bool {
	return w.Phase == serialtest.Request && w.Request[0] == 0x00 && w.Request[1] < 0x10
}

// infOf is the information field of an I-block.
func infOf(s serialtest.Step) []byte {
	if (s.Kind != serialtest.Write && s.Kind != serialtest.Answer) || len(s.Data) < 4 || s.Data[1]&0x80 != 0 {
		return nil
	}
	return s.Data[3 : len(s.Data)-1]
}

// t1Block is a block with its LRC.
func t1Block(nad, pcb byte, inf []byte) []byte {
	b := append([]byte{nad, pcb, byte(len(inf))}, inf...)
	return append(b, xorOf(b))
}

func xorOf(b []byte) (sum byte) {
	for _, c := range b {
		sum ^= c
	}
	return sum
}

// polls takes the questions for cards out of the windows in which ours asks none,
// and halves of them out of the others: GET STATUS of a kaan, four commands of a B1.
func polls(w *serialtest.Window) bool {
	n := len(w.Steps)
	keep := w.Phase == serialtest.Idle || isStatus(w)
	if w.Phase == serialtest.Request && w.Request[0] == 0x10 {
		return false // a reset may read the file by itself
	}
	var steps []serialtest.Step
	file := 0 // of the four commands, the next one
	asked := false
	for i := 0; i < len(w.Steps); i++ {
		s := w.Steps[i]
		inf := infOf(s)
		which := -1
		switch {
		case s.Kind != serialtest.Write || s.Data[0] != kaanNAD:
		case len(inf) == 5 && bytes.HasPrefix(inf, []byte{0x20, 0x13}) && inf[3] == 0x80:
			which = 4
		case bytes.Equal(inf, unhex("00a40000023f00")):
			which = 0
		case bytes.HasPrefix(inf, unhex("00a40000027f")):
			which = 1
		case bytes.HasPrefix(inf, unhex("00a4000002")):
			which = 2
		case bytes.Equal(inf, unhex("00b0000000")):
			which = 3
		}
		whole := which == 4 || which == 0 && i+6 < len(w.Steps) && bytes.Equal(infOf(w.Steps[i+6]), unhex("00b0000000")) || which > 0 && which == file
		switch {
		case which >= 0 && !(keep && whole && !(asked && isStatus(w))):
			i++ // and the answer
			for i+1 < len(w.Steps) && w.Steps[i+1].Kind == serialtest.Answer {
				i++
			}
			continue
		case which >= 0:
			file = (which + 1) % 4
			asked = which >= 3
		}
		steps = append(steps, s)
	}
	w.Steps = steps
	return len(w.Steps) != n
}

// renumber gives the blocks the numbers they have when there were others before
// them than in the recording.
func renumber() serialtest.Difference {
	var ns, nr byte // of the next block of the host, and of the terminal
	return serialtest.Difference{
		Why: "the numbers of the blocks, after others than in the recording",
		Change: func(w *serialtest.Window) bool {
			if w.Phase == serialtest.Open {
				ns, nr = 0, 0
			}
			changed := false
			var last []byte
			for i, s := range w.Steps {
				if s.Kind != serialtest.Write && s.Kind != serialtest.Answer || len(s.Data) < 4 {
					continue
				}
				host := s.Kind == serialtest.Write
				pcb := s.Data[1]
				intact := xorOf(s.Data) == 0
				switch {
				case pcb == 0xC0:
					ns, nr = 0, 0
					continue
				case pcb&0xC0 == 0xC0:
					continue
				case pcb&0x80 == 0 && host:
					if last != nil && bytes.Equal(last, s.Data) { // once more
						ns ^= 1
					}
					last = slices.Clone(s.Data)
					pcb = pcb&^0x40 | ns<<6
					ns ^= 1
				case pcb&0x80 == 0:
					last = nil
					pcb = pcb&^0x40 | nr<<6
					if intact {
						nr ^= 1
					}
				case host:
					pcb = pcb&^0x10 | nr<<4
				case pcb&0x0F == 0: // the terminal has got a part of a command
					last = nil
					pcb = pcb&^0x10 | ns<<4
				}
				if pcb == s.Data[1] {
					continue
				}
				data := slices.Clone(s.Data)
				data[len(data)-1] ^= data[1] ^ pcb
				data[1] = pcb
				w.Steps[i].Data = data
				changed = true
			}
			return changed
		},
	}
}
