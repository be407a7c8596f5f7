package vusb

import (
	"encoding/binary"
	"time"

	"openct/internal/vusb/card"
)

// ccidSlot is one slot of a virtual CCID reader, with the card in it.
type ccidSlot struct {
	r *CCIDReader
	n byte

	pending bool        // a command waits for its answer
	timer   *time.Timer // of that answer
	abort   int         // bSeq of the ABORT request, -1 for none

	card card.Card
	odd  CCIDCard
	atr  ccidATR
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

func newCCIDSlot(r *CCIDReader, n byte) *ccidSlot { return &ccidSlot{r: r, n: n, abort: -1} }

func (s *ccidSlot) insert(c card.Card, odd CCIDCard) {
	s.remove()
	s.card, s.odd = c, odd
	s.atr = readCCIDATR(c.ATR())
	o := card.T1Options{
		WTX: odd.WTX, WTXMultiplier: odd.Multiplier, Sleep: func(time.Duration) {},
		CRC: s.atr.crc, MaxINF: s.atr.ifsc,
	}
	s.t0, s.t1 = card.NewT0(c), card.NewT1(c, o)
}

func (s *ccidSlot) remove() {
	s.off()
	s.card = nil
}

func (s *ccidSlot) off() {
	s.powered, s.line, s.command, s.response, s.chained = false, nil, nil, nil, false
}

// cancel forgets the answer that is on its way.
func (s *ccidSlot) cancel() {
	if s.timer != nil {
		s.timer.Stop()
	}
	s.pending, s.timer = false, nil
}

// status is bmICCStatus.
func (s *ccidSlot) status() byte {
	switch {
	case s.card == nil:
		return 2
	case !s.powered:
		return 1
	}
	return 0
}

func failed(code byte) ccidAnswer { return ccidAnswer{fail: true, code: code} }

func (s *ccidSlot) has(feature uint32) bool { return s.r.p.Features&feature == feature }

func (s *ccidSlot) token() bool { return s.r.p.Features&0xFFFF == 0x0840 }

// execute runs one command.
func (s *ccidSlot) execute(c CCIDCommand, f CCIDFault) ccidAnswer {
	switch c.Type {
	case 0x65: // GetSlotStatus
		return ccidAnswer{}
	case 0x62:
		return s.powerOn(c.Param[0])
	case 0x63: // IccPowerOff
		s.off()
		return ccidAnswer{}
	case 0x61:
		return s.setParameters(c)
	case 0x6C, 0x6D: // GetParameters, ResetParameters
		if c.Type == 0x6D || s.params == nil {
			s.params, s.paramsT = []byte{0x11, 0, 0, 0x0A, 0}, 0
		}
		return ccidAnswer{param: s.paramsT, data: s.params}
	case 0x73:
		return s.setRate(c)
	case 0x6F:
		return s.xfrBlock(c, f)
	case 0x69:
		return s.secure(c)
	case 0x6B: // Escape: an echo
		return ccidAnswer{data: c.Data}
	case 0x6E, 0x71, 0x6A:
		return ccidAnswer{}
	}
	return failed(0x00)
}

func (s *ccidSlot) powerOn(v byte) ccidAnswer {
	if s.card == nil {
		return failed(0xFE)
	}
	auto := s.has(ccidAutoVoltage) || s.has(ccidAutoActivation)
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
	if s.has(ccidAutoNegotiation) || s.token() {
		s.cardFiDi, s.readerFiDi, s.fresh = s.atr.fidi, s.atr.fidi, false
		if s.r.p.Protocols&(1<<s.cardT) == 0 {
			s.cardT = 1 - s.cardT
		}
	}
	return ccidAnswer{data: raw}
}

func (s *ccidSlot) setParameters(c CCIDCommand) ccidAnswer {
	if s.has(ccidAutoNegotiation) || s.token() {
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
	if s.has(ccidAutoRate) {
		s.readerFiDi = c.Data[0]
	}
	if s.has(ccidAutoPPS) && s.fresh {
		s.cardFiDi, s.cardT = s.readerFiDi, int(s.paramsT)
		s.fresh = false
	}
	return ccidAnswer{param: s.paramsT, data: s.params}
}

// rate is the data rate of Fi and Di at the reader's clock.
func (s *ccidSlot) rate(fidi byte) uint32 {
	f, d := ccidFi[fidi>>4], ccidDi[fidi&0x0F]
	if f == 0 || d == 0 {
		return ccidNoRate
	}
	return uint32(uint64(s.r.p.Clock) * 1000 * d / f)
}

func (s *ccidSlot) setRate(c CCIDCommand) ccidAnswer {
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
	return ccidAnswer{data: c.Data}
}

// xfrBlock is one exchange at the reader's level.
func (s *ccidSlot) xfrBlock(c CCIDCommand, f CCIDFault) ccidAnswer {
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
	case ccidTPDU:
		return s.tpdu(c)
	case 0:
		return s.characters(c)
	}
	return s.apdu(c)
}

func (s *ccidSlot) level() uint32 {
	return s.r.p.Features & (ccidTPDU | ccidShortAPDU | ccidExtAPDU)
}

func looksLikePPS(b []byte) bool {
	var sum byte
	for _, x := range b {
		sum ^= x
	}
	return sum == 0 && len(b) <= 6
}

func (s *ccidSlot) pps(req []byte, f CCIDFault) ccidAnswer {
	if s.has(ccidAutoNegotiation) || s.has(ccidAutoPPS) || s.token() {
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
		return ccidAnswer{data: b}
	case "slow":
		s.cardT = int(req[1] & 0x0F)
		return ccidAnswer{data: []byte{0xFF, req[1] & 0x0F, 0xFF ^ req[1]&0x0F}}
	}
	s.cardT = int(req[1] & 0x0F)
	if req[1]&0x10 != 0 {
		s.cardFiDi = req[2]
	}
	return ccidAnswer{data: req}
}

func (s *ccidSlot) tpdu(c CCIDCommand) ccidAnswer {
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
			if s.has(ccidAutoIFSD) {
				s.r.violateLocked("S(IFS request) to a reader that sends it itself")
			}
			if s.odd.RefuseIFS {
				return ccidAnswer{data: []byte{0x00, 0x82, 0x00, 0x82}}
			}
		}
		out = s.t1.Block(c.Data)
	}
	if len(out) == 0 {
		return failed(0xFE)
	}
	return ccidAnswer{data: append([]byte(nil), out...)}
}

