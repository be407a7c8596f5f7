package ccid

import (
	"context"
	"errors"
	"fmt"
	"time"

	"openct/internal/atr"
	"openct/internal/ifd"
	"openct/internal/proto"
)

// tpduEngine is one of package proto's engines over a reader that carries
// TPDUs (CCID 1.1, 3: TPDU level of exchange).
type tpduEngine struct {
	proto.Engine
	link *tpduLink
}

// newTPDUEngine makes the engine for the protocol the slot settled on.
func (s *slot) newTPDUEngine(ctx context.Context, a *atr.ATR) (proto.Engine, error) {
	l := &tpduLink{s: s, t: s.card.t, ctx: context.Background()}
	s.card.link = l
	if s.card.t == 0 {
		s.card.engine = proto.NewT0(l, proto.T0Params{Timeout: s.card.wait})
		return &tpduEngine{s.card.engine, l}, nil
	}
	// A block must fit into a message, whatever the card would take.
	room := s.plan.MaxMessage - headerSize - blockOverhead
	if a.CRC() {
		room--
	}
	params := proto.T1Params{
		IFSC:    min(a.IFSC(), room),
		MaxIFSC: min(maxIFSD, room),
		CRC:     a.CRC(),
		BWT:     a.BWT(atr.Rate{Clock: int(min(s.plan.Clock, maxClock)) * 1000}),
		Timeout: s.card.wait,
	}
	ifsd := min(s.plan.IFSD, room)
	if !s.plan.Announce {
		params.IFSD = ifsd // the reader has told the card, or 32 is all there is
	}
	t1 := proto.NewT1(l, params)
	s.card.engine = t1
	e := &tpduEngine{t1, l}
	if !s.plan.Announce || ifsd == defaultIFSD {
		return e, nil
	}
	if err := e.announce(ctx, t1, ifsd); err != nil {
		return nil, err
	}
	return e, nil
}

// announce tells the card how long its blocks may be. A card that does not
// take it keeps to 32 bytes, and is brought back into step.
func (e *tpduEngine) announce(ctx context.Context, t1 *proto.T1Engine, ifsd int) error {
	defer e.link.with(ctx)()
	err := t1.NegotiateIFSD(ctx, ifsd)
	if err == nil || !errors.Is(err, proto.ErrProtocol) {
		return err
	}
	e.link.s.log.Debug("card does not take longer blocks", "ifsd", ifsd, "error", err)
	return t1.Resynchronise(ctx)
}

// Transmit implements proto.Engine. Unlike the engine's own, it can be ended
// by ctx while the card thinks.
func (e *tpduEngine) Transmit(ctx context.Context, apdu, resp []byte) ([]byte, error) {
	defer e.link.with(ctx)()
	return e.Engine.Transmit(ctx, apdu, resp)
}

// tpduLink carries one block each way per XfrBlock. Reader and card have one
// exchange for both directions, so Send only remembers what Recv sends.
type tpduLink struct {
	s     *slot
	t     int
	ctx   context.Context // of the Transmit under way
	block []byte
	ready bool

	// secure, if set, sends the block that carries the PIN: the next one goes
	// through the keypad.
	secure func(block []byte) (response, error)
	failed error // of secure
}

var _ proto.Link = (*tpduLink)(nil)

// with lends the link a context until the function it returns is called.
func (l *tpduLink) with(ctx context.Context) func() {
	l.ctx = ctx
	return func() { l.ctx = context.Background() }
}

var errNothingSent = errors.New("no block was sent that could be answered")

// Send implements proto.Link.
func (l *tpduLink) Send(block []byte) error {
	l.block, l.ready = append(l.block[:0], block...), true
	return nil
}

// Recv implements proto.Link.
func (l *tpduLink) Recv(buf []byte, timeout time.Duration) (int, error) {
	if !l.ready {
		return 0, errNothingSent
	}
	r, err := l.exchange(timeout)
	l.ready = false
	clear(l.block) // there may be a PIN
	switch {
	case errors.Is(err, errParity) && l.t == 1:
		return 0, fmt.Errorf("%w: %w", proto.ErrCorrupted, err)
	case err != nil:
		return 0, err
	case len(r.data) > len(buf):
		return 0, fmt.Errorf("block of %d bytes where at most %d are due: %w", len(r.data), len(buf), ifd.ErrComm)
	}
	return copy(buf, r.data), nil
}

// exchange sends the block. A card's request for more time is granted by an
// S-block, and the reader has to hear of it, too: bBWI (CCID 1.1, 6.1.4).
func (l *tpduLink) exchange(timeout time.Duration) (response, error) {
	if secure := l.secure; secure != nil && isFirstBlock(l.t, l.block) {
		l.secure = nil
		r, err := secure(l.block)
		l.failed = err
		return r, err
	}
	var bwi byte
	if l.t == 1 && len(l.block) > 3 && l.block[1] == pcbWTXResponse {
		bwi = l.block[3]
	}
	return l.s.run(l.ctx, xfrBlock(bwi, levelWhole, l.block), max(timeout, l.s.card.wait))
}

// pcbWTXResponse is the control byte of S(WTX response) (ISO/IEC 7816-3,
// 11.3.2.2).
const pcbWTXResponse = 0xE3

// isFirstBlock says whether a block carries a command rather than answering or
// repairing something: every TPDU does, and T=1's I-blocks.
func isFirstBlock(t int, block []byte) bool {
	return t == 0 || len(block) > 1 && block[1]&0x80 == 0
}
