package card

import (
	"crypto/x509"
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// From 2050 on, a certificate has years of four digits (RFC 5280, 4.1.2.5).
func TestPIVCertificateYears(t *testing.T) {
	for _, year := range []int{2039, 2040, 2055} {
		from := time.Date(year, 12, 31, 23, 59, 59, 0, time.FixedZone("west", -3600)) // in UTC a year later
		p := newTestPIV(t, func(o *PIVOptions) { o.Now = from })
		ask(t, p, selectPIV)
		cert := certificate(t, p, pivKinds()[3])
		if until := from.UTC().AddDate(pivYears, 0, 0); !cert.NotBefore.Equal(from) || !cert.NotAfter.Equal(until) {
			t.Errorf("valid %v to %v, want %v to %v", cert.NotBefore, cert.NotAfter, from.UTC(), until)
		}
	}
}

func TestPIVCertificates(t *testing.T) {
	now := time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC)
	p := newTestPIV(t, func(o *PIVOptions) { o.Now, o.Name = now, "Test card" })
	ask(t, p, selectPIV)
	want := map[byte]struct {
		subject string
		alg     x509.PublicKeyAlgorithm
		usage   x509.KeyUsage
		purpose []x509.ExtKeyUsage
	}{
		0x9A: {"CN=PIV Authentication,O=Test card", x509.RSA, x509.KeyUsageDigitalSignature,
			[]x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}},
		0x9C: {"CN=Digital Signature,O=Test card", x509.ECDSA, x509.KeyUsageDigitalSignature | x509.KeyUsageContentCommitment,
			[]x509.ExtKeyUsage{x509.ExtKeyUsageEmailProtection}},
		0x9D: {"CN=Key Management,O=Test card", x509.RSA, x509.KeyUsageKeyEncipherment,
			[]x509.ExtKeyUsage{x509.ExtKeyUsageEmailProtection}},
		0x9E: {"CN=Card Authentication,O=Test card", x509.ECDSA, x509.KeyUsageDigitalSignature, nil},
	}
	for _, k := range pivKinds() {
		t.Run(fmt.Sprintf("%02X", k.ref), func(t *testing.T) {
			cert, w := certificate(t, p, k), want[k.ref]
			if err := cert.CheckSignature(cert.SignatureAlgorithm, cert.RawTBSCertificate, cert.Signature); err != nil {
				t.Errorf("not signed by its own key: %v", err)
			}
			if cert.Subject.String() != w.subject || cert.Issuer.String() != w.subject {
				t.Errorf("subject %s, issuer %s; want %s", cert.Subject, cert.Issuer, w.subject)
			}
			if cert.PublicKeyAlgorithm != w.alg || cert.KeyUsage != w.usage {
				t.Errorf("%v for usage %b, want %v, %b", cert.PublicKeyAlgorithm, cert.KeyUsage, w.alg, w.usage)
			}
			if diff := cmp.Diff(w.purpose, cert.ExtKeyUsage); diff != "" || len(cert.Extensions) != 1+len(w.purpose) || !cert.Extensions[0].Critical {
				t.Errorf("extensions %v (-want +got):\n%s", cert.Extensions, diff)
			}
			if cert.Version != 3 || cert.SerialNumber.Sign() <= 0 {
				t.Errorf("version %d, serial number %v", cert.Version, cert.SerialNumber)
			}
			if !cert.NotBefore.Equal(now) || cert.NotAfter.Year() != now.Year()+pivYears {
				t.Errorf("valid %v to %v", cert.NotBefore, cert.NotAfter)
			}
		})
	}
}
