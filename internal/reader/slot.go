package reader

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"sync"
	"time"

	"openct/internal/apdulog"
	"openct/internal/atr"
	"openct/internal/ifd"
	"openct/internal/proto"
)

// maxATR is the length of C OpenCT's buffer for an ATR (process.c).
const maxATR = 64

// Slot is one card slot and the card in it. A card does one thing at a time: a
// caller must Enter, call one or more of the methods, and Leave. Status, Limits,
// Present and Events may be called at any time.
type Slot struct {
	reader *Reader
	index  int
	card   ifd.Slot

	// turn is full between Enter and Leave. It is a channel so that a wait for
	// it can end with its context.
	turn chan struct{}

	// Guarded by turn.
	engine proto.Engine // nil: no protocol
	atr    *atr.ATR     // of the last reset, nil if unparsable
	asked  proto.ID     // what engine was made for; proto.Default after a reset
	reason error        // why engine is nil, for the next client that asks

	mu       sync.Mutex
	status   ifd.Status // Changed: not yet told to a Status call
	known    bool       // the reader has told the status once
	gen      uint64     // counts cards taken out, so that a card's engine dies with it
	resetGen uint64     // gen at the last reset; guarded by turn

	events uint32        // counts what update passed on
	news   chan struct{} // closed at the next event; nil while nobody waits

	limits    proto.Limits // of the card's last engine; Command 0: there was none
	limitsGen uint64       // of the card
}

func newSlot(r *Reader, i int, card ifd.Slot) *Slot {
	s := &Slot{reader: r, index: i, card: card, turn: make(chan struct{}, 1), reason: ErrNoProtocol}
	if _, removable := card.(ifd.Presence); !removable {
		s.status.Present = true
	}
	return s
}

// Reset powers the card up or resets it and returns its ATR. The protocol is the
// one the ATR puts first. Where no ATR comes, it may be a memory card: then the
// protocol is that of its kind, and the ATR its header, empty for an I2C card.
func (s *Slot) Reset(ctx context.Context) ([]byte, error) {
	return s.reset(ctx, s.card.Reset)
}

// Request is Reset for a card that may still have to be inserted: where the
// reader can, it prompts for it and waits.
func (s *Slot) Request(ctx context.Context, timeout time.Duration, message string) ([]byte, error) {
	r, ok := s.card.(ifd.Requester)
	if !ok || timeout == 0 && message == "" {
		return s.Reset(ctx)
	}
	return s.reset(ctx, func(ctx context.Context) ([]byte, error) { return r.Request(ctx, timeout, message) })
}

func (s *Slot) reset(ctx context.Context, power func(context.Context) ([]byte, error)) ([]byte, error) {
	// Whatever happens, the old session is over.
	s.engine, s.atr, s.reason, s.resetGen = nil, nil, ErrNoProtocol, s.generation()
	s.asked = proto.Default

	raw, err := power(ctx)
	_, relay := s.card.(ifd.Relay)
	if err == nil && len(raw) == 0 && !relay {
		err = ifd.ErrNoATR
	}
	if errors.Is(err, ifd.ErrNoATR) {
		raw, err = s.detectMemory(ctx, err)
	}
	if errors.Is(err, ifd.ErrNoCard) {
		s.update(ifd.Status{})
	}
	if err != nil {
		return nil, fmt.Errorf("reset: %w", err)
	}
	s.update(ifd.Status{Present: true})
	if s.engine != nil { // a memory card's
		return raw, nil
	}
	if len(raw) > maxATR {
		return nil, fmt.Errorf("reset: ATR of %d bytes: %w", len(raw), ifd.ErrInvalidATR)
	}
	log := s.reader.log.With("slot", s.index, "atr", fmt.Sprintf("% x", raw))
	s.atr, err = atr.Parse(raw)
	if err != nil && !relay { // another handler has told it, or it is a memory card's
		// C OpenCT never looked; a card that used to work goes on working
		// where it can, and where it cannot the reason is kept.
		log.Warn("card sent a questionable ATR", "error", err)
		s.reason = fmt.Errorf("%w: %w", ErrNoProtocol, err)
	}
	if s.engine, err = s.card.Protocol(ctx, proto.Default, s.atr); err != nil {
		s.engine = nil
		s.reason = fmt.Errorf("%w: %w", ErrNoProtocol, err)
		log.Warn("card was reset, but APDUs cannot be sent", "error", err)
		return raw, nil
	}
	s.noteLimits(s.engine)
	log.Debug("card was reset", "protocol", s.engine.ID().String())
	return raw, nil
}

