package driver

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"openct/internal/atr"
	"openct/internal/ifd"
	"openct/internal/proto"
)

// Instructions that the readers of Advanced Card Systems have in common,
// whatever they put around them (C OpenCT's ifd-pertosmart1030.c,
// ifd-pertosmart1038.c; doc/devices/acs.md).
const (
	acsGetStatus = 0x01
	acsSelect    = 0x02 // the type of the card
	acsNotify    = 0x06 // 01: tell of cards that come and go, 02: do not
	acsOption    = 0x07
	acsReset     = 0x80 // answer: the ATR
	acsPowerOff  = 0x81
	acsT0        = 0xA0 // a TPDU
	acsT1        = 0xA1 // a block
)

// Card types of acsSelect.
const (
	acsAuto   = 0x00 // the reader finds it out
	acsTypeT0 = 0x0C
	acsTypeT1 = 0x0D
)

// The answer to acsGetStatus: ten bytes about model and firmware, longest
// command and response, types of cards that the reader knows (two bytes), the
// one selected, and the state of the card.
const (
	acsStatusLen = 16
	acsModelLen  = 10
	acsCardState = 15 // 00: no card, 01: one without power, 03: one with power
)

// Waits for an answer. C OpenCT waits 30 s for each (ifd-pertosmart1030.c).
const (
	acsTimeout      = 30 * time.Second
	acsQuickTimeout = 5 * time.Second // where no card is asked
	acsOffTimeout   = time.Second     // while the reader is closed
	acsGap          = time.Second     // in the middle of an answer
)

// States of a card that a reader tells by a status code, and that mean
// something else after a reset than in the middle of an exchange.
var (
	errACSNoPower = errors.New("card has no power")
	errACSMute    = errors.New("card does not answer")
)

// acsPort carries commands to a reader and back what they answer. Its errors
// wrap those of package ifd and the two above. It is used by one goroutine at a
// time.
type acsPort interface {
	// command runs one command. t is the protocol that the reader says it
	// speaks with the card, proto.Default where it does not say.
	command(ctx context.Context, ins byte, data []byte, timeout time.Duration) (answer []byte, t proto.ID, err error)

	// settle throws away what the reader still sends.
	settle(ctx context.Context) error

	gone() <-chan struct{}
	close() error
}

// acsReader is a reader with one slot.
type acsReader struct {
	port acsPort
	name string
	slot ifd.Slot

	mu       sync.Mutex  // held for the length of a command
	powered  atomic.Bool // the card may have power
	selected proto.ID    // what is spoken with it
}

func (r *acsReader) Slots() []ifd.Slot     { return []ifd.Slot{r.slot} }
func (r *acsReader) Name() string          { return r.name }
func (r *acsReader) Gone() <-chan struct{} { return r.port.gone() }

// Close takes the card's power, unless a command is still on its way.
func (r *acsReader) Close() error {
	if r.mu.TryLock() {
		if r.powered.Load() {
			_, _, _ = r.port.command(context.Background(), acsPowerOff, nil, acsOffTimeout)
		}
		r.mu.Unlock()
	}
	return r.port.close()
}

// command is the port's, for the reader's slot.
func (r *acsReader) command(ctx context.Context, ins byte, data []byte, timeout time.Duration) ([]byte, proto.ID, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.port.command(ctx, ins, data, timeout)
}

// settle is the port's, for the reader's slot.
func (r *acsReader) settle(ctx context.Context) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.port.settle(ctx)
}

// set runs a command that has no answer but that it was done.
func (r *acsReader) set(ctx context.Context, ins byte, data ...byte) error {
	_, _, err := r.command(ctx, ins, data, acsQuickTimeout)
	if err != nil {
		return fmt.Errorf("command %02x: %w", ins, err)
	}
	return nil
}

// status asks for the reader's status.
func (r *acsReader) status(ctx context.Context) ([]byte, error) {
	st, _, err := r.command(ctx, acsGetStatus, nil, acsQuickTimeout)
	if err == nil && len(st) != acsStatusLen {
		err = fmt.Errorf("reader's status has %d bytes, not %d: %w", len(st), acsStatusLen, ifd.ErrComm)
	}
	if err != nil {
		return nil, err
	}
	return st, nil
}

// acsSlot is the slot. Commands come one at a time.
type acsSlot struct{ *acsReader }

// Status implements ifd.Presence.
func (s acsSlot) Status(ctx context.Context) (ifd.Status, error) {
	st, err := s.status(ctx)
	if err != nil {
		return ifd.Status{}, err
	}
	return ifd.Status{Present: st[acsCardState] != 0}, nil
}

