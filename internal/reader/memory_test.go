package reader

import (
	"bytes"
	"context"
	"errors"
	"testing"

	"openct/internal/ifd"
	"openct/internal/proto"
)

// memorySlot is a slot of a reader for memory cards, with a card of kind id in
// it, or one that is an asynchronous card where asynchronous is set.
type memorySlot struct {
	removable
	id           proto.ID
	data         [256]byte
	asynchronous bool
	power        int
	powerErr     error
}

// errNoAnswer is what a card says that is addressed as another kind.
var errNoAnswer = errors.New("no answer")

func newMemorySlot(id proto.ID, header ...byte) *memorySlot {
	m := &memorySlot{removable: removable{st: ifd.Status{Present: true}}, id: id}
	for i := range m.data {
		m.data[i] = byte(7*i + 1)
	}
	copy(m.data[:], header)
	m.reset = func() ([]byte, error) {
		if m.asynchronous {
			return goodATR, nil
		}
		return nil, ifd.ErrNoATR
	}
	m.protocol = func(p proto.ID) (proto.Engine, error) {
		if p == proto.Default && m.asynchronous {
			return echo(), nil
		}
		return nil, ifd.ErrNotSupported
	}
	return m
}

func (m *memorySlot) PowerMemory(context.Context) error { m.power++; return m.powerErr }

func (m *memorySlot) ReadMemory(_ context.Context, p proto.ID, addr uint16, buf []byte) (int, error) {
	if p != m.id {
		return 0, errNoAnswer
	}
	return copy(buf, m.data[addr:]), nil
}

func (m *memorySlot) WriteMemory(_ context.Context, p proto.ID, addr uint16, data []byte) (int, error) {
	if p != m.id {
		return 0, errNoAnswer
	}
	return copy(m.data[addr:], data), nil
}

func TestMemoryCard(t *testing.T) {
	header := []byte{0xA2, 0x13, 0x10, 0x91}
	tests := []struct {
		name   string
		card   *memorySlot
		atr    []byte
		reset  error
		choose proto.ID // set after the reset; proto.Default: what was recognised
		set    error    // of SetProtocol
		read   error
	}{
		{"2-wire", newMemorySlot(proto.TwoWire, header...), header, nil, proto.Default, nil, nil},
		{"I2C", newMemorySlot(proto.I2CShort), nil, nil, proto.Default, nil, nil},
		{"I2C, as the wrong kind", newMemorySlot(proto.I2CShort), nil, nil, proto.TwoWire, nil, errNoAnswer},
		{"I2C, as an asynchronous card", newMemorySlot(proto.I2CShort), nil, nil, proto.T0, ifd.ErrNotSupported, nil},
		{"Eurochip, chosen", newMemorySlot(proto.Eurochip), nil, ifd.ErrNoATR, proto.Eurochip, nil, nil},
		{"Eurochip, not chosen", newMemorySlot(proto.Eurochip), nil, ifd.ErrNoATR, proto.Default, ifd.ErrNoATR, ErrNoProtocol},
		{"Eurochip, as an asynchronous card", newMemorySlot(proto.Eurochip), nil, ifd.ErrNoATR, proto.T1, ErrNoProtocol, ErrNoProtocol},
		{"asynchronous", func() *memorySlot { m := newMemorySlot(proto.TwoWire); m.asynchronous = true; return m }(),
			goodATR, nil, proto.TwoWire, ifd.ErrNotSupported, ifd.ErrNotSupported},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			ctx := context.Background()
			s := open(t, &notifyingReader{fakeReader: fakeReader{slots: []ifd.Slot{tt.card}}, events: make(chan ifd.Event)}, make(news, 8))
			atr, err := s.Reset(ctx)
			if !errors.Is(err, tt.reset) || !bytes.Equal(atr, tt.atr) {
				t.Fatalf("reset: % x, %v, want % x, %v", atr, err, tt.atr, tt.reset)
			}
			if err := s.SetProtocol(ctx, tt.choose); !errors.Is(err, tt.set) {
				t.Errorf("set protocol: %v, want %v", err, tt.set)
			}
			buf := make([]byte, 16)
			_, err = s.ReadMemory(ctx, 4, buf)
			if !errors.Is(err, tt.read) {
				t.Errorf("read: %v, want %v", err, tt.read)
			}
			if err == nil && !bytes.Equal(buf, tt.card.data[4:20]) {
				t.Errorf("read % x", buf)
			}
		})
	}
}

