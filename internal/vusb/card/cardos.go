package card

import (
	"crypto/rand"
	"encoding/binary"
)

// CardOS is just enough of a CardOS M4.2 chip for OpenSC to recognise it: the
// master file, GET DATA and GET CHALLENGE.
// There is one file; what else is asked for is answered with 6D00.
type CardOS struct {
	atr    []byte
	serial [8]byte
}

var _ Card = (*CardOS)(nil)

// NewCardOS makes a card with a serial number of its own and an ATR; nil is that of
// an eToken PRO 64k.
func NewCardOS(atr []byte) *CardOS {
	if atr == nil {
		atr = CardOSATR[:]
	}
	c := &CardOS{atr: atr}
	rand.Read(c.serial[:])
	return c
}

// ATR implements Card.
func (c *CardOS) ATR() []byte { return c.atr }

// Reset implements Card. The only file is always the current one.
func (c *CardOS) Reset() {}

// Transmit implements Card.
func (c *CardOS) Transmit(apdu []byte) []byte {
	cmd, ok := parseCommand(apdu)
	switch {
	case !ok:
		return status(swWrongLength)
	case cmd.cla != 0:
		return status(swUnknownCLA)
	}
	switch cmd.ins {
	case insSelect:
		return c.selectFile(cmd, len(apdu) > 5+len(cmd.data))
	case insGetData:
		return c.getData(cmd)
	case insGetChallenge:
		if cmd.p1 != 0 || cmd.p2 != 0 {
			return status(swWrongP1P2)
		}
		data := make([]byte, cmd.le, cmd.le+2)
		rand.Read(data)
		return withStatus(data, swOK)
	}
	return status(swUnknownINS)
}

// selectFile knows the master file only. wantsFCI says that there is an Le.
func (c *CardOS) selectFile(cmd command, wantsFCI bool) []byte {
	switch {
	case cmd.p1 != 0 || cmd.p2 != 0:
		return status(swWrongP1P2)
	case len(cmd.data) != 0 && (len(cmd.data) != 2 || binary.BigEndian.Uint16(cmd.data) != 0x3F00):
		return status(swNotFound)
	case !wantsFCI:
		return status(swOK)
	}
	// file descriptor byte 38: DF; file identifier 3F00
	fci := tlv(nil, 0x6F, []byte{0x82, 0x01, 0x38, 0x83, 0x02, 0x3F, 0x00})
	return withStatus(fci, swOK)
}

// getData reads a card data element.
func (c *CardOS) getData(cmd command) []byte {
	switch binary.BigEndian.Uint16([]byte{cmd.p1, cmd.p2}) {
	case 0x0181: // serial number
		return withStatus(c.serial[:8:8], swOK)
	case 0x0182: // version, as in the historical bytes
		return []byte{0xC8, 0x09, 0x90, 0x00}
	case 0x0188: // installed packages: none
		return status(swOK)
	}
	return status(swUnknownINS)
}
