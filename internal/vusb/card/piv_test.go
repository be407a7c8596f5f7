package card

import (
	"bytes"
	"crypto"
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"fmt"
	"math/big"
	"strings"
	"sync"
	"testing"

	"openct/internal/hextest"
)

// testRSA is the one RSA key of all tests: making one takes long.
var testRSA = sync.OnceValues(func() (*rsa.PrivateKey, error) {
	return rsa.GenerateKey(rand.Reader, rsaBits)
})

// newTestPIV makes a card whose RSA keys are there already; change may alter
// the options.
func newTestPIV(t testing.TB, change func(*PIVOptions)) *PIV {
	t.Helper()
	key, err := testRSA()
	if err != nil {
		t.Fatal(err)
	}
	o := PIVOptions{Keys: map[byte]crypto.Signer{0x9A: key, 0x9D: key}}
	if change != nil {
		change(&o)
	}
	p, err := NewPIV(o)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

const (
	selectPIV = "00 A4 04 00 09 A0 00 00 03 08 00 00 10 00 00"
	goodPIN   = "00 20 00 80 08 31 32 33 34 35 36 FF FF"
	badPIN    = "00 20 00 80 08 31 32 33 34 35 37 FF FF"
	statusPIN = "00 20 00 80"
	puk       = "31 32 33 34 35 36 37 38"
	pin123456 = "31 32 33 34 35 36 FF FF"
	pin654321 = "36 35 34 33 32 31 FF FF"
)

// talk sends a command and follows 61xx with GET RESPONSE.
func talk(t testing.TB, c Card, apdu []byte) ([]byte, uint16) {
	t.Helper()
	var data []byte
	for {
		resp := c.Transmit(apdu)
		n := len(resp) - 2
		data = append(data, resp[:n]...)
		if resp[n] != 0x61 {
			return data, uint16(resp[n])<<8 | uint16(resp[n+1])
		}
		apdu = []byte{0x00, insGetResponse, 0x00, 0x00, resp[n+1]}
	}
}

// ask is talk for a command in hexadecimal that must succeed.
func ask(t testing.TB, c Card, apdu string) []byte {
	t.Helper()
	data, sw := talk(t, c, hextest.Bytes(t, apdu))
	if sw != swOK {
		t.Fatalf("%s: %04X", apdu, sw)
	}
	return data
}

// TestPIVCommands has a table of conversations, "command -> status word or
// whole response" a line.
func TestPIVCommands(t *testing.T) {
	digest := strings.Repeat("5A", 32)
	sign9C := "00 87 11 9C 26 7C 24 82 00 81 20" + digest + "00"
	sign9E := "00 87 11 9E 26 7C 24 82 00 81 20" + digest + "00"
	raw9A := "00 87 07 9A 00 01 0A 7C 82 01 06 82 00 81 82 01 00 00" + strings.Repeat("5A", 255) + "00 00"
	tests := []struct {
		name string
		play string
	}{
		{"nothing works before SELECT", `
			00 CB 3F FF 03 5C 01 7E 00 -> 6D00
			00 20 00 80 -> 6D00
			` + sign9E + ` -> 6D00
			10 87 11 9E 01 7C -> 6884`},
		{"SELECT", `
			00 A4 04 00 0B A0 00 00 03 08 00 00 10 00 01 00 00 -> 9000
			00 A4 04 00 09 A0 00 00 03 08 00 00 10 00 00 -> 9000
			00 A4 04 00 05 A0 00 00 03 08 -> 9000
			00 A4 04 0C 05 A0 00 00 03 08 -> =9000
			00 A4 04 00 04 A0 00 00 03 -> 6A82
			00 A4 04 00 0C A0 00 00 03 08 00 00 10 00 01 00 00 -> 6A82
			00 A4 04 00 09 A0 00 00 03 08 00 00 20 00 00 -> 6A82
			00 A4 04 00 00 -> 6A82
			00 A4 00 00 02 3F 00 -> 6A86
			00 CB 3F FF 03 5C 01 7E 00 -> 9000`},
		{"SELECT of another application leaves all as it was", selectPIV + ` -> 9000
			` + goodPIN + ` -> 9000
			00 A4 04 00 06 A0 00 00 00 01 01 -> 6A82
			` + selectPIV + ` -> 9000
			` + statusPIN + ` -> 9000`},
		{"class byte", selectPIV + ` -> 9000
			01 20 00 80 -> 6881
			0C 20 00 80 -> 6882
			04 20 00 80 -> 6882
			80 20 00 80 -> 6E00
			FF 20 00 80 -> 6E00
			10 20 00 80 -> 6884`},
		{"instructions it has not", selectPIV + ` -> 9000
			00 FD 00 00 03 -> 6D00
			00 CA DF 30 05 -> 6D00
			00 DB 3F FF 03 5C 01 7E -> 6982
			00 47 00 9A 05 AC 03 80 01 07 -> 6982
			00 20 -> 6700
			00 20 00 80 08 31 -> 6700`},
		{"GET DATA", selectPIV + ` -> 9000
			00 CB 3F FF 03 5C 01 7E 00 -> =7E 12 4F 0B A0 00 00 03 08 00 00 10 00 01 00 5F 2F 02 40 00 90 00
			00 CB 3F FF 03 5C 01 7E -> 9000
			00 CB 3F FF 05 5C 03 5F C1 07 00 -> 9000
			00 CB 3F FF 05 5C 03 5F C1 02 00 -> 9000
			00 CB 3F FF 05 5C 03 5F C1 0C 00 -> 6A82
			00 CB 3F FF 05 5C 03 5F C1 09 00 -> 6A82
			00 CB 3F FF 04 5C 02 7F 61 00 -> 6A82
			00 CB 3F FE 03 5C 01 7E 00 -> 6A86
			00 CB 3F FF 03 5D 01 7E 00 -> 6A80
			00 CB 3F FF 02 5C 00 00 -> 6A80
			00 CB 3F FF 06 5C 04 5F C1 02 00 00 -> 6A80
			00 CB 3F FF 04 5C 01 7E 00 00 -> 6A80
			00 CB 3F FF 00 -> 6A80`},
		{"VERIFY", selectPIV + ` -> 9000
			` + statusPIN + ` -> 63C3
			` + badPIN + ` -> 63C2
			` + statusPIN + ` -> 63C2
			` + goodPIN + ` -> 9000
			` + statusPIN + ` -> 9000
			00 20 00 80 00 -> 9000
			` + badPIN + ` -> 63C2
			` + statusPIN + ` -> 63C2
			` + goodPIN + ` -> 9000
			00 20 FF 80 -> 9000
			` + statusPIN + ` -> 63C3`},
		{"VERIFY of what cannot be a PIN costs no try", selectPIV + ` -> 9000
			00 20 00 80 06 31 32 33 34 35 36 -> 6A80
			00 20 00 80 08 31 32 33 34 35 FF FF FF -> 6A80
			00 20 00 80 08 31 32 33 34 35 FF 36 FF -> 6A80
			00 20 00 80 08 31 32 33 34 35 36 00 00 -> 6A80
			00 20 00 00 08 ` + pin123456 + ` -> 6A88
			00 20 00 81 08 ` + puk + ` -> 6A88
			00 20 01 80 08 ` + pin123456 + ` -> 6A86
			` + statusPIN + ` -> 63C3`},
		{"three wrong PINs, then the PUK", selectPIV + ` -> 9000
			` + badPIN + ` -> 63C2
			` + badPIN + ` -> 63C1
			` + badPIN + ` -> 63C0
			` + goodPIN + ` -> 6983
			` + statusPIN + ` -> 6983
			00 24 00 80 10 ` + pin123456 + pin654321 + ` -> 6983
			00 2C 00 80 10 ` + puk + pin654321 + ` -> 9000
			` + statusPIN + ` -> 63C3
			` + goodPIN + ` -> 63C2
			00 20 00 80 08 ` + pin654321 + ` -> 9000`},
		{"a reset does not bring tries back", selectPIV + ` -> 9000
			` + badPIN + ` -> 63C2
			` + goodPIN + ` -> 9000
			` + badPIN + ` -> 63C2
			RESET
			` + selectPIV + ` -> 9000
			` + statusPIN + ` -> 63C2`},
		{"a reset forgets the PIN and the application", selectPIV + ` -> 9000
			` + goodPIN + ` -> 9000
			RESET
			` + statusPIN + ` -> 6D00
			` + selectPIV + ` -> 9000
			` + statusPIN + ` -> 63C3`},
		{"CHANGE REFERENCE DATA", selectPIV + ` -> 9000
			00 24 00 80 10 ` + pin654321 + pin123456 + ` -> 63C2
			00 24 00 80 10 ` + pin123456 + puk + ` -> 9000
			` + goodPIN + ` -> 63C2
			00 20 00 80 08 ` + puk + ` -> 9000
			00 24 00 80 10 ` + puk + "31 32 33 34 35 FF FF FF" + ` -> 6A80
			00 24 00 80 08 ` + puk + ` -> 6A80
			00 24 00 00 10 ` + puk + puk + ` -> 6A88
			00 24 01 80 10 ` + puk + puk + ` -> 6A86
			00 24 00 81 10 ` + puk + pin654321 + ` -> 9000
			00 24 00 81 10 ` + puk + pin654321 + ` -> 63C2`},
		{"three wrong PUKs", selectPIV + ` -> 9000
			00 2C 00 80 10 ` + pin123456 + pin654321 + ` -> 63C2
			00 2C 00 80 10 ` + pin123456 + pin654321 + ` -> 63C1
			00 24 00 81 10 ` + pin123456 + pin654321 + ` -> 63C0
			00 2C 00 80 10 ` + puk + pin654321 + ` -> 6983
			00 24 00 81 10 ` + puk + pin654321 + ` -> 6983
			` + goodPIN + ` -> 9000`},
		{"RESET RETRY COUNTER, bad form", selectPIV + ` -> 9000
			00 2C 00 80 08 ` + puk + ` -> 6A80
			00 2C 00 80 10 ` + puk + `31 32 33 34 35 FF FF FF -> 6A80
			00 2C 00 81 10 ` + puk + pin654321 + ` -> 6A88
			00 2C 01 80 10 ` + puk + pin654321 + ` -> 6A86`},
		{"keys ask for the PIN", selectPIV + ` -> 9000
			` + sign9C + ` -> 6982
			` + raw9A + ` -> 6982
			` + sign9E + ` -> 9000
			` + badPIN + ` -> 63C2
			` + raw9A + ` -> 6982
			` + goodPIN + ` -> 9000
			` + raw9A + ` -> 9000
			` + raw9A + ` -> 9000
			` + badPIN + ` -> 63C2
			` + raw9A + ` -> 6982`},
		{"the signature key asks for it each time", selectPIV + ` -> 9000
			` + goodPIN + ` -> 9000
			` + sign9C + ` -> 9000
			` + sign9C + ` -> 6982
			` + statusPIN + ` -> 9000
			` + raw9A + ` -> 9000
			` + goodPIN + ` -> 9000
			00 CB 3F FF 03 5C 01 7E 00 -> 9000
			` + sign9C + ` -> 9000`},
		{"GENERAL AUTHENTICATE, bad form", selectPIV + ` -> 9000
			` + goodPIN + ` -> 9000
			00 87 07 9C 04 7C 02 82 00 00 -> 6A86
			00 87 11 9B 04 7C 02 82 00 00 -> 6A86
			00 87 14 9E 04 7C 02 82 00 00 -> 6A86
			00 87 11 9E 04 7C 02 82 00 00 -> 6A80
			00 87 11 9E 05 7C 03 81 01 5A 00 -> 6A80
			00 87 11 9E 06 7C 04 82 00 81 00 00 -> 6A80
			00 87 11 9E 07 7C 05 82 00 85 01 04 00 -> 6A80
			00 87 11 9E 07 7C 05 82 00 83 01 04 00 -> 6A80
			00 87 11 9E 0A 7C 08 82 00 81 01 04 85 01 04 00 -> 6A80
			00 87 11 9E 03 7C 05 82 00 -> 6A80
			00 87 11 9E 27 7C 25 82 00 81 21 ` + digest + `FF 00 -> 6A80
			00 87 07 9A 07 7C 05 82 00 81 01 5A 00 -> 6A80
			00 87 07 9A 07 7C 05 82 00 85 01 5A 00 -> 6A80
			00 87 07 9A 00 01 0A 7C 82 01 06 82 00 81 82 01 00 ` + strings.Repeat("FF", 256) + `00 00 -> 6A80`},
		{"command chaining", selectPIV + ` -> 9000
			10 87 11 9E 05 7C 24 82 00 81 -> =9000
			10 87 11 9E 01 20 -> =9000
			00 87 11 9E 20 ` + digest + `00 -> 9000`},
		{"another command ends a chain", selectPIV + ` -> 9000
			10 87 11 9E 05 7C 24 82 00 81 -> =9000
			` + statusPIN + ` -> 63C3
			00 87 11 9E 21 20 ` + digest + `00 -> 6A80
			10 87 11 9E 05 7C 24 82 00 81 -> =9000
			10 20 00 80 01 31 -> 6884
			00 87 11 9E 21 20 ` + digest + `00 -> 6A80
			10 87 11 9E 05 7C 24 82 00 81 -> =9000
			80 87 11 9E 00 -> 6E00
			00 87 11 9E 21 20 ` + digest + `00 -> 6A80
			10 87 11 9E 05 7C 24 82 00 81 -> =9000
			00 C0 00 00 00 -> 6D00
			00 87 11 9E 21 20 ` + digest + `00 -> 6A80`},
		{"too long a chain", selectPIV + ` -> 9000
			` + strings.Repeat("10 87 11 9E FF"+strings.Repeat("5A", 255)+" -> =9000\n", 16) + `
			10 87 11 9E FF` + strings.Repeat("5A", 255) + ` -> 6700
			00 87 11 9E 01 5A 00 -> 6A80`},
		{"GET RESPONSE without anything to get", selectPIV + ` -> 9000
			00 C0 00 00 00 -> 6985`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			p := newTestPIV(t, nil)
			for i, line := range strings.Split(strings.TrimSpace(tt.play), "\n") {
				line = strings.TrimSpace(line)
				if line == "" {
					continue
				}
				if line == "RESET" {
					p.Reset()
					continue
				}
				apdu, want, _ := strings.Cut(line, " -> ")
				data, sw := talk(t, p, hextest.Bytes(t, apdu))
				if whole, ok := strings.CutPrefix(want, "="); ok {
					if got := withStatus(data, sw); !bytes.Equal(got, hextest.Bytes(t, whole)) {
						t.Errorf("line %d: %.60s: % X, want %s", i+1, apdu, got, whole)
					}
				} else if got := fmt.Sprintf("%04X", sw); got != want {
					t.Errorf("line %d: %.60s: %s, want %s", i+1, apdu, got, want)
				}
			}
		})
	}
}

