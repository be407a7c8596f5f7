//go:build go1.25

package driver

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
	"testing"

	"openct/internal/serial/serialtest"
)

// acsExchange is a command of a recording and what the reader said to it; at the
// beginning of a window, what it said without one.
type acsExchange struct {
	command []byte // INS and data; nil: none
	answer  []serialtest.Step
}

// acsWire is how commands and answers are carried.
type acsWire struct {
	pipe   string                                  // commands go to
	decode func(wire []byte) []byte                // INS and data
	encode func(ins byte, data []byte) []byte      // as it goes on the wire
	answer func(data []byte) []serialtest.Step     // of success
	status func(steps []serialtest.Step) (ok bool) // of an answer
}

// exchanges takes a window apart.
func (x acsWire) exchanges(w *serialtest.Window) []acsExchange {
	var all []acsExchange
	for _, s := range w.Steps {
		switch {
		case s.Kind == serialtest.Write:
			all = append(all, acsExchange{command: x.decode(s.Data)})
		case len(all) == 0:
			all = append(all, acsExchange{answer: []serialtest.Step{s}})
		default:
			all[len(all)-1].answer = append(all[len(all)-1].answer, s)
		}
	}
	return all
}

// put is the window of these exchanges.
func (x acsWire) put(w *serialtest.Window, all []acsExchange) {
	w.Steps = nil
	for _, e := range all {
		if e.command != nil {
			w.Steps = append(w.Steps, serialtest.Step{Kind: serialtest.Write, Pipe: x.pipe, Data: x.encode(e.command[0], e.command[1:])})
		}
		w.Steps = append(w.Steps, e.answer...)
	}
}

// change makes a Difference of what is done to the exchanges of a window.
func (x acsWire) change(why string, f func(w *serialtest.Window, all []acsExchange) []acsExchange) serialtest.Difference {
	return serialtest.Difference{Why: why, Change: func(w *serialtest.Window) bool {
		before := slices.Clone(w.Steps)
		failed, reply := w.Failed, w.Reply
		x.put(w, f(w, x.exchanges(w)))
		same := slices.EqualFunc(before, w.Steps, func(a, b serialtest.Step) bool { return a.String() == b.String() })
		return !same || failed != w.Failed || !bytes.Equal(reply, w.Reply)
	}}
}

// do is an exchange that succeeds.
func (x acsWire) do(ins byte, data, answer string) acsExchange {
	return acsExchange{append([]byte{ins}, unhex(data)...), x.answer(unhex(answer))}
}

// acsStatusAnswer is a reader's status with a card or without.
func acsStatusAnswer(model string, present bool) string {
	s := hex.EncodeToString([]byte(model)) + "ffff30640c"
	if present {
		return s + "01"
	}
	return s + "00"
}

// Requests of windows.
func acsCommand(w *serialtest.Window, unit, command byte) bool {
	return w.Phase == serialtest.Request && w.Request[0] == command && w.Request[1] == unit
}
func acsStatusRequest(w *serialtest.Window) bool { return acsCommand(w, 0, 0x00) }
func acsResetRequest(w *serialtest.Window) bool  { return acsCommand(w, 0, 0x10) }
func acsTransact(w *serialtest.Window) bool      { return acsCommand(w, 0, 0x21) }
func acsSetProtocol(w *serialtest.Window) bool   { return acsCommand(w, 0, 0x22) }

// Differences that all these readers share.
func (x acsWire) differences() []serialtest.Difference {
	const again, memory = "00b0400005", "31323334359000"
	lost := false
	return []serialtest.Difference{
		x.change("each reset has the reader find out the card's protocol: it may be another card",
			func(w *serialtest.Window, all []acsExchange) []acsExchange {
				for i, e := range all {
					if acsResetRequest(w) && e.command != nil && e.command[0] == acsSelect {
						all[i].command = []byte{acsSelect, acsAuto}
					}
				}
				return all
			}),
		x.change("a command is repeated with the Le that the card names",
			func(w *serialtest.Window, all []acsExchange) []acsExchange {
				if acsTransact(w) && strings.Contains(w.Meaning, "6Cxx") {
					tpdu := again
					if x.pipe != "02" {
						tpdu = again[:8] + "00" + again[8:]
					}
					all = append(all, x.do(acsT0, tpdu, memory))
					w.Reply = unhex("450007" + memory)
				}
				return all
			}),
		x.change("a command that takes no card is not sent: it is known that none is in",
			func(w *serialtest.Window, all []acsExchange) []acsExchange {
				if acsTransact(w) && w.Meaning == "TRANSACT: no card" {
					w.Failed, all = true, nil
				}
				return all
			}),
		x.change("after a failed exchange in T=0 the card must be reset: nobody knows what it expects next",
			func(w *serialtest.Window, all []acsExchange) []acsExchange {
				switch {
				case strings.HasPrefix(w.Scenario, "t"):
				case acsResetRequest(w):
					lost = false
				case acsTransact(w) && lost:
					w.Failed, all = true, nil
				case acsTransact(w):
					lost = w.Failed
				}
				return all
			}),
		acsTold(),
		x.change("the card loses its power with its handler",
			func(w *serialtest.Window, all []acsExchange) []acsExchange {
				if w.Phase == serialtest.Stop && w.Scenario != "empty" {
					all = append(all, x.do(acsPowerOff, "", ""))
				}
				return all
			}),
	}
}

