package driver

import (
	"bytes"
	"context"
	"fmt"

	"openct/internal/ifd"
	"openct/internal/proto"
)

// towitokoBlock is the most bytes a command reads from a memory card or writes
// to it.
const towitokoBlock = 15

// The commands that address a 2-wire and a 3-wire card, with a command of the
// card's in them.
func towitokoRead2(cmd, addr byte) []byte {
	return []byte{0x70, 0x64, 0x42, cmd, addr, 0x00, 0x65, 0x0F}
}
func towitokoWrite2(cmd, addr byte) []byte { return []byte{0x72, 0x6E, addr, cmd, 0x03, 0x0F} }

func towitokoRead3(cmd byte, addr uint16) []byte {
	return []byte{0x70, 0xA0, 0x42, cmd | byte(addr>>8)<<6, byte(addr), 0x00, 0x80, 0x50, 0x0F}
}

func towitokoWrite3(cmd byte, addr uint16) []byte {
	return []byte{0x73, 0x67, 0x6E, byte(addr), cmd | byte(addr>>8)<<6, 0x02, 0x0F}
}

// PowerMemory implements ifd.Memory.
func (s *towitokoSlot) PowerMemory(ctx context.Context) error {
	return s.memory(ctx, func() error { return s.power(ctx) })
}

func (s *towitokoSlot) power(ctx context.Context) error {
	s.seen = proto.Default
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
		at = towitokoRead2(sle4442Read, lo)
	case proto.ThreeWire:
		at = towitokoRead3(sle4428Read, addr)
	default:
		return 0, fmt.Errorf("%v card: %w", p, ifd.ErrNotSupported)
	}
	err := s.memory(ctx, func() error {
		if err := s.do(ctx, at...); err != nil {
			return err
		}
		if err := s.read(ctx, buf); err != nil {
			return err
		}
		return s.inPlace(ctx, p, buf)
	})
	return len(buf), err
}

// inPlace looks for the card where what was read ends in FF, as everything does that is
// read when the card is out. A card of which nothing else was read may be addressed as
// another kind than it is.
func (s *towitokoSlot) inPlace(ctx context.Context, p proto.ID, b []byte) error {
	if bytes.Count(b, []byte{0xFF}) != len(b) {
		s.seen = p
	}
	if s.seen != p || b[len(b)-1] != 0xFF {
		return nil
	}
	st, err := s.status(ctx)
	if err == nil && (!st.Present || st.Changed) {
		s.moved = true
		err = ifd.ErrNoCard
	}
	return err
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
			return s.write(ctx, towitokoWrite2(sle4442Update, lo), data)
		case proto.ThreeWire:
			return s.write(ctx, towitokoWrite3(sle4428Write, addr), data)
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