// detectMemory makes the engine of the memory card that is in and returns what
// stands for its ATR, or noATR where there is none.
func (s *Slot) detectMemory(ctx context.Context, noATR error) ([]byte, error) {
	card, ok := s.card.(ifd.Memory)
	if !ok {
		return nil, noATR
	}
	if known, ok := card.(ifd.KnownMemory); ok {
		if p, header := known.MemoryCard(); p.Memory() {
			s.setMemory(proto.NewMemory(card, p))
			return header, nil
		}
	}
	m, header, err := proto.DetectMemory(ctx, card, card.PowerMemory)
	switch {
	case errors.Is(err, proto.ErrNoMemoryCard):
		return nil, fmt.Errorf("%w; %w", noATR, err)
	case err != nil:
		return nil, fmt.Errorf("looking for a memory card: %w", err)
	}
	s.setMemory(m)
	return header, nil
}

func (s *Slot) setMemory(m *proto.Memory) {
	s.engine = m
	s.noteLimits(m)
	s.reader.log.Debug("memory card is in use", "slot", s.index, "protocol", m.ID().String())
}

// PowerUp resets the card to see that it works, and forgets the session. A client
// must Reset the card before it can Transmit.
func (s *Slot) PowerUp(ctx context.Context) error {
	_, err := s.Reset(ctx)
	s.engine, s.atr, s.reason = nil, nil, ErrNoProtocol
	return err
}

// SetProtocol changes the protocol of a card that was reset; proto.Default
// returns to the ATR's choice.
func (s *Slot) SetProtocol(ctx context.Context, p proto.ID) error {
	if !p.Known() {
		return fmt.Errorf("set protocol %d: there is no such protocol", p)
	}
	if err := s.sameCard(); err != nil {
		return fmt.Errorf("set protocol %d: %w", p, err)
	}
	if _, relay := s.card.(ifd.Relay); relay {
		return s.choose(ctx, p) // clients of the other handler may have chosen meanwhile
	}
	if s.engine != nil && (p == s.engine.ID() || p == s.asked) {
		return nil // a new engine would number the card's blocks anew
	}
	if card, ok := s.card.(ifd.Memory); ok && s.atr == nil {
		return s.setMemoryProtocol(ctx, card, p)
	}
	if s.atr == nil {
		return fmt.Errorf("set protocol %d: %w", p, s.reason)
	}
	return s.choose(ctx, p)
}

// choose has the driver change the protocol of the card.
func (s *Slot) choose(ctx context.Context, p proto.ID) error {
	e, err := s.card.Protocol(ctx, p, s.atr)
	if err != nil {
		return fmt.Errorf("set protocol %d: %w", p, err)
	}
	s.engine, s.asked = e, p
	s.noteLimits(e)
	return nil
}

// setMemoryProtocol is SetProtocol for a card without an ATR. Only the client
// can know the kind of a card that was not recognised, or not rightly so;
// proto.Default returns to what is recognised.
func (s *Slot) setMemoryProtocol(ctx context.Context, card ifd.Memory, p proto.ID) error {
	if p == proto.Default {
		_, err := s.detectMemory(ctx, ifd.ErrNoATR)
		if err != nil {
			return fmt.Errorf("set protocol %d: %w", p, err)
		}
		s.asked = p
		return nil
	}
	if !p.Memory() {
		if s.engine != nil {
			return fmt.Errorf("set protocol %d: a memory card is in: %w", p, ifd.ErrNotSupported)
		}
		return fmt.Errorf("set protocol %d: %w", p, s.reason)
	}
	if s.engine == nil {
		if err := card.PowerMemory(ctx); err != nil {
			return fmt.Errorf("set protocol %d: %w", p, err)
		}
	}
	s.setMemory(proto.NewMemory(card, p))
	s.asked = p
	return nil
}

