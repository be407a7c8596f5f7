package proto

import (
	"bytes"
	"context"
	"errors"
	"fmt"
)

// MemoryLink carries the bytes of a synchronous memory card. A driver's slot
// provides it; p is TwoWire, ThreeWire, I2CShort, I2CLong or Eurochip, and the
// range from addr on lies within what p can address.
type MemoryLink interface {
	// ReadMemory reads into buf and returns how many bytes it read, at least
	// one: a reader that takes long reads in blocks of its own may return
	// after a block. ErrMemoryRange says that the card ends before addr.
	ReadMemory(ctx context.Context, p ID, addr uint16, buf []byte) (int, error)

	// WriteMemory writes data, which does not cross a 256-byte boundary, and
	// returns how many bytes it wrote, at least one. It does not verify them.
	WriteMemory(ctx context.Context, p ID, addr uint16, data []byte) (int, error)
}

// MemoryEngine is the engine of a memory card, whose memory is read and written.
type MemoryEngine interface {
	Engine

	// Read reads from addr on, and less than buf holds where the card ends.
	Read(ctx context.Context, addr int, buf []byte) (int, error)

	// Write writes data from addr on, and sees that the card keeps it.
	Write(ctx context.Context, addr int, data []byte) error
}

// PSCLink is a MemoryLink that can present the programmable security code of a
// 2-wire or 3-wire card, which opens the card for writing, and change it. Each call
// is one try at most. The answer is a status word (ISO/IEC 7816-4, 5.6): 9000,
// 63Cx with x tries left, 6983 for a card that is blocked for ever. An error says
// that the reader failed.
type PSCLink interface {
	VerifyPSC(ctx context.Context, p ID, psc []byte) (sw uint16, err error)

	// ChangePSC presents the old one and, if that was right, writes the new one.
	ChangePSC(ctx context.Context, p ID, old, new []byte) (sw uint16, err error)
}

// States of a memory card that callers branch on; test with errors.Is.
var (
	// ErrNoMemoryCard: no kind of memory card was recognised.
	ErrNoMemoryCard = errors.New("no memory card was recognised")

	// ErrMemoryRange: the card's addresses end before what was asked for.
	ErrMemoryRange = errors.New("address is beyond the end of the memory card")

	// ErrWriteProtected: the card does not keep what is written.
	ErrWriteProtected = errors.New("the memory card does not store what is written: " +
		"it is write-protected there, or its PSC must be presented first")

	// ErrNoAPDUs: a memory card got a command APDU.
	ErrNoAPDUs = errors.New("a memory card has no command APDUs: read and write its memory")
)

// pageSize is what no write to a memory card crosses (C OpenCT, proto-sync.c).
const pageSize = 256

// headerSize is the length of the header H1 to H4 with which a 2-wire or 3-wire
// card's memory begins. It is the card's answer to reset (ISO/IEC 7816-10).
const headerSize = 4

// Memory says whether p is the protocol of a synchronous memory card.
func (p ID) Memory() bool { return p.memorySize() > 0 }

// memorySize is how many bytes the addresses of the protocol can tell apart.
func (p ID) memorySize() int {
	switch p {
	case TwoWire: // SLE 4432, SLE 4442
		return 256
	case ThreeWire: // SLE 4418, SLE 4428
		return 1024
	case I2CShort: // 24C01 to 24C16: one byte of address, three bits beside it
		return 2048
	case I2CLong: // 24C32 to 24C512: two bytes of address
		return 0x10000
	case Eurochip: // SLE 4406, SLE 4436 and their kind: one byte of address
		return 256
	}
	return 0
}

// Memory is the engine of a synchronous memory card. The card has no APDUs:
// Read and Write take their place.
type Memory struct {
	id   ID
	link MemoryLink
}

var _ MemoryEngine = (*Memory)(nil)

// NewMemory makes the engine of a memory card of a known kind.
func NewMemory(link MemoryLink, p ID) *Memory { return &Memory{p, link} }

// DetectMemory finds out what kind of memory card is in a reader. It only
// reads, since a card that is removed meanwhile must keep its contents. power takes
// the card's power and gives it back, before each try.
//
// A 2-wire or 3-wire card's first byte is neither 00 nor FF, and its first four
// are the header that is returned as its ATR. An I2C card has no such mark. It
// is taken for one if it is read alike twice, from two addresses on, at a place
// where two bytes differ: addressed in the wrong way, no card answers like that.
// So a card that holds one and the same value there is not recognised, and
// neither is a Eurochip; a client must set their protocol.
func DetectMemory(ctx context.Context, link MemoryLink, power func(context.Context) error) (*Memory, []byte, error) {
	for _, p := range []ID{I2CShort, I2CLong, TwoWire, ThreeWire} {
		if err := power(ctx); err != nil {
			return nil, nil, err
		}
		m := NewMemory(link, p)
		try := m.detectWire
		if p == I2CShort || p == I2CLong {
			try = m.detectI2C
		}
		atr, found := try(ctx)
		if err := ctx.Err(); err != nil {
			return nil, nil, err
		}
		if found {
			return m, atr, nil
		}
	}
	return nil, nil, ErrNoMemoryCard
}

func (m *Memory) detectWire(ctx context.Context) (atr []byte, found bool) {
	header := make([]byte, headerSize)
	if !m.fill(ctx, 0, header) || header[0] == 0x00 || header[0] == 0xFF {
		return nil, false
	}
	return header, true
}