// notOffered is the difference in a protocol that the card does not have.
func (x acsWire) notOffered() serialtest.Difference {
	return x.change("a protocol that the card does not offer is refused, and changes nothing",
		func(w *serialtest.Window, all []acsExchange) []acsExchange {
			switch {
			case w.Scenario != "t0":
			case acsSetProtocol(w):
				w.Failed, all = w.Request[len(w.Request)-1] != 0, nil
			case acsTransact(w) && w.Meaning == "TRANSACT: after SET_PROTOCOL 1":
				tpdu := "0044000000"
				if x.pipe != "02" {
					tpdu += "00"
				}
				w.Failed, w.Reply, all = false, unhex("4500029000"), []acsExchange{x.do(acsT0, tpdu, "9000")}
			}
			return all
		})
}

// notSelected is the difference in a protocol that the card has and the reader
// does not select.
func (x acsWire) notSelected() serialtest.Difference {
	const card = "3bb79400c02431fe6553504b32339000b4"
	return x.change("a reader that does not select the protocol asked for is told so, and the card has its old one",
		func(w *serialtest.Window, all []acsExchange) []acsExchange {
			switch {
			case w.Scenario != "t0t1" || !acsSetProtocol(w):
			case w.Request[len(w.Request)-1] == 1:
				w.Failed, all = true, nil
				for _, t := range []string{"0d", "0c"} {
					all = append(all, x.do(acsPowerOff, "", ""), x.do(acsSelect, t, ""), x.do(acsReset, "", card))
				}
			default:
				all = nil
			}
			return all
		})
}

// acsTold is the difference that STATUS has once a card has come or gone.
func acsTold() serialtest.Difference {
	told := map[string]byte{}
	return serialtest.Difference{
		Why: "STATUS tells that a card has come or gone since it was asked last, whoever noticed it first",
		Change: func(w *serialtest.Window) bool {
			if !acsStatusRequest(w) || w.Failed {
				return false
			}
			last := &w.Reply[len(w.Reply)-1]
			before, asked := told[w.Scenario]
			moved := before != *last || !asked && w.Scenario != "empty"
			told[w.Scenario] = *last
			if moved {
				*last |= 2
			}
			return moved
		},
	}
}

// acr30Recorded is the wire of the ACR30 on USB (pipe 40/00) or a serial line.
func acr30Recorded(pipe string) acsWire {
	packets := acr30Packets
	if pipe == "" {
		packets = func(frame []byte) []serialtest.Step {
			return []serialtest.Step{{Kind: serialtest.Answer, Data: frame}}
		}
	}
	return acsWire{
		pipe: pipe,
		decode: func(wire []byte) []byte {
			msg := unhex(string(wire[1 : len(wire)-1]))
			data := msg[3 : len(msg)-1]
			if msg[2] == acr30Long {
				data = data[2:]
			}
			return append([]byte{msg[1]}, data...)
		},
		encode: acr30Message,
		answer: func(data []byte) []serialtest.Step { return packets(acr30Says(acr30OK, data)) },
		status: func(steps []serialtest.Step) bool {
			var p acr30Parser
			for _, s := range steps {
				for _, b := range s.Data {
					if r, done, _ := p.take(b); done {
						return r.err() == nil
					}
				}
			}
			return false
		},
	}
}

// acr30Packets is a message of a reader on USB.
func acr30Packets(frame []byte) (steps []serialtest.Step) {
	for len(frame)%acsPacket != 0 {
		frame = append(frame, 0)
	}
	for ; len(frame) > 0; frame = frame[acsPacket:] {
		steps = append(steps, serialtest.Step{Kind: serialtest.Answer, Pipe: "81", Data: frame[:acsPacket]})
	}
	return steps
}

