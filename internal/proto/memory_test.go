package proto

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
)

// fakeMemory is a reader with a memory card in it. It notes what is done.
type fakeMemory struct {
	id     ID                                               // the kind of card
	data   []byte                                           // its memory
	block  int                                              // most bytes a transfer carries; 0: any number
	drop   map[int]int                                      // how often a byte written at this address is not kept; -1: for ever
	wrong  func(p ID, addr uint16, buf []byte) (int, error) // how another kind is read; nil: all FF
	reads  []string
	writes []string
	power  int
	psc    []byte // presented
	sw     uint16
	fail   error // of the next read
}

func (f *fakeMemory) limit(n int) int {
	if f.block > 0 {
		return min(n, f.block)
	}
	return n
}

func (f *fakeMemory) ReadMemory(_ context.Context, p ID, addr uint16, buf []byte) (int, error) {
	if err := f.fail; err != nil {
		f.fail = nil
		return 0, err
	}
	n := f.limit(len(buf))
	f.reads = append(f.reads, fmt.Sprintf("%d+%d", addr, n))
	if p != f.id {
		if f.wrong != nil {
			return f.wrong(p, addr, buf)
		}
		for i := range buf[:n] {
			buf[i] = 0xFF
		}
		return n, nil
	}
	for i := range buf[:n] {
		buf[i] = f.data[(int(addr)+i)%len(f.data)]
	}
	return n, nil
}

func (f *fakeMemory) WriteMemory(_ context.Context, p ID, addr uint16, data []byte) (int, error) {
	n := f.limit(len(data))
	f.writes = append(f.writes, fmt.Sprintf("%d+%d", addr, n))
	if int(addr)/256 != (int(addr)+n-1)/256 {
		return 0, errors.New("write crosses a page")
	}
	for i, b := range data[:n] {
		at := int(addr) + i
		if left := f.drop[at]; left != 0 {
			f.drop[at] = left - 1
			continue
		}
		f.data[at] = b
	}
	return n, nil
}

func (f *fakeMemory) VerifyPSC(_ context.Context, _ ID, psc []byte) (uint16, error) {
	f.psc = bytes.Clone(psc)
	return f.sw, nil
}

func (f *fakeMemory) ChangePSC(_ context.Context, _ ID, old, new []byte) (uint16, error) {
	f.psc = slices.Concat(old, []byte(" then "), new)
	return f.sw, nil
}

func (f *fakeMemory) cycle(context.Context) error { f.power++; return nil }

func counting(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(7*i + 1)
	}
	return b
}

func withHeader(n int, header ...byte) []byte {
	b := counting(n)
	copy(b, header)
	return b
}

func TestMemoryRead(t *testing.T) {
	tests := []struct {
		name  string
		id    ID
		block int
		addr  int
		n     int
		got   int
		reads []string
		err   error
	}{
		{"at once", TwoWire, 0, 0, 256, 256, []string{"0+256"}, nil},
		{"in the reader's blocks", TwoWire, 100, 0, 256, 256, []string{"0+100", "100+100", "200+56"}, nil},
		{"to the end and no further", TwoWire, 0, 250, 12, 6, []string{"250+6"}, nil},
		{"beyond the end", TwoWire, 0, 256, 1, 0, nil, ErrMemoryRange},
		{"before the beginning", TwoWire, 0, -1, 1, 0, nil, ErrMemoryRange},
		{"3-wire to the end", ThreeWire, 0, 1000, 100, 24, []string{"1000+24"}, nil},
		{"I2C short to the end", I2CShort, 0, 2040, 100, 8, []string{"2040+8"}, nil},
		{"I2C long to the end", I2CLong, 0, 65530, 100, 6, []string{"65530+6"}, nil},
		{"Eurochip", Eurochip, 0, 255, 2, 1, []string{"255+1"}, nil},
		{"nothing", TwoWire, 0, 0, 0, 0, nil, nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			f := &fakeMemory{id: tt.id, data: counting(tt.id.memorySize()), block: tt.block}
			buf := make([]byte, tt.n)
			n, err := NewMemory(f, tt.id).Read(context.Background(), tt.addr, buf)
			if n != tt.got || !errors.Is(err, tt.err) {
				t.Fatalf("%d bytes, %v, want %d, %v", n, err, tt.got, tt.err)
			}
			if n > 0 && !bytes.Equal(buf[:n], f.data[tt.addr:tt.addr+n]) {
				t.Errorf("read % x", buf[:n])
			}
			if !slices.Equal(f.reads, tt.reads) {
				t.Errorf("transfers %v, want %v", f.reads, tt.reads)
			}
		})
	}
}

