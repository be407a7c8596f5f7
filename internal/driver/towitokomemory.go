package driver

import (
	"context"
	"fmt"
	"math/bits"

	"openct/internal/ifd"
	"openct/internal/proto"
)

// towitokoBlock is the most bytes a command reads from a memory card or writes
// to it.
const towitokoBlock = 15

// PowerMemory implements ifd.Memory.
func (s *towitokoSlot) PowerMemory(ctx context.Context) error {
	return s.memory(ctx, func() error { return s.power(ctx) })
}

func (s *towitokoSlot) power(ctx context.Context) error {
	if err := s.do(ctx, 0x61, 0x0F); err != nil {
		return err
	}
	return s.do(ctx, 0x60, 0x0F)
}

// memory does something with the line that is set for a memory card.
func (s *towitokoSlot) memory(ctx context.Context, do func() error) error {
	if err := s.enter(ctx); err != nil {
		return err
	}
	defer s.leave()
	s.inverse = false
	if s.odd {
		if err := s.parity(ctx, false); err != nil {
			return err
		}
	}
	return do()
}

// ReadMemory implements proto.MemoryLink.
func (s *towitokoSlot) ReadMemory(ctx context.Context, p proto.ID, addr uint16, buf []byte) (int, error) {
	hi, lo := byte(addr>>8), byte(addr)
	var at []byte
	switch p {
	case proto.I2CShort:
		at = []byte{0x7C, 0x64, 0x41, 0xA0 | hi<<1, lo, 0x64, 0x40, 0xA1 | hi<<1, 0x0F}
	case proto.I2CLong:
		at = []byte{0x7C, 0x64, 0x42, 0xA0, hi, lo, 0x64, 0x40, 0xA1, 0x0F}
	case proto.TwoWire:
		at = []byte{0x70, 0x64, 0x42, sleRead, lo, 0x00, 0x65, 0x0F}
	case proto.ThreeWire:
		at = []byte{0x70, 0xA0, 0x42, 0x0E | hi<<6, lo, 0x00, 0x80, 0x50, 0x0F}
	default:
		return 0, fmt.Errorf("%v card: %w", p, ifd.ErrNotSupported)
	}
	err := s.memory(ctx, func() error {
		if err := s.do(ctx, at...); err != nil {
			return err
		}
		return s.read(ctx, buf)
	})
	return len(buf), err
}

// read reads from the address that was set.
func (s *towitokoSlot) read(ctx context.Context, buf []byte) error {
	for len(buf) > 0 {
		n := min(len(buf), towitokoBlock)
		b, err := s.command(ctx, s.seed, []byte{0x10 | byte(n-1)}, n)
		if err != nil {
			return err
		}
		buf = buf[copy(buf, b):]
	}
	return nil
}

// WriteMemory implements proto.MemoryLink.
func (s *towitokoSlot) WriteMemory(ctx context.Context, p proto.ID, addr uint16, data []byte) (int, error) {
	hi, lo := byte(addr>>8), byte(addr)
	err := s.memory(ctx, func() error {
		switch p {
		case proto.I2CShort:
			return s.writeI2C(ctx, []byte{0x7C, 0x64, 0x41, 0xA0, 0x00, 0x64, 0x40, 0xA1, 0x0F},
				[]byte{0x7E, 0x66, 0x6E, lo, 0xA0 | hi<<1, 0x00, 0x0F}, data)
		case proto.I2CLong:
			return s.writeI2C(ctx, []byte{0x7C, 0x64, 0x42, 0xA0, 0x00, 0x00, 0x64, 0x40, 0xA1, 0x0F},
				[]byte{0x7F, 0x66, 0x6E, lo, hi, 0xA0, 0x0F}, data)
		case proto.TwoWire:
			return s.write(ctx, []byte{0x72, 0x6E, lo, sleUpdate, 0x03, 0x0F}, data)
		case proto.ThreeWire:
			return s.write(ctx, []byte{0x73, 0x67, 0x6E, lo, 0x33 | hi<<6, 0x02, 0x0F}, data)
		}
		return fmt.Errorf("%v card: %w", p, ifd.ErrNotSupported)
	})
	return len(data), err
}

