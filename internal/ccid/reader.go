package ccid

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"

	"openct/internal/ifd"
	"openct/internal/usb"
)

// reader is a device with one CCID function or more; the slots of all of them
// are its slots, in the order of the interfaces.
type reader struct {
	title string // for people
	parts []*part
	slots []ifd.Slot
	plain []*slot
	log   *slog.Logger

	keypad, display bool

	events chan ifd.Event
	stop   context.CancelFunc // of the watchers
	watch  sync.WaitGroup
}

// Name implements ifd.Reader: several readers at one machine can be told apart.
func (r *reader) Name() string { return r.title }

// Gone implements ifd.Reader. The parts of a reader leave together.
func (r *reader) Gone() <-chan struct{} { return r.parts[0].t.gone() }

// title is the reader's name as it gives it itself, if it does; name otherwise.
func title(d *usb.Descriptor, name string) string {
	maker, model := strings.TrimSpace(d.Manufacturer), strings.TrimSpace(d.ProductString)
	switch {
	case model == "":
		return name
	case maker == "" || strings.HasPrefix(model, maker):
		return model
	}
	return maker + " " + model
}

// part is one CCID function.
type part struct {
	t     transport
	c     *conn
	plan  Plan
	slots []*slot
}

// notifyingReader is a reader that reports insertion and removal.
type notifyingReader struct{ *reader }

var (
	_ ifd.Reader   = (*reader)(nil)
	_ ifd.Keypad   = (*reader)(nil)
	_ ifd.Notifier = notifyingReader{}
)

// How long the reader may take for its first answers. After a restart of the
// host's side the first command may be lost, as data toggles are out of step.
const (
	firstProbe = 3 * time.Second
	nextProbe  = 100 * time.Millisecond
	nextProbes = 2
)

// Open opens the reader in a USB device. Where the device has several CCID
// interfaces, all of them belong to the reader, but only one is used at a
// time, as some devices lock up otherwise. Other interfaces stay untouched.
// On success the reader owns dev. The error wraps ifd.ErrIncompatible when
// the device is no reader that can be driven.
func Open(dev usb.Device, opts ifd.Options) (ifd.Reader, error) {
	d := dev.Descriptor()
	fns, err := findFunctions(d)
	if err != nil {
		return nil, err
	}
	q := quirkOf(d)
	log := opts.Log.With("reader", deviceName(d), "id", d.ID())
	if q.minRelease > d.Release {
		log.Warn("this firmware is known to be faulty; look for an update",
			"have", fmt.Sprintf("%04x", d.Release), "need", fmt.Sprintf("%04x", q.minRelease))
	}
	r := &reader{log: log, title: title(d, opts.Name)}
	var watchers []*watcher
	notifies := true
	for i := range fns {
		p, err := openPart(dev, fns[i], q, len(fns) > 1, r.room(), opts.Escape, log)
		if err != nil && len(r.parts) > 0 && errors.Is(err, usb.ErrBusy) {
			log.Warn("one of the reader's interfaces is in use; its slots are left out", "error", err)
			continue
		}
		if err != nil {
			r.abandon()
			return nil, err
		}
		watchers = append(watchers, &watcher{dev: dev, fn: fns[i], slots: p.slots, first: len(r.plain), removed: p.c.removed, log: log})
		notifies = notifies && (p.plan.Event || p.plan.Token)
		r.add(p)
		if len(r.plain) == maxUsableSlots {
			break
		}
	}
	if opts.Escape && q.escapeSlot && len(r.slots) < maxUsableSlots {
		r.slots = append(r.slots, &escapeSlot{r.plain[0]})
	}
	if err := r.start(q); err != nil {
		r.abandon()
		return nil, err
	}
	notifies = notifies && hasEvents(r.parts)
	if notifies {
		r.events = make(chan ifd.Event, maxUsableSlots)
	}
	ctx, stop := context.WithCancel(context.Background())
	r.stop = stop
	for _, w := range watchers {
		if w.fn.interrupt == 0 {
			continue
		}
		w.events = r.events
		r.watch.Add(1)
		go func() {
			defer r.watch.Done()
			w.run(ctx)
		}()
	}
	if !notifies {
		return r, nil
	}
	go func() {
		r.watch.Wait()
		close(r.events)
	}()
	return notifyingReader{r}, nil
}

func hasEvents(parts []*part) bool {
	for _, p := range parts {
		if p.plan.Event && !p.plan.Token {
			return true
		}
	}
	return false
}

// room is what the parts of a device share; nil before the first.
func (r *reader) room() chan struct{} {
	if len(r.parts) == 0 {
		return nil
	}
	return r.parts[0].c.room
}

