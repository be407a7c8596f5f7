package verify

import (
	"bytes"
	"encoding/binary"
	"math/bits"
	"slices"

	"openct/internal/atr"
	serialrecord "openct/internal/serial/record"
)

// smartBoard masks a step of a SmartBoard (driver/smartboard.go): frames 00 LEN
// code data.
func (m *masker) smartBoard(s *Step) {
	const (
		powerOn, exchange = 0x62, 0x67 // of the driver's frames
		first, last       = 0x60, 0x67 // of the reader's codes
		state, data       = 0x61, 0x64
		present           = 0x08
	)
	m.runs(s, nil, func(run []byte) {
		for len(run) > 0 {
			if len(run) < 3 || run[0] != 0 || run[1] == 0 || run[2] < first || run[2] > last || len(run) < 2+int(run[1]) {
				clear(run)
				run[0] = noise
				return
			}
			code, value := run[2], run[3:2+int(run[1])]
			run = run[2+int(run[1]):]
			asked := byte(0)
			if len(m.sent.data) > 2 {
				asked = m.sent.data[2]
			}
			switch {
			case code == state && len(value) > 0:
				value[0] &= present
				clear(value[1:])
			case code == data && asked == powerOn:
				keepATR(value, m.atr)
			case code == data && asked == exchange && m.t1:
				m.add(value)
			case code == data && asked == exchange:
				maskResponse(value)
			default:
				clear(value)
			}
		}
	}, nil)
}

// Commands and status bytes of a GemPC (driver/gempc.go).
const (
	gemOn     = 0x12
	gemOutput = 0x13
	gemInput  = 0x14
	gemAPDU   = 0x15
	gemStatus = 0x17

	gemMore     = 0x1B // the rest of a response is to be fetched
	gemCardBits = 0x06
)

// gemPC masks a step of a GemPC: blocks of GBP, whose information is a status byte
// and data.
func (m *masker) gemPC(s *Step) {
	m.runs(s, nil, func(run []byte) {
		command := byte(0)
		if len(m.host.command) > 0 {
			command = m.host.command[0]
		}
		m.addStream(run, block{reader: true, gbp: true, mask: func(data []byte) {
			switch {
			case command == gemOn:
				keepATR(data, m.atr)
			case command == gemOutput, command == gemInput, command == gemAPDU:
				maskResponse(data)
			case command == gemStatus && len(data) > 0:
				data[0] &= gemCardBits
				clear(data[1:])
			default:
				clear(data)
			}
		}})
	}, nil)
}

// kaan masks a step of a card terminal that the driver speaks T=1 with, on a serial
// line.
func (m *masker) kaan(s *Step) {
	m.runs(s, nil, func(run []byte) { m.addStream(run, m.terminalBlock()) }, nil)
}

// cyberJack masks a step of a cyberJack, whose blocks are in frames: 00, a length of
// two bytes, the block.
func (m *masker) cyberJack(s *Step) {
	const header, supervisory = 3, 0xC0
	m.host.head = header
	for i := range s.USB {
		// The driver answers such a block with what was in it.
		op := &s.USB[i]
		if b := op.W; isBulk(op) && len(b) > header && isBlock(b[header:]) && b[header+1] >= supervisory {
			if b = b[header:]; b[2] > 1 {
				clear(b[3:])
				b[len(b)-1] = xor(b[:len(b)-1])
			}
		}
	}
	m.runs(s, isBulk, func(run []byte) {
		for len(run) > 0 {
			n := 0
			if len(run) >= header {
				n = header + int(binary.LittleEndian.Uint16(run[1:]))
			}
			if run[0] != 0 || n <= header || n > len(run) {
				clear(run)
				run[0] = noise
				return
			}
			k := m.terminalBlock()
			k.b = run[header:n]
			m.blocks = append(m.blocks, k)
			run = run[n:]
		}
	}, nil)
}

// terminalBlock is a block of a card terminal, or of the card in it: the node
// address of the driver's block says who was asked.
func (m *masker) terminalBlock() block {
	k := block{reader: true, mask: maskResponse}
	const terminal = 0x12
	if m.host.nad == terminal {
		command := m.host.command
		k.mask = func(b []byte) { m.ctbcs(command, b) }
	}
	return k
}

