package ccid

import (
	"context"
	"errors"
	"fmt"
	"time"

	"openct/internal/atr"
	"openct/internal/ifd"
	"openct/internal/proto"
	"openct/internal/usb"
)

// newTPDUEngine makes one of package proto's engines over a reader that carries
// TPDUs (CCID 1.1, 3: TPDU level of exchange), for the protocol the slot settled
// on.
func (s *slot) newTPDUEngine(ctx context.Context, a *atr.ATR) (proto.Engine, error) {
	l := &tpduLink{s: s, t: s.card.t}
	if s.card.t == proto.T0 {
		s.card.link, s.card.engine = l, proto.NewT0(l, proto.T0Params{Timeout: s.card.wait})
		return s.card.engine, nil
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
	if s.plan.Announce && ifsd != defaultIFSD {
		if err := s.announce(ctx, t1, ifsd); isFinal(err) && !errors.Is(err, usb.ErrTimeout) {
			return nil, err
		} else if err != nil {
			// The card may have fallen over the announcement.
			s.log.Debug("card is powered off and on, to go on with short blocks", "error", err)
			if err := s.powerCycle(ctx); err != nil {
				return nil, err
			}
			if err := s.agree(ctx, a, s.card.t); err != nil {
				return nil, err
			}
			t1 = proto.NewT1(l, params)
		}
	}
	s.card.link, s.card.engine = l, t1
	return t1, nil
}

// announce tells the card how long its blocks may be. A card that does not
// take it keeps to 32 bytes, and is brought back into step.
func (s *slot) announce(ctx context.Context, t1 *proto.T1Engine, ifsd int) error {
	err := t1.NegotiateIFSD(ctx, ifsd)
	if err == nil || !errors.Is(err, proto.ErrProtocol) {
		return err
	}
	s.log.Debug("card does not take longer blocks", "ifsd", ifsd, "error", err)
	return t1.Resynchronise(ctx)
}

// tpduLink carries one block each way per XfrBlock. Reader and card have one
// exchange for both directions, so Send only remembers what Recv sends.
type tpduLink struct {
	s     *slot
	t     proto.ID
	block []byte
	ready bool

	// secure, if set, sends the block that carries the PIN: the next one goes
	// through the keypad. In T=1 every I-block does until it is taken back: one that
	// is repeated is this one. In T=0 GET RESPONSE may follow.
	secure func(block []byte) (response, error)
	failed error // of secure
}

var _ proto.Link = (*tpduLink)(nil)

var errNothingSent = errors.New("no block was sent that could be answered")

// Send implements proto.Link.
func (l *tpduLink) Send(_ context.Context, block []byte) error {
	l.block, l.ready = append(l.block[:0], block...), true
	return nil
}

// Recv implements proto.Link.
func (l *tpduLink) Recv(ctx context.Context, buf []byte, timeout time.Duration) (int, error) {
	if !l.ready {
		return 0, errNothingSent
	}
	r, err := l.exchange(ctx, timeout)
	l.ready = false
	clear(l.block) // there may be a PIN
	switch {
	case errors.Is(err, errParity) && l.t == proto.T1:
		return 0, fmt.Errorf("%w: %w", proto.ErrCorrupted, err)
	case err != nil:
		return 0, err
	case len(r.data) > len(buf):
		return 0, fmt.Errorf("block of %d bytes, more than %d: %w", len(r.data), len(buf), ifd.ErrComm)
	}
	n := copy(buf, r.data)
	clear(r.data)
	return n, nil
}

// exchange sends the block. A card's request for more time is granted by an
// S-block, and the reader has to hear of it, too: bBWI (CCID 1.1, 6.1.4).
func (l *tpduLink) exchange(ctx context.Context, timeout time.Duration) (response, error) {
	if secure := l.secure; secure != nil && isFirstBlock(l.t, l.block) {
		if l.t == proto.T0 {
			l.secure = nil
		}
		r, err := secure(l.block)
		l.failed = err
		return r, err
	}
	var bwi byte
	if l.t == proto.T1 && len(l.block) > 3 && l.block[1] == pcbWTXResponse {
		bwi = l.block[3]
	}
	return l.s.run(ctx, xfrBlock(bwi, levelWhole, l.block), max(timeout, l.s.card.wait))
}

// pcbWTXResponse is the control byte of S(WTX response) (ISO/IEC 7816-3,
// 11.3.2.2).
const pcbWTXResponse = 0xE3

// isFirstBlock says whether a block carries a command rather than answering or
// repairing something: every TPDU does, and T=1's I-blocks.
func isFirstBlock(t proto.ID, block []byte) bool {
	return t == proto.T0 || len(block) > 1 && block[1]&0x80 == 0
}
