package driver

import (
	"context"
	"fmt"
	"math/bits"

	"openct/internal/ifd"
	"openct/internal/proto"
)

// Commands of a SLE 4442 (Siemens data sheet, table of commands).
const (
	sle4442Read          = 0x30
	sle4442ReadSecurity  = 0x31
	sle4442Compare       = 0x33
	sle4442Update        = 0x38
	sle4442WriteSecurity = 0x39
)

// Commands of a SLE 4428, the six bits before two of the address (Siemens data
// sheet, table of commands): bit 0 goes first.
const (
	sle4428Compare      = 0x0D
	sle4428Read         = 0x0E
	sle4428WriteCounter = 0x32
	sle4428Write        = 0x33
)

// towitokoPSC is where a card has its error counter and its PSC, and the commands
// that address them (doc/devices/towitoko.md).
type towitokoPSC struct {
	length  int  // of the PSC
	counter byte // a bit for each try, all set

	read    []byte   // the counter; the PSC follows
	count   []byte   // clear bits of the counter
	erase   []byte   // set them again
	compare [][]byte // the PSC, in as many parts
	change  [][]byte
}

func towitokoPSCOf(p proto.ID) (towitokoPSC, bool) {
	const at = 1021 // of a SLE 4428's error counter
	switch p {
	case proto.TwoWire:
		return towitokoPSC{
			length: 3, counter: 0x07,
			read:    towitokoRead2(sle4442ReadSecurity, 0),
			count:   towitokoWrite2(sle4442WriteSecurity, 0),
			erase:   towitokoWrite2(sle4442WriteSecurity, 0),
			compare: [][]byte{towitokoWrite2(sle4442Compare, 1)},
			change:  [][]byte{towitokoWrite2(sle4442WriteSecurity, 1)},
		}, true
	case proto.ThreeWire:
		return towitokoPSC{
			length: 2, counter: 0xFF,
			read:    towitokoRead3(sle4428Read, at),
			count:   towitokoWrite3(sle4428WriteCounter, at),
			erase:   towitokoWrite3(sle4428Write, at),
			compare: [][]byte{towitokoWrite3(sle4428Compare, at+1), towitokoWrite3(sle4428Compare, at+2)},
			change:  [][]byte{towitokoWrite3(sle4428Write, at+1), towitokoWrite3(sle4428Write, at+2)},
		}, true
	}
	return towitokoPSC{}, false
}

// Status words for a PSC (ISO/IEC 7816-4, 5.6).
const (
	swVerified    = 0x9000
	swTriesLeft   = 0x63C0
	swWrongLength = 0x6700
	swBlocked     = 0x6983
)

// VerifyPSC implements proto.PSCLink. C OpenCT has no PSC.
func (s *towitokoSlot) VerifyPSC(ctx context.Context, p proto.ID, psc []byte) (sw uint16, err error) {
	return s.withPSC(ctx, p, psc, func(towitokoPSC) error { return nil })
}

// ChangePSC implements proto.PSCLink. A card that has seen its PSC shows it, which
// tells whether it took the new one.
func (s *towitokoSlot) ChangePSC(ctx context.Context, p proto.ID, old, new []byte) (sw uint16, err error) {
	return s.withPSC(ctx, p, old, func(c towitokoPSC) error {
		part := len(new) / len(c.change)
		for i, at := range c.change {
			if err := s.write(ctx, at, new[i*part:][:part]); err != nil {
				return err
			}
		}
		_, have, err := s.security(ctx, c)
		defer clear(have)
		if err == nil && string(have) != string(new) {
			err = fmt.Errorf("new PSC: %w", proto.ErrWriteProtected)
		}
		return err
	})
}

// withPSC presents a PSC and, if it was right, goes on with then. Clearing a bit of
// the error counter allows one comparison, after which the counter can be erased if
// that was right. The card loses its power before, and with it what an earlier PSC
// has opened. A card that has no PSC is told by what its counter does, before
// anything else of it is written: its memory is where others have the counter.
func (s *towitokoSlot) withPSC(ctx context.Context, p proto.ID, psc []byte, then func(towitokoPSC) error) (sw uint16, err error) {
	c, ok := towitokoPSCOf(p)
	if !ok {
		return 0, fmt.Errorf("PSC of a %v card: %w", p, ifd.ErrNotSupported)
	}
	if len(psc) != c.length {
		return swWrongLength, nil
	}
	err = s.memory(ctx, func() error {
		if err := s.power(ctx); err != nil {
			return err
		}
		left, shown, err := s.security(ctx, c)
		switch {
		case err != nil:
			return err
		case left&^c.counter != 0 || !hidden(shown):
			return errNoPSC
		case left == 0:
			sw = swBlocked
			return nil
		}
		if err := s.write(ctx, c.count, []byte{left & (left - 1)}); err != nil {
			return err
		}
		if counted, _, err := s.security(ctx, c); err != nil {
			return err
		} else if counted != left&(left-1) {
			return errNoPSC
		}
		part := len(psc) / len(c.compare)
		for i, at := range c.compare {
			if err := s.write(ctx, at, psc[i*part:][:part]); err != nil {
				return err
			}
		}
		if err := s.write(ctx, c.erase, []byte{0xFF}); err != nil {
			return err
		}
		left, shown, err = s.security(ctx, c)
		clear(shown)
		if err != nil {
			return err
		}
		if left != c.counter {
			sw = swTriesLeft | uint16(bits.OnesCount8(left))
			return nil
		}
		sw = swVerified
		return then(c)
	})
	return sw, err
}

var errNoPSC = fmt.Errorf("card without a PSC: %w", ifd.ErrNotSupported)

// hidden says whether this can be what a card shows in place of a PSC that it has
// not seen: 0 in every bit, as a SLE 4442 does. What a SLE 4428 shows is not known
// for sure, and no bit set or all of them is accepted.
func hidden(psc []byte) bool {
	for _, b := range psc {
		if b != psc[0] {
			return false
		}
	}
	return psc[0] == 0x00 || psc[0] == 0xFF
}

// security reads the error counter, a bit for each try left, and the PSC as the
// card shows it.
func (s *towitokoSlot) security(ctx context.Context, c towitokoPSC) (counter byte, psc []byte, err error) {
	if err := s.do(ctx, c.read...); err != nil {
		return 0, nil, err
	}
	b := make([]byte, 1+c.length)
	if err := s.read(ctx, b); err != nil {
		return 0, nil, err
	}
	return b[0], b[1:], nil
}