// certificate reads a slot's certificate off the card.
func certificate(t testing.TB, c Card, slot pivKind) *x509.Certificate {
	t.Helper()
	object := ask(t, c, fmt.Sprintf("00 CB 3F FF 05 5C 03 %06X 00", slot.tag))
	tag, body, rest, ok := nextTLV(object)
	if !ok || tag != 0x53 || len(rest) != 0 {
		t.Fatalf("certificate object % X...", object[:8])
	}
	tag, der, rest, ok := nextTLV(body)
	if !ok || tag != 0x70 || !bytes.Equal(rest, []byte{0x71, 0x01, 0x00, 0xFE, 0x00}) {
		t.Fatalf("certificate object: tag %02X, then % X", tag, rest)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

// general sends GENERAL AUTHENTICATE, in a chain of short commands or in one
// extended, and returns the content of tag 82.
func general(t testing.TB, c Card, alg, ref, tag byte, value []byte, chain bool) []byte {
	t.Helper()
	template := tlv(nil, 0x7C, tlv(tlv(nil, 0x82, nil), uint32(tag), value))
	header := []byte{0x00, insGeneralAuthenticate, alg, ref}
	if chain {
		for len(template) > 200 { // chaining
			apdu := append([]byte{0x10, header[1], header[2], header[3], 200}, template[:200]...)
			if resp := c.Transmit(apdu); !bytes.Equal(resp, []byte{0x90, 0x00}) {
				t.Fatalf("chained part: % X", resp)
			}
			template = template[200:]
		}
		header = append(append(header, byte(len(template))), template...)
		header = append(header, 0)
	} else {
		header = append(header, 0, byte(len(template)>>8), byte(len(template)))
		header = append(append(header, template...), 0, 0)
	}
	data, sw := talk(t, c, header)
	if sw != swOK {
		t.Fatalf("GENERAL AUTHENTICATE: %04X", sw)
	}
	tag1, body, rest, ok := nextTLV(data)
	tag2, result, rest2, ok2 := nextTLV(body)
	if !ok || !ok2 || tag1 != 0x7C || tag2 != 0x82 || len(rest)+len(rest2) != 0 {
		t.Fatalf("answer % X", data)
	}
	return result
}

// TestPIVKeys uses the private keys and checks with the certificates.
func TestPIVKeys(t *testing.T) {
	slots := map[byte]pivKind{}
	for _, k := range pivKinds() {
		slots[k.ref] = k
	}
	digest := sha256.Sum256([]byte("signed by a card that does not exist"))
	otherKinds := func(o *PIVOptions) { // RSA where P-256 is usual and the other way round
		key := o.Keys[0x9A].(*rsa.PrivateKey)
		ec1, err1 := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		ec2, err2 := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err1 != nil || err2 != nil {
			t.Fatal(err1, err2)
		}
		o.Keys = map[byte]crypto.Signer{0x9A: ec1, 0x9C: key, 0x9D: ec2, 0x9E: key}
	}
	tests := []struct {
		name   string
		ref    byte
		change func(*PIVOptions)
		rsa    bool
	}{
		{"9A RSA", 0x9A, nil, true},
		{"9C P-256", 0x9C, nil, false},
		{"9D RSA", 0x9D, nil, true},
		{"9E P-256", 0x9E, nil, false},
		{"9A P-256", 0x9A, otherKinds, false},
		{"9C RSA", 0x9C, otherKinds, true},
		{"9D P-256", 0x9D, otherKinds, false},
		{"9E RSA", 0x9E, otherKinds, true},
	}
	for _, tt := range tests {
		for _, chain := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, chained %v", tt.name, chain), func(t *testing.T) {
				p := newTestPIV(t, tt.change)
				ask(t, p, selectPIV)
				ask(t, p, goodPIN)
				switch pub := certificate(t, p, slots[tt.ref]).PublicKey.(type) {
				case *rsa.PublicKey:
					if !tt.rsa {
						t.Fatalf("key is %T", pub)
					}
					// EMSA-PKCS1-v1_5 by hand: 00 01 FF .. 00 DigestInfo
					info := append(hextest.Bytes(t, "30 31 30 0D 06 09 60 86 48 01 65 03 04 02 01 05 00 04 20"), digest[:]...)
					block := append(append([]byte{0, 1}, bytes.Repeat([]byte{0xFF}, 256-3-len(info))...), 0)
					sig := general(t, p, algRSA2048, tt.ref, 0x81, append(block, info...), chain)
					if err := rsa.VerifyPKCS1v15(pub, crypto.SHA256, digest[:], sig); err != nil {
						t.Error(err)
					}
				case *ecdsa.PublicKey:
					if tt.rsa {
						t.Fatalf("key is %T", pub)
					}
					sig := general(t, p, algP256, tt.ref, 0x81, digest[:], chain)
					if !ecdsa.VerifyASN1(pub, digest[:], sig) {
						t.Errorf("signature % X does not verify", sig)
					}
				}
			})
		}
	}
}