func TestMemoryCardIsWrittenAndKeepsItsEngine(t *testing.T) {
	ctx := context.Background()
	card := newMemorySlot(proto.TwoWire, 0xA2, 0x13, 0x10, 0x91)
	told := make(news, 8)
	r := &notifyingReader{fakeReader: fakeReader{slots: []ifd.Slot{card}}, events: make(chan ifd.Event)}
	s := open(t, r, told)
	if _, err := s.Reset(ctx); err != nil {
		t.Fatal(err)
	}
	told.wait(t, true)
	power := card.power
	for _, p := range []proto.ID{proto.Default, proto.TwoWire} {
		if err := s.SetProtocol(ctx, p); err != nil {
			t.Error(err)
		}
	}
	if card.power != power {
		t.Error("the card in use lost its power, and with it the right to write")
	}
	if err := s.WriteMemory(ctx, 0x20, []byte("hello")); err != nil || string(card.data[0x20:0x25]) != "hello" {
		t.Errorf("write: %v, the card holds %q", err, card.data[0x20:0x25])
	}
	if err := s.WriteMemory(ctx, 255, []byte("hello")); !errors.Is(err, proto.ErrMemoryRange) {
		t.Errorf("write beyond the end: %v, want %v", err, proto.ErrMemoryRange)
	}
	if _, err := s.Transmit(ctx, []byte{0, 0xA4, 0, 0}, nil); !errors.Is(err, proto.ErrNoAPDUs) {
		t.Errorf("APDU: %v, want %v", err, proto.ErrNoAPDUs)
	}
	// Another kind, and back to the one that is recognised.
	if err := s.SetProtocol(ctx, proto.Eurochip); err != nil {
		t.Error(err)
	}
	if err := s.SetProtocol(ctx, proto.Default); err != nil {
		t.Error(err)
	}
	if _, err := s.ReadMemory(ctx, 0, make([]byte, 4)); err != nil {
		t.Error(err)
	}
	// The engine goes with the card.
	r.events <- ifd.Event{Slot: 0}
	told.wait(t, false)
	if _, err := s.ReadMemory(ctx, 0, make([]byte, 4)); !errors.Is(err, ifd.ErrNoCard) {
		t.Errorf("read of a card taken out: %v, want %v", err, ifd.ErrNoCard)
	}
}

// A card pulled while its kind is looked for is gone, not silent.
func TestMemoryCardPulledDuringDetection(t *testing.T) {
	card := newMemorySlot(proto.TwoWire)
	card.powerErr = ifd.ErrNoCard
	told := make(news, 8)
	r := &notifyingReader{fakeReader: fakeReader{slots: []ifd.Slot{card}}, events: make(chan ifd.Event)}
	s := open(t, r, told)
	r.events <- ifd.Event{Slot: 0, Present: true}
	told.wait(t, true)
	if _, err := s.Reset(context.Background()); !errors.Is(err, ifd.ErrNoCard) {
		t.Errorf("got %v, want %v", err, ifd.ErrNoCard)
	}
	told.wait(t, false)
}

// knownSlot is a slot whose reader knows what memory card is in.
type knownSlot struct {
	*memorySlot
	known  proto.ID
	header []byte
}

func (k knownSlot) MemoryCard() (proto.ID, []byte) { return k.known, k.header }

// What the reader knows of a memory card is not tried out.
func TestKnownMemoryCard(t *testing.T) {
	header := []byte{0x92, 0x23, 0x10, 0x91}
	for _, tt := range []struct {
		name  string
		known proto.ID
		tries int
		want  proto.ID
	}{
		{"known", proto.ThreeWire, 0, proto.ThreeWire},
		{"not known", proto.Default, 4, proto.ThreeWire},
		{"known for what is none", proto.T1, 4, proto.ThreeWire},
	} {
		t.Run(tt.name, func(t *testing.T) {
			card := knownSlot{newMemorySlot(proto.ThreeWire, header...), tt.known, header}
			s := open(t, &notifyingReader{fakeReader: fakeReader{slots: []ifd.Slot{card}}, events: make(chan ifd.Event)}, make(news, 8))
			atr, err := s.Reset(context.Background())
			if err != nil || !bytes.Equal(atr, header) || s.engine.ID() != tt.want || card.power != tt.tries {
				t.Errorf("ATR % x, %v, %v, %d tries", atr, err, s.engine, card.power)
			}
		})
	}
}