// acr30Says is a message of a reader.
func acr30Says(sw uint16, data []byte) []byte {
	// A command has INS where an answer has SW1, and one byte less.
	msg := []byte{acr30Header, byte(sw >> 8), byte(sw)}
	if n := len(data); n < acr30Long {
		msg = append(msg, byte(n))
	} else {
		msg = append(msg, acr30Long, byte(n>>8), byte(n))
	}
	msg = append(msg, data...)
	text := strings.ToUpper(hex.EncodeToString(append(msg, xor(msg))))
	return append(append([]byte{acr30STX}, text...), acr30ETX)
}

// acr30Polls are the differences about how it is known whether a card is in.
func acr30Polls(x acsWire, model string, usb bool) []serialtest.Difference {
	shows := func(e acsExchange) (present, ok bool) {
		var p acr30Parser
		for _, s := range e.answer {
			for _, b := range s.Data {
				if r, done, _ := p.take(b); done && len(r.data) == acsStatusLen {
					return r.data[acsCardState] != 0, true
				}
			}
		}
		return false, false
	}
	isStatus := func(e acsExchange) bool { return e.command != nil && e.command[0] == acsGetStatus }
	in := map[string]bool{}
	list := []serialtest.Difference{
		x.change("what the core asks once a second may fall into a client's request",
			func(w *serialtest.Window, all []acsExchange) []acsExchange {
				if w.Phase != serialtest.Request {
					return all
				}
				seen := false
				return slices.DeleteFunc(all, func(e acsExchange) bool {
					mine := acsStatusRequest(w) && !seen
					if isStatus(e) {
						seen = true
					}
					return isStatus(e) && !mine
				})
			}),
	}
	if !usb {
		return list
	}
	return append(list,
		x.change("a reader on USB tells of cards: it is asked once, when it is opened, and not every second",
			func(w *serialtest.Window, all []acsExchange) []acsExchange {
				switch w.Phase {
				case serialtest.Open:
					in[w.Scenario] = w.Scenario != "empty"
					return []acsExchange{
						x.do(acsNotify, "01", ""), x.do(acsOption, "00", ""),
						x.do(acsGetStatus, "", acsStatusAnswer(model, in[w.Scenario])),
					}
				case serialtest.Idle:
					var news []acsExchange
					for _, e := range all {
						if now, ok := shows(e); ok && now != in[w.Scenario] {
							in[w.Scenario] = now
							sw := uint16(acr30Removed)
							if now {
								sw = acr30Inserted
							}
							news = append(news, acsExchange{answer: acr30Packets(acr30Says(sw, nil))})
						}
					}
					return news
				}
				return all
			}))
}

func TestPertoSmart1030(t *testing.T) {
	const model = "ACR30 TEST"
	for _, usb := range []bool{true, false} {
		pipe, leftOut := "", map[string]string{}
		const other = "is played on the other kind of connection"
		if usb {
			pipe = "40/00"
			leftOut["serial"], leftOut["serial-t1"] = other, other
		} else {
			for _, s := range []string{"t0", "empty", "t1", "t0t1", "faults", "sw"} {
				leftOut[s] = other
			}
		}
		x := acr30Recorded(pipe)
		long := "00d60000ff" + hex.EncodeToString(counting(255)) + "00"
		differences := append(acr30Polls(x, model, usb), x.differences()...)
		differences = append(differences,
			acr30Lc255(x, long),
		)
		if usb {
			differences = append(differences,
				x.notOffered(),
				serialtest.At("pertosmart1030-2.jsonl:485", "a card that went has taken its session along",
					func(w *serialtest.Window) {
						w.Failed = true
						w.Steps = slices.DeleteFunc(w.Steps, func(s serialtest.Step) bool { return s.Kind == serialtest.Write })[:2]
					}),
				x.notSelected())
		}
		name := map[bool]string{true: "usb", false: "serial"}[usb]
		t.Run(name, func(t *testing.T) {
			serialtest.Play(t, serialtest.Driver{
				Files:       []string{"testdata/readers/pertosmart1030.jsonl", "testdata/readers/pertosmart1030-2.jsonl"},
				Open:        openPertoSmart1030Line,
				OpenUSB:     openPertoSmart1030,
				Differences: differences,
				LeftOut:     leftOut,
			})
		})
	}
}

// acr30Lc255 is the difference in a command with 255 bytes of data.
func acr30Lc255(x acsWire, long string) serialtest.Difference {
	return x.change("a message may be longer than 259 bytes",
		func(w *serialtest.Window, all []acsExchange) []acsExchange {
			if acsTransact(w) && len(w.Request) == 2+4+260-1 {
				w.Failed, w.Reply, all = false, unhex("4500029000"), []acsExchange{x.do(acsT0, long, "9000")}
			}
			return all
		})
}

// counting is n bytes 00 01 02 ...
func counting(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i)
	}
	return b
}