func TestMemoryWrite(t *testing.T) {
	for1, for2, ever := map[int]int{20: 1}, map[int]int{20: 2}, map[int]int{20: -1}
	tests := []struct {
		name   string
		id     ID
		block  int
		drop   map[int]int
		addr   int
		n      int
		writes []string
		reads  []string
		err    error
	}{
		{"one page", TwoWire, 0, nil, 16, 16, []string{"16+16"}, []string{"16+16"}, nil},
		{"a page at a time", I2CLong, 0, nil, 250, 300, []string{"250+6", "256+256", "512+38"}, []string{"250+6", "256+256", "512+38"}, nil},
		{"in the reader's blocks, read back when a page is written", I2CLong, 16, nil, 240, 40,
			[]string{"240+16", "256+16", "272+8"}, []string{"240+16", "256+16", "272+8"}, nil},
		{"the last byte", TwoWire, 0, nil, 255, 1, []string{"255+1"}, []string{"255+1"}, nil},
		{"nothing", TwoWire, 0, nil, 256, 0, nil, nil, nil},
		{"one byte too many", TwoWire, 0, nil, 255, 2, nil, nil, ErrMemoryRange},
		{"before the beginning", TwoWire, 0, nil, -1, 1, nil, nil, ErrMemoryRange},
		{"kept the second time", TwoWire, 0, for1, 20, 1, []string{"20+1", "20+1"}, []string{"20+1", "20+1"}, nil},
		{"never kept", TwoWire, 0, ever, 20, 1, []string{"20+1", "20+1"}, []string{"20+1", "20+1"}, ErrWriteProtected},
		{"I2C, kept the third time", I2CShort, 0, for2, 20, 2, []string{"20+2", "20+2", "20+2"}, []string{"20+2", "20+2", "20+2"}, nil},
		{"I2C, one byte, never kept", I2CShort, 0, ever, 20, 1, []string{"20+1", "20+1"}, []string{"20+1", "20+1"}, ErrWriteProtected},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			f := &fakeMemory{id: tt.id, data: make([]byte, tt.id.memorySize()), block: tt.block, drop: map[int]int{}}
			for at, n := range tt.drop {
				f.drop[at] = n
			}
			data := counting(tt.n)
			err := NewMemory(f, tt.id).Write(context.Background(), tt.addr, data)
			if !errors.Is(err, tt.err) {
				t.Fatalf("error %v, want %v", err, tt.err)
			}
			if tt.err == nil && !bytes.Equal(f.data[tt.addr:tt.addr+tt.n], data) {
				t.Error("the card holds something else")
			}
			if !slices.Equal(f.writes, tt.writes) || !slices.Equal(f.reads, tt.reads) {
				t.Errorf("writes %v reads %v, want %v %v", f.writes, f.reads, tt.writes, tt.reads)
			}
		})
	}
}

// A write counts when it was read back, not before.
func TestMemoryWriteNeedsTheVerifyingRead(t *testing.T) {
	broken := errors.New("reader is gone")
	f := &fakeMemory{id: TwoWire, data: make([]byte, 256), fail: broken}
	if err := NewMemory(f, TwoWire).Write(context.Background(), 0, []byte{1}); !errors.Is(err, broken) {
		t.Errorf("got %v, want %v", err, broken)
	}
}

// liar breaks a MemoryLink's promise about how much it did.
type liar struct{ n int }

func (l liar) ReadMemory(context.Context, ID, uint16, []byte) (int, error)  { return l.n, nil }
func (l liar) WriteMemory(context.Context, ID, uint16, []byte) (int, error) { return l.n, nil }