func TestPIVDecipher(t *testing.T) {
	p := newTestPIV(t, nil)
	ask(t, p, selectPIV)
	ask(t, p, goodPIN)
	pub := certificate(t, p, pivKinds()[2]).PublicKey.(*rsa.PublicKey)
	message := []byte("session key")
	sealed, err := rsa.EncryptOAEP(sha256.New(), rand.Reader, pub, message, nil)
	if err != nil {
		t.Fatal(err)
	}
	key, err := testRSA()
	if err != nil {
		t.Fatal(err)
	}
	want := new(big.Int).Exp(new(big.Int).SetBytes(sealed), key.D, key.N).FillBytes(make([]byte, 256))
	if got := general(t, p, algRSA2048, 0x9D, 0x81, sealed, true); !bytes.Equal(got, want) {
		t.Errorf("% X, want % X", got, want)
	}
}

func TestPIVAgreement(t *testing.T) {
	own, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	p := newTestPIV(t, func(o *PIVOptions) { o.Keys[0x9D] = own })
	ask(t, p, selectPIV)
	ask(t, p, goodPIN)
	cert := certificate(t, p, pivKinds()[2])
	if cert.KeyUsage != x509.KeyUsageKeyAgreement {
		t.Errorf("key usage %b, want agreement", cert.KeyUsage)
	}
	pub, err := cert.PublicKey.(*ecdsa.PublicKey).ECDH()
	if err != nil {
		t.Fatal(err)
	}
	other, err := ecdh.P256().GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	want, err := other.ECDH(pub)
	if err != nil {
		t.Fatal(err)
	}
	if got := general(t, p, algP256, 0x9D, 0x85, other.PublicKey().Bytes(), false); !bytes.Equal(got, want) {
		t.Errorf("% X, want % X", got, want)
	}
}