// ctbcs masks a terminal's response to a command of CT-BCS or of Kobil's terminals
// (package ctbcs; driver/kaanstatus.go).
func (m *masker) ctbcs(command, b []byte) {
	const (
		reset, kaanReset, request, status = 0x11, 0x10, 0x12, 0x13
		readBinary                        = 0xB0

		p2Status, p2Units   = 0x80, 0x81
		tagStatus, tagUnits = 0x80, 0x81
		statusBits          = 0x07
		keypad, display     = 0x50, 0x40
		lastSlot            = 0x0E
	)
	n := len(b) - 2
	if n <= 0 || len(command) < 4 || !isStatus(b[n]) {
		maskResponse(b)
		return
	}
	data := b[:n]
	switch ins, p2 := command[1], command[3]; {
	case ins == reset, ins == kaanReset, ins == request:
		keepATR(data, m.atr)
	case ins == status && p2 == p2Status && n == 3 && data[0] == tagStatus && data[1] == 1:
		data[2] &= statusBits
	case ins == status && p2 == p2Status && n == 1:
		data[0] &= statusBits
	case ins == status && p2 == p2Units && n >= 2 && data[0] == tagUnits && int(data[1]) == n-2:
		for i, unit := range data[2:] {
			if unit > lastSlot && unit != keypad && unit != display {
				data[2+i] = 0
			}
		}
	case ins == readBinary:
		maskFile(data)
	default:
		clear(data)
	}
}

// maskFile keeps the data objects of a terminal's file about a slot that say whether
// a card is in, and which protocol it has, and lengths.
func maskFile(b []byte) {
	const tagCard, tagProtocol, long = 0x21, 0x22, 0xFF
	for len(b) > 0 {
		if len(b) < 2 || b[1] == long || len(b) < 2+int(b[1]) {
			clear(b)
			return
		}
		value := b[2 : 2+int(b[1])]
		if b[0] != tagCard && b[0] != tagProtocol || len(value) != 1 {
			b[0] = 0
			clear(value)
		}
		b = b[2+len(value):]
	}
}

// Commands of a Towitoko (driver/towitoko.go).
const (
	towiData    = 0x05 // third byte: so many bytes for the card follow
	towiStatus  = 0x03
	towiType    = 0x00
	towiCard    = 0xC0 // bits of the status
	towiReplyTo = 1    // seed of a reply's checksum
)

func towiSum(seed byte, b []byte) byte {
	for _, c := range b {
		seed = bits.RotateLeft8(seed^c, 1) ^ 1
	}
	return seed
}

// towitoko masks a step of a Towitoko: replies of the reader have a checksum, what
// the card says comes as it is.
func (m *masker) towitoko(s *Step) {
	inverse := len(m.atr) > 0 && m.atr[0] == atr.TSInverse
	c := contactMask{masker: m, step: s}
	var reply *pieces // to the command before it
	var command []byte
	var cards []*serialrecord.Step // what the card said
	endReply := func() {
		if reply == nil {
			return
		}
		towiReply(command, reply.whole)
		reply.back()
		reply = nil
	}
	card := false // what comes is the card's
	for i := range s.Serial {
		st := &s.Serial[i]
		switch st.Kind {
		case serialrecord.Write:
			c.endRun()
			endReply()
			var data []byte
			command, data, c.answers = towiCommand(st.Data)
			card = c.answers || len(data) > 0
			data = slices.Clone(data)
			if inverse {
				atr.Invert(data)
			}
			c.written = append(c.written, data...)
		case serialrecord.Answer:
			if card {
				if inverse {
					atr.Invert(st.Data)
				}
				c.take(st.Data)
				cards = append(cards, st)
				continue
			}
			if reply == nil {
				reply = &pieces{}
			}
			reply.add(st.Data)
		}
	}
	endReply()
	c.done()
	if inverse {
		for _, st := range cards {
			atr.Invert(st.Data)
		}
	}
}

// towiCommand takes apart what the driver wrote: data for the card with a header for
// every 255 bytes, or commands, the last of which counts. answers says that it
// resets the card.
func towiCommand(b []byte) (command, data []byte, answers bool) {
	for len(b) >= 4 && b[0] == 0x6F && b[2] == towiData && len(b) >= 4+int(b[1]) {
		data = append(data, b[4:4+int(b[1])]...)
		b = b[4+int(b[1]):]
	}
	reset := len(b) == 5 && (b[0] == 0x80 || b[0] == 0xA0) && bytes.Equal(b[1:4], []byte{0x6F, 0x00, towiData})
	return b, data, reset
}

// towiReply masks a reply of the reader.
func towiReply(command, b []byte) {
	if len(b) <= 1 {
		return
	}
	n := len(b) - 1
	intact := towiSum(towiReplyTo, b[:n]) == b[n]
	switch {
	case !intact || len(command) == 0:
		clear(b[:n])
	case command[0] == towiStatus && n == 1:
		b[0] &= towiCard
	case command[0] == towiType:
		clear(b[1:n])
	default:
		clear(b[:n])
	}
	b[n] = towiSum(towiReplyTo, b[:n])
	if !intact {
		b[n] ^= 1
	}
}
