package remote

import (
	"context"
	"fmt"
	"sync"
	"time"

	"openct/internal/atr"
	"openct/internal/ifd"
	"openct/internal/proto"
	"openct/internal/socket"
)

// slot is a slot of a far handler's reader.
type slot struct {
	r      *reader
	index  int
	main   *socket.Client // all commands to the slot; the slot's locks belong to it
	turn   chan struct{}  // full while a command is under way
	escape bool           // SET_PROTOCOL may ask for vendor escape commands
	most   proto.Limits   // before there was a card
	fresh  bool           // the card was just reset: the far handler has chosen its protocol

	held [2]uint32 // handles of the far locks, shared and exclusive

	mu   sync.Mutex
	told bool // news are what the far handler tells by itself
	news socket.CardNews
}

var (
	_ ifd.Relay     = (*slot)(nil)
	_ ifd.Presence  = (*slot)(nil)
	_ ifd.Requester = (*slot)(nil)
	_ ifd.Ejector   = (*slot)(nil)
	_ ifd.Verifier  = (*slot)(nil)
	_ ifd.Modifier  = (*slot)(nil)
	_ proto.Limiter = (*slot)(nil)
)

func (s *slot) card() socket.CardNews {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.news
}

func (s *slot) setCard(news socket.CardNews) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.news = news
}

// call runs one command of the far handler's. A slot's commands take turns, in no
// order.
func (s *slot) call(ctx context.Context, wait time.Duration, run func(context.Context) error) error {
	select {
	case s.turn <- struct{}{}:
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-s.r.gone:
		return s.r.lost(nil)
	}
	defer func() { <-s.turn }()
	limited, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	err := run(limited)
	switch {
	case err == nil:
		return nil
	case limited.Err() != nil && ctx.Err() == nil:
		return s.r.lost(fmt.Errorf("the far OpenCT does not answer within %v", wait))
	case ctx.Err() != nil:
		return context.Cause(ctx)
	}
	if left(err) {
		return s.r.lost(foreign(err))
	}
	return foreign(err)
}

// Limits implements proto.Limiter.
func (s *slot) Limits() proto.Limits { return s.most }

// Status implements ifd.Presence. What the far handler has told costs no question.
func (s *slot) Status(ctx context.Context) (ifd.Status, error) {
	if s.told {
		return ifd.Status{Present: s.card().Present}, nil
	}
	var st ifd.Status
	err := s.call(ctx, s.r.waits.answer, func(ctx context.Context) (err error) {
		st.Present, st.Changed, err = s.main.CardStatus(ctx, s.index)
		return err
	})
	return st, err
}

// Reset implements ifd.Slot.
func (s *slot) Reset(ctx context.Context) ([]byte, error) {
	return s.reset(ctx, s.r.waits.card, func(ctx context.Context) ([]byte, error) { return s.main.Reset(ctx, s.index) })
}

// Request implements ifd.Requester.
func (s *slot) Request(ctx context.Context, timeout time.Duration, message string) ([]byte, error) {
	return s.reset(ctx, s.r.waits.card+timeout, func(ctx context.Context) ([]byte, error) {
		return s.main.Request(ctx, s.index, timeout, message)
	})
}

func (s *slot) reset(ctx context.Context, wait time.Duration, run func(context.Context) ([]byte, error)) (atr []byte, err error) {
	s.fresh = false
	err = s.call(ctx, wait, func(ctx context.Context) (err error) {
		atr, err = run(ctx)
		return err
	})
	s.fresh = err == nil
	return atr, err
}

// Protocol implements ifd.Slot. After a reset it has been chosen already.
func (s *slot) Protocol(ctx context.Context, p proto.ID, a *atr.ATR) (proto.Engine, error) {
	if p == proto.Escape && !s.escape {
		return nil, fmt.Errorf("protocol %v: escape is off in openct.conf: %w", p, ifd.ErrNotSupported)
	}
	if !s.fresh || p != proto.Default {
		err := s.call(ctx, s.r.waits.card, func(ctx context.Context) error {
			return s.main.SetProtocol(ctx, s.index, uint32(int32(p)))
		})
		if err != nil {
			return nil, err
		}
	}
	s.fresh = false
	e := &engine{s: s, id: p}
	switch {
	case p != proto.Default:
	case a != nil:
		e.id = a.Default()
	default:
		e.id = proto.Transparent // only the far handler knows
	}
	err := s.call(ctx, s.r.waits.answer, func(ctx context.Context) (err error) {
		e.most, err = limits(ctx, s.main, s.index)
		return err
	})
	return e, err
}

