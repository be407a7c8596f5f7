package ccidreader

import (
	"encoding/binary"
	"time"

	"openct/internal/vusb/card"
)

// slot is one slot of a virtual CCID reader, with the card in it.
type slot struct {
	r *Reader
	n byte

	pending bool        // a command waits for its answer
	timer   *time.Timer // of that answer
	abort   int         // bSeq of the ABORT request, -1 for none

	card card.Card
	odd  Card
	atr  cardLine
	t0   *card.T0
	t1   *card.T1

	powered  bool
	fresh    bool // nothing was exchanged since the reset: a PPS may come
	cardT    int
	cardFiDi byte

	params     []byte // as the host set them
	paramsT    byte
	readerFiDi byte

	line     []byte // characters of the card not yet read
	command  []byte // blocks of a chained command so far
	response []byte // blocks of a chained response still to fetch
	chained  bool
}

func newSlot(r *Reader, n byte) *slot { return &slot{r: r, n: n, abort: -1} }

func (s *slot) insert(c card.Card, odd Card) {
	s.remove()
	s.card, s.odd = c, odd
	s.atr = readLine(c.ATR())
	o := card.T1Options{
		WTX: odd.WTX, WTXMultiplier: odd.Multiplier, Sleep: func(time.Duration) {},
		CRC: s.atr.crc, MaxINF: s.atr.ifsc,
	}
	s.t0, s.t1 = card.NewT0(c), card.NewT1(c, o)
}

func (s *slot) remove() {
	s.off()
	s.card = nil
}

func (s *slot) off() {
	s.powered, s.line, s.command, s.response, s.chained = false, nil, nil, nil, false
}

// cancel forgets the answer that is on its way.
func (s *slot) cancel() {
	if s.timer != nil {
		s.timer.Stop()
	}
	s.pending, s.timer = false, nil
}

// status is bmICCStatus.
func (s *slot) status() byte {
	switch {
	case s.card == nil:
		return 2
	case !s.powered:
		return 1
	}
	return 0
}

func failed(code byte) answer { return answer{fail: true, code: code} }

func (s *slot) has(feature uint32) bool { return s.r.p.Features&feature == feature }

func (s *slot) token() bool { return s.r.p.Features&0xFFFF == 0x0840 }

// execute runs one command.
func (s *slot) execute(c Command, f Fault) answer {
	switch c.Type {
	case 0x65: // GetSlotStatus
		return answer{}
	case 0x62:
		return s.powerOn(c.Param[0])
	case 0x63: // IccPowerOff
		s.off()
		return answer{}
	case 0x61:
		return s.setParameters(c)
	case 0x6C, 0x6D: // GetParameters, ResetParameters
		if c.Type == 0x6D || s.params == nil {
			s.params, s.paramsT = []byte{0x11, 0, 0, 0x0A, 0}, 0
		}
		return answer{param: s.paramsT, data: s.params}
	case 0x73:
		return s.setRate(c)
	case 0x6F:
		return s.xfrBlock(c, f)
	case 0x69:
		return s.secure(c)
	case 0x6B: // Escape: an echo
		return answer{data: c.Data}
	case 0x6E, 0x71, 0x6A:
		return answer{}
	}
	return failed(0x00)
}

func (s *slot) powerOn(v byte) answer {
	if s.card == nil {
		return failed(0xFE)
	}
	auto := s.has(autoVoltage) || s.has(autoActivation)
	switch {
	case v == 0 && !auto && !s.token():
		return failed(0x07) // no automatic voltage here
	case v == 0 && s.odd.AutoFails:
		return failed(0xFE)
	case v > 3, v > 0 && s.r.p.Voltages&(1<<(v-1)) == 0:
		return failed(0x07)
	case v > 0 && s.powered:
		// A warm reset, at the voltage that is on.
	case v > 0 && s.odd.Voltages != 0 && s.odd.Voltages&(1<<(v-1)) == 0:
		return failed(0xFE)
	}
	s.off()
	s.powered, s.fresh = true, true
	raw := s.t1.Reset()
	s.t0.Reset()
	s.cardFiDi, s.readerFiDi, s.cardT = 0x11, 0x11, s.atr.first
	if s.atr.specific {
		s.cardFiDi = s.atr.fidi
	}
	if s.has(autoNegotiation) || s.token() {
		s.cardFiDi, s.readerFiDi, s.fresh = s.atr.fidi, s.atr.fidi, false
		if s.r.p.Protocols&(1<<s.cardT) == 0 {
			s.cardT = 1 - s.cardT
		}
	}
	return answer{data: raw}
}

func (s *slot) setParameters(c Command) answer {
	if s.has(autoNegotiation) || s.token() {
		s.r.violateLocked("SetParameters to a reader that negotiates itself")
		return failed(0x00)
	}
	want := 5
	if c.Param[0] == 1 {
		want = 7
	}
	if c.Param[0] > 1 || len(c.Data) != want {
		s.r.violateLocked("SetParameters of %d bytes for T=%d", len(c.Data), c.Param[0])
		return failed(0x01)
	}
	s.params, s.paramsT = c.Data, c.Param[0]
	if s.has(autoRate) {
		s.readerFiDi = c.Data[0]
	}
	if s.has(autoPPS) && s.fresh {
		s.cardFiDi, s.cardT = s.readerFiDi, int(s.paramsT)
		s.fresh = false
	}
	return answer{param: s.paramsT, data: s.params}
}

// rate is the data rate of Fi and Di at the reader's clock.
func (s *slot) rate(fidi byte) uint32 {
	f, d := fiTable[fidi>>4], diTable[fidi&0x0F]
	if f == 0 || d == 0 {
		return noRate
	}
	return uint32(uint64(s.r.p.Clock) * 1000 * d / f)
}

