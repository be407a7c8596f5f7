package ccid

import (
	"context"
	"errors"
	"fmt"

	"openct/internal/ifd"
	"openct/internal/proto"
	"openct/internal/usb"
)

// apduEngine exchanges APDUs with a reader that speaks the card's protocol
// itself (CCID 1.1, 3: short and extended APDU level exchanges).
type apduEngine struct {
	proto.Session
	s *slot
}

var _ proto.Engine = (*apduEngine)(nil)

// Limits of one exchange.
const (
	minSW = 2

	// maxBlocks is how many blocks the longest response takes with the smallest
	// messages. A reader that sends more does not come to an end.
	maxBlocks = 8192
)

func newAPDUEngine(s *slot) *apduEngine { return &apduEngine{s: s} }

// ID is the protocol that the reader speaks to the card.
func (e *apduEngine) ID() proto.ID { return e.s.card.t }

// Transmit implements proto.Engine.
func (e *apduEngine) Transmit(ctx context.Context, apdu, resp []byte) ([]byte, error) {
	if err := e.Lost(); err != nil {
		return nil, err
	}
	if len(apdu) < 4 || len(apdu) > proto.MaxCommand {
		return nil, fmt.Errorf("%w: %d bytes", proto.ErrInvalidAPDU, len(apdu))
	}
	room := e.s.plan.MaxMessage - headerSize
	if most := e.s.Limits().Command; e.s.plan.Level == ShortAPDU && (isExtended(apdu) || len(apdu) > most) {
		return nil, fmt.Errorf("%w: the reader takes APDUs of up to %d bytes, not extended ones: %w",
			proto.ErrInvalidAPDU, most, ifd.ErrNotSupported)
	}
	r, err := e.send(ctx, apdu, room)
	if err == nil {
		resp, err = e.collect(ctx, r, resp[:0])
	}
	if err != nil {
		return nil, e.outcome(err)
	}
	return resp, nil
}

// isExtended says whether an APDU has extended length fields (ISO/IEC 7816-4,
// 5.1): a zero where a short one has Lc, and bytes behind it.
func isExtended(apdu []byte) bool { return len(apdu) > 5 && apdu[4] == 0 }

// send passes the command on, in as many blocks as it takes, and returns the
// answer to the last.
func (e *apduEngine) send(ctx context.Context, apdu []byte, room int) (response, error) {
	level := levelWhole
	for first := true; ; first = false {
		n := min(room, len(apdu))
		last := n == len(apdu)
		switch {
		case first && !last:
			level = levelBegins
		case !first && !last:
			level = levelContinues
		case !first:
			level = levelEnds
		}
		r, err := e.s.run(ctx, xfrBlock(0, level, apdu[:n]), e.s.card.wait)
		if err != nil || last {
			return r, err
		}
		if r.param != chainGoOn || len(r.data) > 0 {
			return r, fmt.Errorf("the reader does not accept the command in parts: %w", ifd.ErrComm)
		}
		apdu = apdu[n:]
	}
}

// collect appends the response that begins with r, fetching what is missing.
// A response that gets too long is fetched to its end all the same, so that
// reader and host stay in step.
func (e *apduEngine) collect(ctx context.Context, r response, resp []byte) ([]byte, error) {
	tooLong := false
	for block := 1; ; block++ {
		if tooLong = tooLong || len(resp)+len(r.data) > proto.MaxResponse; !tooLong {
			resp = append(resp, r.data...)
		}
		clear(r.data)
		switch r.param {
		case chainBegins, chainContinues, chainGoOn:
			if block == maxBlocks {
				return nil, fmt.Errorf("the response has no end: %w", ifd.ErrComm)
			}
			var err error
			if r, err = e.s.run(ctx, xfrBlock(0, levelFetch, nil), e.s.card.wait); err != nil {
				return nil, err
			}
			continue
		case chainWhole, chainEnds:
		default:
			return nil, fmt.Errorf("reader sends chain parameter %02X: %w", r.param, ifd.ErrComm)
		}
		switch {
		case tooLong:
			return nil, proto.ErrTooLong
		case len(resp) < minSW:
			return nil, fmt.Errorf("response of %d bytes has no status word: %w", len(resp), ifd.ErrComm)
		}
		return resp, nil
	}
}

// outcome decides whether the card must be reset after err: if it is gone or
// has no power, or if the command may still be running.
func (e *apduEngine) outcome(err error) error {
	unknown := errors.Is(err, usb.ErrTimeout) || errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded)
	if unknown || errors.Is(err, ifd.ErrNoCard) || e.s.icc != iccActive {
		return e.Lose(err)
	}
	return err
}