func TestMemoryLinkMustKeepItsPromise(t *testing.T) {
	ctx := context.Background()
	for _, n := range []int{-1, 0, 5} {
		m := NewMemory(liar{n}, TwoWire)
		if _, err := m.Read(ctx, 0, make([]byte, 4)); !errors.Is(err, ErrProtocol) {
			t.Errorf("read of %d bytes: %v", n, err)
		}
		if err := m.Write(ctx, 0, make([]byte, 4)); !errors.Is(err, ErrProtocol) {
			t.Errorf("write of %d bytes: %v", n, err)
		}
	}
	// There is no PSC to present, either.
	if _, err := NewMemory(liar{1}, TwoWire).Transmit(ctx, []byte{0, 0x20, 0, 0, 1, 1}, nil); !errors.Is(err, ErrNoAPDUs) {
		t.Errorf("VERIFY: %v, want %v", err, ErrNoAPDUs)
	}
}

func TestDetectMemory(t *testing.T) {
	blank := bytes.Repeat([]byte{0xFF}, 1024)
	// long is how a card with two bytes of address answers to one byte: that
	// is the high byte, and the low one is where the last read ended.
	long := counting(0x10000)
	for i := range long {
		long[i] += byte(i >> 8)
	}
	var low uint16
	shortRead := func(p ID, addr uint16, buf []byte) (int, error) {
		if p != I2CShort {
			return 0, errors.New("no answer")
		}
		n := copy(buf, long[(addr&0xFF)<<8|low&0xFF:])
		low += uint16(n)
		return n, nil
	}
	silent := func(ID, uint16, []byte) (int, error) { return 0, errors.New("no answer") }
	tests := []struct {
		name  string
		card  fakeMemory
		want  ID
		atr   []byte
		power int
		err   error
	}{
		{"24C02", fakeMemory{id: I2CShort, data: counting(256)}, I2CShort, nil, 1, nil},
		{"24C02 with one byte in the first 32", fakeMemory{id: I2CShort, data: append([]byte{0, 0, 7}, make([]byte, 253)...)}, I2CShort, nil, 1, nil},
		{"24C32", fakeMemory{id: I2CLong, data: counting(4096)}, I2CLong, nil, 2, nil},
		{"24C512 that answers to a short address", fakeMemory{id: I2CLong, data: long, wrong: shortRead}, I2CLong, nil, 2, nil},
		{"SLE 4442", fakeMemory{id: TwoWire, data: withHeader(256, 0xA2, 0x13, 0x10, 0x91)}, TwoWire, []byte{0xA2, 0x13, 0x10, 0x91}, 3, nil},
		{"SLE 4428", fakeMemory{id: ThreeWire, data: withHeader(1024, 0x92, 0x23, 0x10, 0x91)}, ThreeWire, []byte{0x92, 0x23, 0x10, 0x91}, 4, nil},
		{"SLE 4428 among failing reads", fakeMemory{id: ThreeWire, data: withHeader(1024, 0x92, 0x23, 0x10, 0x91), wrong: silent}, ThreeWire, []byte{0x92, 0x23, 0x10, 0x91}, 4, nil},
		{"blank I2C card", fakeMemory{id: I2CShort, data: blank}, 0, nil, 4, ErrNoMemoryCard},
		{"blank 2-wire card", fakeMemory{id: TwoWire, data: blank}, 0, nil, 4, ErrNoMemoryCard},
		{"2-wire card that begins with 00", fakeMemory{id: TwoWire, data: make([]byte, 256)}, 0, nil, 4, ErrNoMemoryCard},
		{"Eurochip", fakeMemory{id: Eurochip, data: counting(256)}, 0, nil, 4, ErrNoMemoryCard},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			f := tt.card
			m, atr, err := DetectMemory(context.Background(), &f, f.cycle)
			if !errors.Is(err, tt.err) {
				t.Fatalf("error %v, want %v", err, tt.err)
			}
			if err == nil && m.ID() != tt.want {
				t.Errorf("found %v, want %v", m.ID(), tt.want)
			}
			if !bytes.Equal(atr, tt.atr) || f.power != tt.power {
				t.Errorf("ATR % x after %d times power, want % x after %d", atr, f.power, tt.atr, tt.power)
			}
			if f.writes != nil {
				t.Errorf("looking for a card wrote to it: %v", f.writes)
			}
		})
	}
}

