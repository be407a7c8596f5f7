package card

import (
	"bytes"
	"crypto/subtle"
	"errors"
)

// Key references of the PIN and the PUK (SP 800-73-4, part 1, table 4b).
const (
	refPIN = 0x80
	refPUK = 0x81
)

const (
	referenceLen = 8 // of PIN and PUK in a command, the PIN padded with FF
	minPIN       = 6
	maxTries     = 3
)

// reference is a secret with its retry counter.
type reference struct {
	value [referenceLen]byte
	tries int
}

// check compares and counts: 9000, 63Cx or 6983. The counter goes down
// before the comparison, so that nothing can end the card between the two.
func (r *reference) check(value []byte) uint16 {
	if r.tries == 0 {
		return swBlocked
	}
	r.tries--
	if subtle.ConstantTimeCompare(r.value[:], value) != 1 {
		return swWrongPIN | uint16(r.tries)
	}
	r.tries = maxTries
	return swOK
}

// references is the card's PIN and PUK and what they have opened.
type references struct {
	pin, puk reference

	verified bool // the PIN was given
	fresh    bool // ... and the signature key not used since
}

func newReferences(pin, puk string) (references, error) {
	if pin == "" {
		pin = "123456"
	}
	if puk == "" {
		puk = "12345678"
	}
	padded := bytes.Repeat([]byte{0xFF}, referenceLen)
	copy(padded, pin)
	if len(pin) > referenceLen || !validPIN(padded) {
		return references{}, errors.New("a PIN has 6 to 8 digits")
	}
	if len(puk) != referenceLen {
		return references{}, errors.New("a PUK has 8 characters")
	}
	return references{
		pin: reference{[referenceLen]byte(padded), maxTries},
		puk: reference{[referenceLen]byte([]byte(puk)), maxTries},
	}, nil
}

// validPIN knows the form of a PIN: 6 to 8 digits, padded with FF (part 2,
// 2.4.3).
func validPIN(b []byte) bool {
	if len(b) != referenceLen {
		return false
	}
	digits := bytes.TrimRight(b, "\xFF")
	for _, d := range digits {
		if d < '0' || d > '9' {
			return false
		}
	}
	return len(digits) >= minPIN
}

// forget takes back what the PIN has opened.
func (r *references) forget() { r.verified, r.fresh = false, false }

// status is what VERIFY without data says: 9000 after the PIN was given,
// else how many tries are left.
func (r *references) status() uint16 {
	switch {
	case r.pin.tries == 0:
		return swBlocked
	case r.verified:
		return swOK
	}
	return swWrongPIN | uint16(r.pin.tries)
}

// verify is VERIFY (part 2, 3.2.1).
func (r *references) verify(cmd command) uint16 {
	switch {
	case cmd.p1 == 0xFF && cmd.p2 == refPIN && len(cmd.data) == 0:
		r.forget()
		return swOK
	case cmd.p1 != 0:
		return swWrongP1P2
	case cmd.p2 != refPIN:
		return swNoReference // the discovery object says that there is no global PIN
	case len(cmd.data) == 0:
		return r.status()
	case r.pin.tries == 0:
		return swBlocked
	case !validPIN(cmd.data):
		return swWrongData
	}
	r.forget()
	sw := r.pin.check(cmd.data)
	r.verified = sw == swOK
	r.fresh = r.verified
	return sw
}

// change is CHANGE REFERENCE DATA for PIN or PUK: the old value and the new
// one (part 2, 3.2.2).
func (r *references) change(cmd command) uint16 {
	ref := &r.pin
	switch {
	case cmd.p1 != 0:
		return swWrongP1P2
	case cmd.p2 == refPUK:
		ref = &r.puk
	case cmd.p2 != refPIN:
		return swNoReference
	}
	if ref.tries == 0 {
		return swBlocked
	}
	if len(cmd.data) != 2*referenceLen {
		return swWrongData
	}
	old, value := cmd.data[:referenceLen], cmd.data[referenceLen:]
	if ref == &r.pin {
		if !validPIN(value) {
			return swWrongData
		}
		r.forget()
	}
	sw := ref.check(old)
	if sw != swOK {
		return sw
	}
	ref.value = [referenceLen]byte(value)
	if ref == &r.pin {
		r.verified, r.fresh = true, true
	}
	return swOK
}

// unblock is RESET RETRY COUNTER: the PUK and a new PIN (part 2, 3.2.3). It
// does not count as giving the PIN.
func (r *references) unblock(cmd command) uint16 {
	switch {
	case cmd.p1 != 0:
		return swWrongP1P2
	case cmd.p2 != refPIN:
		return swNoReference
	case r.puk.tries == 0:
		return swBlocked
	case len(cmd.data) != 2*referenceLen || !validPIN(cmd.data[referenceLen:]):
		return swWrongData
	}
	if sw := r.puk.check(cmd.data[:referenceLen]); sw != swOK {
		return sw
	}
	r.pin = reference{[referenceLen]byte(cmd.data[referenceLen:]), maxTries}
	r.forget()
	return swOK
}
