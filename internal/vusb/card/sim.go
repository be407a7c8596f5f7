package card

import "bytes"

// SIM is a card like a telephone's: class A0, files of two bytes' names, and
// responses that wait for GET RESPONSE, announced with 9FXX (GSM 11.11, 9.2 and
// 9.4). The CHV1 is 1234; three wrong ones block it.
type SIM struct {
	atr      []byte
	file     uint16
	response []byte // that waits for GET RESPONSE
	verified bool
	tries    byte
}

var _ Card = (*SIM)(nil)

// Files and instructions (GSM 11.11, 9.2 and 10).
const (
	simMF, simGSM     = 0x3F00, 0x7F20
	simICCID, simIMSI = 0x2FE2, 0x6F07

	simReadBinary  = 0xB0
	simStatus      = 0xF2
	simVerifyCHV   = 0x20
	simGetResponse = 0xC0
)

var simFiles = map[uint16][]byte{
	simICCID: {0x98, 0x94, 0x10, 0x32, 0x54, 0x76, 0x98, 0x10, 0x32, 0xF4},
	simIMSI:  {0x08, 0x09, 0x10, 0x10, 0x32, 0x54, 0x76, 0x98, 0x10},
}

var simCHV = []byte{'1', '2', '3', '4', 0xFF, 0xFF, 0xFF, 0xFF}

// NewSIM makes one. Its own ATR offers T=0 alone, and up to eight times the
// first speed.
func NewSIM(atr []byte) *SIM {
	if atr == nil {
		atr = BuildATR(0x10, []byte{0x94}, "SIM")
	}
	return &SIM{atr: atr, file: simMF, tries: 3}
}

// ATR implements Card.
func (s *SIM) ATR() []byte { return s.atr }

// Reset implements Card.
func (s *SIM) Reset() { s.file, s.response, s.verified = simMF, nil, false }

// Transmit implements Card.
func (s *SIM) Transmit(apdu []byte) []byte {
	if len(apdu) < 5 {
		return status(0x6700)
	}
	if apdu[0] != 0xA0 {
		return status(0x6E00)
	}
	response := s.response
	s.response = nil
	p3 := int(apdu[4])
	data := apdu[5:min(len(apdu), 5+p3)]
	switch apdu[1] {
	case insSelect:
		return s.choose(data)
	case simGetResponse:
		if len(response) == 0 || p3 > len(response) {
			return status(0x6700)
		}
		return withStatus(bytes.Clone(response[:p3]), swOK)
	case simStatus:
		return withStatus(s.describe()[:min(p3, len(s.describe()))], swOK)
	case simReadBinary:
		return s.read(int(apdu[2])<<8|int(apdu[3]), shortLe(apdu[4]))
	case simVerifyCHV:
		return s.verify(apdu[3], data)
	}
	return status(0x6D00)
}

func (s *SIM) choose(data []byte) []byte {
	if len(data) != 2 {
		return status(0x6702)
	}
	id := uint16(data[0])<<8 | uint16(data[1])
	if id != simMF && id != simGSM && simFiles[id] == nil {
		return status(0x9404) // file not found
	}
	s.file = id
	s.response = s.describe()
	return status(0x9F00 | uint16(len(s.response)))
}

// describe is the response to SELECT (GSM 11.11, 9.2.1): size or free memory,
// name, type, and what belongs to a directory or a file.
func (s *SIM) describe() []byte {
	d := []byte{0, 0, 0, 0, byte(s.file >> 8), byte(s.file), 0, 0, 0, 0, 0, 0, 9}
	switch content := simFiles[s.file]; {
	case content != nil:
		d[3], d[6], d[12] = byte(len(content)), 4, 2 // EF, transparent
		return append(d, 0, 0)
	case s.file == simMF:
		d[6] = 1
	default:
		d[6] = 2
	}
	return append(d, 0x80, 1, 2, 2, 0, 0x80|s.tries, 0x8A, 0x83, 0x8A)
}

func (s *SIM) read(offset, n int) []byte {
	content := simFiles[s.file]
	switch {
	case content == nil:
		return status(0x9400) // no EF selected
	case s.file == simIMSI && !s.verified:
		return status(0x9804) // CHV1 first
	case offset+n > len(content):
		return status(0x6700)
	}
	return withStatus(bytes.Clone(content[offset:offset+n]), swOK)
}

func (s *SIM) verify(which byte, chv []byte) []byte {
	switch {
	case which != 1:
		return status(0x9802)
	case s.tries == 0:
		return status(0x9840)
	case !bytes.Equal(chv, simCHV):
		s.tries--
		s.verified = false
		if s.tries == 0 {
			return status(0x9840)
		}
		return status(0x9804)
	}
	s.tries, s.verified = 3, true
	return status(swOK)
}