func (s *slot) setRate(c Command) answer {
	if len(c.Data) != 8 {
		return failed(0x01)
	}
	want := binary.LittleEndian.Uint32(c.Data[4:])
	if want > s.r.p.MaxRate {
		return failed(14)
	}
	s.readerFiDi = 0x11
	if want == s.rate(s.cardFiDi) {
		s.readerFiDi = s.cardFiDi
	}
	return answer{data: c.Data}
}

// xfrBlock is one exchange at the reader's level.
func (s *slot) xfrBlock(c Command, f Fault) answer {
	if s.card == nil || !s.powered {
		return failed(0xFE)
	}
	if s.fresh && len(c.Data) >= 3 && c.Data[0] == 0xFF && c.Data[1]&0x80 == 0 && looksLikePPS(c.Data) {
		return s.pps(c.Data, f)
	}
	s.fresh = false
	if s.cardFiDi != s.readerFiDi {
		s.r.violateLocked("card at %02X, reader at %02X", s.cardFiDi, s.readerFiDi)
		return failed(0xFE)
	}
	switch s.level() {
	case levelTPDU:
		return s.tpdu(c)
	case 0:
		return s.characters(c)
	}
	return s.apdu(c)
}

func (s *slot) level() uint32 {
	return s.r.p.Features & (levelTPDU | levelShortAPDU | levelExtendedAPDU)
}

func looksLikePPS(b []byte) bool {
	var sum byte
	for _, x := range b {
		sum ^= x
	}
	return sum == 0 && len(b) <= 6
}

func (s *slot) pps(req []byte, f Fault) answer {
	if s.has(autoNegotiation) || s.has(autoPPS) || s.token() {
		s.r.violateLocked("PPS to a reader that makes it itself")
	}
	s.fresh = false
	switch f.PPS {
	case "mute":
		s.powered = false
		return failed(0xFE)
	case "wrong":
		b := append([]byte(nil), req...)
		b[len(b)-1] ^= 0x55
		return answer{data: b}
	case "slow":
		s.cardT = int(req[1] & 0x0F)
		return answer{data: []byte{0xFF, req[1] & 0x0F, 0xFF ^ req[1]&0x0F}}
	}
	s.cardT = int(req[1] & 0x0F)
	if req[1]&0x10 != 0 {
		s.cardFiDi = req[2]
	}
	return answer{data: req}
}

func (s *slot) tpdu(c Command) answer {
	if c.Param[1] != 0 || c.Param[2] != 0 {
		s.r.violateLocked("wLevelParameter % X at TPDU level", c.Param[1:])
	}
	if s.params != nil && int(s.paramsT) != s.cardT {
		s.r.violateLocked("reader is set to T=%d, card speaks T=%d", s.paramsT, s.cardT)
		return failed(0xFE)
	}
	var out []byte
	if s.cardT == 0 {
		out = s.t0.TPDU(c.Data)
	} else {
		if len(c.Data) >= 5 && c.Data[1] == 0xC1 {
			if s.has(autoIFSD) {
				s.r.violateLocked("S(IFS request) to a reader that sends it itself")
			}
			if s.odd.RefuseIFS {
				return answer{data: []byte{0x00, 0x82, 0x00, 0x82}}
			}
		}
		out = s.t1.Block(c.Data)
	}
	if len(out) == 0 {
		return failed(0xFE)
	}
	return answer{data: append([]byte(nil), out...)}
}

// characters is an exchange at character level: wLevelParameter says how many
// characters the host wants back (CCID 1.1, 6.1.4).
func (s *slot) characters(c Command) answer {
	if len(c.Data) > 0 {
		if len(s.line) > 0 {
			s.r.violateLocked("%d characters of the card were not read", len(s.line))
		}
		if s.cardT == 0 {
			s.line = append(s.line[:0], s.t0.Stream(c.Data)...)
		} else {
			s.line = append(s.line[:0], s.t1.Block(c.Data)...)
		}
	}
	n := int(binary.LittleEndian.Uint16(c.Param[1:]))
	if n > len(s.line) {
		s.line = nil
		return failed(0xFE) // waited in vain
	}
	out := append([]byte(nil), s.line[:n]...)
	s.line = s.line[n:]
	return answer{data: out}
}

// apdu is an exchange at APDU level, in parts where the reader can do that
// (CCID 1.1, 6.1.4 and 6.2.1).
func (s *slot) apdu(c Command) answer {
	level := binary.LittleEndian.Uint16(c.Param[1:])
	if s.level() != levelExtendedAPDU && !s.chained && level == 0 && len(c.Data) > 261 {
		s.r.violateLocked("APDU of %d bytes at short APDU level", len(c.Data))
		return failed(0x01)
	}
	switch level {
	case 0x0000:
		s.command = append([]byte(nil), c.Data...)
	case 0x0001:
		s.command = append([]byte(nil), c.Data...)
		return answer{param: 0x10}
	case 0x0003:
		s.command = append(s.command, c.Data...)
		return answer{param: 0x10}
	case 0x0002:
		s.command = append(s.command, c.Data...)
	case 0x0010:
		return s.next(true)
	default:
		s.r.violateLocked("wLevelParameter %04X", level)
		return failed(0x08)
	}
	s.response = append([]byte(nil), s.card.Transmit(s.command)...)
	s.command = nil
	return s.next(false)
}

// next is the next part of the response.
func (s *slot) next(continued bool) answer {
	room := int(s.r.p.Message) - 10
	part := s.response[:min(room, len(s.response))]
	s.response = s.response[len(part):]
	s.chained = len(s.response) > 0
	a := answer{data: part}
	switch {
	case s.chained && continued:
		a.param = 0x03
	case s.chained:
		a.param = 0x01
	case continued:
		a.param = 0x02
	}
	return a
}
