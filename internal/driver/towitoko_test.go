//go:build go1.25

package driver

import (
	"bytes"
	"fmt"
	"slices"
	"testing"

	"openct/internal/proto"
	"openct/internal/serial/serialtest"
)

// towitokoDifferences are what the driver does otherwise than C OpenCT's, all
// over.
func towitokoDifferences() []serialtest.Difference {
	// without leaves out commands, each with its reply.
	without := func(w *serialtest.Window, leave func(command []byte) bool) bool {
		n := len(w.Steps)
		var steps []serialtest.Step
		for i := 0; i < n; i++ {
			if s := w.Steps[i]; s.Kind == serialtest.Write && leave(s.Data) {
				if i+1 < n && w.Steps[i+1].Kind == serialtest.Answer {
					i++
				}
				continue
			}
			steps = append(steps, w.Steps[i])
		}
		w.Steps = steps
		return len(steps) != n
	}
	isPower := func(c []byte) bool { return bytes.Equal(c, unhex("600f9c")) }
	isStatus := func(c []byte) bool { return bytes.Equal(c, unhex("0307")) }
	isLED := func(c []byte) bool {
		return bytes.Equal(c, unhex("6f016a0f46")) || bytes.Equal(c, unhex("6f006a0f4e"))
	}
	request := func(w *serialtest.Window, cmd byte) bool {
		return w.Phase == serialtest.Request && w.Request[0] == cmd
	}
	led, file := []byte(nil), ""
	return []serialtest.Difference{
		{
			Why: "the driver opens a reader without asking for its card",
			Change: func(w *serialtest.Window) bool {
				return w.Phase == serialtest.Open &&
					without(w, func(c []byte) bool { return isPower(c) || isStatus(c) || isLED(c) })
			},
		},
		{
			Why: "STATUS does not give the card power",
			Change: func(w *serialtest.Window) bool {
				return request(w, 0x00) && without(w, isPower)
			},
		},
		{
			Why: "nobody asks for the card in the middle of a command",
			Change: func(w *serialtest.Window) bool {
				if w.Phase != serialtest.Request || request(w, 0x00) {
					return false
				}
				first := request(w, 0x10) // RESET looks once
				return without(w, func(c []byte) bool {
					if isStatus(c) && first {
						first = false
						return false
					}
					return isStatus(c)
				})
			},
		},
		{
			Why: "the LED is set when a card comes or goes",
			Change: func(w *serialtest.Window) bool {
				if w.Phase == serialtest.Open || w.File != file {
					led, file = nil, w.File
				}
				return without(w, func(c []byte) bool {
					if !isLED(c) {
						return false
					}
					same := bytes.Equal(c, led)
					led = slices.Clone(c)
					return same
				})
			},
		},
	}
}

// towitokoLine is a command of a slot and its reply as lines of a script; an
// empty reply is an acknowledgement.
func towitokoLine(seed byte, command, reply string) string {
	c, r := unhex(command), unhex(reply)
	return fmt.Sprintf("> %x%02x\n< %x%02x\n", c, towitokoSum(seed, c), r, towitokoSum(1, r))
}

// towitokoProbe is what the driver does to find out what kind of memory card is
// in, from RESET on. contents are what the card holds, header and all.
func towitokoProbe(kind proto.ID, contents []byte) string {
	line := func(command, reply string) string { return towitokoLine(0, command, reply) }
	script := line("6f406a0f", "") + line("600f", "") + line("03", "40") + line("6f016a0f", "")
	const resets = "> 806f000576\n> a06f000574\n"
	script += resets + line("6f806a0f", "") + "set 9600 8O2\n" + resets
	back := line("6f406a0f", "") + "set 9600 8E2\n"
	read := func(at string, n int, p proto.ID) {
		script += line(at, "")
		for i := 0; i < n; i += 15 {
			k := min(15, n-i)
			data := bytes.Repeat([]byte{0xFF}, k)
			if p == kind {
				copy(data, contents[i:])
			}
			script += line(fmt.Sprintf("%02x", 0x10|k-1), fmt.Sprintf("%x", data))
		}
	}
	for _, p := range []struct {
		id proto.ID
		at string
		n  int
	}{
		{proto.I2CShort, "7c6441a0006440a10f", 32},
		{proto.I2CLong, "7c6442a000006440a10f", 32},
		{proto.TwoWire, "706442300000650f", 4},
		{proto.ThreeWire, "70a0420e000080500f", 4},
	} {
		script += back + line("610f", "") + line("600f", "")
		back = ""
		read(p.at, p.n, p.id)
		if p.id == kind {
			if p.n == 32 {
				read(p.at, p.n, p.id) // once more, from where two bytes differ
			}
			break
		}
	}
	return script
}