// sameCard ends the session of a card that was taken out since its reset, and
// says so. Another card in its place needs a reset of its own.
func (s *Slot) sameCard() error {
	if s.resetGen == s.generation() {
		return nil
	}
	if s.engine != nil || s.atr != nil {
		s.engine, s.atr, s.reason = nil, nil, ifd.ErrNoCard
	}
	return s.reason
}

// Transmit sends one command APDU and appends the card's response to resp[:0].
func (s *Slot) Transmit(ctx context.Context, apdu, resp []byte) ([]byte, error) {
	if err := s.sameCard(); err != nil {
		return nil, fmt.Errorf("transmit: %w", err)
	}
	if s.engine == nil {
		return nil, fmt.Errorf("transmit: %w", s.reason)
	}
	out, err := s.engine.Transmit(ctx, apdu, resp)
	if s.reader.log.Enabled(ctx, levelAPDU) {
		s.reader.log.Log(ctx, levelAPDU, "APDU", "slot", s.index,
			"command", apdulog.Command(apdu), "response", apdulog.Response(apdu, out), "error", err)
	}
	if err != nil {
		return nil, fmt.Errorf("transmit: %w", err)
	}
	return out, nil
}

// Status tells whether a card is in, and whether that changed since the last
// call. It asks the reader where that takes no wait for a card: while the card
// or the reader is busy with a command, it tells what is known.
func (s *Slot) Status(ctx context.Context) (ifd.Status, error) {
	p, ok := s.card.(ifd.Presence)
	if ok && !s.tryEnter() {
		if ok = !s.isKnown(); ok {
			if err := s.Enter(ctx); err != nil {
				return ifd.Status{}, err
			}
		}
	}
	if ok {
		st, err := p.Status(ctx)
		s.Leave()
		switch {
		case err == nil:
			s.update(st)
		case !errors.Is(err, ifd.ErrBusy):
			return ifd.Status{}, fmt.Errorf("status: %w", err)
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	st := s.status
	s.status.Changed = false
	return st, nil
}

// Limits are the longest APDUs that the reader, its driver and the protocol of
// the card carry together. They hold as long as the card is the same, powered
// or not; without a card, or before its first reset, they are the reader's.
func (s *Slot) Limits() proto.Limits {
	s.mu.Lock()
	defer s.mu.Unlock()
	l := proto.LimitsOf(s.card)
	if s.limitsGen == s.gen && s.limits.Command > 0 {
		l = l.Min(s.limits)
	}
	return l
}

// noteLimits remembers what the engine of the card that is in carries.
func (s *Slot) noteLimits(e proto.Engine) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.limits, s.limitsGen = proto.LimitsOf(e), s.resetGen
}

// Relay is the slot of the other handler that serves it, if one does.
func (s *Slot) Relay() (ifd.Relay, bool) {
	r, ok := s.card.(ifd.Relay)
	return r, ok
}

// Present is what is known of the card without asking anybody.
func (s *Slot) Present() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.status.Present
}

// Events counts the slot's cards that came, went or were exchanged, and tells
// whether one is in. news is closed at the next event.
func (s *Slot) Events() (n uint32, present bool, news <-chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.news == nil {
		s.news = make(chan struct{})
	}
	return s.events, s.status.Present, s.news
}

// Eject gives the card out, or does nothing where it is taken by hand.
func (s *Slot) Eject(ctx context.Context, timeout time.Duration, message string) error {
	e, ok := s.card.(ifd.Ejector)
	if !ok {
		return nil // C OpenCT calls that a success (process.c)
	}
	if err := e.Eject(ctx, timeout, message); err != nil {
		return fmt.Errorf("eject: %w", err)
	}
	s.engine, s.atr, s.reason = nil, nil, ErrNoProtocol
	return nil
}

// Verify lets the user type a PIN on the reader. The response is the card's,
// usually a status word alone.
func (s *Slot) Verify(ctx context.Context, v ifd.PINRequest) ([]byte, error) {
	c, ok := s.card.(ifd.Verifier)
	if !ok {
		return nil, fmt.Errorf("verify: no keypad: %w", ifd.ErrNotSupported)
	}
	return s.keypad(ctx, v, c.Verify)
}

