package reader

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"sync"
	"testing"
	"time"

	"openct/internal/atr"
	"openct/internal/ifd"
	"openct/internal/proto"
)

const patience = 30 * time.Second

var goodATR = []byte{0x3B, 0xF2, 0x18, 0x00, 0x02, 0xC1, 0x0A, 0x31, 0xFE, 0x58, 0xC8, 0x09, 0x75}

// fakeSlot is a token's slot: what it does is in its fields.
type fakeSlot struct {
	reset    func() ([]byte, error)
	protocol func(proto.ID) (proto.Engine, error)
}

func (f *fakeSlot) Reset(context.Context) ([]byte, error) {
	if f.reset == nil {
		return goodATR, nil
	}
	return f.reset()
}

func (f *fakeSlot) Protocol(_ context.Context, p proto.ID, _ *atr.ATR) (proto.Engine, error) {
	if f.protocol != nil {
		return f.protocol(p)
	}
	return echo(), nil
}

// echo answers an APDU with itself.
func echo() proto.Engine {
	return proto.NewTransparent(func(_ context.Context, apdu, resp []byte) ([]byte, error) {
		return append(resp[:0], apdu...), nil
	})
}

// fakeReader is a reader with slots and, if events is not nil, news.
type fakeReader struct {
	slots  []ifd.Slot
	closed bool
}

func (f *fakeReader) Slots() []ifd.Slot     { return f.slots }
func (f *fakeReader) Name() string          { return "fake" }
func (f *fakeReader) Gone() <-chan struct{} { return nil }
func (f *fakeReader) Close() error          { f.closed = true; return nil }

type notifyingReader struct {
	fakeReader
	events chan ifd.Event
}

func (n *notifyingReader) Events() <-chan ifd.Event { return n.events }
func (n *notifyingReader) Close() error             { close(n.events); return nil }

// removable is a slot that can be asked for its card.
type removable struct {
	fakeSlot
	mu sync.Mutex
	st ifd.Status
}

func (r *removable) Status(context.Context) (ifd.Status, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.st, nil
}

func (r *removable) set(present bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.st.Present = present
}

// news collects what the core tells of cards.
type news chan ifd.Status

func (n news) changed(_ int, s ifd.Status) { n <- s }

func (n news) wait(t *testing.T, present bool) {
	t.Helper()
	select {
	case s := <-n:
		if s.Present != present {
			t.Fatalf("told that a card is present: %v, want %v", s.Present, present)
		}
	case <-time.After(patience):
		t.Fatal("told nothing")
	}
}

