package driver

import (
	"encoding/hex"
	"fmt"

	"openct/internal/ifd"
	"openct/internal/proto"
)

// A message of an ACR30 is binary, the bytes on the wire are its hexadecimal
// digits between STX and ETX (doc/devices/acs.md; C OpenCT's
// ifd-pertosmart1030.c).
//
//	01 INS LEN data XOR        to the reader
//	01 SW1 SW2 LEN data XOR    from it
//
// LEN is one byte, or FF and two bytes.
const (
	acr30Header = 0x01
	acr30STX    = 0x02
	acr30ETX    = 0x03
	acr30Long   = 0xFF

	// acr30MaxMessage bounds a message from the reader: the longest card
	// responses have 259 bytes.
	acr30MaxMessage = 1 + 2 + 3 + 512 + 1
)

// errACR30Frame is a message that came damaged. T=1 has the card repeat its block.
var errACR30Frame = fmt.Errorf("%w: malformed message: %w", ifd.ErrComm, proto.ErrCorrupted)

// acr30Message puts a command together as it goes on the wire.
func acr30Message(ins byte, data []byte) []byte {
	msg := append(make([]byte, 0, 8+len(data)), acr30Header, ins)
	if n := len(data); n < acr30Long {
		msg = append(msg, byte(n))
	} else {
		msg = append(msg, acr30Long, byte(n>>8), byte(n))
	}
	msg = append(msg, data...)
	msg = append(msg, xor(msg))
	defer clear(msg) // there may be a PIN
	const digits = "0123456789ABCDEF"
	wire := append(make([]byte, 0, 2+2*len(msg)), acr30STX)
	for _, b := range msg {
		wire = append(wire, digits[b>>4], digits[b&0x0F])
	}
	return append(wire, acr30ETX)
}

// xor is the checksum.
func xor(b []byte) (sum byte) {
	for _, c := range b {
		sum ^= c
	}
	return sum
}

// acr30Reply is what a reader says.
type acr30Reply struct {
	sw   uint16
	data []byte
}

// Status words of the reader.
const (
	acr30OK          = 0x9000
	acr30T1          = 0x9001 // after a reset: a card with T=1
	acr30Memory      = 0x9010 // after a reset: a memory card
	acr30NoCard      = 0x6002
	acr30NoPower     = 0x6004
	acr30Unknown     = 0x6005 // instruction
	acr30Failure     = 0x6020 // of the card
	acr30Spontaneous = 0xFF00 // and above: news, no answer
	acr30Inserted    = 0xFF01
	acr30Removed     = 0xFF02
)

// parseACR30 takes a message apart.
func parseACR30(digits []byte) (acr30Reply, error) {
	msg := make([]byte, hex.DecodedLen(len(digits)))
	if _, err := hex.Decode(msg, digits); err != nil || len(msg) < 5 || msg[0] != acr30Header || xor(msg) != 0 {
		return acr30Reply{}, errACR30Frame
	}
	r := acr30Reply{sw: uint16(msg[1])<<8 | uint16(msg[2])}
	n, data := int(msg[3]), msg[4:len(msg)-1]
	if n == acr30Long {
		if len(data) < 2 {
			return acr30Reply{}, errACR30Frame
		}
		n, data = int(data[0])<<8|int(data[1]), data[2:]
	}
	if n != len(data) {
		return acr30Reply{}, errACR30Frame
	}
	r.data = data
	return r, nil
}

// err is the error of a reply.
func (r acr30Reply) err() error {
	switch r.sw {
	case acr30OK, acr30T1, acr30Memory:
		return nil
	case acr30NoCard:
		return ifd.ErrNoCard
	case acr30NoPower:
		return errACSNoPower
	case acr30Unknown:
		return fmt.Errorf("reader does not know the command: %w", ifd.ErrNotSupported)
	case acr30Failure:
		return fmt.Errorf("%w: %w", errACSMute, ifd.ErrComm)
	}
	return fmt.Errorf("the reader reports error %04x: %w", r.sw, ifd.ErrComm)
}

// acr30Parser finds messages in what comes, in pieces of any size.
type acr30Parser struct {
	digits []byte
	inside bool // between STX and ETX
}

// take looks at a byte. done says that a message ends with it. What is neither
// a message nor the zeros that fill up a packet is an error.
func (p *acr30Parser) take(b byte) (r acr30Reply, done bool, err error) {
	switch {
	case b == acr30STX:
		p.digits, p.inside = p.digits[:0], true
		return r, false, nil
	case b == acr30ETX && p.inside:
		p.inside = false
		r, err = parseACR30(p.digits)
		clear(p.digits)
		return r, err == nil, err
	case p.inside && len(p.digits) < 2*acr30MaxMessage:
		p.digits = append(p.digits, b)
		return r, false, nil
	case b == 0:
		return r, false, nil
	}
	p.inside = false
	return r, false, errACR30Frame
}