// characters is an exchange at character level: wLevelParameter says how many
// characters the host wants back (CCID 1.1, 6.1.4).
func (s *ccidSlot) characters(c CCIDCommand) ccidAnswer {
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
	return ccidAnswer{data: out}
}

// apdu is an exchange at APDU level, in parts where the reader can do that
// (CCID 1.1, 6.1.4 and 6.2.1).
func (s *ccidSlot) apdu(c CCIDCommand) ccidAnswer {
	level := binary.LittleEndian.Uint16(c.Param[1:])
	if s.level() != ccidExtAPDU && !s.chained && level == 0 && len(c.Data) > 261 {
		s.r.violateLocked("APDU of %d bytes at short APDU level", len(c.Data))
		return failed(0x01)
	}
	switch level {
	case 0x0000:
		s.command = append([]byte(nil), c.Data...)
	case 0x0001:
		s.command = append([]byte(nil), c.Data...)
		return ccidAnswer{param: 0x10}
	case 0x0003:
		s.command = append(s.command, c.Data...)
		return ccidAnswer{param: 0x10}
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
func (s *ccidSlot) next(continued bool) ccidAnswer {
	room := int(s.r.p.Message) - 10
	part := s.response[:min(room, len(s.response))]
	s.response = s.response[len(part):]
	s.chained = len(s.response) > 0
	a := ccidAnswer{data: part}
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
