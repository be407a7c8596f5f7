package card

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"fmt"
	"math/big"
	"sync"
)

// Algorithm identifiers (SP 800-78-4, table 6-2).
const (
	algRSA2048 = 0x07
	algP256    = 0x11
)

const (
	rsaBits  = 2048
	p256Len  = 32 // coordinate and largest digest, bytes
	pivYears = 10 // for which certificates hold
)

// pivUse says when a key may be used (part 1, table 4b).
type pivUse int

const (
	useAlways    pivUse = iota
	usePIN              // after the PIN was given
	usePINAlways        // after the PIN was given, once
)

// pivKind is one of the card's key slots.
type pivKind struct {
	ref  byte   // key reference
	tag  uint32 // certificate's data object
	use  pivUse
	name string // subject's common name
	rsa  bool   // what a fresh key is

	keyUsage keyUsage // with RSA; agreement takes encipherment's place with P-256
	purpose  []byte   // object identifier, or none
}

// pivKinds lists the slots in the order of their references.
func pivKinds() []pivKind {
	return []pivKind{
		{ref: 0x9A, tag: 0x5FC105, use: usePIN, name: "PIV Authentication", rsa: true,
			keyUsage: usageSign,
			purpose:  oidClientAuth},
		{ref: 0x9C, tag: 0x5FC10A, use: usePINAlways, name: "Digital Signature",
			keyUsage: usageSign | usageCommit,
			purpose:  oidEMail},
		{ref: 0x9D, tag: 0x5FC10B, use: usePIN, name: "Key Management", rsa: true,
			keyUsage: usageEncipher,
			purpose:  oidEMail},
		{ref: 0x9E, tag: 0x5FC101, use: useAlways, name: "Card Authentication",
			keyUsage: usageSign},
	}
}

// pivSlot is a key with its certificate, made when first needed.
type pivSlot struct {
	pivKind
	make func() (pivKey, error) // once
}

// pivKey is what a slot holds.
type pivKey struct {
	key  crypto.Signer
	cert []byte // DER
}

func newPIVSlots(o PIVOptions) ([]*pivSlot, error) {
	slots := make([]*pivSlot, 0, len(pivKinds()))
	given := 0
	for _, k := range pivKinds() {
		key, ok := o.Keys[k.ref]
		if ok {
			given++
			if _, err := algorithmOf(key); err != nil {
				return nil, fmt.Errorf("key %02X: %w", k.ref, err)
			}
		}
		s := &pivSlot{pivKind: k, make: sync.OnceValues(func() (pivKey, error) {
			return newPIVKey(k, key, o)
		})}
		slots = append(slots, s)
		if !ok && k.rsa {
			// Ends by itself, after the fraction of a second that a key
			// takes, whether or not somebody waits for it.
			go func() { _, _ = s.make() }()
		}
	}
	if given != len(o.Keys) {
		return nil, fmt.Errorf("keys for slots that are none of 9A, 9C, 9D and 9E")
	}
	return slots, nil
}

// newPIVKey completes a slot: a fresh key unless there is one, and the
// certificate.
func newPIVKey(k pivKind, key crypto.Signer, o PIVOptions) (pivKey, error) {
	var err error
	switch {
	case key != nil:
	case k.rsa:
		key, err = rsa.GenerateKey(rand.Reader, rsaBits)
	default:
		key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	}
	if err != nil {
		return pivKey{}, err
	}
	cert, err := selfSigned(k, key, o.Name, o.Now)
	return pivKey{key, cert}, err
}

// certificateObject is the slot's data object (part 1, table 10): the
// certificate, not compressed.
func (s *pivSlot) certificateObject() ([]byte, error) {
	k, err := s.make()
	if err != nil {
		return nil, err
	}
	b := tlv(nil, 0x70, k.cert)
	b = tlv(b, 0x71, []byte{0x00})
	b = tlv(b, 0xFE, nil)
	return tlv(nil, 0x53, b), nil
}

// algorithmOf says by which algorithm identifier a key is used.
func algorithmOf(key crypto.Signer) (byte, error) {
	switch k := key.(type) {
	case *rsa.PrivateKey:
		if k.N.BitLen() == rsaBits {
			return algRSA2048, nil
		}
	case *ecdsa.PrivateKey:
		if k.Curve == elliptic.P256() {
			return algP256, nil
		}
	}
	return 0, fmt.Errorf("%T is neither RSA with 2048 bits nor P-256", key)
}

