package card

import (
	"bytes"
	"crypto"
	"testing"

	"openct/internal/hextest"
)

// FuzzPIV sends APDUs, each behind a length byte (FF: two more bytes of
// length), and watches the retry counters.
func FuzzPIV(f *testing.F) {
	seed := func(apdus ...string) {
		var b []byte
		for _, s := range apdus {
			apdu := hextest.Bytes(f, s)
			b = append(append(b, byte(len(apdu))), apdu...)
		}
		f.Add(b)
	}
	seed(selectPIV, statusPIN, badPIN, badPIN, badPIN, goodPIN)
	seed(selectPIV, goodPIN, "00 87 11 9C 07 7C 05 82 00 81 01 5A 00")
	seed(selectPIV, "10 87 11 9E 04 7C 05 82 00", "00 87 11 9E 03 81 01 5A 00")
	seed(selectPIV, "00 CB 3F FF 05 5C 03 5F C1 05 00", "00 C0 00 00 00", "00 C0 00 00 10")
	seed(selectPIV, "00 24 00 80 10"+pin123456+pin654321, "00 2C 00 80 10"+puk+pin123456)
	seed("00 CB 3F FF 00 00 05 5C 03 5F C1 05 00 00", "00", "")
	key, err := testRSA()
	if err != nil {
		f.Fatal(err)
	}
	// The slots' certificates are made once.
	model, err := NewPIV(PIVOptions{Keys: map[byte]crypto.Signer{0x9A: key, 0x9D: key}})
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		refs, err := newReferences("", "")
		if err != nil {
			t.Fatal(err)
		}
		p := &PIV{atr: model.atr, label: model.label, slots: model.slots, data: model.data, refs: refs}
		wrongPIN, wrongPUK := 0, 0
		for len(b) > 0 {
			n := int(b[0])
			b = b[1:]
			if n == 0xFF && len(b) >= 2 {
				n, b = int(b[0])<<8|int(b[1]), b[2:]
			}
			n = min(n, len(b))
			before := p.refs
			resp := p.Transmit(b[:n])
			b = b[n:]
			if len(resp) < 2 {
				t.Fatalf("response % X", resp)
			}
			wrongPIN = countWrong(t, before.pin, p.refs.pin, wrongPIN)
			wrongPUK = countWrong(t, before.puk, p.refs.puk, wrongPUK)
			if before.pin.tries == 0 && p.refs.verified {
				t.Fatal("a blocked PIN was accepted")
			}
			if p.refs.fresh && !p.refs.verified {
				t.Fatal("the signature key is open, the PIN is not")
			}
			if p.refs.pin.value != before.pin.value && before.pin.tries == 0 && before.puk.tries == 0 {
				t.Fatal("the PIN was changed with everything blocked")
			}
		}
	})
}

// countWrong follows a retry counter from outside.
func countWrong(t *testing.T, before, after reference, wrong int) int {
	t.Helper()
	switch {
	case after.tries == before.tries-1:
		wrong++
	case after.tries == maxTries:
		wrong = 0
	case after.tries != before.tries:
		t.Fatalf("tries went from %d to %d", before.tries, after.tries)
	}
	if wrong > maxTries || after.tries != maxTries-wrong {
		t.Fatalf("%d wrong tries, %d left", wrong, after.tries)
	}
	return wrong
}

// split cuts fuzz input into pieces, each behind a length byte.
func split(b []byte) [][]byte {
	var pieces [][]byte
	for len(b) > 0 {
		n := min(int(b[0]), len(b)-1)
		pieces = append(pieces, b[1:1+n])
		b = b[1+n:]
	}
	return pieces
}

// FuzzT1 is a host that sends anything. The first byte chooses the options.
// With its lowest bit set the host has checksums right, so that what comes
// behind them is reached.
func FuzzT1(f *testing.F) {
	for _, conversation := range []string{
		"01 07 00 00 05 00 EE 00 28 00 03 00 90 00",
		"01 05 00 20 02 00 EE 05 00 40 02 00 10",
		"01 04 00 C1 01 FE 03 00 C0 00",
		"03 07 00 00 05 00 EE 00 28 00 04 00 E3 01 01 03 00 81 00",
		"00 04 00 C0 00 C0 01 00",
	} {
		f.Add(hextest.Bytes(f, conversation))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) == 0 {
			return
		}
		choice := b[0]
		o := T1Options{MaxINF: 32, AnyNAD: choice&4 != 0, CRC: choice&8 != 0, WTX: int(choice >> 1 & 1)}
		c := NewT1(NewEcho(), o)
		c.Reset()
		if choice&16 != 0 {
			c.RequestIFS(choice)
			c.RequestWTX(choice)
			c.Abort()
		}
		for _, block := range split(b[1:]) {
			if choice&1 != 0 {
				block = appendEDC(bytes.Clone(block), o.CRC)
			}
			out := c.Block(block)
			if c.mute {
				if out != nil {
					t.Fatalf("a silent card sent % X", out)
				}
				return
			}
			edc := edcLen(o.CRC)
			if len(out) < 3+edc || !edcOK(out, o.CRC) {
				t.Fatalf("the card sent % X", out)
			}
			length := int(out[2])
			if len(out) != 3+length+edc || length > c.ifsd || !validPCB(out[1], length) {
				t.Fatalf("the card sent % X, to a host that takes %d", out, c.ifsd)
			}
			if out[1] == sResynch {
				t.Fatal("the card asked for resynchronisation")
			}
			if len(c.apdu) > maxAPDU+maxIFS {
				t.Fatalf("the card keeps %d bytes", len(c.apdu))
			}
		}
	})
}

// FuzzT0 is a host that sends anything, as characters and as TPDUs.
func FuzzT0(f *testing.F) {
	f.Add(byte(0), hextest.Bytes(f, "05 00 A4 00 00 02 02 3F 00 05 00 C0 00 00 02"))
	f.Add(byte(1), hextest.Bytes(f, "07 00 A4 00 00 02 3F 00 05 00 C0 00 00 02"))
	f.Add(byte(2), hextest.Bytes(f, "05 00 EE 00 02 03 05 00 EE 01 02 00 05 00 C0 00 00 02"))
	f.Add(byte(4), hextest.Bytes(f, "06 00 A4 00 00 02 3F 06 00 00 EE 00 01"))
	f.Fuzz(func(t *testing.T, choice byte, b []byte) {
		c := NewT0(NewEcho())
		c.Reset()
		c.NULLs = int(choice >> 1 & 1)
		c.SingleByte = choice&4 != 0
		c.Announce9000 = choice&8 != 0
		for _, piece := range split(b) {
			if choice&1 != 0 {
				if out := c.TPDU(piece); len(out) < 2 || len(out) > 258 {
					t.Fatalf("answer of %d bytes to % X", len(out), piece)
				}
				continue
			}
			out := c.Stream(piece)
			if c.want < 0 || c.want > 255 || len(c.in) > 4 || len(c.data) > 255 {
				t.Fatalf("after % X: %d wanted, %d bytes of header, %d of data", piece, c.want, len(c.in), len(c.data))
			}
			if len(out) > 600*(1+len(piece)/5) {
				t.Fatalf("%d bytes in answer to %d", len(out), len(piece))
			}
		}
	})
}
