// Package reader is the core between socket commands and a driver: the slots
// of one reader, the card in each, its ATR and its protocol engine. It knows
// neither USB nor sockets.
package reader

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"openct/internal/ifd"
)

// MaxSlots is what the status file can show (OPENCT_MAX_SLOTS in C OpenCT's
// openct.h); further slots of a reader are left out.
const MaxSlots = 8

// pollInterval is how often the card is looked for in a reader that can be
// asked but does not tell. C OpenCT asks once per second (ifdhandler.c).
const pollInterval = time.Second

// closeWait is how long Close waits for the slots. What is under way ends with its
// context, which the caller has ended.
const closeWait = 200 * time.Millisecond

// States that callers branch on; test with errors.Is.
var (
	// ErrInvalidSlot: the reader has no such slot.
	ErrInvalidSlot = errors.New("no such slot")

	// ErrNoProtocol: the card was not reset yet, or its ATR led to no
	// protocol this program speaks.
	ErrNoProtocol = errors.New("no protocol selected")
)

// Reader is one open reader or token.
type Reader struct {
	ifd     ifd.Reader
	slots   []*Slot
	log     *slog.Logger
	changed func(slot int, s ifd.Status)

	watching sync.WaitGroup
	stop     context.CancelFunc
}

// New takes over an open reader. changed is called when a card came or went,
// from any goroutine.
func New(r ifd.Reader, log *slog.Logger, changed func(slot int, s ifd.Status)) *Reader {
	ctx, stop := context.WithCancel(context.Background())
	rd := &Reader{ifd: r, log: log, changed: changed, stop: stop}
	for i, s := range r.Slots() {
		if i == MaxSlots {
			log.Warn("reader has more slots than can be shown", "slots", len(r.Slots()), "shown", MaxSlots)
			break
		}
		rd.slots = append(rd.slots, newSlot(rd, i, s))
	}
	if n, ok := r.(ifd.Notifier); ok {
		rd.watch(func() { rd.listen(ctx, n.Events()) })
		return rd
	}
	for _, s := range rd.slots {
		if p, ok := s.card.(ifd.Presence); ok {
			rd.watch(func() { s.poll(ctx, p) })
		}
	}
	return rd
}

func (r *Reader) watch(f func()) {
	r.watching.Add(1)
	go func() {
		defer r.watching.Done()
		f()
	}()
}

// Close stops watching and closes the reader, once its slots are no longer in use: a
// driver may have something to say to the reader then, and works for one at a time.
func (r *Reader) Close() error {
	r.stop()
	ctx, cancel := context.WithTimeout(context.Background(), closeWait)
	defer cancel()
	for _, s := range r.slots {
		if s.Enter(ctx) == nil {
			defer s.Leave()
		}
	}
	err := r.ifd.Close() // closes the channel of events, too
	r.watching.Wait()
	return err
}

// Slots is the number of slots, 1 to MaxSlots.
func (r *Reader) Slots() int { return len(r.slots) }

// Slot returns slot i, counted from 0.
func (r *Reader) Slot(i int) (*Slot, error) {
	if i < 0 || i >= len(r.slots) {
		return nil, fmt.Errorf("slot %d of %d: %w", i, len(r.slots), ErrInvalidSlot)
	}
	return r.slots[i], nil
}

// Features reports whether the reader has a display and a keypad.
func (r *Reader) Features() (display, keypad bool) {
	if k, ok := r.ifd.(ifd.Keypad); ok {
		return k.HasDisplay(), k.HasKeypad()
	}
	return false, false
}

// Display shows a message on the reader; an empty one clears it.
func (r *Reader) Display(ctx context.Context, message string) error {
	d, ok := r.ifd.(ifd.Displayer)
	if !ok {
		return fmt.Errorf("display: %w", ifd.ErrNotSupported)
	}
	return d.Display(ctx, message)
}

// listen takes a reader's news until the reader is closed or gone.
func (r *Reader) listen(ctx context.Context, events <-chan ifd.Event) {
	for {
		select {
		case e, ok := <-events:
			if !ok {
				return
			}
			if e.Slot >= 0 && e.Slot < len(r.slots) {
				r.slots[e.Slot].update(ifd.Status{Present: e.Present})
			}
		case <-ctx.Done():
			return
		}
	}
}

// levelAPDU is below slog's debug level: every APDU's header and lengths, with
// no data (see apdulog).
const levelAPDU = slog.LevelDebug - 4