// Reset implements ifd.Slot. The reader finds out what protocol the card
// speaks: it may be another card than the last one.
func (s acsSlot) Reset(ctx context.Context) ([]byte, error) {
	if err := s.settle(ctx); err != nil {
		return nil, err
	}
	return s.reset(ctx, acsAuto)
}

func (s acsSlot) reset(ctx context.Context, cardType byte) ([]byte, error) {
	s.selected = proto.Default
	if err := s.set(ctx, acsPowerOff); err != nil {
		return nil, err
	}
	s.powered.Store(false)
	if err := s.set(ctx, acsSelect, cardType); err != nil {
		return nil, err
	}
	s.powered.Store(true)
	raw, t, err := s.command(ctx, acsReset, nil, acsTimeout)
	if errors.Is(err, ifd.ErrNoCard) {
		s.powered.Store(false)
	}
	switch {
	case errors.Is(err, errACSMute):
		return nil, fmt.Errorf("%w: %w", ifd.ErrNoATR, err)
	case err != nil:
		return nil, err
	}
	if raw, err = rawATR(raw); err != nil {
		return nil, err
	}
	s.selected = t
	if t == proto.Default && cardType != acsAuto {
		s.selected = acsProtocol(cardType)
	}
	return raw, nil
}

// acsProtocol is the protocol of a card type.
func acsProtocol(cardType byte) proto.ID {
	if cardType == acsTypeT1 {
		return proto.T1
	}
	return proto.T0
}

// Protocol implements ifd.Slot. The reader selects protocol and speed itself
// (PPS); another protocol than the one it has selected takes a reset.
func (s acsSlot) Protocol(ctx context.Context, id proto.ID, a *atr.ATR) (proto.Engine, error) {
	t, err := choose(id, a)
	if err != nil {
		return nil, err
	}
	if t != proto.T0 && t != proto.T1 {
		return nil, fmt.Errorf("protocol %d: %w", t, ifd.ErrNotSupported)
	}
	switch {
	case s.selected == proto.Default || !a.Offers(s.selected):
		// The reader does not say what it has selected: what the ATR puts first.
		s.selected = a.Default()
	case id == proto.Default:
		t = s.selected
	}
	if was := s.selected; t != was {
		if err := s.change(ctx, t, was); err != nil {
			return nil, err
		}
	}
	if t == proto.T1 {
		return proto.NewT1(&acsLink{s: s, ins: acsT1}, proto.T1Params{
			IFSC: a.IFSC(), IFSD: acsIFSD, CRC: a.CRC(), BWT: a.BWT(atr.Rate{}), Timeout: acsTimeout,
		}), nil
	}
	return proto.NewT0(&acsLink{s: s, ins: acsT0}, proto.T0Params{Timeout: maxBusy}), nil
}

// acsIFSD is the longest information field that these readers take from a card.
const acsIFSD = 254

// change resets the card into another protocol, and back where the reader does
// not select it.
func (s acsSlot) change(ctx context.Context, t, was proto.ID) error {
	types := map[proto.ID]byte{proto.T0: acsTypeT0, proto.T1: acsTypeT1}
	if _, err := s.reset(ctx, types[t]); err != nil {
		return err
	}
	if s.selected == t {
		return nil
	}
	if _, err := s.reset(ctx, types[was]); err != nil {
		return err
	}
	return fmt.Errorf("reader does not select protocol %d for this card: %w", t, ifd.ErrNotSupported)
}

// acsLink carries the TPDUs of T=0 or the blocks of T=1, each in a command.
type acsLink struct {
	s   acsSlot
	ins byte
	out []byte
}

// Send implements proto.Link: the command is sent by Recv.
func (l *acsLink) Send(_ context.Context, b []byte) error {
	l.out = append(l.out[:0], b...)
	return nil
}

// Recv implements proto.Link.
func (l *acsLink) Recv(ctx context.Context, buf []byte, timeout time.Duration) (int, error) {
	answer, _, err := l.s.command(ctx, l.ins, l.out, timeout)
	clear(l.out) // there may be a PIN
	if errors.Is(err, errACSNoPower) {
		// It had power: this is another card, if one is in at all.
		err = fmt.Errorf("%w: %w", ifd.ErrNoCard, err)
	}
	if err != nil {
		return 0, err
	}
	if len(answer) > len(buf) {
		return 0, fmt.Errorf("the reader answers %d bytes, more than %d: %w", len(answer), len(buf), ifd.ErrComm)
	}
	return copy(buf, answer), nil
}
