package driver

import (
	"context"
	"fmt"
	"slices"

	"openct/internal/ctbcs"
	"openct/internal/ifd"
	"openct/internal/proto"
)

// Memory cards in a kaan's slots. The terminal addresses them by itself: it takes
// READ BINARY and a command to write, and knows most kinds (ifd-kaan.c).

var (
	_ ifd.KnownMemory = (*kaanSlot)(nil)
	_ proto.PSCLink   = (*kaanSlot)(nil)
)

// kaanMemory are the terminal's numbers of memory cards' protocols, for setting
// one. Its I2C is with short and with long addresses: it does the addressing.
var kaanMemory = map[proto.ID]byte{
	proto.I2CShort:  0x80,
	proto.I2CLong:   0x80,
	proto.ThreeWire: 0x81,
	proto.TwoWire:   0x82,
	proto.Eurochip:  0x93,
}

// kaanKind is the protocol of a number in the terminal's file about a card.
func kaanKind(code byte) (proto.ID, bool) {
	switch code {
	case 0x80:
		return proto.I2CLong, true
	case 0x81:
		return proto.ThreeWire, true
	case 0x82:
		return proto.TwoWire, true
	case 0x90, 0x91, 0x92, 0x93:
		return proto.Eurochip, true
	}
	return proto.Default, false
}

// Status words of a reset that tell what the terminal knows of a memory card
// (ifd-kaan.c).
const (
	swMemoryType    = 0x62A5 // the terminal does not know the type of its memory
	swMemoryUnknown = 0x62A7 // it knows nothing
)

// Commands to a memory card, and their status words.
const (
	insReadBinary   = 0xB0
	insWriteBinary  = 0xD0 // ifd-kaan.c writes with it
	insUpdateBinary = 0xD6
	insVerify       = 0x20
	insChange       = 0x24
	swBeyondEnd     = 0x6B00
	swUnknownINS    = 0x6D00
)

// memory finds out what the terminal knows of a memory card that was just reset.
func (s *kaanSlot) memory(ctx context.Context, header []byte, sw uint16) error {
	s.kind, s.header, s.set = proto.Default, nil, 0
	if sw == swMemoryUnknown {
		return nil
	}
	if s.k.b1 && sw == swMemoryType && len(header) == 4 {
		if err := s.setMemory(ctx, proto.Eurochip); err != nil {
			return err
		}
	}
	objects, err := s.file(ctx)
	if err != nil {
		return err
	}
	code := objects[kaanTagProtocol]
	if len(code) != 1 {
		return nil
	}
	kind, ok := kaanKind(code[0])
	if !ok {
		return nil
	}
	s.kind, s.header, s.set = kind, header, kaanMemory[kind]
	if s.k.b1 && sw != swMemoryType && len(header) == 4 {
		// The application of a German health insurance card, which other cards do
		// not have: the answer does not matter (ifd-kaan.c).
		if _, err := s.k.exchange(ctx, s.nad, []byte{0x00, 0xA4, 0x04, 0x00, 0x06, 0xD2, 0x80, 0x00, 0x00, 0x01, 0x01}, nil, kaanTimeout); err != nil {
			return err
		}
	}
	return nil
}

// MemoryCard implements ifd.KnownMemory.
func (s *kaanSlot) MemoryCard() (proto.ID, []byte) { return s.kind, s.header }

// PowerMemory implements ifd.Memory.
func (s *kaanSlot) PowerMemory(ctx context.Context) error {
	if err := s.k.enter(ctx); err != nil {
		return err
	}
	defer s.k.leave()
	s.set = 0
	resp, err := s.resetICC(ctx)
	if err != nil {
		return err
	}
	_, sw, err := ctbcs.ATR(resp)
	if err == nil && ctbcs.Asynchronous(sw) {
		err = fmt.Errorf("the card in the slot is no memory card: %w", ifd.ErrNotSupported)
	}
	s.powered = err == nil || s.powered
	return err
}

