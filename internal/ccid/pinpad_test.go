//go:build go1.25

package ccid

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"openct/internal/hextest"
	"openct/internal/ifd"
	"openct/internal/proto"
	"openct/internal/vusb/ccidreader"
)

const paddedVerify = "00 20 00 01 08 FF FF FF FF FF FF FF FF"

// TestSecureVector is one PIN entry, byte by byte.
func TestSecureVector(t *testing.T) {
	s := &slot{plan: &Plan{MaxMessage: 271, Display: true}}
	e, offset, err := s.entry(ifd.PINRequest{Control: 0x01}, hextest.Bytes(t, paddedVerify), 6)
	if err != nil {
		t.Fatal(err)
	}
	e.format |= offset << 3
	got := secureVerify(e).append(nil, 2, 7)
	want := hextest.Bytes(t, "69 1C 00 00 00 02 07 00 00 00 00 00 82 08 00 08 04 02 01 09 04 00 00 00 00"+paddedVerify)
	if !bytes.Equal(got, want) {
		t.Errorf("got  % X\nwant % X", got, want)
	}
}

// TestVerify: what the card gets of what the user types.
func TestVerify(t *testing.T) {
	for _, c := range []struct {
		name       string
		head, apdu string
		keys       ccidreader.Keys
		want       string
	}{
		{"ASCII, padded", "01 06", paddedVerify, ccidreader.Keys{PIN: "123456"}, "00 20 00 01 08 31 32 33 34 35 36 FF FF"},
		{"ASCII, fixed length", "41 06", "00 20 00 01 04 00 00 00 00", ccidreader.Keys{PIN: "4711"}, "00 20 00 01 04 34 37 31 31"},
		{"BCD, padded", "00 06", paddedVerify, ccidreader.Keys{PIN: "12345"}, "00 20 00 01 08 12 34 5F FF FF FF FF FF"},
		{"BCD behind a control byte", "00 07", "00 20 00 01 08 25 FF FF FF FF FF FF FF", ccidreader.Keys{PIN: "123456"}, "00 20 00 01 08 25 12 34 56 FF FF FF FF"},
		{"the reader adds Lc", "01 06", "00 20 00 01", ccidreader.Keys{PIN: "1234"}, "00 20 00 01 04 31 32 33 34"},
	} {
		for _, number := range []string{"P11", "P11b"} {
			for i, a := range [][]byte{atrT0, atrT1} {
				t.Run(fmt.Sprintf("%s/%s/T=%d", c.name, number, i), func(t *testing.T) {
					bubble(t, func(t *testing.T) {
						chip := &testCard{atr: a}
						b := plug(t, profile(t, number), chip).start()
						e := b.engine(0)
						b.transmit(e, selectMF, okSW)
						for range 2 { // block numbers must go on
							b.model.Keys(c.keys)
							got, err := b.slot(0).(ifd.Verifier).Verify(context.Background(), pinRequest(t, c.head, c.apdu))
							if err != nil || !bytes.Equal(got, okSW) {
								t.Fatalf("Verify: % X, %v", got, err)
							}
							if seen := chip.seen[len(chip.seen)-1]; !bytes.HasPrefix(seen, hextest.Bytes(t, c.want)) {
								t.Errorf("card got % X, want %s", seen, c.want)
							}
							b.transmit(e, selectMF, okSW)
						}
						b.clean()
					})
				})
			}
		}
	}
}

