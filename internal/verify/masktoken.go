package verify

import (
	"bytes"
	"encoding/binary"
	"slices"

	usbrecord "openct/internal/usb/record"
)

// Tokens. What their requests mean is in the drivers' files and in doc/devices.

// eToken masks a step of a token whose requests carry blocks of T=1.
func (m *masker) eToken(s *Step) {
	for i := range s.USB {
		m.t1Answer(s, &s.USB[i])
	}
	m.finish()
}

func (m *masker) t1Answer(s *Step, op *usbrecord.IO) {
	switch {
	case !op.In():
	case s.Do != Transmit:
		m.answer(op.R)
	case len(op.R) > 0:
		m.add(op.R)
	}
}

// resynchronised is the answer to a block that begins anew: S(RESYNCH response).
var resynchronised = []byte{0x00, 0xE0, 0x00, 0xE0}

// answer keeps an answer of one byte, such as a status, and the ATR with a byte
// before it that is its length.
func (m *masker) answer(r []byte) {
	if len(r) <= 1 {
		return
	}
	if bytes.HasPrefix(r, resynchronised) {
		clear(r[len(resynchronised):])
		return
	}
	i := -1
	if len(m.atr) > 0 {
		i = bytes.Index(r, m.atr)
	}
	if i < 0 {
		clear(r)
		return
	}
	if i > 0 && int(r[i-1]) >= len(m.atr) && int(r[i-1]) <= len(r)-i {
		clear(r[:i-1])
	} else {
		clear(r[:i])
	}
	keepATR(r[i:], m.atr)
}

// Answers of the iKeys that are always the same (driver/ikey.go).
const iKeyDescribe = 0x00

var iKeyDescriptions = [][]byte{
	{0x0D, 0x63, 0x00, 0x00, 0x2D, 0x2D, 0xC0, 0x80, 0x80, 0x60, 0x80, 0x01, 0x19},
	{0x0A, 0x61, 0x00, 0x00, 0x2D, 0x2D, 0xC0, 0x80, 0x80, 0x60},
}

// iKey masks a step of an iKey, whose description is kept where it is the one that
// every such token has. A nibble of it is the firmware's revision.
func (m *masker) iKey(s *Step) {
	for i := range s.USB {
		op := &s.USB[i]
		switch {
		case op.In() && op.Setup.Request == iKeyDescribe:
			plain := bytes.Clone(op.R)
			if len(plain) > 3 {
				plain[3] &= 0xF0
			}
			if !slices.ContainsFunc(iKeyDescriptions, func(d []byte) bool { return bytes.Equal(d, plain) }) {
				clear(op.R)
			}
		case op.In() && s.Do != Transmit && isPPS(op.R):
		default:
			m.t1Answer(s, op)
		}
	}
	m.finish()
}

// starKey masks a step of a StarKey: the ATR comes by itself, in packets.
func (m *masker) starKey(s *Step) {
	m.runs(s, isInterrupt, func(run []byte) { keepATR(run, m.atr) }, func(op *usbrecord.IO) { m.t1Answer(s, op) })
}

// eutron masks a step of a byte pipe to the card (driver/eutron.go).
func (m *masker) eutron(s *Step) {
	const write, read, reset = 0x01, 0x02, 0x09
	c := contactMask{masker: m, step: s}
	for i := range s.USB {
		op := &s.USB[i]
		switch {
		case op.Kind != usbrecord.Control:
			clear(op.R)
		case op.In() && op.Setup.Request == read:
			c.take(op.R)
		case op.In():
			clear(op.R)
		case op.Setup.Request == write:
			c.endRun()
			c.written = append(c.written, op.W...)
		case op.Setup.Request == reset:
			c.endRun()
			c.answers = true
		}
	}
	c.done()
}

// phases masks a step of a token that says in a status byte whether data or a status
// word is due next.
func (m *masker) phases(s *Step, status, read, getATR uint8) {
	const statusWord = 0x20
	for i := range s.USB {
		op := &s.USB[i]
		switch {
		case !op.In():
		case op.Kind == usbrecord.Control && op.Setup.Request == status && len(op.R) == 1:
			m.state = op.R[0] & 0xF0
		case op.Kind == usbrecord.Control && op.Setup.Request == getATR:
			keepATR(op.R, m.atr)
		case op.Kind == usbrecord.Control && op.Setup.Request == read && m.state == statusWord && len(op.R) == 2:
			maskResponse(op.R)
		default:
			clear(op.R)
		}
	}
}

func (m *masker) eGate(s *Step)   { m.phases(s, 0xA0, 0x81, 0x83) } // driver/egate.go
func (m *masker) rutoken(s *Step) { m.phases(s, 0xA0, 0x6F, 0x62) } // driver/rutoken.go

// ePass masks a step of an ePass3000 (driver/epass3000.go): frames with a tag, a
// status of unknown meaning, a length and a value.
func (m *masker) ePass(s *Step) {
	const (
		tag                = 0x5236
		header             = 6
		getATR             = 0x0001
		before, after      = 2, 3 // around the ATR
		commandAt, tagSize = 2, 2
	)
	m.runs(s, isBulk, func(run []byte) {
		if len(run) < header || binary.BigEndian.Uint16(run) != tag {
			clear(run)
			return
		}
		clear(run[tagSize : tagSize+2])
		value := run[header:]
		if n := int(binary.BigEndian.Uint16(run[tagSize+2:])); n < len(value) {
			clear(value[n:])
			value = value[:n]
		}
		asked := m.sent.data
		switch {
		case len(asked) >= header && binary.BigEndian.Uint16(asked[commandAt:]) == getATR && len(value) > before+after:
			clear(value[:before])
			clear(value[len(value)-after:])
			keepATR(value[before:len(value)-after], m.atr)
		default:
			maskResponse(value)
		}
	}, nil)
}

// cardMan masks a step of a CardMan (driver/cardman.go), whose answers come in
// packets.
func (m *masker) cardMan(s *Step) {
	const tpdu, on, status, statusBits = 0x02, 0x10, 0x20, 0xC0
	m.runs(s, isInterrupt, func(run []byte) {
		switch {
		case m.sent.request == tpdu:
			maskResponse(run)
		case m.sent.request == on:
			keepATR(run, m.atr)
		case m.sent.request == status && len(run) == 1:
			run[0] &= statusBits
		default:
			clear(run)
		}
	}, nil)
}

// atrDue says whether b is the begin of the ATR that is due.
func (m *masker) atrDue(b []byte) bool { return len(m.atr) > 0 && bytes.HasPrefix(b, m.atr) }
