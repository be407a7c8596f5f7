//go:build vm

package vm

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/asn1"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"openct/internal/driver"
)

// noExtended are the drivers whose tokens speak T=0, which has no extended
// APDUs, and those that send none.
var noExtended = []string{"ePass3000", "egate", "cyberjack", "cardman"}

// testTokens plugs one token of every driver, has it served by its rule, signs
// with the card in it, and pulls it.
func testTokens(t *testing.T, g *guest) {
	g.install(t)
	g.configure(t, "ccid = on;")
	for _, e := range driver.Table() {
		if e.Open == nil || len(e.IDs) == 0 {
			continue // no rule takes it
		}
		t.Run(e.Name, func(t *testing.T) {
			card := "piv"
			if e.Name == "rutoken" { // it translates what it carries
				card = "rutoken"
			}
			begin := time.Now()
			k := g.plug(t, e.Name, "--driver "+e.Name+" --card "+card)
			n := k.served(t)
			ready := time.Since(begin)
			k.works(t, n)
			if card == "piv" {
				pivSigns(t, g, n, !slices.Contains(noExtended, e.Name))
			} else { // its clients write file names with the low byte first
				out := g.sh(t, fmt.Sprintf("openct-tool -r %d apdu 00A4000002003F", n))
				if !strings.HasSuffix(out, "9000") {
					t.Errorf("SELECT of the master file:\n%s", out)
				}
			}
			begin = time.Now()
			k.ctl(t, "unplug")
			k.gone(t, n)
			t.Logf("served %.1f s after the plug, gone %.1f s after the pull", ready.Seconds(), time.Since(begin).Seconds())
		})
	}
}

// configure writes a setting at the head of openct.conf, where the first one
// counts, until the end of the case.
func (g *guest) configure(t testing.TB, setting string) {
	t.Helper()
	kept := g.sh(t, "mktemp -p /run openct.conf.XXXXXX")
	g.sh(t, fmt.Sprintf("cp /etc/openct.conf %s && { echo '%s'; grep -v '^%s ' %[1]s; } >/etc/openct.conf", kept, setting, strings.Fields(setting)[0]))
	t.Cleanup(func() { g.sh(t, fmt.Sprintf("cat %s >/etc/openct.conf && rm %[1]s", kept)) })
}

// commands is a list of APDUs for one call of openct-tool. A command that may
// have a long answer is followed by as many GET RESPONSE as that needs; those
// that find nothing are answered with an error, which does not matter.
type commands struct {
	apdus []string
	first []int // where each command begins
}

func (c *commands) add(rest int, apdus ...[]byte) {
	for _, a := range apdus {
		c.first = append(c.first, len(c.apdus))
		c.apdus = append(c.apdus, hex.EncodeToString(a))
	}
	for range rest {
		c.apdus = append(c.apdus, "00c0000000")
	}
}

// answers sends them and returns the answers as they are, one each. A T=0 card
// may want the exact length (6Cxx): then that one is mended, and all are sent
// again.
func (c *commands) answers(t *testing.T, g *guest, reader int) []string {
	t.Helper()
	for {
		out := g.sh(t, fmt.Sprintf("openct-tool -r %d apdu %s", reader, strings.Join(c.apdus, " ")))
		lines := strings.Split(out, "\n")
		if len(lines) < len(c.apdus) {
			t.Fatalf("%d lines for %d APDUs:\n%s", len(lines), len(c.apdus), out)
		}
		lines = lines[len(lines)-len(c.apdus):]
		i := slices.IndexFunc(lines, func(line string) bool { return len(line) == 4 && line[:2] == "6c" })
		if i < 0 {
			return lines
		}
		exact := c.apdus[i][:len(c.apdus[i])-2] + lines[i][2:]
		if exact == c.apdus[i] {
			t.Fatalf("%s: the card wants the length it was given", exact)
		}
		c.apdus[i] = exact
	}
}

// run returns each command's whole answer without status word, and that word.
func (c *commands) run(t *testing.T, g *guest, reader int) (data [][]byte, sw []string) {
	t.Helper()
	lines := c.answers(t, g, reader)
	for i, at := range c.first {
		end := len(lines)
		if i+1 < len(c.first) {
			end = c.first[i+1]
		}
		var whole []byte
		last := ""
		for _, line := range lines[at:end] {
			b, err := hex.DecodeString(line)
			if err != nil || len(b) < 2 {
				t.Fatalf("%s: answer %q", c.apdus[at], line)
			}
			whole, last = append(whole, b[:len(b)-2]...), line[len(line)-4:]
			if last[:2] != "61" {
				break
			}
		}
		data, sw = append(data, whole), append(sw, last)
	}
	return data, sw
}

// short makes a command APDU with Le 00; chained is for all parts but the last.
func short(chained bool, ins, p1, p2 byte, data []byte) []byte {
	cla := byte(0)
	if chained {
		cla = 0x10
	}
	return append(append([]byte{cla, ins, p1, p2, byte(len(data))}, data...), 0)
}