// authenticate is GENERAL AUTHENTICATE (part 2, 3.2.4), as far as the card's
// asymmetric keys go: 82 empty asks for the result, 81 holds what to sign or
// decipher, 85 the other side's point.
func (p *PIV) authenticate(cmd command) ([]byte, uint16) {
	s := p.slot(cmd.p2)
	if s == nil {
		return nil, swWrongP1P2
	}
	k, err := s.make()
	if err != nil {
		return nil, swInternal
	}
	if alg, err := algorithmOf(k.key); err != nil || alg != cmd.p1 {
		return nil, swWrongP1P2
	}
	if !p.refs.allow(s.use) {
		return nil, swSecurityStatus
	}
	challenge, point, ok := parseTemplate(cmd.data)
	if !ok {
		return nil, swWrongData
	}
	var result []byte
	switch key := k.key.(type) {
	case *rsa.PrivateKey:
		result, ok = rawRSA(key, challenge)
	case *ecdsa.PrivateKey:
		if point != nil {
			result, ok = agree(key, point)
		} else {
			result, ok = signDigest(key, challenge)
		}
	}
	if !ok {
		return nil, swWrongData
	}
	if s.use == usePINAlways {
		p.refs.fresh = false
	}
	return tlv(nil, 0x7C, tlv(nil, 0x82, result)), swOK
}

func (p *PIV) slot(ref byte) *pivSlot {
	for _, s := range p.slots {
		if s.ref == ref {
			return s
		}
	}
	return nil
}

// allow tells whether a key may be used now. Other commands may come between
// VERIFY and the use of the signature key; a second use may not.
func (r *references) allow(use pivUse) bool {
	switch use {
	case usePIN:
		return r.verified
	case usePINAlways:
		return r.fresh
	}
	return true
}

// parseTemplate reads the dynamic authentication template 7C.
func parseTemplate(b []byte) (challenge, point []byte, ok bool) {
	tag, b, rest, ok := nextTLV(b)
	if !ok || tag != 0x7C || len(rest) != 0 {
		return nil, nil, false
	}
	asked := false
	for len(b) > 0 {
		var value []byte
		if tag, value, b, ok = nextTLV(b); !ok {
			return nil, nil, false
		}
		switch {
		case tag == 0x82 && len(value) == 0:
			asked = true
		case tag == 0x81 && challenge == nil && point == nil:
			challenge = value
		case tag == 0x85 && challenge == nil && point == nil:
			point = value
		default:
			return nil, nil, false
		}
	}
	return challenge, point, asked && (challenge != nil || point != nil)
}

// rawRSA is the private-key operation alone: padding is the host's affair. It
// does not run in constant time, which a card without secrets can afford.
func rawRSA(key *rsa.PrivateKey, block []byte) ([]byte, bool) {
	m := new(big.Int).SetBytes(block)
	if len(block) != key.Size() || m.Cmp(key.N) >= 0 {
		return nil, false
	}
	p, q := key.Primes[0], key.Primes[1]
	dp := new(big.Int).Mod(key.D, new(big.Int).Sub(p, big.NewInt(1)))
	dq := new(big.Int).Mod(key.D, new(big.Int).Sub(q, big.NewInt(1)))
	m1 := new(big.Int).Exp(m, dp, p)
	m2 := new(big.Int).Exp(m, dq, q)
	h := m1.Sub(m1, m2)
	h.Mul(h, new(big.Int).ModInverse(q, p)).Mod(h, p)
	return m2.Add(m2, h.Mul(h, q)).FillBytes(make([]byte, key.Size())), true
}

// signDigest makes an ECDSA signature, a SEQUENCE of r and s.
func signDigest(key *ecdsa.PrivateKey, digest []byte) ([]byte, bool) {
	if len(digest) == 0 || len(digest) > p256Len {
		return nil, false
	}
	sig, err := ecdsa.SignASN1(rand.Reader, key, digest)
	return sig, err == nil
}

// agree is ECDH with the other side's uncompressed point.
func agree(key *ecdsa.PrivateKey, point []byte) ([]byte, bool) {
	own, err := key.ECDH()
	if err != nil {
		return nil, false
	}
	other, err := own.Curve().NewPublicKey(point)
	if err != nil {
		return nil, false
	}
	secret, err := own.ECDH(other)
	return secret, err == nil
}