// towitokoWindows are the places at which both differ.
func towitokoWindows() []serialtest.Difference {
	const (
		probe   = "a memory card is found by reading, after both parities; its ATR is its header"
		lost    = "after a failed exchange the card must be reset: nobody knows what it expects next"
		numbers = "the numbers of the blocks, after fewer of them"
		ifsc    = "blocks as long as the card takes them by its ATR"
		again   = "a block that does not come is asked for; a card that stays silent is an error"
	)
	var all []serialtest.Difference
	at := func(place, why string, change func(*serialtest.Window)) {
		all = append(all, serialtest.At("towitoko"+place, why, change))
	}
	script := func(steps, reply string) func(*serialtest.Window) {
		return func(w *serialtest.Window) {
			serialtest.Script(steps, reply)(w)
			w.Failed = false
		}
	}
	refuse := serialtest.Script("", "")
	reply := func(s string) func(*serialtest.Window) {
		return func(w *serialtest.Window) { w.Reply, w.Failed = unhex(s), false }
	}
	memory := make([]byte, 32)
	for i := range memory {
		memory[i] = byte(7*i + 1)
	}
	twoWire, threeWire := unhex("a2131091"), unhex("92231091")
	found := func(kind proto.ID, contents []byte) func(*serialtest.Window) {
		header := ""
		if len(contents) == 4 {
			header = fmt.Sprintf("0304%x", contents)
		}
		return script(towitokoProbe(kind, contents), header)
	}
	// frame is bytes for the card.
	frame := func(b []byte) serialtest.Step {
		head := []byte{0x6F, byte(len(b)), 0x05}
		return serialtest.Step{Kind: serialtest.Write, Data: append(append(head, towitokoSum(0, head)), b...)}
	}
	// chained puts the command, sent in pieces, into one block.
	chained := func(pcb byte) func(*serialtest.Window) {
		return func(w *serialtest.Window) {
			card := slices.IndexFunc(w.Steps, func(s serialtest.Step) bool {
				return s.Kind == serialtest.Answer && s.Data[1]&0x80 == 0
			})
			w.Steps = append([]serialtest.Step{frame(block(pcb, apduOf(w)).Data)}, w.Steps[card:]...)
		}
	}
	at(".jsonl:29", "a card that is found is news", reply("020103"))
	at(".jsonl:86", "a command is repeated with the Le that the card names", func(w *serialtest.Window) {
		w.Reply = unhex("45000731323334359000")
		w.Steps = append(w.Steps, frame(unhex("00b0400005")),
			serialtest.Step{Kind: serialtest.Answer, Data: unhex("b031323334359000")})
	})
	at(".jsonl:200", "a card that was taken out is news until a STATUS tells it", reply("020102"))
	at(".jsonl:211", "nothing is sent to a card that was seen leaving", refuse)
	at(".jsonl:381", ifsc, chained(0x00))
	at(".jsonl:395", ifsc, chained(0x40))
	first := func(pcb byte) func(*serialtest.Window) {
		return func(w *serialtest.Window) {
			w.Steps = append([]serialtest.Step{frame(block(pcb, apduOf(w)).Data)}, w.Steps[2:]...)
		}
	}
	at(".jsonl:436", numbers, first(0x00))
	at(".jsonl:444", numbers, first(0x40))
	at(".jsonl:503", "a card of the inverse convention gets its bytes inverted",
		script("> 6f050562ffddffffff\n< f6ff\n", "4500029000"))
	slotB := towitokoLine(1, "03", "40") + towitokoLine(1, "6f016a0f", "")
	at(".jsonl:541", "slot B is served", script(slotB, "020103"))
	at(".jsonl:546", "slot B is served", script(towitokoLine(1, "6f406a0f", "")+towitokoLine(1, "600f", "")+
		towitokoLine(1, "03", "40")+"> 806f000566\n< 3b021450\n"+towitokoLine(1, "6f406a0f", ""), "03043b021450"))
	at(".jsonl:788", probe, found(proto.I2CShort, memory))
	at(".jsonl:1036", "a card that cannot be written is found like any other", found(proto.I2CShort, memory))
	at(".jsonl:1347", probe, found(proto.I2CLong, memory))
	at(".jsonl:1695", probe, found(proto.TwoWire, twoWire))
	at(".jsonl:1877", "a card is read to its last byte and not from the first one again",
		script(towitokoLine(0, "70644230fa00650f", "")+towitokoLine(0, "15", "d7dee5ecf3fa"), "c60006d7dee5ecf3fa"))
	at(".jsonl:2084", probe, found(proto.ThreeWire, threeWire))
	at("-2.jsonl:28", probe, serialtest.Script(towitokoProbe(proto.Eurochip, nil), ""))
	at("-2.jsonl:602", probe, found(proto.TwoWire, twoWire))
	power := "STATUS does not fail because the power would"
	at("-2.jsonl:377", power, reply("020103"))
	at("-2.jsonl:505", power, script(towitokoLine(0, "03", "40")+towitokoLine(0, "6f016a0f", ""), "020103"))
	at("-2.jsonl:810", power, reply("020103"))
	for _, line := range []string{"441", "446", "460", "569", "886", "927", "1022", "1060"} {
		at("-2.jsonl:"+line, lost, refuse)
	}
	at("-2.jsonl:393", "a reset that failed is over", serialtest.Script("> 6f406a0f4c\n", ""))
	const resynch = "> 6f04056600c000c0\n> 6f04056600c000c0\n> 6f04056600c000c0\n"
	at("-2.jsonl:1011", again, serialtest.Script(
		"> 6f09055200400500b0001008ed\n< 00400a10111213\n> 6f04056600910091\n> 6f04056600910091\n"+resynch, ""))
	at("-2.jsonl:1049", again, serialtest.Script(
		"> 6f09055200000500b0001008ad\n> 6f04056600810081\n> 6f04056600810081\n"+resynch, ""))
	return all
}

func TestTowitokoRecorded(t *testing.T) {
	serialtest.Play(t, serialtest.Driver{
		Files:       []string{"testdata/readers/towitoko.jsonl", "testdata/readers/towitoko-2.jsonl"},
		Open:        openTowitoko,
		Differences: append(towitokoWindows(), towitokoDifferences()...),
	})
}
