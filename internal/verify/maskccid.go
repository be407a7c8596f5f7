package verify

import (
	"bytes"
	"encoding/binary"

	usbrecord "openct/internal/usb/record"
)

// characters says whether a CCID reader exchanges single characters: none of the
// levels of exchange is in dwFeatures (CCID 1.1, table 5.1-1).
func (r *Report) characters() bool {
	const features, levels = 40, 0x00070000
	if r.Device == nil {
		return false
	}
	for _, i := range r.Device.Interfaces {
		for rest := i.Extra; len(rest) >= 2 && int(rest[0]) >= 2 && int(rest[0]) <= len(rest); rest = rest[rest[0]:] {
			if rest[0] == ccidLength {
				return binary.LittleEndian.Uint32(rest[features:])&levels == 0
			}
		}
	}
	return false
}

// Messages of CCID 1.1, 6, and requests of CCID 1.1, 5.3.
const (
	ccidLength     = 54 // of the class descriptor
	ccidHeader     = 10
	ccidPowerOn    = 0x62
	ccidXfrBlock   = 0x6F
	ccidDataBlock  = 0x80
	ccidParameters = 0x82
	ccidRateClock  = 0x84
	ccidSlotChange = 0x50
	ccidHardware   = 0x51
	ccidClocks     = 0x02
	ccidRates      = 0x03
)

// ccid masks a step of a CCID reader.
func (m *masker) ccid(s *Step) {
	var all []*pieces
	var now *pieces // a message of which a part has come
	missing := 0
	line := contactMask{masker: m, step: s}
	end := func() {
		if now != nil && m.characters && len(now.whole) >= ccidHeader && m.exchange(now.whole) {
			line.take(now.whole[ccidHeader:])
			all = append(all, now)
		} else if now != nil {
			m.message(s, now.whole)
			all = append(all, now)
		}
		now, missing = nil, 0
	}
	for i := range s.USB {
		op := &s.USB[i]
		r := op.R
		switch {
		case op.Kind == usbrecord.Bulk && !op.In():
			end()
			m.sent.data = op.W
			if len(op.W) > ccidHeader && op.W[0] == ccidXfrBlock {
				line.endRun()
				line.written = append(line.written, op.W[ccidHeader:]...)
			}
		case op.Kind == usbrecord.Bulk && now != nil:
			n := min(missing, len(r))
			now.add(r[:n])
			clear(r[n:])
			if missing -= n; missing == 0 {
				end()
			}
		case op.Kind == usbrecord.Bulk && len(r) < ccidHeader:
			clear(r)
		case op.Kind == usbrecord.Bulk:
			n := uint64(binary.LittleEndian.Uint32(r[1:])) + ccidHeader
			have := int(min(n, uint64(len(r))))
			clear(r[have:])
			now, missing = &pieces{}, int(min(n, MaxReport))-have
			now.add(r[:have])
			if missing == 0 {
				end()
			}
		case op.Kind == usbrecord.Interrupt:
			maskInterrupt(r)
		case op.Kind == usbrecord.Control:
			if q := op.Setup; q.RequestType != 0xA1 || q.Request != ccidClocks && q.Request != ccidRates {
				clear(r)
			}
			maskNumbers(r)
		}
	}
	end()
	line.done()
	for _, p := range all {
		p.back()
	}
}

// maskInterrupt keeps the message that a card came or went, of up to eight slots, and
// that there was a hardware error (CCID 1.1, 6.3).
func maskInterrupt(r []byte) {
	const slots = 3 // and eight slots' bits
	switch {
	case len(r) > 0 && len(r) <= 9 && r[0] == ccidSlotChange:
		clear(r[min(slots, len(r)):])
	case len(r) != 4 || r[0] != ccidHardware:
		clear(r)
	}
}

// maskNumbers keeps clocks in kHz and rates in bit/s (CCID 1.1, 5.3): four bytes
// each, of which a card's speed does not fill three.
func maskNumbers(r []byte) {
	const most = 10_000_000
	for ; len(r) >= 4; r = r[4:] {
		if binary.LittleEndian.Uint32(r) > most {
			clear(r[:4])
		}
	}
	clear(r)
}

// exchange says whether a message is what the card said.
func (m *masker) exchange(msg []byte) bool {
	return msg[0] == ccidDataBlock && len(m.sent.data) >= ccidHeader && m.sent.data[0] == ccidXfrBlock
}

// message masks what follows the header of a message. A block of T=1 in it is left
// to finish.
func (m *masker) message(s *Step, msg []byte) {
	body := msg[ccidHeader:]
	switch typ := msg[0]; {
	case typ < ccidDataBlock || typ > ccidRateClock:
		clear(msg)
		msg[0] = 0xFF // no message has this
	case typ == ccidParameters && (len(body) == 5 || len(body) == 7): // CCID 1.1, 6.2.3
	case typ == ccidRateClock && len(body) == 8: // CCID 1.1, 6.2.5
		maskNumbers(body)
	case typ != ccidDataBlock || len(m.sent.data) < ccidHeader || len(body) == 0:
		clear(body)
	case m.sent.data[0] == ccidPowerOn:
		keepATR(body, m.atr)
	case m.sent.data[0] != ccidXfrBlock:
		clear(body)
	case m.t1 && isBlock(m.sent.data[ccidHeader:]) && !bytes.Equal(m.sent.data[ccidHeader:], s.Command):
		m.add(body)
	case s.Do != Transmit:
		maskPPS(body)
	case msg[9] == 1 || msg[9] == 3: // the response goes on (CCID 1.1, 6.2.1, bChainParameter)
		clear(body)
	default:
		maskResponse(body)
	}
}