func (m *Memory) detectI2C(ctx context.Context) (atr []byte, found bool) {
	first := make([]byte, 32)
	if !m.fill(ctx, 0, first) {
		return nil, false
	}
	i := 1
	for i < len(first) && first[i] == first[0] {
		i++
	}
	if i == len(first) {
		return nil, false
	}
	again := make([]byte, len(first)-(i-1))
	return nil, m.fill(ctx, i-1, again) && bytes.Equal(again, first[i-1:])
}

// fill reads all of buf for a try: a card of another kind may fail in any way.
func (m *Memory) fill(ctx context.Context, addr int, buf []byte) bool {
	n, err := m.Read(ctx, addr, buf)
	return err == nil && n == len(buf)
}

// ID is the protocol the card is addressed with.
func (m *Memory) ID() ID { return m.id }

// Read reads from addr on, and less than buf holds where the card ends, which a
// reader may know better than the protocol.
func (m *Memory) Read(ctx context.Context, addr int, buf []byte) (int, error) {
	if addr < 0 || addr >= m.id.memorySize() {
		return 0, m.outOfRange(addr, len(buf))
	}
	buf = buf[:min(len(buf), m.id.memorySize()-addr)]
	done := 0
	for done < len(buf) {
		n, err := m.link.ReadMemory(ctx, m.id, uint16(addr+done), buf[done:])
		if done > 0 && errors.Is(err, ErrMemoryRange) {
			return done, nil
		}
		if err == nil {
			err = checkCount(n, len(buf)-done)
		}
		if err != nil {
			return 0, fmt.Errorf("%v card, reading at %#04x: %w", m.id, addr+done, err)
		}
		done += n
	}
	return done, nil
}

// Write writes data from addr on and reads it back. It writes nothing if not
// all of it fits. After an error, a part of data may be on the card.
func (m *Memory) Write(ctx context.Context, addr int, data []byte) error {
	if size := m.id.memorySize(); addr < 0 || addr > size || len(data) > size-addr {
		return m.outOfRange(addr, len(data))
	}
	// As many as C OpenCT allows one write of any length (proto-sync.c).
	retries := 1
	if (m.id == I2CShort || m.id == I2CLong) && len(data) > 1 {
		retries = 2
	}
	for len(data) > 0 {
		page := data[:min(len(data), pageSize-addr%pageSize)]
		wrong, err := m.writePage(ctx, addr, page)
		switch {
		case err != nil:
			return fmt.Errorf("%v card, writing at %#04x: %w", m.id, addr, err)
		case wrong < 0:
			addr, data = addr+len(page), data[len(page):]
		case retries == 0:
			return fmt.Errorf("%v card, writing at %#04x: %w", m.id, addr+wrong, ErrWriteProtected)
		default:
			retries--
		}
	}
	return nil
}

// writePage writes data and reads it back. It returns the index of the first
// byte that the card did not take, or -1.
func (m *Memory) writePage(ctx context.Context, addr int, data []byte) (wrong int, err error) {
	for done := 0; done < len(data); {
		n, err := m.link.WriteMemory(ctx, m.id, uint16(addr+done), data[done:])
		if err == nil {
			err = checkCount(n, len(data)-done)
		}
		if err != nil {
			return 0, err
		}
		done += n
	}
	back := make([]byte, len(data))
	n, err := m.Read(ctx, addr, back)
	if err == nil && n < len(back) {
		err = m.outOfRange(addr, len(data))
	}
	if err != nil {
		return 0, err
	}
	for i := range data {
		if back[i] != data[i] {
			return i, nil
		}
	}
	return -1, nil
}

// checkCount is a MemoryLink's promise, kept.
func checkCount(n, most int) error {
	if n < 1 || n > most {
		return fmt.Errorf("%w: %d bytes of %d", ErrProtocol, n, most)
	}
	return nil
}

func (m *Memory) outOfRange(addr, n int) error {
	return fmt.Errorf("%v card, %d bytes at %#04x: %w", m.id, n, addr, ErrMemoryRange)
}

// The command APDUs that a memory card takes, in the form in which CT-API programs
// send them: VERIFY with the PSC as its data (ISO/IEC 7816-4, 7.5.6), and CHANGE
// REFERENCE DATA with the old PSC and the new one (7.5.7). C OpenCT has neither.
var (
	verifyHeader = [4]byte{0x00, 0x20, 0x00, 0x00}
	changeHeader = [4]byte{0x00, 0x24, 0x00, 0x00}
)

// Transmit takes these, where the reader can present a PSC.
func (m *Memory) Transmit(ctx context.Context, apdu, resp []byte) ([]byte, error) {
	link, ok := m.link.(PSCLink)
	c, err := ParseCommand(apdu)
	var sw uint16
	switch half := len(c.Data) / 2; {
	case !ok || err != nil || len(c.Data) == 0:
		return nil, fmt.Errorf("%v card: %w", m.id, ErrNoAPDUs)
	case c.Header == verifyHeader:
		sw, err = link.VerifyPSC(ctx, m.id, c.Data)
	case c.Header == changeHeader && len(c.Data)%2 == 0:
		sw, err = link.ChangePSC(ctx, m.id, c.Data[:half], c.Data[half:])
	default:
		return nil, fmt.Errorf("%v card: %w", m.id, ErrNoAPDUs)
	}
	if err != nil {
		return nil, fmt.Errorf("%v card, presenting the PSC: %w", m.id, err)
	}
	return append(resp[:0], byte(sw>>8), byte(sw)), nil
}

// Limits are those of the two commands there are.
func (m *Memory) Limits() Limits { return ShortAPDU }