// writeI2C begins with what C OpenCT sends: the address 0, and a command 7E 10
// whose byte of reply it does not look at.
func (s *towitokoSlot) writeI2C(ctx context.Context, zero, at, data []byte) error {
	if err := s.do(ctx, zero...); err != nil {
		return err
	}
	if _, err := s.command(ctx, s.seed, []byte{0x7E, 0x10}, 1); err != nil {
		return err
	}
	return s.write(ctx, at, data)
}

// write writes from an address on.
func (s *towitokoSlot) write(ctx context.Context, at, data []byte) error {
	if err := s.do(ctx, at...); err != nil {
		return err
	}
	for len(data) > 0 {
		n := min(len(data), towitokoBlock)
		cmd := append(append([]byte{0x40 | byte(n-1)}, data[:n]...), 0x0F)
		err := s.do(ctx, cmd...)
		clear(cmd) // there may be a PSC
		if err != nil {
			return err
		}
		data = data[n:]
	}
	return nil
}

// Commands of a SLE 4442 (Siemens data sheet, table of commands).
const (
	sleRead          = 0x30
	sleReadSecurity  = 0x31
	sleCompare       = 0x33
	sleUpdate        = 0x38
	sleWriteSecurity = 0x39
)

// Length of its PSC, and the bits of its error counter.
const (
	slePSC     = 3
	sleCounter = 0x07
)

// Status words for a PSC (ISO/IEC 7816-4, 5.6).
const (
	swVerified    = 0x9000
	swTriesLeft   = 0x63C0
	swWrongLength = 0x6700
	swBlocked     = 0x6983
)

// VerifyPSC implements proto.PSCVerifier for the SLE 4442: a bit of its error
// counter is cleared, which allows one comparison of the PSC, after which the
// counter can be erased if that was right. The card loses its power before, and
// with it what an earlier PSC has opened. C OpenCT has no PSC.
func (s *towitokoSlot) VerifyPSC(ctx context.Context, p proto.ID, psc []byte) (sw uint16, err error) {
	if p != proto.TwoWire {
		return 0, fmt.Errorf("PSC of a %v card: %w", p, ifd.ErrNotSupported)
	}
	if len(psc) != slePSC {
		return swWrongLength, nil
	}
	err = s.memory(ctx, func() error {
		if err := s.power(ctx); err != nil {
			return err
		}
		left, err := s.counter(ctx)
		if err != nil {
			return err
		}
		if left == 0 {
			sw = swBlocked
			return nil
		}
		security := []byte{0x72, 0x6E, 0x00, sleWriteSecurity, 0x03, 0x0F}
		if err := s.write(ctx, security, []byte{left & (left - 1)}); err != nil {
			return err
		}
		if err := s.write(ctx, []byte{0x72, 0x6E, 0x01, sleCompare, 0x03, 0x0F}, psc); err != nil {
			return err
		}
		if err := s.write(ctx, security, []byte{0xFF}); err != nil {
			return err
		}
		if left, err = s.counter(ctx); err != nil {
			return err
		}
		sw = swTriesLeft | uint16(bits.OnesCount8(left))
		if left == sleCounter {
			sw = swVerified
		}
		return nil
	})
	return sw, err
}

// counter reads the error counter, a bit for each try left. The other bits of
// its byte are 0 in a card that has one.
func (s *towitokoSlot) counter(ctx context.Context) (byte, error) {
	if err := s.do(ctx, 0x70, 0x64, 0x42, sleReadSecurity, 0x00, 0x00, 0x65, 0x0F); err != nil {
		return 0, err
	}
	var security [1 + slePSC]byte
	if err := s.read(ctx, security[:]); err != nil {
		return 0, err
	}
	if security[0]&^sleCounter != 0 {
		return 0, fmt.Errorf("card without a PSC: %w", ifd.ErrNotSupported)
	}
	return security[0], nil
}
