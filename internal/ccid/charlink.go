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

// newCharEngine makes one of package proto's engines over a reader that carries
// single characters (CCID 1.1, 3: character level of exchange): procedure
// bytes and block lengths are left to the host.
func (s *slot) newCharEngine(a *atr.ATR) proto.Engine {
	l := &charLink{s: s}
	if s.card.t == proto.T0 {
		return proto.NewT0(l, proto.T0Params{Stream: true, Timeout: s.card.wait})
	}
	// IFSD stays at its 32 bytes: what fits into these readers differs little.
	clock := atr.Rate{Clock: int(min(s.plan.Clock, maxClock)) * 1000}
	return proto.NewT1(l, proto.T1Params{
		IFSC: a.IFSC(), CRC: a.CRC(), BWT: a.BWT(clock), Timeout: s.card.wait, Stream: true, CWT: a.CWT(clock),
	})
}

// charLink is a stream of characters. What is sent waits for the next read, as
// the reader wants to know how many characters come back.
type charLink struct {
	s   *slot
	out []byte
}

var _ proto.Link = (*charLink)(nil)

// Send implements proto.Link.
func (l *charLink) Send(_ context.Context, b []byte) error {
	l.out = append(l.out, b...)
	return nil
}

// Recv implements proto.Link: it fills buf.
func (l *charLink) Recv(ctx context.Context, buf []byte, timeout time.Duration) (int, error) {
	out := l.out
	defer func() {
		clear(l.out) // there may be a PIN
		l.out = l.out[:0]
	}()
	room := l.s.plan.MaxMessage - headerSize
	for len(out) > room {
		if err := l.exchange(ctx, out[:room], nil, timeout); err != nil {
			return 0, err
		}
		out = out[room:]
	}
	for got := 0; got < len(buf); {
		n := min(len(buf)-got, room)
		if l.s.plan.quirk.splitAt64 && n > 1 && (n+headerSize)%minPacket == 0 {
			n = 1
		}
		if err := l.exchange(ctx, out, buf[got:got+n], timeout); err != nil {
			return got, err
		}
		out, got = nil, got+n
	}
	return len(buf), nil
}

// exchange sends out and reads exactly len(in) characters.
func (l *charLink) exchange(ctx context.Context, out, in []byte, timeout time.Duration) error {
	var bwi byte
	if len(out) > 3 && l.s.card.t == proto.T1 && out[1] == pcbWTXResponse {
		bwi = out[3]
	}
	r, err := l.s.run(ctx, xfrBlock(bwi, uint16(len(in)), out), max(timeout, l.s.card.wait))
	switch {
	case errors.Is(err, errParity) && l.s.card.t == proto.T1:
		return fmt.Errorf("%w: %w", proto.ErrCorrupted, err)
	case err != nil:
		return err
	case len(r.data) != len(in):
		return fmt.Errorf("%d characters instead of %d: %w", len(r.data), len(in), ifd.ErrComm)
	}
	copy(in, r.data)
	clear(r.data)
	return nil
}
