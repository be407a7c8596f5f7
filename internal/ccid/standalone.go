package ccid

import (
	"context"
	"errors"
	"fmt"

	"openct/internal/ifd"
	"openct/internal/usb"
)

// releaser is a transport that must free something after the last read has ended.
type releaser interface{ release() }

// openTransport opens a reader that is not a USB device: desc stands for the
// class descriptor it cannot show, rates has the data rates of each slot, and
// prepare, if any, is what has to be said to it first. It takes t over, also
// when it fails.
func openTransport(t transport, desc *ClassDescriptor, rates func(slot int) []uint32,
	prepare func(context.Context, *conn) error, opts ifd.Options) (ifd.Reader, error) {
	log := opts.Log.With("reader", t.name())
	plan, err := decide(function{desc: desc}, quirk{})
	if err != nil {
		_ = t.close()
		return nil, fmt.Errorf("%s: %w", t.name(), err)
	}
	p := newPart(t, plan, nil, newRoom(plan.Busy), opts.Escape, log)
	if t, ok := t.(removalReporter); ok {
		t.onRemoval(p.c.removed)
	}
	r := &standalone{reader{log: log, title: opts.Name}}
	r.add(p)
	for i, s := range p.slots {
		if rates != nil {
			s.rates = rates(i)
		}
	}
	if prepare == nil {
		prepare = func(ctx context.Context, _ *conn) error { return p.probe(ctx, quirk{}) }
	}
	if err := prepare(context.Background(), p.c); err != nil {
		_ = r.Close()
		if errors.Is(err, usb.ErrTimeout) {
			return nil, fmt.Errorf("no reader answers: %w: %w", ifd.ErrIncompatible, err)
		}
		return nil, err
	}
	log.Debug("found a reader", "plan", plan.String())
	return r, nil
}

// standalone is a reader with a transport of its own.
type standalone struct{ reader }

// Close implements ifd.Reader.
func (r *standalone) Close() error {
	err := r.reader.Close()
	for _, p := range r.parts {
		if t, ok := p.t.(releaser); ok {
			t.release()
		}
	}
	return err
}