// TestVerifyOutcomes: how a PIN entry can end, and that the card can be
// used on.
func TestVerifyOutcomes(t *testing.T) {
	for _, c := range []struct {
		name  string
		keys  ccidreader.Keys
		fault ccidreader.Fault
		sw    []byte // of the card
		want  error
	}{
		{name: "right", keys: ccidreader.Keys{PIN: "12345678"}, sw: okSW},
		{name: "wrong", keys: ccidreader.Keys{PIN: "12345678"}, sw: []byte{0x63, 0xC2}},
		{name: "red key", keys: ccidreader.Keys{Cancel: true}, want: ifd.ErrUserAbort},
		{name: "no key", keys: ccidreader.Keys{Nothing: true}, want: ifd.ErrUserTimeout},
		{name: "two PINs that differ", keys: ccidreader.Keys{Mismatch: true}, want: ifd.ErrPINMismatch},
		{name: "slow typing", keys: ccidreader.Keys{PIN: "1234"}, sw: okSW,
			fault: ccidreader.Fault{On: 0x69, Extensions: 80, Delay: time.Second}},
		{name: "very slow typing without a word of the reader", keys: ccidreader.Keys{PIN: "1234"}, sw: okSW,
			fault: ccidreader.Fault{On: 0x69, Delay: 89 * time.Second}},
		{name: "refused altogether", keys: ccidreader.Keys{PIN: "1234"}, want: ifd.ErrNotSupported,
			fault: ccidreader.Fault{On: 0x69, Fail: true, Code: 0}},
		{name: "card pulled", keys: ccidreader.Keys{PIN: "1234"}, want: ifd.ErrNoCard,
			fault: ccidreader.Fault{On: 0x69, Pull: true}},
	} {
		for _, number := range []string{"P11", "P11b"} {
			for i, a := range [][]byte{atrT0, atrT1} {
				t.Run(fmt.Sprintf("%s/%s/T=%d", c.name, number, i), func(t *testing.T) {
					bubble(t, func(t *testing.T) {
						chip := &testCard{atr: a}
						b := plug(t, profile(t, number), chip).start()
						e := b.engine(0)
						b.transmit(e, selectMF, okSW)
						if c.fault.On != 0 {
							b.model.Inject(c.fault)
						}
						b.model.Keys(c.keys)
						chip.answer = func([]byte) []byte { return c.sw }
						got, err := b.slot(0).(ifd.Verifier).Verify(context.Background(), pinRequest(t, "01 06", paddedVerify))
						if c.want != nil {
							wantErr(t, "Verify", err, c.want)
						} else if err != nil || !bytes.Equal(got, c.sw) {
							t.Fatalf("Verify: % X, %v; want % X", got, err, c.sw)
						}
						if c.want == ifd.ErrNoCard {
							return
						}
						chip.answer = nil
						b.transmit(e, selectMF, okSW)
						b.clean()
					})
				})
			}
		}
	}
}

// TestVerifyNotRepeated: what stands in the command for the PIN is none, and a card would
// count it for a wrong one.
func TestVerifyNotRepeated(t *testing.T) {
	spoil := func(m []byte) []byte { m[len(m)-1] ^= 0x55; return m }
	for _, c := range []struct {
		name   string
		faults []ccidreader.Fault
		seen   int // by the card
	}{
		{"the card asks for the block again", []ccidreader.Fault{{On: 0x69, Mangle: func(m []byte) []byte {
			m[1] = 4
			return append(m[:headerSize], 0x00, 0x91, 0x00, 0x91) // N(R) 1, checksum
		}}}, 1},
		{"three damaged answers", []ccidreader.Fault{{On: 0x69, Mangle: spoil}, {On: 0x6F, Times: 2, Mangle: spoil}}, 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				chip := &testCard{atr: atrT1}
				b := plug(t, profile(t, "P11"), chip).start()
				e := b.engine(0)
				b.transmit(e, selectMF, okSW)
				chip.seen = nil
				b.model.Keys(ccidreader.Keys{PIN: "123456"})
				for _, f := range c.faults {
					b.model.Inject(f)
				}
				got, err := b.slot(0).(ifd.Verifier).Verify(context.Background(), pinRequest(t, "01 06", paddedVerify))
				if !errors.Is(err, proto.ErrResetRequired) {
					t.Errorf("Verify: % X, %v, want %v", got, err, proto.ErrResetRequired)
				}
				if len(chip.seen) != c.seen {
					t.Errorf("card got % X", chip.seen)
				}
				b.transmit(b.engine(0), selectMF, okSW)
				b.clean()
			})
		})
	}
}