// A reader that fails, and a client that is gone, end the search at once.
func TestDetectMemoryEndsWithItsReader(t *testing.T) {
	f := &fakeMemory{id: TwoWire, data: counting(256)}
	gone := errors.New("reader is gone")
	if _, _, err := DetectMemory(context.Background(), f, func(context.Context) error { return gone }); !errors.Is(err, gone) {
		t.Errorf("got %v, want %v", err, gone)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, _, err := DetectMemory(ctx, f, f.cycle); !errors.Is(err, context.Canceled) || f.power != 1 {
		t.Errorf("got %v after %d times power", err, f.power)
	}
}

func TestMemoryTransmit(t *testing.T) {
	tests := []struct {
		name string
		apdu string
		sw   uint16
		resp []byte
		psc  string // that the card got
		err  error
	}{
		{"right PSC", "\x00\x20\x00\x00\x03abc", 0x9000, []byte{0x90, 0x00}, "abc", nil},
		{"wrong PSC", "\x00\x20\x00\x00\x03xyz", 0x63C2, []byte{0x63, 0xC2}, "xyz", nil},
		{"another PSC", "\x00\x24\x00\x00\x06abcxyz", 0x9000, []byte{0x90, 0x00}, "abc then xyz", nil},
		{"another PSC, blocked", "\x00\x24\x00\x00\x04abxy", 0x6983, []byte{0x69, 0x83}, "ab then xy", nil},
		{"another PSC of another length", "\x00\x24\x00\x00\x05abcxy", 0, nil, "", ErrNoAPDUs},
		{"another PSC, without the old one", "\x00\x24\x01\x00\x02ab", 0, nil, "", ErrNoAPDUs},
		{"VERIFY of nothing", "\x00\x20\x00\x00", 0, nil, "", ErrNoAPDUs},
		{"VERIFY of another PIN", "\x00\x20\x00\x01\x01a", 0, nil, "", ErrNoAPDUs},
		{"SELECT FILE", "\x00\xA4\x00\x00", 0, nil, "", ErrNoAPDUs},
		{"no APDU", "\x00", 0, nil, "", ErrNoAPDUs},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			f := &fakeMemory{sw: tt.sw}
			resp, err := NewMemory(f, TwoWire).Transmit(context.Background(), []byte(tt.apdu), nil)
			if !bytes.Equal(resp, tt.resp) || !errors.Is(err, tt.err) {
				t.Errorf("% x, %v, want % x, %v", resp, err, tt.resp, tt.err)
			}
			if string(f.psc) != tt.psc {
				t.Errorf("the card got %q", f.psc)
			}
		})
	}
}

// endingMemory is a card that ends before its protocol's addresses do.
type endingMemory struct {
	*fakeMemory
	size int
}

func (e endingMemory) ReadMemory(ctx context.Context, p ID, addr uint16, buf []byte) (int, error) {
	if int(addr) >= e.size {
		return 0, ErrMemoryRange
	}
	return e.fakeMemory.ReadMemory(ctx, p, addr, buf[:min(len(buf), e.size-int(addr))])
}

// Where the card ends, reading does, and nothing is taken for written.
func TestMemoryEnds(t *testing.T) {
	for _, tt := range []struct {
		name    string
		addr, n int
		want    int
		err     error
	}{
		{"before the end", 0, 100, 100, nil},
		{"across it", 200, 100, 56, nil},
		{"beyond it", 256, 4, 0, ErrMemoryRange},
	} {
		t.Run(tt.name, func(t *testing.T) {
			card := endingMemory{&fakeMemory{id: I2CLong, data: counting(4096)}, 256}
			m := NewMemory(card, I2CLong)
			n, err := m.Read(context.Background(), tt.addr, make([]byte, tt.n))
			if n != tt.want || !errors.Is(err, tt.err) {
				t.Errorf("read %d bytes, %v; want %d, %v", n, err, tt.want, tt.err)
			}
			want := tt.err
			if tt.want < tt.n {
				want = ErrMemoryRange
			}
			if err := m.Write(context.Background(), tt.addr, make([]byte, tt.n)); !errors.Is(err, want) {
				t.Errorf("write: %v, want %v", err, want)
			}
		})
	}
}
