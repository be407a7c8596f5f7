//go:build go1.25

package verify_test

import (
	"bytes"
	"context"
	"encoding/hex"
	"strings"
	"testing"

	"openct/internal/serial"
	"openct/internal/verify"
	"openct/internal/vusb"
	"openct/internal/vusb/card"
	"openct/internal/vusb/serialline"
)

// leaky is a way in which a device gives secrets away, at one place or at all.
type leaky struct {
	name   string
	mangle func([]byte) []byte // an answer of the device
	card   func(card.Card) card.Card
}

// spilling is a card whose every response is made of secrets.
type spilling struct {
	card.Card
	response []byte
}

func (s spilling) Transmit([]byte) []byte { return bytes.Clone(s.response) }

// No report holds a secret, wherever the device puts it: behind the ATR, behind a
// block or a message, in place of one, in a response, in place of a status word.
func TestReportHoldsNoSecret(t *testing.T) {
	secret := []byte(secretSerial + secretPIN + secretName + string(secretGUID[:]))
	block := append([]byte{0x00, 0x00, byte(len(secret))}, secret...)
	appended := func(b []byte) []byte { return append(bytes.Clone(b), secret...) }
	turn := 0
	leaks := []leaky{
		{name: "behind every answer", mangle: appended},
		{name: "in place of every answer", mangle: func([]byte) []byte { return secret }},
		{name: "in place of every third answer", mangle: func(b []byte) []byte {
			if turn++; turn%3 == 0 {
				return secret
			}
			return b
		}},
		{name: "in damaged blocks", mangle: func(b []byte) []byte {
			if turn++; turn%3 == 0 {
				return append(bytes.Clone(block), 0x55)
			}
			return b
		}},
		{name: "in blocks of no kind", mangle: func(b []byte) []byte {
			bad := bytes.Clone(block)
			bad[1] = 0x9F
			sum := byte(0)
			for _, c := range bad {
				sum ^= c
			}
			if turn++; turn%3 == 0 {
				return append(bad, sum)
			}
			return b
		}},
		{name: "behind a length", mangle: func(b []byte) []byte { return append([]byte{byte(len(secret))}, secret...) }},
		{name: "behind a header of CCID", mangle: func(b []byte) []byte {
			return append(append([]byte{0x80, byte(len(secret)), 0, 0, 0}, b[:min(5, len(b))]...), secret...)
		}},
		{name: "in hexadecimal digits", mangle: func([]byte) []byte {
			return append(append([]byte{0x02}, []byte(strings.ToUpper(hex.EncodeToString(secret)))...), 0x03)
		}},
		{name: "in every fourth answer, which is damaged", mangle: func(b []byte) []byte {
			if turn++; turn%4 == 0 && len(b) > 0 {
				b = bytes.Clone(b)
				b[len(b)-1] ^= 0x55
			}
			return b
		}},
		{name: "in responses", card: func(c card.Card) card.Card { return spilling{c, append(bytes.Clone(secret), 0x90, 0x00)} }},
		{name: "in place of status words", card: func(c card.Card) card.Card { return spilling{c, secret} }},
	}
	for _, b := range benches() {
		for _, l := range leaks {
			t.Run(b.name+"/"+l.name, func(t *testing.T) {
				piv := pivCard(t, b.atr)
				all := secrets(t, piv)
				var c card.Card = piv
				if l.card != nil {
					c = l.card(c)
				}
				o := b.options(c)
				if l.mangle != nil && b.serial() {
					open := o.IFD.OpenLine
					o.IFD.OpenLine = func(path string) (serial.Line, error) {
						l2, err := open(path)
						return &leakyLine{l2.(*line), l.mangle, b.echo}, err
					}
				} else if l.mangle != nil {
					o = b.options(c, vusb.Fault{Times: -1, Mangle: l.mangle})
				}
				text, _ := run(t, o)
				clean(t, text, all)
				if !strings.Contains(text, "[exchange]\nopen\n") {
					t.Errorf("no exchange:\n%s", text)
				}
				if _, err := verify.Parse(text); err != nil {
					t.Error(err)
				}
			})
		}
	}
}

// leakyLine mangles what comes after each write.
type leakyLine struct {
	*line
	mangle func([]byte) []byte
	echo   bool
}

func (l *leakyLine) spoil(from int) {
	var b []byte
	for _, c := range l.in[from:] {
		b = append(b, c.Byte)
	}
	l.in = l.in[:from]
	for _, c := range l.mangle(b) {
		l.in = append(l.in, serialline.Char{Byte: c})
	}
}

func (l *leakyLine) SetLines(dtr, rts bool) error {
	n := len(l.in)
	err := l.line.SetLines(dtr, rts)
	l.spoil(n)
	return err
}

func (l *leakyLine) Write(ctx context.Context, b []byte) error {
	n := len(l.in)
	err := l.line.Write(ctx, b)
	if l.echo {
		n += len(b)
	}
	l.spoil(min(n, len(l.in)))
	return err
}
