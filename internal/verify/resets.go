package verify

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"openct/internal/atr"
	"openct/internal/ifd"
	"openct/internal/proto"
)

// resets is how often the card is reset.
const resets = 10

func (r *runner) reset(ctx context.Context) (Step, error) {
	r.engine, r.atr, r.raw = nil, nil, nil
	s, err := r.step(ctx, Step{Do: Reset}, func(ctx context.Context) (string, error) {
		raw, err := r.slot.Reset(ctx)
		r.raw = raw
		return ResetText(raw), err
	})
	if err == nil {
		r.atr, _ = atr.Parse(r.raw)
		r.broken = false
	}
	return s, err
}

func (r *runner) resets(ctx context.Context) error {
	var first []byte
	var took []time.Duration
	var lost error
	different := false
	for i := range resets {
		r.progress("reset %d of %d", i+1, resets)
		s, err := r.reset(ctx)
		if err != nil {
			lost = err
			if r.gone(ctx) {
				break
			}
			continue
		}
		took = append(took, s.Took)
		if first == nil {
			first = bytes.Clone(r.raw)
		}
		different = different || !bytes.Equal(first, r.raw)
	}
	switch {
	case len(took) == 0:
		r.verdict(Wrong, "reset", "the card does not answer to a reset: %s", kindOf(lost))
		return lost
	case lost != nil:
		r.verdict(Wrong, "reset", "%d of %d resets succeed; the others fail: %s", len(took), resets, kindOf(lost))
	case slices.Max(took) > slowReset:
		r.verdict(Odd, "reset", "%d of %d resets succeed, slowly: %s", len(took), resets, span(took))
	default:
		r.verdict(OK, "reset", "%d of %d resets succeed, %s", len(took), resets, span(took))
	}
	r.answerToReset(first, different)
	if r.raw == nil {
		_, err := r.reset(ctx)
		return err
	}
	return nil
}

func (r *runner) answerToReset(raw []byte, different bool) {
	_, err := atr.Parse(raw)
	text := strings.TrimPrefix(atrText(raw), atrWord)
	switch {
	case different:
		r.verdict(Odd, "ATR", "the ATR differs between resets; the first is %s", text)
	case errors.Is(err, atr.ErrInvalid):
		r.verdict(Wrong, "ATR", "%d bytes, which are not a valid ATR", len(raw))
	case err != nil:
		r.verdict(Odd, "ATR", "%s: the ATR violates ISO/IEC 7816-3", text)
	default:
		r.verdict(OK, "ATR", "%s", text)
	}
}

// span is the range of times.
func span(took []time.Duration) string {
	return fmt.Sprintf("%d to %d ms", slices.Min(took).Milliseconds(), slices.Max(took).Milliseconds())
}

// choose makes the engine for a protocol.
func (r *runner) choose(ctx context.Context, p proto.ID) error {
	_, err := r.step(ctx, Step{Do: Protocol, Protocol: p}, func(ctx context.Context) (string, error) {
		e, err := r.slot.Protocol(ctx, p, r.atr)
		if err != nil {
			return "", err
		}
		r.engine = e
		return e.ID().String(), nil
	})
	return err
}

// protocols tries every protocol that the ATR offers, each after a reset, and ends
// with the one that is used.
func (r *runner) protocols(ctx context.Context) {
	if r.atr != nil {
		for _, p := range r.atr.Protocols()[1:] {
			r.progress("protocol %v", p)
			err := r.choose(ctx, p)
			switch {
			case errors.Is(err, ifd.ErrNotSupported):
				r.verdict(OK, "protocol "+p.String(), "the card offers this protocol, the reader does not support it")
			case err != nil:
				r.verdict(Odd, "protocol "+p.String(), "the card offers this protocol, but choosing it fails: %s", kindOf(err))
			default:
				s, _, err := r.transmit(ctx, selectMF)
				if err != nil {
					r.verdict(Wrong, "protocol "+p.String(), "%s", kindOf(err))
				} else {
					r.verdict(OK, "protocol "+p.String(), "chosen; SELECT: %s", s.Result)
				}
			}
			if _, err := r.reset(ctx); err != nil {
				r.verdict(Wrong, "protocol "+p.String(), "the card cannot be reset after this protocol: %s", kindOf(err))
				return
			}
		}
	}
	if err := r.choose(ctx, proto.Default); err != nil {
		r.verdict(Wrong, "protocol", "the card was reset, but its protocol cannot be chosen: %s", kindOf(err))
		return
	}
	r.verdict(OK, "protocol", "%v", r.engine.ID())
}