// TestPIVFresh makes the keys as a user's card does.
func TestPIVFresh(t *testing.T) {
	p, err := NewPIV(PIVOptions{})
	if err != nil {
		t.Fatal(err)
	}
	ask(t, p, selectPIV)
	seen := map[string]bool{}
	for _, k := range pivKinds() {
		cert := certificate(t, p, k)
		if rsaKey := cert.PublicKeyAlgorithm == x509.RSA; rsaKey != k.rsa {
			t.Errorf("%02X: %v", k.ref, cert.PublicKeyAlgorithm)
		}
		if seen[string(cert.RawSubjectPublicKeyInfo)] {
			t.Errorf("%02X has the key of another slot", k.ref)
		}
		seen[string(cert.RawSubjectPublicKeyInfo)] = true
	}
	q := newTestPIV(t, nil)
	ask(t, q, selectPIV)
	for _, object := range []string{"02", "07"} {
		get := "00 CB 3F FF 05 5C 03 5F C1 " + object + " 00"
		if bytes.Equal(ask(t, p, get), ask(t, q, get)) {
			t.Errorf("two cards have the same 5FC1%s", object)
		}
	}
}

func TestNewPIVRefuses(t *testing.T) {
	small, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		t.Fatal(err)
	}
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	p256, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name string
		opt  PIVOptions
		want string
	}{
		{"short PIN", PIVOptions{PIN: "12345"}, "a PIN has 6 to 8 digits"},
		{"long PIN", PIVOptions{PIN: "123456789"}, "a PIN has 6 to 8 digits"},
		{"letters in the PIN", PIVOptions{PIN: "123abc"}, "a PIN has 6 to 8 digits"},
		{"short PUK", PIVOptions{PUK: "1234567"}, "a PUK has 8 characters"},
		{"long name", PIVOptions{Name: strings.Repeat("x", 65)}, "name of 65 bytes"},
		{"small RSA key", PIVOptions{Keys: map[byte]crypto.Signer{0x9A: small}}, "key 9A"},
		{"another curve", PIVOptions{Keys: map[byte]crypto.Signer{0x9C: p384}}, "key 9C"},
		{"no key", PIVOptions{Keys: map[byte]crypto.Signer{0x9D: nil}}, "key 9D"},
		{"no such slot", PIVOptions{Keys: map[byte]crypto.Signer{0x9B: p256}}, "none of 9A"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			p, err := NewPIV(tt.opt)
			if err == nil || p != nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, %v; want an error about %q", p, err, tt.want)
			}
		})
	}
}