func open(t *testing.T, r ifd.Reader, n news) *Slot {
	t.Helper()
	rd := New(r, slog.New(slog.DiscardHandler), n.changed)
	t.Cleanup(func() {
		if err := rd.Close(); err != nil {
			t.Error(err)
		}
	})
	s, err := rd.Slot(0)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestTransmitNeedsAReset(t *testing.T) {
	ctx := context.Background()
	s := open(t, &fakeReader{slots: []ifd.Slot{&fakeSlot{}}}, make(news, 8))
	if _, err := s.Transmit(ctx, []byte{0, 0, 0, 0}, nil); !errors.Is(err, ErrNoProtocol) {
		t.Errorf("before any reset: got %v, want %v", err, ErrNoProtocol)
	}
	if err := s.PowerUp(ctx); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Transmit(ctx, []byte{0, 0, 0, 0}, nil); !errors.Is(err, ErrNoProtocol) {
		t.Errorf("after a reset that no client asked for: got %v, want %v", err, ErrNoProtocol)
	}
	raw, err := s.Reset(ctx)
	if err != nil || !bytes.Equal(raw, goodATR) {
		t.Fatalf("reset: % x, %v", raw, err)
	}
	if got, err := s.Transmit(ctx, []byte{1, 2, 3, 4}, nil); err != nil || !bytes.Equal(got, []byte{1, 2, 3, 4}) {
		t.Errorf("after a reset: % x, %v", got, err)
	}
}

func TestReset(t *testing.T) {
	tests := []struct {
		name     string
		reset    func() ([]byte, error)
		protocol func(proto.ID) (proto.Engine, error)
		want     error // of Reset
		then     error // of the next Transmit
	}{
		{name: "fails", reset: func() ([]byte, error) { return nil, ifd.ErrNoATR }, want: ifd.ErrNoATR, then: ErrNoProtocol},
		{name: "ATR too long to be one", reset: func() ([]byte, error) { return make([]byte, 65), nil }, want: ifd.ErrInvalidATR, then: ErrNoProtocol},
		{name: "an ATR without a byte", reset: func() ([]byte, error) { return nil, nil }, want: ifd.ErrNoATR, then: ErrNoProtocol},
		{name: "garbage, of which the reason is kept",
			reset:    func() ([]byte, error) { return []byte{0xFF, 0xFF, 0xFF}, nil },
			protocol: func(proto.ID) (proto.Engine, error) { return nil, ifd.ErrInvalidATR }, then: ErrNoProtocol},
		{name: "wrong checksum, used all the same", reset: func() ([]byte, error) {
			b := bytes.Clone(goodATR)
			b[len(b)-1] ^= 1
			return b, nil
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			ctx := context.Background()
			card := &fakeSlot{}
			s := open(t, &fakeReader{slots: []ifd.Slot{card}}, make(news, 8))
			if _, err := s.Reset(ctx); err != nil { // a session that must be over afterwards
				t.Fatal(err)
			}
			card.reset, card.protocol = tt.reset, tt.protocol
			if _, err := s.Reset(ctx); !errors.Is(err, tt.want) {
				t.Errorf("reset: got %v, want %v", err, tt.want)
			}
			if _, err := s.Transmit(ctx, []byte{0, 0, 0, 0}, nil); !errors.Is(err, tt.then) {
				t.Errorf("transmit: got %v, want %v", err, tt.then)
			}
		})
	}
}

// A card that was taken out takes its session along, whoever noticed.
func TestRemovalEndsTheSession(t *testing.T) {
	ctx := context.Background()
	card := &removable{st: ifd.Status{Present: true}}
	told := make(news, 8)
	r := &notifyingReader{fakeReader: fakeReader{slots: []ifd.Slot{card}}, events: make(chan ifd.Event)}
	s := open(t, r, told)
	r.events <- ifd.Event{Slot: 0, Present: true}
	told.wait(t, true)
	if _, err := s.Reset(ctx); err != nil {
		t.Fatal(err)
	}
	r.events <- ifd.Event{Slot: 7, Present: true} // of no slot
	r.events <- ifd.Event{Slot: 0}
	told.wait(t, false)
	if s.Present() {
		t.Error("card is still there")
	}
	if _, err := s.Transmit(ctx, []byte{0, 0, 0, 0}, nil); !errors.Is(err, ifd.ErrNoCard) {
		t.Errorf("transmit to a card taken out: got %v, want %v", err, ifd.ErrNoCard)
	}
	// Another card does not inherit the session.
	r.events <- ifd.Event{Slot: 0, Present: true}
	told.wait(t, true)
	if _, err := s.Transmit(ctx, []byte{0, 0, 0, 0}, nil); err == nil {
		t.Error("a new card took an APDU without a reset")
	}
}

// shortSlot is a slot of a reader that takes short APDUs alone.
type shortSlot struct{ fakeSlot }

func (*shortSlot) Limits() proto.Limits { return proto.ShortAPDU }

// What the card's protocol carries holds for that card alone.
func TestLimits(t *testing.T) {
	ctx := context.Background()
	all := proto.Limits{Command: proto.MaxCommand, Response: proto.MaxResponse}
	t0 := proto.NewT0(nil, proto.T0Params{})
	card := &removable{st: ifd.Status{Present: true}, fakeSlot: fakeSlot{protocol: func(p proto.ID) (proto.Engine, error) {
		if p == proto.T1 {
			return echo(), nil
		}
		return t0, nil
	}}}
	told := make(news, 8)
	r := &notifyingReader{fakeReader: fakeReader{slots: []ifd.Slot{card}}, events: make(chan ifd.Event)}
	s := open(t, r, told)
	expect := func(when string, want proto.Limits) {
		t.Helper()
		if got := s.Limits(); got != want {
			t.Errorf("%s: got %+v, want %+v", when, got, want)
		}
	}
	expect("before a reset", all)
	if _, err := s.Reset(ctx); err != nil {
		t.Fatal(err)
	}
	expect("after a reset to T=0", t0.Limits())
	if err := s.Eject(ctx, 0, ""); err != nil {
		t.Fatal(err)
	}
	expect("without power", t0.Limits())
	if _, err := s.Reset(ctx); err != nil {
		t.Fatal(err)
	}
	if err := s.SetProtocol(ctx, proto.T1); err != nil {
		t.Fatal(err)
	}
	expect("in another protocol", all)
	if _, err := s.Reset(ctx); err != nil {
		t.Fatal(err)
	}
	told.wait(t, true)
	r.events <- ifd.Event{Slot: 0}
	told.wait(t, false)
	expect("when the card is out", all)
	r.events <- ifd.Event{Slot: 0, Present: true}
	told.wait(t, true)
	expect("of another card, not reset yet", all)
	if _, err := s.Reset(ctx); err != nil {
		t.Fatal(err)
	}
	expect("of another card", t0.Limits())

	short := open(t, &fakeReader{slots: []ifd.Slot{&shortSlot{}}}, told)
	if got := short.Limits(); got != proto.ShortAPDU {
		t.Errorf("reader that takes short APDUs: got %+v, want %+v", got, proto.ShortAPDU)
	}
}

// An exchanged card gets nothing of the session of the one before, whatever
// the client asks for, until it is reset.
func TestExchangedCardNeedsAReset(t *testing.T) {
	ctx := context.Background()
	card := &keypadSlot{removable{st: ifd.Status{Present: true}}}
	told := make(news, 8)
	r := &notifyingReader{fakeReader: fakeReader{slots: []ifd.Slot{card}}, events: make(chan ifd.Event)}
	s := open(t, r, told)
	r.events <- ifd.Event{Slot: 0, Present: true}
	told.wait(t, true)
	for _, c := range []struct {
		name string
		run  func() error
		want error
	}{
		{"APDU", func() error { return nil }, nil},
		{"another protocol", func() error { return s.SetProtocol(ctx, proto.T0) }, ifd.ErrNoCard},
		{"the ATR's protocol", func() error { return s.SetProtocol(ctx, proto.Default) }, ifd.ErrNoCard},
		{"PIN entry", func() error { _, err := s.Verify(ctx, ifd.PINRequest{}); return err }, ifd.ErrNoCard},
		{"memory", func() error { _, err := s.ReadMemory(ctx, 0, make([]byte, 1)); return err }, ifd.ErrNoCard},
	} {
		t.Run(c.name, func(t *testing.T) {
			if _, err := s.Reset(ctx); err != nil {
				t.Fatal(err)
			}
			r.events <- ifd.Event{Slot: 0}
			told.wait(t, false)
			r.events <- ifd.Event{Slot: 0, Present: true}
			told.wait(t, true)
			if err := c.run(); !errors.Is(err, c.want) {
				t.Errorf("error %v, want %v", err, c.want)
			}
			if _, err := s.Transmit(ctx, []byte{0, 0, 0, 0}, nil); !errors.Is(err, ifd.ErrNoCard) {
				t.Errorf("the new card took an APDU without a reset: %v", err)
			}
		})
	}
}

// keypadSlot is a slot of a reader with a keypad.
type keypadSlot struct{ removable }

func (*keypadSlot) Verify(context.Context, ifd.PINRequest) ([]byte, error) {
	return []byte{0x90, 0x00}, nil
}

// busySlot is a slot of a reader that is busy with another slot's card.
type busySlot struct{ fakeSlot }

func (*busySlot) Status(context.Context) (ifd.Status, error) {
	return ifd.Status{}, ifd.ErrBusy
}

// The first STATUS waits for its turn: nothing is known that could be told.
func TestFirstStatusAsksTheReader(t *testing.T) {
	r := &notifyingReader{fakeReader: fakeReader{slots: []ifd.Slot{&removable{}}}, events: make(chan ifd.Event)}
	s := open(t, r, make(news, 8))
	if err := s.Enter(context.Background()); err != nil {
		t.Fatal(err)
	}
	defer s.Leave()
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if st, err := s.Status(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("%+v, %v, want %v", st, err, context.Canceled)
	}
}

// STATUS does not wait behind a command: what is known is told.
func TestStatusWhileTheCardIsBusy(t *testing.T) {
	ctx := context.Background()
	told := make(news, 8)
	r := &notifyingReader{
		fakeReader: fakeReader{slots: []ifd.Slot{&removable{st: ifd.Status{Present: false}}, &busySlot{}}},
		events:     make(chan ifd.Event),
	}
	s := open(t, r, told)
	for i, name := range []string{"somebody is in", "the reader says that it is busy"} {
		t.Run(name, func(t *testing.T) {
			r.events <- ifd.Event{Slot: i, Present: true}
			told.wait(t, true)
			s, err := s.reader.Slot(i)
			if err != nil {
				t.Fatal(err)
			}
			if i == 0 {
				if err := s.Enter(ctx); err != nil {
					t.Fatal(err)
				}
				defer s.Leave()
			}
			for _, changed := range []bool{true, false} {
				st, err := s.Status(ctx)
				if want := (ifd.Status{Present: true, Changed: changed}); err != nil || st != want {
					t.Errorf("%+v, %v, want %+v", st, err, want)
				}
			}
		})
	}
}

func TestSilentReaderIsAsked(t *testing.T) {
	card := &removable{}
	told := make(news, 8)
	open(t, &fakeReader{slots: []ifd.Slot{card}}, told)
	card.set(true)
	told.wait(t, true)
	card.set(false)
	told.wait(t, false)
}

func TestStatusTellsAChangeOnce(t *testing.T) {
	ctx := context.Background()
	card := &removable{st: ifd.Status{Present: true}}
	told := make(news, 8)
	r := &notifyingReader{fakeReader: fakeReader{slots: []ifd.Slot{card}}, events: make(chan ifd.Event)}
	s := open(t, r, told)
	first, err := s.Status(ctx)
	if err != nil || !first.Present || !first.Changed {
		t.Errorf("first: %+v, %v", first, err)
	}
	second, err := s.Status(ctx)
	if err != nil || !second.Present || second.Changed {
		t.Errorf("second: %+v, %v", second, err)
	}
}

func TestEnterEndsWithItsContext(t *testing.T) {
	s := open(t, &fakeReader{slots: []ifd.Slot{&fakeSlot{}}}, make(news, 8))
	if err := s.Enter(context.Background()); err != nil {
		t.Fatal(err)
	}
	why := errors.New("unplugged")
	ctx, cancel := context.WithCancelCause(context.Background())
	cancel(why)
	if err := s.Enter(ctx); !errors.Is(err, why) {
		t.Errorf("got %v, want %v", err, why)
	}
	s.Leave()
	if err := s.Enter(context.Background()); err != nil {
		t.Errorf("after it was left: %v", err)
	}
	s.Leave()
}

func TestWhatASlotLacksIsNotSupported(t *testing.T) {
	ctx := context.Background()
	rd := New(&fakeReader{slots: []ifd.Slot{&fakeSlot{}}}, slog.New(slog.DiscardHandler), make(news, 8).changed)
	defer rd.Close()
	s, err := rd.Slot(0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Reset(ctx); err != nil {
		t.Fatal(err)
	}
	_, verify := s.Verify(ctx, ifd.PINRequest{})
	_, modify := s.Modify(ctx, ifd.PINRequest{})
	_, read := s.ReadMemory(ctx, 0, make([]byte, 4))
	for _, tt := range []struct {
		name string
		err  error
	}{
		{"verify", verify}, {"modify", modify}, {"read", read},
		{"write", s.WriteMemory(ctx, 0, []byte{1})}, {"display", rd.Display(ctx, "hello")},
	} {
		if !errors.Is(tt.err, ifd.ErrNotSupported) {
			t.Errorf("%s: got %v, want %v", tt.name, tt.err, ifd.ErrNotSupported)
		}
	}
	if err := s.Eject(ctx, 0, ""); err != nil {
		t.Errorf("eject of what is taken by hand: %v", err)
	}
	for _, i := range []int{-1, 1, 255} {
		if _, err := rd.Slot(i); !errors.Is(err, ErrInvalidSlot) {
			t.Errorf("slot %d: got %v, want %v", i, err, ErrInvalidSlot)
		}
	}
}

func TestMoreSlotsThanCanBeShown(t *testing.T) {
	slots := make([]ifd.Slot, MaxSlots+3)
	for i := range slots {
		slots[i] = &fakeSlot{}
	}
	rd := New(&fakeReader{slots: slots}, slog.New(slog.DiscardHandler), make(news, 8).changed)
	defer rd.Close()
	if rd.Slots() != MaxSlots {
		t.Errorf("%d slots, want %d", rd.Slots(), MaxSlots)
	}
}
