// Package ccidreader is a virtual USB reader of the CCID class with slots, a
// keypad, profiles of real readers, and faults. It writes down what the host does
// against the specification.
package ccidreader

import (
	"context"
	"encoding/binary"
	"fmt"
	"sync"
	"time"

	"openct/internal/usb"
	"openct/internal/vusb"
	"openct/internal/vusb/card"
)

// Reader is a virtual smart card reader of the CCID class. It is written
// from the class specification and shares no code with the driver. It keeps
// count of what a host must not do (Violations), and of everything it was
// sent (Commands).
type Reader struct {
	// PIN is what the user types when no Keys were given; empty: nothing. It is set
	// before the reader is used.
	PIN string

	p    Profile
	desc vusb.Descriptors

	mu         sync.Mutex
	units      []*unit
	faults     []*Fault
	keys       []Keys
	commands   []Command
	violations []string
}

var _ vusb.Model = (*Reader)(nil)

// Command is one message the host sent.
type Command struct {
	Type, Slot, Seq byte
	Param           [3]byte // bytes 7 to 9
	Data            []byte
	Unit            int // CCID interface
}

// unit is one CCID interface.
type unit struct {
	r     *Reader
	n     int
	iface uint8
	slots []*slot

	// Guarded by the reader's mu.
	in      vusb.Queue
	notices vusb.Queue
	seq     int // of the last command, -1 before the first
	stale   []byte
}

// New makes a reader with cards in its first slots, in the order of
// interfaces; nil leaves a slot empty.
func New(p Profile, cards ...card.Card) *Reader {
	p = p.withDefaults()
	r := &Reader{p: p, desc: p.descriptors()}
	for n := range p.Readers {
		u := &unit{r: r, n: n, iface: p.firstInterface() + uint8(n), in: vusb.NewQueue(p.Packet), notices: vusb.NewQueue(8), seq: -1}
		for i := range p.Slots {
			u.slots = append(u.slots, newSlot(r, byte(i)))
		}
		r.units = append(r.units, u)
	}
	for i, c := range cards {
		if _, s := r.slot(i); s != nil && c != nil {
			s.insert(c, Card{})
		}
	}
	return r
}

// slot finds a slot by its number within the whole device.
func (r *Reader) slot(i int) (*unit, *slot) {
	if i < 0 || i/r.p.Slots >= len(r.units) {
		return nil, nil
	}
	u := r.units[i/r.p.Slots]
	return u, u.slots[i%r.p.Slots]
}

// Insert puts a card into a slot, in place of the one that may be there.
func (r *Reader) Insert(slot int, c card.Card) { r.InsertOdd(slot, c, Card{}) }

// InsertOdd puts in a card with ways of its own.
func (r *Reader) InsertOdd(slot int, c card.Card, odd Card) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if u, s := r.slot(slot); s != nil {
		s.insert(c, odd)
		u.notifyLocked(s)
	}
}

// Remove takes the card out of a slot.
func (r *Reader) Remove(slot int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if u, s := r.slot(slot); s != nil {
		s.remove()
		u.notifyLocked(s)
	}
}

// Notify sends any bytes over the first interface's interrupt endpoint.
func (r *Reader) Notify(b []byte) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.units[0].notices.Add(b, false)
}

// Commands returns what the host has sent so far.
func (r *Reader) Commands() []Command {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]Command(nil), r.commands...)
}

// Violations returns what the host did against the specification.
func (r *Reader) Violations() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]string(nil), r.violations...)
}

func (r *Reader) violateLocked(format string, args ...any) {
	r.violations = append(r.violations, fmt.Sprintf(format, args...))
}

// Powered says whether a slot's card has power.
func (r *Reader) Powered(slot int) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	_, s := r.slot(slot)
	return s != nil && s.powered
}

// Descriptors implements Model.
func (r *Reader) Descriptors() vusb.Descriptors { return r.desc }

// Reset implements Model: a bus reset leaves the cards without power.
func (r *Reader) Reset() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, u := range r.units {
		u.in.Packets, u.seq = nil, -1
		for _, s := range u.slots {
			s.off()
			s.cancel()
		}
	}
}

// Class requests (CCID 1.1, table 5.3-1).
const (
	reqAbort     = 0x01
	reqClocks    = 0x02
	reqDataRates = 0x03
)

// Control implements Model.
func (r *Reader) Control(_ context.Context, s usb.Setup, _ []byte, length int) ([]byte, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	i := int(s.Index) - int(r.p.firstInterface())
	if i < 0 || i >= len(r.units) {
		return nil, vusb.ErrStall
	}
	u := r.units[i]
	switch {
	case s.RequestType == usb.ClassInterfaceOut && s.Request == reqAbort:
		if slot := int(s.Value & 0xFF); slot < len(u.slots) {
			u.slots[slot].abort = int(s.Value >> 8)
			u.slots[slot].cancel()
		}
		return nil, nil
	case s.RequestType == usb.ClassInterfaceIn && s.Request == reqDataRates && len(r.p.Rates) > 0:
		var b []byte
		for _, rate := range r.p.Rates {
			b = binary.LittleEndian.AppendUint32(b, rate)
		}
		return b[:min(length, len(b))], nil
	case s.RequestType == usb.ClassInterfaceIn && s.Request == reqClocks:
		return binary.LittleEndian.AppendUint32(nil, r.p.Clock), nil
	}
	return nil, vusb.ErrStall
}

// Out implements Model.
func (r *Reader) Out(_ context.Context, ep uint8, data []byte) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	for n, u := range r.units {
		if ep == outEndpoint(n) {
			u.command(data)
			return nil
		}
	}
	return vusb.ErrStall
}

// In implements Model.
func (r *Reader) In(ctx context.Context, ep uint8, max int) ([]byte, error) {
	for n, u := range r.units {
		switch ep {
		case inEndpoint(n):
			return u.in.Read(ctx, &r.mu, max)
		case interruptEndpoint(n):
			return u.notices.Read(ctx, &r.mu, max)
		}
	}
	<-ctx.Done() // the keyboard, on which nobody types
	return nil, ctx.Err()
}

// notifyLocked sends NotifySlotChange for a slot that has changed (CCID 1.1,
// 6.3.1).
func (u *unit) notifyLocked(changed *slot) {
	if u.r.p.NoInterrupt {
		return
	}
	b := make([]byte, 1+(2*len(u.slots)+7)/8)
	b[0] = 0x50
	for i, s := range u.slots {
		var bits byte
		if s.card != nil {
			bits |= 1
		}
		if s == changed {
			bits |= 2
		}
		b[1+i/4] |= bits << (2 * (i % 4))
	}
	u.notices.Add(b, false)
}

// after runs f with the reader's lock held, now or later.
func (r *Reader) after(d time.Duration, f func()) *time.Timer {
	if d <= 0 {
		f()
		return nil
	}
	return time.AfterFunc(d, func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		f()
	})
}
