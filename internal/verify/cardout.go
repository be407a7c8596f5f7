package verify

import (
	"context"
	"errors"
	"time"

	"openct/internal/ifd"
)

// Waits for the user to do something with the card, and how often the reader is
// asked for it.
const (
	cardWait = time.Minute
	cardLook = 100 * time.Millisecond
)

// exchangeCard has the card taken out and put in, and resets it then. When it comes
// and goes is the user's affair, so nothing of this is in the recording.
func (r *runner) exchangeCard(ctx context.Context) {
	const name = "card out and in"
	ctx, cancel := context.WithTimeout(ctx, 2*cardWait)
	defer cancel()
	rd, err := r.again()
	if err != nil {
		r.verdict(Wrong, name, "the reader cannot be opened again: %s", kindOf(err))
		return
	}
	defer rd.Close()
	slot := rd.Slots()[0]
	p, ok := slot.(ifd.Presence)
	if !ok {
		r.verdict(OK, name, "not done: the card cannot be removed, or the reader does not report card presence")
		return
	}
	for _, do := range []struct {
		ask  string
		want bool
	}{{"remove the card", false}, {"insert the card", true}} {
		r.Ask(do.ask)
		if err := waitCard(ctx, p, do.want); err != nil {
			r.verdict(Wrong, name, "the reader did not report the change after \"please %s\": %s", do.ask, kindOf(err))
			return
		}
	}
	if _, err := slot.Reset(ctx); err != nil {
		r.verdict(Wrong, name, "the reader reports removal and insertion, but the card does not answer a reset afterwards: %s", kindOf(err))
		return
	}
	r.verdict(OK, name, "the reader reports removal and insertion, and the card answers a reset")
}

// again opens the reader without a recorder.
func (r *runner) again() (ifd.Reader, error) {
	o := r.IFD
	o.OpenLine = r.openLine
	if r.Open == nil {
		return r.Entry.OpenPath[r.Type](r.Path, o)
	}
	dev, err := r.Open()
	if err != nil {
		return nil, err
	}
	rd, err := r.Entry.Open(dev, o)
	if err != nil {
		_ = dev.Close()
		return nil, err
	}
	drain(rd)
	return rd, nil
}

func waitCard(ctx context.Context, p ifd.Presence, want bool) error {
	ctx, cancel := context.WithTimeout(ctx, cardWait)
	defer cancel()
	tick := time.NewTicker(cardLook)
	defer tick.Stop()
	for {
		st, err := p.Status(ctx)
		if err != nil && !errors.Is(err, ifd.ErrBusy) || err == nil && st.Present == want {
			return err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
