package card

import (
	"bytes"
	"crypto"
	"crypto/rand"
	"fmt"
	"time"
)

// PIVOptions is what a PIV card is made with. The zero value is a fresh card
// with the usual PIN and PUK.
type PIVOptions struct {
	ATR []byte // nil: a T=1 ATR with the historical bytes "VPIV"

	PIN string // 6 to 8 digits; empty: 123456
	PUK string // 8 characters; empty: 12345678

	// Name is the subject's organisation in the certificates and the card's
	// application label; empty: "OpenCT virtual PIV card". At most 64 bytes.
	Name string

	// Keys are the private keys by slot: 9A, 9C, 9D or 9E, each an
	// *rsa.PrivateKey of 2048 bits or an *ecdsa.PrivateKey on P-256. Slots
	// left out get fresh ones: RSA in 9A and 9D, P-256 in 9C and 9E.
	Keys map[byte]crypto.Signer

	// GUID is the card's number; zero: random.
	GUID [16]byte

	// Now is when the certificates begin to hold; zero: an hour ago.
	Now time.Time
}

// pivAID names the PIV Card Application, version 1.0 (SP 800-73-4, part 1,
// 2.2).
var pivAID = [...]byte{0xA0, 0x00, 0x00, 0x03, 0x08, 0x00, 0x00, 0x10, 0x00, 0x01, 0x00}

const (
	pivRIDLen  = 5    // a shorter name selects nothing
	maxPIVData = 4096 // longest chained command data taken
	maxPIVName = 64   // ub-organization-name, RFC 5280
)

// PIV is a card with the PIV Card Application of NIST SP 800-73-4: the data
// objects OpenSC and others look for, PIN and PUK, and the keys 9A, 9C, 9D and
// 9E with self-signed certificates. Its contents cannot be changed but for
// the PIN and the PUK.
type PIV struct {
	atr   []byte
	label string
	refs  references
	slots []*pivSlot
	data  map[uint32][]byte // objects but certificates, by tag

	selected bool
	chain    command // command chaining: the parts so far
	chained  bool
	rest     []byte // response that waits for GET RESPONSE
}

var _ Card = (*PIV)(nil)

// NewPIV makes a PIV card. Keys that take long to make are made in the
// background; a command that needs one waits.
func NewPIV(o PIVOptions) (*PIV, error) {
	if o.ATR == nil {
		o.ATR = T1ATR("VPIV")
	}
	if o.Name == "" {
		o.Name = "OpenCT virtual PIV card"
	}
	if len(o.Name) > maxPIVName {
		return nil, fmt.Errorf("PIV card: name of %d bytes is longer than %d", len(o.Name), maxPIVName)
	}
	if o.GUID == [16]byte{} {
		rand.Read(o.GUID[:])
	}
	if o.Now.IsZero() {
		o.Now = time.Now().Add(-time.Hour) // clocks differ
	}
	p := &PIV{atr: o.ATR, label: o.Name, data: pivObjects(o.GUID, o.Now)}
	var err error
	if p.refs, err = newReferences(o.PIN, o.PUK); err != nil {
		return nil, fmt.Errorf("PIV card: %w", err)
	}
	if p.slots, err = newPIVSlots(o); err != nil {
		return nil, fmt.Errorf("PIV card: %w", err)
	}
	return p, nil
}

// newPIVCard is NewPIV for the list of kinds: no typed nil in the interface.
func newPIVCard(atr []byte) (Card, error) {
	p, err := NewPIV(PIVOptions{ATR: atr})
	if err != nil {
		return nil, err
	}
	return p, nil
}

// ATR implements Card.
func (p *PIV) ATR() []byte { return p.atr }

// Reset implements Card. The application must be selected again.
func (p *PIV) Reset() {
	p.selected, p.chained, p.rest = false, false, nil
	p.refs.forget()
}

// Transmit implements Card.
func (p *PIV) Transmit(apdu []byte) []byte {
	cmd, ok := parseCommand(apdu)
	if !ok {
		p.chained, p.rest = false, nil
		return status(swWrongLength)
	}
	if cmd.ins == insGetResponse && cmd.cla == 0 && !p.chained {
		return p.getResponse(cmd)
	}
	p.rest = nil
	cmd, sw := p.assemble(cmd)
	if sw != 0 {
		return status(sw)
	}
	data, sw := p.run(cmd)
	return p.respond(data, sw, cmd.le)
}