// Eject implements ifd.Ejector.
func (s *slot) Eject(ctx context.Context, timeout time.Duration, message string) error {
	return s.call(ctx, s.r.waits.card+timeout, func(ctx context.Context) error {
		return s.main.Eject(ctx, s.index, timeout, message)
	})
}

// Verify implements ifd.Verifier; a far reader without a keypad says so.
func (s *slot) Verify(ctx context.Context, v ifd.PINRequest) ([]byte, error) {
	return s.keypad(ctx, socket.CmdVerify, v)
}

// Modify implements ifd.Modifier.
func (s *slot) Modify(ctx context.Context, v ifd.PINRequest) ([]byte, error) {
	return s.keypad(ctx, socket.CmdChangePIN, v)
}

func (s *slot) keypad(ctx context.Context, cmd socket.Command, v ifd.PINRequest) (resp []byte, err error) {
	data := append([]byte{v.Control, v.Offset}, v.APDU...)
	err = s.call(ctx, s.r.waits.card+v.Timeout, func(ctx context.Context) (err error) {
		resp, err = s.main.Keypad(ctx, cmd, s.index, v.Timeout, v.Message, data)
		return err
	})
	return resp, err
}

// Lock implements ifd.Relay.
func (s *slot) Lock(ctx context.Context, exclusive bool) error {
	return s.call(ctx, s.r.waits.answer, func(ctx context.Context) (err error) {
		s.held[kind(exclusive)], err = s.main.Lock(ctx, s.index, exclusive)
		return err
	})
}

// Unlock implements ifd.Relay.
func (s *slot) Unlock(ctx context.Context, exclusive bool) error {
	return s.call(ctx, s.r.waits.answer, func(ctx context.Context) error {
		return s.main.Unlock(ctx, s.index, s.held[kind(exclusive)])
	})
}

func kind(exclusive bool) int {
	if exclusive {
		return 1
	}
	return 0
}

// Abandon implements ifd.Relay.
func (s *slot) Abandon(why error) { s.r.leave(why) }

// engine is the far handler's session with a card, a memory card's too.
type engine struct {
	s    *slot
	id   proto.ID
	most proto.Limits
}

var (
	_ proto.MemoryEngine = (*engine)(nil)
	_ proto.Limiter      = (*engine)(nil)
)

func (e *engine) ID() proto.ID         { return e.id }
func (e *engine) Limits() proto.Limits { return e.most }

// Transmit implements proto.Engine: one APDU, one question.
func (e *engine) Transmit(ctx context.Context, apdu, resp []byte) ([]byte, error) {
	if len(apdu) == 0 {
		return nil, proto.ErrInvalidAPDU
	}
	var out []byte
	err := e.s.call(ctx, e.s.r.waits.card, func(ctx context.Context) (err error) {
		out, err = e.s.main.Transact(ctx, e.s.index, apdu)
		return err
	})
	if err != nil {
		return nil, err
	}
	defer clear(out)
	if len(out) < 2 {
		return nil, fmt.Errorf("response of %d byte, without a status word: %w", len(out), ifd.ErrComm)
	}
	return append(resp[:0], out...), nil
}

// Read implements proto.MemoryEngine.
func (e *engine) Read(ctx context.Context, addr int, buf []byte) (n int, err error) {
	if addr < 0 || addr > 0xFFFF {
		return 0, proto.ErrMemoryRange
	}
	err = e.s.call(ctx, e.s.r.waits.card, func(ctx context.Context) error {
		data, err := e.s.main.ReadMemory(ctx, e.s.index, uint16(addr), len(buf))
		n = copy(buf, data)
		return err
	})
	return n, err
}

// Write implements proto.MemoryEngine.
func (e *engine) Write(ctx context.Context, addr int, data []byte) error {
	if addr < 0 || addr > 0xFFFF {
		return proto.ErrMemoryRange
	}
	return e.s.call(ctx, e.s.r.waits.card, func(ctx context.Context) error {
		return e.s.main.WriteMemory(ctx, e.s.index, uint16(addr), data)
	})
}
