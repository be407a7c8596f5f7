package ccid

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"openct/internal/ifd"
	"openct/internal/usb"
)

// Pauses after notifications that bring nothing: a reader must not keep the
// host busy.
const (
	minNotifyPause = 10 * time.Millisecond
	maxNotifyPause = 10 * time.Second
)

// watcher keeps one read of the interrupt endpoint queued and turns what
// comes into events.
type watcher struct {
	dev     usb.Device
	fn      function
	slots   []*slot          // of this function, by bSlot
	first   int              // number of slots[0] within the reader
	removed func(slot int)   // is called with the bSlot of each slot without a card
	events  chan<- ifd.Event // nil: the reader is asked for cards all the same
	log     *slog.Logger
}

// run ends with ctx or when the device has left.
func (w *watcher) run(ctx context.Context) {
	buf := make([]byte, max(interruptSize(w.fn.desc.Slots), w.fn.intPacket, 8))
	seen := make([]int, len(w.slots)) // 0: nothing was said yet, 1: absent, 2: present
	pause := minNotifyPause
	for ctx.Err() == nil {
		n, err := w.dev.Interrupt(ctx, w.fn.interrupt, buf)
		switch {
		case err == nil && n > 0:
			pause = minNotifyPause
			if !w.take(ctx, buf[:n], seen) {
				return
			}
			continue
		case errors.Is(err, usb.ErrUnplugged), errors.Is(err, usb.ErrClosed), ctx.Err() != nil:
			return
		case errors.Is(err, usb.ErrStall):
			err = w.dev.ClearHalt(w.fn.interrupt)
		}
		if err != nil {
			w.log.Warn("cannot read the reader's notifications", "error", err, "retry", pause)
		}
		if !sleep(ctx, pause) {
			return
		}
		pause = min(2*pause, maxNotifyPause)
	}
}

func sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// take passes on what one notification says, all slots of it. It returns false
// when ctx has ended.
func (w *watcher) take(ctx context.Context, msg []byte, seen []int) bool {
	if e, ok := parseHardwareError(msg); ok {
		w.log.Warn("reader reports a hardware error", "slot", e.slot, "code", e.code, "overcurrent", e.code&overcurrent != 0)
		return true
	}
	for _, c := range parseSlotChange(msg, len(w.slots)) {
		now := 1
		if c.present {
			now = 2
		}
		was := seen[c.slot]
		news := c.changed || was != now
		seen[c.slot] = now
		if !c.present {
			w.slots[c.slot].emptied.Store(true)
			w.removed(c.slot)
		}
		if !news {
			continue
		}
		if c.changed {
			w.slots[c.slot].moved.Store(true)
		}
		if c.changed && was == 2 {
			w.slots[c.slot].emptied.Store(true) // out and in again
		}
		if w.events == nil {
			continue
		}
		select {
		case w.events <- ifd.Event{Slot: w.first + c.slot, Present: c.present}:
		case <-ctx.Done():
			return false
		}
	}
	return true
}