// Modify lets the user change a PIN on the reader.
func (s *Slot) Modify(ctx context.Context, v ifd.PINRequest) ([]byte, error) {
	c, ok := s.card.(ifd.Modifier)
	if !ok {
		return nil, fmt.Errorf("change PIN: no keypad: %w", ifd.ErrNotSupported)
	}
	return s.keypad(ctx, v, c.Modify)
}

func (s *Slot) keypad(ctx context.Context, v ifd.PINRequest, run func(context.Context, ifd.PINRequest) ([]byte, error)) ([]byte, error) {
	if err := s.sameCard(); err != nil {
		return nil, fmt.Errorf("PIN entry: %w", err)
	}
	out, err := run(ctx, v)
	if err != nil {
		return nil, fmt.Errorf("PIN entry: %w", err)
	}
	return out, nil
}

// ReadMemory reads from a synchronous memory card; it may have fewer bytes.
func (s *Slot) ReadMemory(ctx context.Context, addr int, buf []byte) (int, error) {
	m, err := s.memory()
	if err != nil {
		return 0, fmt.Errorf("read memory: %w", err)
	}
	n, err := m.Read(ctx, addr, buf)
	if err != nil {
		return 0, fmt.Errorf("read memory: %w", err)
	}
	return n, nil
}

// WriteMemory writes to a synchronous memory card and verifies what it wrote.
func (s *Slot) WriteMemory(ctx context.Context, addr int, data []byte) error {
	m, err := s.memory()
	if err == nil {
		err = m.Write(ctx, addr, data)
	}
	if err != nil {
		return fmt.Errorf("write memory: %w", err)
	}
	return nil
}

// memory returns the engine of the memory card that is in.
func (s *Slot) memory() (proto.MemoryEngine, error) {
	if err := s.sameCard(); err != nil {
		return nil, err
	}
	if s.engine == nil {
		return nil, s.reason
	}
	m, ok := s.engine.(proto.MemoryEngine)
	if !ok {
		return nil, fmt.Errorf("no memory card is in: %w", ifd.ErrNotSupported)
	}
	return m, nil
}

// Enter waits for the card to be free and takes it; the caller must Leave. The
// wait ends with ctx.
func (s *Slot) Enter(ctx context.Context) error {
	if s.tryEnter() {
		return nil
	}
	select {
	case s.turn <- struct{}{}:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("waiting for the card: %w", context.Cause(ctx))
	}
}

// tryEnter is Enter where the card is free, and false otherwise.
func (s *Slot) tryEnter() bool {
	select {
	case s.turn <- struct{}{}:
		return true
	default:
		return false
	}
}

// Leave gives the card to the next one waiting, and lets that goroutine begin: what
// this one still has to do, its client's reply above all, is done while the card
// works for the next.
func (s *Slot) Leave() {
	<-s.turn
	runtime.Gosched()
}

func (s *Slot) isKnown() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.known
}

func (s *Slot) generation() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.gen
}

// update notes what was learned of the card's presence, by whatever way, and
// passes on what is new.
func (s *Slot) update(st ifd.Status) {
	s.mu.Lock()
	s.known = true
	news := st.Present != s.status.Present || st.Present && st.Changed
	if news {
		if s.status.Present {
			s.gen++
		}
		s.status = ifd.Status{Present: st.Present, Changed: true}
		s.events++
		if s.news != nil {
			close(s.news)
			s.news = nil
		}
	}
	s.mu.Unlock()
	if news {
		s.reader.changed(s.index, ifd.Status{Present: st.Present, Changed: true})
	}
}

// poll asks a slot for its card every pollInterval, but not while the card is
// busy.
func (s *Slot) poll(ctx context.Context, p ifd.Presence) {
	tick := time.NewTicker(pollInterval)
	defer tick.Stop()
	for {
		if err := s.Enter(ctx); err != nil {
			return
		}
		st, err := p.Status(ctx)
		s.Leave()
		if err == nil {
			s.update(st)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}
