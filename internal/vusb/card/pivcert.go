package card

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"math/big"
	"slices"
	"time"
)

// The certificates are written here, as RFC 5280 has them, and not by crypto/x509:
// that reads and verifies certificates of all kinds, and is a tenth of the
// executable. The tests have it read what is written.

// ASN.1 tags (X.680, table 1; with bit 6, constructed).
const (
	derInteger   = 0x02
	derBits      = 0x03
	derOctets    = 0x04
	derNull      = 0x05
	derOID       = 0x06
	derUTF8      = 0x0C
	derUTCTime   = 0x17
	derTime      = 0x18 // GeneralizedTime
	derSequence  = 0x30
	derSet       = 0x31
	derVersion   = 0xA0 // tbsCertificate's [0] and [3] (RFC 5280, 4.1)
	derExtension = 0xA3
)

// Object identifiers, as they are encoded.
var (
	oidRSA        = []byte{0x2A, 0x86, 0x48, 0x86, 0xF7, 0x0D, 0x01, 0x01, 0x01} // rsaEncryption (RFC 8017, A.1)
	oidSHA256RSA  = []byte{0x2A, 0x86, 0x48, 0x86, 0xF7, 0x0D, 0x01, 0x01, 0x0B} // sha256WithRSAEncryption (RFC 8017, A.2.4)
	oidEC         = []byte{0x2A, 0x86, 0x48, 0xCE, 0x3D, 0x02, 0x01}             // id-ecPublicKey (RFC 5480, 2.1.1)
	oidP256       = []byte{0x2A, 0x86, 0x48, 0xCE, 0x3D, 0x03, 0x01, 0x07}       // secp256r1 (RFC 5480, 2.1.1.1)
	oidSHA256EC   = []byte{0x2A, 0x86, 0x48, 0xCE, 0x3D, 0x04, 0x03, 0x02}       // ecdsa-with-SHA256 (RFC 5758, 3.2)
	oidCommonName = []byte{0x55, 0x04, 0x03}                                     // RFC 5280, A.1
	oidOrg        = []byte{0x55, 0x04, 0x0A}
	oidKeyUsage   = []byte{0x55, 0x1D, 0x0F}                               // RFC 5280, 4.2.1.3
	oidPurposes   = []byte{0x55, 0x1D, 0x25}                               // extKeyUsage (RFC 5280, 4.2.1.12)
	oidClientAuth = []byte{0x2B, 0x06, 0x01, 0x05, 0x05, 0x07, 0x03, 0x02} // id-kp-clientAuth
	oidEMail      = []byte{0x2B, 0x06, 0x01, 0x05, 0x05, 0x07, 0x03, 0x04} // id-kp-emailProtection
)

// keyUsage is the first byte of the BIT STRING KeyUsage (RFC 5280, 4.2.1.3).
type keyUsage byte

const (
	usageSign     keyUsage = 0x80 // digitalSignature
	usageCommit   keyUsage = 0x40 // nonRepudiation
	usageEncipher keyUsage = 0x20 // keyEncipherment
	usageAgree    keyUsage = 0x08 // keyAgreement
)

// der is a value of a constructed or primitive type.
func der(tag byte, parts ...[]byte) []byte { return tlv(nil, uint32(tag), slices.Concat(parts...)) }

// derNumber is a positive INTEGER.
func derNumber(n *big.Int) []byte {
	b := n.Bytes()
	if len(b) == 0 || b[0] >= 0x80 {
		b = append([]byte{0}, b...)
	}
	return der(derInteger, b)
}

// derMoment is a time, in the form that its year asks for (RFC 5280, 4.1.2.5).
func derMoment(t time.Time) []byte {
	if t = t.UTC(); t.Year() < 2050 {
		return der(derUTCTime, []byte(t.Format("060102150405Z")))
	}
	return der(derTime, []byte(t.Format("20060102150405Z")))
}

// derName is a distinguished name of an organisation and a common name.
func derName(org, common string) []byte {
	part := func(oid []byte, text string) []byte {
		return der(derSet, der(derSequence, der(derOID, oid), der(derUTF8, []byte(text))))
	}
	return der(derSequence, part(oidOrg, org), part(oidCommonName, common))
}

// publicKey is the SubjectPublicKeyInfo of a key and what it signs by, an
// AlgorithmIdentifier (RFC 3279, 2.3.1; RFC 5480, 2).
func publicKey(key crypto.Signer) (info, algorithm []byte, err error) {
	bits := func(b []byte) []byte { return der(derBits, []byte{0}, b) }
	null := der(derNull)
	switch k := key.Public().(type) {
	case *rsa.PublicKey:
		numbers := der(derSequence, derNumber(k.N), derNumber(big.NewInt(int64(k.E))))
		return der(derSequence, der(derSequence, der(derOID, oidRSA), null), bits(numbers)),
			der(derSequence, der(derOID, oidSHA256RSA), null), nil
	case *ecdsa.PublicKey:
		point, err := k.ECDH()
		if err != nil {
			return nil, nil, err
		}
		return der(derSequence, der(derSequence, der(derOID, oidEC), der(derOID, oidP256)), bits(point.Bytes())),
			der(derSequence, der(derOID, oidSHA256EC)), nil
	}
	return nil, nil, fmt.Errorf("no certificate for a %T", key)
}

// selfSigned makes a slot's certificate (RFC 5280, 4.1).
func selfSigned(k pivKind, key crypto.Signer, name string, now time.Time) ([]byte, error) {
	info, algorithm, err := publicKey(key)
	if err != nil {
		return nil, err
	}
	usage := k.keyUsage
	if _, ec := key.(*ecdsa.PrivateKey); ec && usage&usageEncipher != 0 {
		usage = usage&^usageEncipher | usageAgree
	}
	var number [8]byte
	rand.Read(number[:])
	serial := new(big.Int).SetUint64(binary.BigEndian.Uint64(number[:])>>1 | 1) // 0 is not allowed
	subject := derName(name, k.name)
	to := der(derSequence,
		der(derVersion, derNumber(big.NewInt(2))), // v3
		derNumber(serial),
		algorithm,
		subject, // the issuer
		der(derSequence, derMoment(now), derMoment(now.UTC().AddDate(pivYears, 0, 0))),
		subject,
		info,
		der(derExtension, der(derSequence, extensions(usage, k.purpose))),
	)
	digest := sha256.Sum256(to)
	signature, err := key.Sign(rand.Reader, digest[:], crypto.SHA256)
	if err != nil {
		return nil, err
	}
	return der(derSequence, to, algorithm, der(derBits, []byte{0}, signature)), nil
}

// extensions are what a key may be used for; purpose is an object identifier, or
// empty.
func extensions(usage keyUsage, purpose []byte) []byte {
	unused := byte(0)
	for b := usage; b&1 == 0; b >>= 1 {
		unused++
	}
	critical := []byte{0x01, 0x01, 0xFF} // BOOLEAN TRUE
	all := der(derSequence, der(derOID, oidKeyUsage), critical, der(derOctets, der(derBits, []byte{unused, byte(usage)})))
	if len(purpose) > 0 {
		all = append(all, der(derSequence, der(derOID, oidPurposes), der(derOctets, der(derSequence, der(derOID, purpose))))...)
	}
	return all
}