// TestVerifyCancelled: the client leaves while the user types; the entry is
// aborted, and so says the reader.
func TestVerifyCancelled(t *testing.T) {
	for _, number := range []string{"P11", "P11b"} {
		t.Run(number, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				b := plug(t, profile(t, number), &testCard{atr: atrT1}).start()
				b.engine(0)
				b.model.Keys(ccidreader.Keys{PIN: "1234"})
				b.model.Inject(ccidreader.Fault{On: 0x69, Extensions: -1, Delay: time.Second})
				ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
				defer cancel()
				_, err := b.slot(0).(ifd.Verifier).Verify(ctx, pinRequest(t, "01 06", paddedVerify))
				wantErr(t, "Verify", err, context.DeadlineExceeded)
				if n := len(b.sent(0x72)); n != 1 {
					t.Errorf("%d aborts, want 1", n)
				}
				b.transmit(b.engine(0), selectMF, okSW)
			})
		})
	}
}

// TestModify: old and new PIN, where the request puts them.
func TestModify(t *testing.T) {
	const change = "00 24 00 01 10 FF FF FF FF FF FF FF FF FF FF FF FF FF FF FF FF"
	for _, c := range []struct {
		name       string
		head, apdu string
		want       string
	}{
		{"ASCII, old then new", "01 06", "0E" + change, "00 24 00 01 10 31 32 33 34 FF FF FF FF 35 36 37 38 FF FF FF FF"},
		{"BCD, old then new", "00 06", "0E" + change, "00 24 00 01 10 12 34 FF FF FF FF FF FF 56 78 FF FF FF FF FF FF"},
		{"new alone", "01 00", "06 00 24 01 01 08 FF FF FF FF FF FF FF FF", "00 24 01 01 08 35 36 37 38 FF FF FF FF"},
	} {
		for _, number := range []string{"P11", "P11b"} {
			t.Run(c.name+"/"+number, func(t *testing.T) {
				bubble(t, func(t *testing.T) {
					chip := &testCard{atr: atrT1}
					b := plug(t, profile(t, number), chip).start()
					e := b.engine(0)
					b.model.Keys(ccidreader.Keys{PIN: "1234", New: "5678"})
					got, err := b.slot(0).(ifd.Modifier).Modify(context.Background(), pinRequest(t, c.head, c.apdu))
					if err != nil || !bytes.Equal(got, okSW) {
						t.Fatalf("Modify: % X, %v", got, err)
					}
					if seen := chip.seen[0]; !bytes.Equal(seen, hextest.Bytes(t, c.want)) {
						t.Errorf("card got % X\nwant     %s", seen, c.want)
					}
					b.transmit(e, selectMF, okSW)
					b.clean()
				})
			})
		}
	}
}

// TestPINRequestErrors: what cannot be expressed is refused before the reader
// hears of it.
func TestPINRequestErrors(t *testing.T) {
	for _, c := range []struct {
		name       string
		head, apdu string
		want       error
	}{
		{"no command", "01 06", "", proto.ErrInvalidAPDU},
		{"three bytes", "01 06", "00 20 00", proto.ErrInvalidAPDU},
		{"position 0", "01 00", paddedVerify, proto.ErrInvalidAPDU},
		{"position in the header", "01 05", paddedVerify, proto.ErrInvalidAPDU},
		{"position behind the end", "01 0E", paddedVerify, proto.ErrInvalidAPDU},
		{"position out of reach", "01 16", "00 20 00 01 14" + "FF FF FF FF FF FF FF FF FF FF FF FF FF FF FF FF FF FF FF FF", ifd.ErrNotSupported},
		{"Lc that lies", "01 06", "00 20 00 01 09 FF FF FF FF FF FF FF FF", proto.ErrInvalidAPDU},
		{"fixed length that does not fit", "91 06", paddedVerify, proto.ErrInvalidAPDU},
	} {
		t.Run(c.name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				b := plug(t, profile(t, "P11"), &testCard{atr: atrT0}).start()
				b.engine(0)
				_, err := b.slot(0).(ifd.Verifier).Verify(context.Background(), pinRequest(t, c.head, c.apdu))
				wantErr(t, "Verify", err, c.want)
				if n := len(b.sent(0x69)); n > 0 {
					t.Error("it was sent all the same")
				}
			})
		})
	}
	bubble(t, func(t *testing.T) {
		b := plug(t, profile(t, "P11"), &testCard{atr: atrT0}).start()
		_, err := b.slot(0).(ifd.Verifier).Verify(context.Background(), pinRequest(t, "01 06", paddedVerify))
		wantErr(t, "before a reset", err, proto.ErrResetRequired)
		b.engine(0)
		_, err = b.slot(0).(ifd.Modifier).Modify(context.Background(), ifd.PINRequest{Control: 1, Offset: 6})
		wantErr(t, "change without a command", err, proto.ErrInvalidAPDU)
	})
}

