//go:build go1.25

package driver

import (
	"slices"
	"testing"

	"openct/internal/serial/serialtest"
)

// acr38Recorded is the wire of the ACR38, whose answers are filled up or not.
func acr38Recorded(padded bool) acsWire {
	return acsWire{
		pipe: "02",
		decode: func(wire []byte) []byte {
			n := int(wire[2])<<8 | int(wire[3])
			return append([]byte{wire[1]}, wire[4:4+n]...)
		},
		encode: func(ins byte, data []byte) []byte {
			msg := append([]byte{acr38Header, ins, byte(len(data) >> 8), byte(len(data))}, data...)
			for len(msg)%acr38Packet != 0 {
				msg = append(msg, 0)
			}
			return msg
		},
		answer: func(data []byte) []serialtest.Step {
			msg := append([]byte{acr38Header, 0, byte(len(data) >> 8), byte(len(data))}, data...)
			for padded && len(msg)%acr38Packet != 0 {
				msg = append(msg, 0)
			}
			return []serialtest.Step{{Kind: serialtest.Answer, Pipe: "82", Data: msg}}
		},
	}
}

func TestPertoSmart1038(t *testing.T) {
	const model = "ACR38 TEST"
	for _, padded := range []bool{false, true} {
		x := acr38Recorded(padded)
		leftOut := map[string]string{"padded": "is played by itself"}
		if padded {
			leftOut = map[string]string{}
			for _, s := range []string{"t0", "empty", "t1", "t0t1", "faults", "status", "t1-faults"} {
				leftOut[s] = "answers are not filled up"
			}
		}
		isStatus := func(e acsExchange) bool { return e.command != nil && e.command[0] == acsGetStatus }
		differences := []serialtest.Difference{
			x.change("EMV mode, in which the reader refuses ATRs that are none of EMV's, stays off; the status is asked at once",
				func(w *serialtest.Window, all []acsExchange) []acsExchange {
					if w.Phase == serialtest.Open {
						all = []acsExchange{
							x.do(acsOption, "00", ""), x.do(acsGetStatus, "", acsStatusAnswer(model, w.Scenario != "empty")),
						}
					}
					return all
				}),
			x.change("STATUS asks the reader; nothing else does",
				func(w *serialtest.Window, all []acsExchange) []acsExchange {
					if w.Phase == serialtest.Open {
						return all
					}
					all = slices.DeleteFunc(all, isStatus)
					if acsStatusRequest(w) {
						if padded {
							w.Failed, w.Reply = false, unhex("020101")
						}
						in := w.Reply[len(w.Reply)-1] == 1
						all = append(all, x.do(acsGetStatus, "", acsStatusAnswer(model, in)))
					}
					return all
				}),
		}
		name := "usual"
		if padded {
			name = "padded"
			differences = append(differences, acsTold())
		} else {
			differences = append(differences, x.differences()...)
			differences = append(differences, x.notOffered(),
				x.change("T=1 asks for a block again that stops in the middle, and goes on",
					func(w *serialtest.Window, all []acsExchange) []acsExchange {
						switch {
						case w.Scenario != "t1-faults":
						case w.Meaning == "TRANSACT: half an answer":
							w.Failed, w.Reply = false, unhex("45000a10111213141516179000")
							all = append(all[:1], x.do(acsT1, "00910091", "00400a10111213141516179000da"))
						case w.Meaning == "TRANSACT: after it":
							w.Failed, w.Reply = false, unhex("4500029000")
							all = []acsExchange{x.do(acsT1, "0000040044000040", "000002900092")}
						}
						return all
					}))
		}
		t.Run(name, func(t *testing.T) {
			serialtest.Play(t, serialtest.Driver{
				Files:       []string{"testdata/readers/pertosmart1038.jsonl"},
				OpenUSB:     openPertoSmart1038,
				Differences: differences,
				LeftOut:     leftOut,
			})
		})
	}
}
