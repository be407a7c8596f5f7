package card

import (
	"bytes"
	"crypto/rand"
	"encoding/binary"
)

// RutokenATR is the answer to reset of a Rutoken S (doc/devices/rutoken.md).
var RutokenATR = [...]byte{
	0x3B, 0x6F, 0x00, 0xFF, 0x00, 0x56, 0x72, 0x75, 0x54, 0x6F, 0x6B, 0x6E, 0x73, 0x30, 0x20, 0x00, 0x00, 0x90, 0x00,
}

// Rutoken is the card in a Rutoken S as far as files and objects go, in its
// own language: headers of 32 bytes and big-endian numbers. Access rules are
// kept and not enforced; PINs and keys are beyond it.
type Rutoken struct {
	atr     []byte
	serial  [4]byte
	files   map[uint16]*rutokenFile
	objects map[uint16][]byte // header and body, by P1 P2 of DA's answer: type and identifier
	current uint16
}

var _ Card = (*Rutoken)(nil)

// rutokenFile is a file.
type rutokenFile struct {
	header [rutokenHeader]byte
	body   []byte
}

// A header, and where in it a number of two bytes is.
const (
	rutokenHeader = 32
	rutokenSize   = 2 // of the body
	rutokenID     = 6 // of the file
	rutokenObject = 2 // type and identifier of an object

	rutokenMF     = 0x3F00
	rutokenMemory = 32 << 10
)

// Instructions of ISO/IEC 7816-9 and of the token's own.
const (
	insObjectInfo = 0x30
	insCreateFile = 0xE0
	insDeleteFile = 0xE4
	insPutObject  = 0xDA
)

// NewRutoken makes a card with a master file, a serial number of its own, and an
// ATR; nil is the real one.
func NewRutoken(atr []byte) *Rutoken {
	if atr == nil {
		atr = RutokenATR[:]
	}
	c := &Rutoken{atr: atr, files: map[uint16]*rutokenFile{}, objects: map[uint16][]byte{}, current: rutokenMF}
	// A DF of the master file's identifier, as in the recorded exchange.
	c.files[rutokenMF] = &rutokenFile{header: [rutokenHeader]byte{4: 0x38, 6: 0x3F, 8: 0x01, 17: 0x43}}
	rand.Read(c.serial[:])
	return c
}

// ATR implements Card.
func (c *Rutoken) ATR() []byte { return c.atr }

// Reset implements Card.
func (c *Rutoken) Reset() { c.current = rutokenMF }

// Transmit implements Card.
func (c *Rutoken) Transmit(apdu []byte) []byte {
	cmd, ok := parseCommand(apdu)
	p1p2 := uint16(cmd.p1)<<8 | uint16(cmd.p2)
	switch {
	case !ok:
		return status(swWrongLength)
	case cmd.cla == 0x80 && cmd.ins == insObjectInfo:
		o, ok := c.objects[p1p2]
		if !ok {
			return status(swNoReference)
		}
		return withStatus(o[:min(len(o), cmd.le):min(len(o), cmd.le)], swOK)
	case cmd.cla != 0x00:
		return status(swUnknownCLA)
	}
	switch cmd.ins {
	case insSelect:
		return c.selectFile(cmd.data)
	case insCreateFile:
		return c.create(cmd.data)
	case insDeleteFile:
		return c.remove(cmd.data)
	case insPutObject:
		if cmd.p1 != 0x01 || len(cmd.data) < rutokenHeader {
			return status(swWrongData)
		}
		c.objects[binary.BigEndian.Uint16(cmd.data[rutokenObject:])] = bytes.Clone(cmd.data)
		return status(swOK)
	case insReadBinary, insUpdateBinary:
		return c.binary(cmd, int(p1p2))
	case insGetData:
		return c.getData(p1p2)
	}
	return status(swUnknownINS)
}

// selectFile takes a path; its last identifier counts.
func (c *Rutoken) selectFile(path []byte) []byte {
	id := uint16(rutokenMF)
	if len(path) >= 2 {
		id = binary.BigEndian.Uint16(path[len(path)-2:])
	}
	f, ok := c.files[id]
	if !ok {
		return status(swNotFound)
	}
	c.current = id
	return withStatus(bytes.Clone(f.header[:]), swOK)
}

func (c *Rutoken) create(header []byte) []byte {
	if len(header) != rutokenHeader {
		return status(swWrongData)
	}
	id := binary.BigEndian.Uint16(header[rutokenID:])
	if _, ok := c.files[id]; ok {
		return status(swConditions)
	}
	c.files[id] = &rutokenFile{
		header: [rutokenHeader]byte(header),
		body:   make([]byte, min(int(binary.BigEndian.Uint16(header[rutokenSize:])), rutokenMemory)),
	}
	c.current = id
	return status(swOK)
}

func (c *Rutoken) remove(path []byte) []byte {
	if len(path) != 2 {
		return status(swWrongData)
	}
	id := binary.BigEndian.Uint16(path)
	if _, ok := c.files[id]; !ok || id == rutokenMF {
		return status(swNotFound)
	}
	delete(c.files, id)
	c.current = rutokenMF
	return status(swOK)
}

// binary reads or updates the body of the current file.
func (c *Rutoken) binary(cmd command, offset int) []byte {
	f := c.files[c.current]
	switch {
	case offset > len(f.body):
		return status(swWrongP1P2)
	case cmd.ins == insReadBinary:
		return withStatus(bytes.Clone(f.body[offset:min(len(f.body), offset+cmd.le)]), swOK)
	case offset+len(cmd.data) > len(f.body):
		return status(swWrongLength)
	}
	copy(f.body[offset:], cmd.data)
	return status(swOK)
}

func (c *Rutoken) getData(what uint16) []byte {
	switch what {
	case 0x0111: // current file
		return withStatus(binary.BigEndian.AppendUint16(nil, c.current), swOK)
	case 0x0181: // serial number
		return withStatus(bytes.Clone(c.serial[:]), swOK)
	case 0x018A: // free memory
		return withStatus(binary.BigEndian.AppendUint32(nil, rutokenMemory), swOK)
	}
	return status(swNoReference)
}