// TestPINQuirks: the fields that some models take only so.
func TestPINQuirks(t *testing.T) {
	const change = "0E 00 24 00 01 10 FF FF FF FF FF FF FF FF FF FF FF FF FF FF FF FF"
	for _, c := range []struct {
		name            string
		vendor, product uint16
		lcd             uint16
		verify, modify  string // what Secure begins with
	}{
		{"unknown, display", 0xFFF0, 1, 0x0210,
			"00 1E 82 08 00 08 04 02 01 09 04 00", "01 1E 82 08 00 00 08 08 04 03 02 03 09 04 00 01 02"},
		{"unknown, no display", 0xFFF0, 1, 0,
			"00 1E 82 08 00 08 04 02 00 09 04 00", "01 1E 82 08 00 00 08 08 04 03 02 00 09 04 00"},
		{"GemPC PinPad", 0x08E6, 0x3478, 0,
			"00 1E 82 08 00 08 04 02 01 09 04 00", "01 1E 82 08 00 00 08 08 04 03 02 00 09 04 00 01 02"},
		{"SPR532", 0x04E6, 0xE003, 0,
			"00 1E 82 08 00 08 04 02 00 09 04 00", "01 1E 82 08 00 00 08 08 04 03 02 00 09 04 00 01 02"},
		{"Cherry XX44", 0x046A, 0x0010, 0,
			"00 1E 82 08 00 08 04 02 00 09 04 00", "01 1E 82 08 00 00 08 08 04 03 02 03 09 04 00 01 02"},
		{"Cherry ST-1275", 0x046A, 0x00A1, 0,
			"00 1E 82 08 00 08 04 02 00 09 04 00", "01 1E 82 08 00 00 08 08 04 03 02 FF 09 04 00 01 02"},
		{"Dell keyboard", 0x413C, 0x2101, 0x0210,
			"00 1E 82 08 00 08 04 02 00 09 04 00", "01 1E 82 08 00 00 08 08 04 03 02 00 09 04 00"},
		{"Dell keyboard, older", 0x413C, 0x2100, 0x0210,
			"00 1E 82 08 00 04 08 02 00 09 04 00", "01 1E 82 08 00 00 08 04 08 03 02 00 09 04 00"},
	} {
		t.Run(c.name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				p := profile(t, "P11b")
				p.Vendor, p.Product, p.Release, p.LCD = c.vendor, c.product, 0xFFFF, c.lcd
				b := plug(t, p, &testCard{atr: atrT0}).start()
				b.engine(0)
				// What the user does is of no interest; nobody is there.
				_, err := b.slot(0).(ifd.Verifier).Verify(context.Background(), pinRequest(t, "01 06", paddedVerify))
				if err == nil {
					t.Error("Verify without a user")
				}
				_, err = b.slot(0).(ifd.Modifier).Modify(context.Background(), pinRequest(t, "01 06", change))
				if err == nil {
					t.Error("Modify without a user")
				}
				sent := b.sent(0x69)
				if len(sent) != 2 {
					t.Fatalf("%d PIN entries", len(sent))
				}
				for i, want := range []string{c.verify, c.modify} {
					if got := sent[i].Data; !bytes.HasPrefix(got, hextest.Bytes(t, want)) {
						t.Errorf("sent % X\nwant %s ...", got, want)
					}
				}
			})
		})
	}
}