// TestPIVLengths reads an object in all ways there are.
func TestPIVLengths(t *testing.T) {
	p := newTestPIV(t, nil)
	ask(t, p, selectPIV)
	const get = "00 CB 3F FF 05 5C 03 5F C1 05"
	whole := ask(t, p, get+"00")
	if len(whole) <= 2*256 {
		t.Fatalf("the certificate of 9A has %d bytes, too few for this test", len(whole))
	}
	first := p.Transmit(hextest.Bytes(t, get+"00"))
	if len(first) != 258 || first[256] != 0x61 || first[257] != 0x00 {
		t.Errorf("short Le: %d bytes and % X", len(first)-2, first[len(first)-2:])
	}
	if got := ask(t, p, get); !bytes.Equal(got, whole) {
		t.Errorf("no Le: %d bytes, want %d", len(got), len(whole))
	}
	if got := ask(t, p, get+"10"); !bytes.Equal(got, whole) {
		t.Errorf("Le 16: %d bytes, want %d", len(got), len(whole))
	}
	extended := p.Transmit(hextest.Bytes(t, "00 CB 3F FF 00 00 05 5C 03 5F C1 05 00 00"))
	if want := withStatus(bytes.Clone(whole), swOK); !bytes.Equal(extended, want) {
		t.Errorf("extended: %d bytes, want %d", len(extended), len(want))
	}
	p.Transmit(hextest.Bytes(t, get+"00"))
	if got := p.Transmit(hextest.Bytes(t, "00 C0 01 00 00")); !bytes.Equal(got, []byte{0x6A, 0x86}) {
		t.Errorf("GET RESPONSE with P1 01: % X", got)
	}
	p.Reset()
	if got := p.Transmit(hextest.Bytes(t, "00 C0 00 00 00")); !bytes.Equal(got, []byte{0x69, 0x85}) {
		t.Errorf("GET RESPONSE after a reset: % X", got)
	}
}