// acr30u is the same reader to another driver of C OpenCT's, which ours has not.
func TestACR30U(t *testing.T) {
	const model = "ACR30 TEST"
	x := acr30Recorded("40/00")
	long := "00d60000ff" + hex.EncodeToString(counting(255)) + "00"
	// From where on C OpenCT's driver is one answer behind.
	behind := func(line int, f func(w *serialtest.Window) []acsExchange) serialtest.Difference {
		return serialtest.At(fmt.Sprintf("acr30u.jsonl:%d", line), "news of a card are no answer",
			func(w *serialtest.Window) { w.Failed = false; x.put(w, f(w)) })
	}
	status := func(present bool) []acsExchange {
		return []acsExchange{x.do(acsGetStatus, "", acsStatusAnswer(model, present))}
	}
	noCard := []acsExchange{{[]byte{acsReset}, acr30Packets(acr30Says(acr30NoCard, nil))}}
	differences := append([]serialtest.Difference{
		behind(298, func(*serialtest.Window) []acsExchange { return status(false) }),
		behind(306, func(w *serialtest.Window) []acsExchange { w.Reply = unhex("020100"); return status(false) }),
		behind(331, func(w *serialtest.Window) []acsExchange { return noCard }),
		behind(335, func(*serialtest.Window) []acsExchange { return status(true) }),
		behind(341, func(w *serialtest.Window) []acsExchange { w.Reply = unhex("020101"); return status(true) }),
		behind(348, func(w *serialtest.Window) []acsExchange {
			w.Reply = unhex("03043b021450")
			return []acsExchange{x.do(acsReset, "", "3b021450")}
		}),
		behind(357, func(w *serialtest.Window) []acsExchange {
			w.Reply = unhex("4500029000")
			return []acsExchange{x.do(acsT0, "004400000000", "9000")}
		}),
		x.change("a card is reset as by pertosmart1030, which takes its power first",
			func(w *serialtest.Window, all []acsExchange) []acsExchange {
				if !acsResetRequest(w) {
					return all
				}
				i := slices.IndexFunc(all, func(e acsExchange) bool { return e.command != nil && e.command[0] == acsReset })
				if i < 0 {
					return all
				}
				reset := all[i]
				for j := i + 1; j < len(all); j++ {
					if all[j].command[0] == acsSelect {
						all = slices.Delete(all, j, j+1)
						break
					}
				}
				return append(slices.Clone(all[:i]), append([]acsExchange{x.do(acsPowerOff, "", ""), x.do(acsSelect, "0c", ""), reset}, all[i+1:]...)...)
			}),
		x.change("a reader's error is one, and no answer without data",
			func(w *serialtest.Window, all []acsExchange) []acsExchange {
				for _, e := range all {
					if (acsTransact(w) || acsResetRequest(w)) && e.command != nil && !x.status(e.answer) {
						w.Failed = true
					}
				}
				return all
			}),
	}, acr30Polls(x, model, true)...)
	differences = append(differences, x.differences()...)
	differences = append(differences, x.notOffered(), x.notSelected(), acr30Lc255(x, long))
	serialtest.Play(t, serialtest.Driver{
		Files:       []string{"testdata/readers/acr30u.jsonl"},
		OpenUSB:     openACR30U,
		Differences: differences,
		LeftOut: map[string]string{
			"t1": "C OpenCT's driver refuses T=1; it is played for pertosmart1030",
		},
	})
}

// acr30Status is a reader's answer to acsGetStatus, with a card.
const acr30Status = "9000" + "41435233302054455354ffff30640c01"

// acr30Script is what the reader says to commands one after the other, status
// word and data; nothing: it is silent.
func acr30Script(answers ...string) string {
	var b strings.Builder
	for _, a := range answers {
		if a == "" {
			b.WriteString("INT 81 len 8 TIMEOUT\n")
			continue
		}
		b.WriteString("OUT 40 00 0000 0000 []\n")
		msg := unhex(a)
		for _, s := range acr30Packets(acr30Says(uint16(msg[0])<<8|uint16(msg[1]), msg[2:])) {
			fmt.Fprintf(&b, "INT 81 len 8 % X\n", s.Data)
		}
	}
	return b.String()
}

// acr38Status is a reader's answer to acsGetStatus, with a card.
const acr38Status = "41435233382054455354ffff30640c01"

// acr38Script is what the reader answers; "-": it is silent.
func acr38Script(answers ...string) string {
	var b strings.Builder
	for _, a := range answers {
		if a == "-" {
			b.WriteString("BULK 82 len 64 TIMEOUT\n")
			continue
		}
		data := unhex(a)
		fmt.Fprintf(&b, "BULK 02 []\nBULK 82 len 64 01 00 %02X %02X % X\n", len(data)>>8, len(data)&0xFF, data)
	}
	return b.String()
}