// openPart takes one interface and starts to read from it.
func openPart(dev usb.Device, f function, q quirk, several bool, room chan struct{}, escape bool, log *slog.Logger) (*part, error) {
	plan, err := decide(f, q)
	if err != nil {
		return nil, fmt.Errorf("%s, interface %d: %w", dev.Descriptor().ID(), f.iface, err)
	}
	if err := dev.Claim(f.iface, f.alt); err != nil {
		return nil, err
	}
	t := newUSBTransport(dev, f)
	rates, err := t.dataRates(context.Background(), plan.Rates)
	if err != nil {
		_ = dev.Release(f.iface)
		return nil, err
	}
	if several {
		plan.Busy = 1
	}
	if room == nil {
		room = newRoom(plan.Busy)
	}
	log.Debug("found a reader", "interface", f.iface, "plan", plan.String())
	return newPart(t, plan, rates, room, escape, log), nil
}

func newPart(t transport, plan Plan, rates []uint32, room chan struct{}, escape bool, log *slog.Logger) *part {
	p := &part{t: t, plan: plan, c: newConn(t, plan.Slots, room, log)}
	for i := range plan.Slots {
		p.slots = append(p.slots, &slot{
			c: p.c, plan: &p.plan, number: byte(i), rates: rates, escape: escape,
			log: log.With("slot", i),
		})
	}
	return p
}

func (r *reader) add(p *part) {
	r.parts = append(r.parts, p)
	for _, s := range p.slots {
		if len(r.plain) == maxUsableSlots {
			break
		}
		r.plain = append(r.plain, s)
		r.slots = append(r.slots, s.asSlot())
	}
	r.keypad = r.keypad || p.plan.Verify
	r.display = r.display || p.plan.Display
}

// start gets the reader to answer and into the mode it is wanted in.
func (r *reader) start(q quirk) error {
	ctx := context.Background()
	for _, p := range r.parts {
		if err := p.probe(ctx, q); err != nil {
			return err
		}
		if q.initEscape != nil {
			if _, err := p.c.run(ctx, 0, escape(q.initEscape), commandTimeout); err != nil {
				r.log.Debug("reader refuses its mode command", "error", err)
			}
		}
	}
	return nil
}

// probe asks for the slot's status until an answer comes: any answer will do.
func (p *part) probe(ctx context.Context, q quirk) error {
	first, next := firstProbe, nextProbe
	if q.firstProbe > 0 {
		first = q.firstProbe
	}
	if q.nextProbe > 0 {
		next = q.nextProbe
	}
	r, err := p.c.run(ctx, 0, getSlotStatus(), first)
	for range nextProbes {
		if err == nil || r.typ != 0 || errors.Is(err, usb.ErrUnplugged) || errors.Is(err, usb.ErrClosed) {
			break
		}
		r, err = p.c.run(ctx, 0, getSlotStatus(), next)
	}
	if err != nil && r.typ == 0 {
		return fmt.Errorf("reader does not answer: %w", err)
	}
	return nil
}

// abandon undoes a failed Open; the device stays the caller's.
func (r *reader) abandon() {
	for _, p := range r.parts {
		p.c.leave()
	}
}

// Slots implements ifd.Reader.
func (r *reader) Slots() []ifd.Slot { return r.slots }

// Events implements ifd.Notifier.
func (r notifyingReader) Events() <-chan ifd.Event { return r.events }

// HasKeypad implements ifd.Keypad.
func (r *reader) HasKeypad() bool { return r.keypad }

// HasDisplay implements ifd.Keypad. Nothing but the reader's own prompts
// appears on it: CCID has no message for text of the host.
func (r *reader) HasDisplay() bool { return r.display }

// Close implements ifd.Reader. Cards lose their power, unless the reader has
// left already.
func (r *reader) Close() error {
	if r.stop != nil {
		r.stop()
		r.watch.Wait()
	}
	ctx, cancel := context.WithTimeout(context.Background(), commandTimeout)
	defer cancel()
	for _, s := range r.plain {
		if s.powered && !isGone(s.c.t) {
			if err := s.powerOff(ctx); err != nil {
				r.log.Debug("card stays powered", "slot", s.number, "error", err)
			}
		}
	}
	var first error
	for _, p := range r.parts {
		if err := p.t.close(); err != nil && first == nil {
			first = err
		}
	}
	for _, p := range r.parts {
		p.c.close()
	}
	return first
}

func isGone(t transport) bool {
	select {
	case <-t.gone():
		return true
	default:
		return false
	}
}