// setMemory tells the terminal how to address the card, unless it knows.
func (s *kaanSlot) setMemory(ctx context.Context, p proto.ID) error {
	code, ok := kaanMemory[p]
	if !ok {
		return fmt.Errorf("%v: %w", p, ifd.ErrNotSupported)
	}
	if s.set == code {
		return nil
	}
	if err := s.setProtocol(ctx, code); err != nil {
		return err
	}
	s.set = code
	return nil
}

// ReadMemory implements proto.MemoryLink.
func (s *kaanSlot) ReadMemory(ctx context.Context, p proto.ID, addr uint16, buf []byte) (int, error) {
	n := min(len(buf), 256)
	data, sw, err := s.binary(ctx, p, []byte{0x00, insReadBinary, byte(addr >> 8), byte(addr), byte(n)})
	switch {
	case err != nil:
		return 0, err
	case sw == swBeyondEnd, sw == swEndOfFile && len(data) == 0:
		return 0, proto.ErrMemoryRange
	case sw != 0x9000 && sw != swEndOfFile, len(data) > n:
		return 0, fmt.Errorf("terminal answers %d bytes and %04x: %w", len(data), sw, ifd.ErrComm)
	}
	return copy(buf, data), nil
}

// WriteMemory implements proto.MemoryLink.
func (s *kaanSlot) WriteMemory(ctx context.Context, p proto.ID, addr uint16, data []byte) (int, error) {
	n := min(len(data), 255)
	cmd := append([]byte{0x00, insWriteBinary, byte(addr >> 8), byte(addr), byte(n)}, data[:n]...)
	_, sw, err := s.binary(ctx, p, cmd)
	if err == nil && sw == swUnknownINS {
		_, sw, err = s.binary(ctx, p, kaanINS(cmd, insUpdateBinary))
	}
	switch {
	case err != nil:
		return 0, err
	case sw == swBeyondEnd:
		return 0, proto.ErrMemoryRange
	case sw&0xFF00 == 0x6900, sw == 0x6581: // not allowed, not written: ISO/IEC 7816-4, 5.6
		return 0, fmt.Errorf("terminal answers %04x: %w", sw, proto.ErrWriteProtected)
	case sw != 0x9000:
		return 0, fmt.Errorf("terminal answers %04x: %w", sw, ifd.ErrComm)
	}
	return n, nil
}

// VerifyPSC implements proto.PSCLink. C OpenCT has no such command; it is the one
// that CT-API programs send.
func (s *kaanSlot) VerifyPSC(ctx context.Context, p proto.ID, psc []byte) (uint16, error) {
	return s.psc(ctx, p, insVerify, psc)
}

// ChangePSC implements proto.PSCLink.
func (s *kaanSlot) ChangePSC(ctx context.Context, p proto.ID, old, new []byte) (uint16, error) {
	return s.psc(ctx, p, insChange, slices.Concat(old, new))
}

func (s *kaanSlot) psc(ctx context.Context, p proto.ID, ins byte, data []byte) (uint16, error) {
	if len(data) > 255 {
		return 0, fmt.Errorf("PSC of %d bytes: %w", len(data), proto.ErrInvalidAPDU)
	}
	cmd := slices.Concat([]byte{0x00, ins, 0x00, 0x00, byte(len(data))}, data)
	defer clear(cmd)
	_, sw, err := s.binary(ctx, p, cmd)
	return sw, err
}

// binary sends a command to a memory card.
func (s *kaanSlot) binary(ctx context.Context, p proto.ID, cmd []byte) ([]byte, uint16, error) {
	if err := s.k.enter(ctx); err != nil {
		return nil, 0, err
	}
	defer s.k.leave()
	if err := s.setMemory(ctx, p); err != nil {
		return nil, 0, err
	}
	resp, err := s.k.exchange(ctx, s.nad, cmd, nil, kaanTimeout)
	if err != nil {
		return nil, 0, err
	}
	data, sw, err := ctbcs.Split(resp)
	if err == nil && sw == 0x64A1 {
		err = ifd.ErrNoCard
	}
	return data, sw, err
}
