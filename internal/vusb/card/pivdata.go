package card

import (
	"encoding/hex"
	"time"
)

// Data objects by BER-TLV tag (SP 800-73-4, part 1, table 3). Those of the
// keys' certificates are in pivSlots.
const (
	tagDiscovery = 0x7E
	tagCHUID     = 0x5FC102
	tagCCC       = 0x5FC107
)

// fascN is agency 9999, system 9999, credential 999999 in the packed BCD of
// the FASC-N: a card that is no government's. Software then takes the GUID as
// the card's number.
const fascN = "d4e739da739ced39ce739d836858210842108421c84210c3eb"

// pivObjects are the objects the card has besides certificates.
func pivObjects(guid [16]byte, now time.Time) map[uint32][]byte {
	return map[uint32][]byte{
		tagCCC:       tlv(nil, 0x53, capabilityContainer(guid)),
		tagCHUID:     tlv(nil, 0x53, holderIdentifier(guid, now)),
		tagDiscovery: tlv(nil, tagDiscovery, discovery()),
	}
}

// capabilityContainer is the card capability container (part 1, table 8).
func capabilityContainer(guid [16]byte) []byte {
	// card identifier: GSC-RID, manufacturer FF, card type 02 (Java-card
	// interface), 14 bytes of number
	id := append([]byte{0xA0, 0x00, 0x00, 0x01, 0x16, 0xFF, 0x02}, guid[2:]...)
	b := tlv(nil, 0xF0, id)
	b = tlv(b, 0xF1, []byte{0x21}) // container version
	b = tlv(b, 0xF2, []byte{0x21}) // grammar version
	b = tlv(b, 0xF3, nil)
	b = tlv(b, 0xF4, []byte{0x00}) // no PKCS #15
	b = tlv(b, 0xF5, []byte{0x10}) // data model
	for _, tag := range []uint32{0xF6, 0xF7, 0xFA, 0xFB, 0xFC, 0xFD, 0xFE} {
		b = tlv(b, tag, nil)
	}
	return b
}

// holderIdentifier is the CHUID (part 1, table 9), unsigned.
func holderIdentifier(guid [16]byte, now time.Time) []byte {
	number, _ := hex.DecodeString(fascN)
	b := tlv(nil, 0x30, number)
	b = tlv(b, 0x34, guid[:])
	b = tlv(b, 0x35, []byte(now.AddDate(pivYears, 0, 0).UTC().Format("20060102")))
	b = tlv(b, 0x3E, nil) // issuer's signature
	return tlv(b, 0xFE, nil)
}

// discovery is the content of the discovery object (part 1, table 18).
func discovery() []byte {
	b := tlv(nil, 0x4F, pivAID[:])
	return tlv(b, 0x5F2F, []byte{0x40, 0x00}) // PIN usage policy: the application's PIN alone
}

// getData is GET DATA (part 2, 3.1.2): tag list 5C with one tag.
func (p *PIV) getData(cmd command) ([]byte, uint16) {
	if cmd.p1 != 0x3F || cmd.p2 != 0xFF {
		return nil, swWrongP1P2
	}
	list, name, rest, ok := nextTLV(cmd.data)
	if !ok || list != 0x5C || len(rest) != 0 || len(name) < 1 || len(name) > 3 {
		return nil, swWrongData
	}
	var tag uint32
	for _, b := range name {
		tag = tag<<8 | uint32(b)
	}
	if object, ok := p.data[tag]; ok {
		return object, swOK
	}
	for _, s := range p.slots {
		if s.tag != tag {
			continue
		}
		object, err := s.certificateObject()
		if err != nil {
			return nil, swInternal
		}
		return object, swOK
	}
	return nil, swNotFound
}