// assemble puts the parts of a chained command together (ISO/IEC 7816-4,
// 5.1.1.1). A status word other than 0 is the answer to what came.
func (p *PIV) assemble(cmd command) (command, uint16) {
	sw := uint16(0)
	switch {
	case cmd.cla&0xE0 != 0:
		sw = swUnknownCLA
	case cmd.cla&0x0C != 0:
		sw = swNoSecureMessages
	case cmd.cla&0x03 != 0:
		sw = swNoChannels
	}
	if sw != 0 {
		p.chained = false
		return cmd, sw
	}
	last := cmd.cla&0x10 == 0
	if p.chained && (cmd.ins != p.chain.ins || cmd.p1 != p.chain.p1 || cmd.p2 != p.chain.p2) {
		p.chained = false // another command ends a chain
	}
	if !p.chained {
		if last {
			return cmd, 0
		}
		if !p.selected || cmd.ins != insGeneralAuthenticate {
			return cmd, swNoChaining
		}
		p.chain = cmd
		p.chain.data = nil
		p.chained = true
	}
	if len(p.chain.data)+len(cmd.data) > maxPIVData {
		p.chained = false
		return cmd, swWrongLength
	}
	p.chain.data = append(p.chain.data, cmd.data...)
	if !last {
		return cmd, swOK
	}
	p.chained = false
	cmd.data = p.chain.data
	return cmd, 0
}

// run is the application's commands (SP 800-73-4, part 2, 3).
func (p *PIV) run(cmd command) ([]byte, uint16) {
	if cmd.ins == insSelect {
		return p.selectApplication(cmd)
	}
	if !p.selected {
		return nil, swUnknownINS
	}
	switch cmd.ins {
	case insVerify:
		return nil, p.refs.verify(cmd)
	case insChangeReferenceData:
		return nil, p.refs.change(cmd)
	case insResetRetryCounter:
		return nil, p.refs.unblock(cmd)
	case insGetDataBER:
		return p.getData(cmd)
	case insGeneralAuthenticate:
		return p.authenticate(cmd)
	case insPutData, insGenerateKeyPair:
		return nil, swSecurityStatus // they need the card management key, which it has not
	}
	return nil, swUnknownINS
}

// selectApplication takes the whole AID or its beginning. A name that is not
// there leaves everything as it was.
func (p *PIV) selectApplication(cmd command) ([]byte, uint16) {
	switch {
	case cmd.p1 != 0x04 || cmd.p2&0xF3 != 0: // by name; P2 bits 4 and 3: what comes back
		return nil, swWrongP1P2
	case len(cmd.data) < pivRIDLen || !bytes.HasPrefix(pivAID[:], cmd.data):
		return nil, swNotFound
	}
	p.selected = true
	if cmd.p2 == 0x0C {
		return nil, swOK
	}
	// application property template (part 2, table 3)
	var t []byte
	t = tlv(t, 0x4F, pivAID[pivRIDLen:])
	t = tlv(t, 0x79, tlv(nil, 0x4F, pivAID[:pivRIDLen]))
	t = tlv(t, 0x50, []byte(p.label))
	return tlv(nil, 0x61, t), swOK
}

// respond sends as much of a response as the other side takes, and keeps the
// rest for GET RESPONSE.
func (p *PIV) respond(data []byte, sw uint16, le int) []byte {
	if len(data) <= le {
		p.rest = nil
		return withStatus(data[:len(data):len(data)], sw)
	}
	p.rest = data[le:]
	more := uint16(swMoreData)
	if len(p.rest) < 256 {
		more |= uint16(len(p.rest))
	}
	return withStatus(data[:le:le], more)
}

// getResponse sends what waits.
func (p *PIV) getResponse(cmd command) []byte {
	switch {
	case len(p.rest) == 0:
		return status(swConditions)
	case cmd.p1 != 0 || cmd.p2 != 0:
		return status(swWrongP1P2)
	}
	return p.respond(p.rest, swOK, cmd.le)
}