// template is a dynamic authentication template (NIST SP 800-73-4, part 2,
// 3.2.4) that asks for a signature.
func template(t *testing.T, challenge []byte) []byte {
	t.Helper()
	return der(t, 0x7C, append([]byte{0x82, 0}, der(t, 0x81, challenge)...))
}

func der(t *testing.T, tag byte, value []byte) []byte {
	t.Helper()
	b, err := asn1.Marshal(asn1.RawValue{Class: asn1.ClassUniversal, Tag: asn1.TagOctetString, Bytes: value})
	if err != nil {
		t.Fatal(err)
	}
	b[0] = tag // same length rules, another tag
	return b
}

// pivSigns signs with the PIV card in a reader, with RSA-2048 in 9A and P-256
// in 9C, and checks the signatures with the keys of the card's certificates.
// APDUs are up to 261 bytes long; with extended, RSA once more in one APDU.
func pivSigns(t *testing.T, g *guest, reader int, extended bool) {
	t.Helper()
	message := make([]byte, 64)
	rand.Read(message)
	digest := sha256.Sum256(message)
	// PKCS #1, 9.2: EMSA-PKCS1-v1_5 of a SHA-256 digest in 256 bytes
	info, _ := hex.DecodeString("3031300d060960864801650304020105000420")
	info = append(info, digest[:]...)
	block := append([]byte{0, 1}, bytes.Repeat([]byte{0xFF}, 256-3-len(info))...)
	block = append(append(block, 0), info...)
	rsaTemplate := template(t, block)
	pin := short(false, 0x20, 0, 0x80, []byte("123456\xff\xff"))
	pin = pin[:len(pin)-1]

	const cert9A, cert9C, sigRSA, sigEC = 2, 3, 5, 7
	var c commands
	c.add(1, short(false, 0xA4, 0x04, 0x00, []byte{0xA0, 0, 0, 0x03, 0x08, 0, 0, 0x10, 0, 0x01, 0}))
	c.add(0, pin)
	c.add(5, short(false, 0xCB, 0x3F, 0xFF, []byte{0x5C, 3, 0x5F, 0xC1, 0x05}))
	c.add(3, short(false, 0xCB, 0x3F, 0xFF, []byte{0x5C, 3, 0x5F, 0xC1, 0x0A}))
	first := short(true, 0x87, 0x07, 0x9A, rsaTemplate[:255])
	c.add(0, first[:len(first)-1])
	c.add(2, short(false, 0x87, 0x07, 0x9A, rsaTemplate[255:]))
	c.add(0, pin)
	c.add(3, short(false, 0x87, 0x11, 0x9C, template(t, digest[:])))
	sigExtended := len(c.first)
	if extended {
		n := len(rsaTemplate)
		apdu := append([]byte{0, 0x87, 0x07, 0x9A, 0, byte(n >> 8), byte(n)}, rsaTemplate...)
		c.add(2, append(apdu, 0, 0))
	}
	data, sw := c.run(t, g, reader)
	for i, w := range sw {
		if w != "9000" {
			t.Fatalf("command %d of %d: status %s", i+1, len(sw), w)
		}
	}

	signature := func(b []byte) []byte {
		return inside(t, inside(t, b, 0x7C), 0x82)
	}
	publicKey := func(b []byte) any {
		cert, err := x509.ParseCertificate(inside(t, inside(t, b, 0x53), 0x70))
		if err != nil {
			t.Fatalf("certificate: %v", err)
		}
		return cert.PublicKey
	}
	rsaKey, ok := publicKey(data[cert9A]).(*rsa.PublicKey)
	if !ok {
		t.Fatal("the key in 9A is not RSA")
	}
	if err := rsa.VerifyPKCS1v15(rsaKey, crypto.SHA256, digest[:], signature(data[sigRSA])); err != nil {
		t.Errorf("RSA: %v", err)
	}
	if extended {
		if err := rsa.VerifyPKCS1v15(rsaKey, crypto.SHA256, digest[:], signature(data[sigExtended])); err != nil {
			t.Errorf("RSA, extended APDU: %v", err)
		}
	}
	ecKey, ok := publicKey(data[cert9C]).(*ecdsa.PublicKey)
	if !ok {
		t.Fatal("the key in 9C is not EC")
	}
	if !ecdsa.VerifyASN1(ecKey, digest[:], signature(data[sigEC])) {
		t.Error("P-256: the signature is wrong")
	}
}

// inside is the value of the first element, which has this one-byte tag.
func inside(t *testing.T, b []byte, tag byte) []byte {
	t.Helper()
	if len(b) < 2 || b[0] != tag {
		t.Fatalf("% x does not begin with tag %02x", b, tag)
	}
	n, at := int(b[1]), 2
	for extra := n - 0x80; extra > 0; extra-- {
		if at == 2 {
			n = 0
		}
		if at >= len(b) {
			t.Fatalf("% x is cut off", b)
		}
		n, at = n<<8|int(b[at]), at+1
	}
	if at+n > len(b) {
		t.Fatalf("tag %02x wants %d bytes of %d", tag, n, len(b)-at)
	}
	return b[at : at+n]
}
