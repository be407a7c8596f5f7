package vusb

import (
	"context"
	"encoding/binary"
	"fmt"
	"sync"
	"time"

	"openct/internal/usb"
	"openct/internal/vusb/card"
)

// CCIDReader is a virtual smart card reader of the CCID class. It is written
// from the class specification and shares no code with the driver. It keeps
// count of what a host must not do (Violations), and of everything it was
// sent (Commands).
type CCIDReader struct {
	p    CCIDProfile
	desc Descriptors

	mu         sync.Mutex
	units      []*ccidUnit
	faults     []*CCIDFault
	keys       []CCIDKeys
	commands   []CCIDCommand
	violations []string
}

var _ Model = (*CCIDReader)(nil)

// CCIDCommand is one message the host sent.
type CCIDCommand struct {
	Type, Slot, Seq byte
	Param           [3]byte // bytes 7 to 9
	Data            []byte
	Unit            int // CCID interface
}

// ccidUnit is one CCID interface.
type ccidUnit struct {
	r     *CCIDReader
	n     int
	iface uint8
	slots []*ccidSlot

	// Guarded by the reader's mu.
	in      pipe
	notices pipe
	seq     int // of the last command, -1 before the first
	stale   []byte
}

// NewCCID makes a reader with cards in its first slots, in the order of
// interfaces; nil leaves a slot empty.
func NewCCID(p CCIDProfile, cards ...card.Card) *CCIDReader {
	p = p.withDefaults()
	r := &CCIDReader{p: p, desc: p.descriptors()}
	for n := range p.Readers {
		u := &ccidUnit{r: r, n: n, iface: p.firstInterface() + uint8(n), in: newPipe(p.Packet), notices: newPipe(8), seq: -1}
		for i := range p.Slots {
			u.slots = append(u.slots, newCCIDSlot(r, byte(i)))
		}
		r.units = append(r.units, u)
	}
	for i, c := range cards {
		if _, s := r.slot(i); s != nil && c != nil {
			s.insert(c, CCIDCard{})
		}
	}
	return r
}

// slot finds a slot by its number within the whole device.
func (r *CCIDReader) slot(i int) (*ccidUnit, *ccidSlot) {
	if i < 0 || i/r.p.Slots >= len(r.units) {
		return nil, nil
	}
	u := r.units[i/r.p.Slots]
	return u, u.slots[i%r.p.Slots]
}

// Insert puts a card into a slot, in place of the one that may be there.
func (r *CCIDReader) Insert(slot int, c card.Card) { r.InsertOdd(slot, c, CCIDCard{}) }

// InsertOdd puts in a card with ways of its own.
func (r *CCIDReader) InsertOdd(slot int, c card.Card, odd CCIDCard) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if u, s := r.slot(slot); s != nil {
		s.insert(c, odd)
		u.notifyLocked(s)
	}
}

// Remove takes the card out of a slot.
func (r *CCIDReader) Remove(slot int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if u, s := r.slot(slot); s != nil {
		s.remove()
		u.notifyLocked(s)
	}
}

// Notify sends any bytes over the first interface's interrupt endpoint.
func (r *CCIDReader) Notify(b []byte) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.units[0].notices.add(b, false)
}

// Commands returns what the host has sent so far.
func (r *CCIDReader) Commands() []CCIDCommand {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]CCIDCommand(nil), r.commands...)
}

// Violations returns what the host did against the specification.
func (r *CCIDReader) Violations() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]string(nil), r.violations...)
}

func (r *CCIDReader) violateLocked(format string, args ...any) {
	r.violations = append(r.violations, fmt.Sprintf(format, args...))
}

// Powered says whether a slot's card has power.
func (r *CCIDReader) Powered(slot int) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	_, s := r.slot(slot)
	return s != nil && s.powered
}

// Descriptors implements Model.
func (r *CCIDReader) Descriptors() Descriptors { return r.desc }

// Reset implements Model: a bus reset leaves the cards without power.
func (r *CCIDReader) Reset() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, u := range r.units {
		u.in.packets, u.seq = nil, -1
		for _, s := range u.slots {
			s.off()
			s.cancel()
		}
	}
}

// Class requests (CCID 1.1, table 5.3-1).
const (
	ccidReqAbort     = 0x01
	ccidReqClocks    = 0x02
	ccidReqDataRates = 0x03
)

// Control implements Model.
func (r *CCIDReader) Control(_ context.Context, s usb.Setup, _ []byte, length int) ([]byte, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	i := int(s.Index) - int(r.p.firstInterface())
	if i < 0 || i >= len(r.units) {
		return nil, ErrStall
	}
	u := r.units[i]
	switch {
	case s.RequestType == usb.ClassInterfaceOut && s.Request == ccidReqAbort:
		if slot := int(s.Value & 0xFF); slot < len(u.slots) {
			u.slots[slot].abort = int(s.Value >> 8)
			u.slots[slot].cancel()
		}
		return nil, nil
	case s.RequestType == usb.ClassInterfaceIn && s.Request == ccidReqDataRates && len(r.p.Rates) > 0:
		var b []byte
		for _, rate := range r.p.Rates {
			b = binary.LittleEndian.AppendUint32(b, rate)
		}
		return b[:min(length, len(b))], nil
	case s.RequestType == usb.ClassInterfaceIn && s.Request == ccidReqClocks:
		return binary.LittleEndian.AppendUint32(nil, r.p.Clock), nil
	}
	return nil, ErrStall
}

// Out implements Model.
func (r *CCIDReader) Out(_ context.Context, ep uint8, data []byte) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	for n, u := range r.units {
		if ep == ccidOut(n) {
			u.command(data)
			return nil
		}
	}
	return ErrStall
}

// In implements Model.
func (r *CCIDReader) In(ctx context.Context, ep uint8, max int) ([]byte, error) {
	for n, u := range r.units {
		switch ep {
		case ccidIn(n):
			return u.in.read(ctx, &r.mu, max)
		case ccidInterrupt(n):
			return u.notices.read(ctx, &r.mu, max)
		}
	}
	<-ctx.Done() // the keyboard, on which nobody types
	return nil, ctx.Err()
}

// notifyLocked sends NotifySlotChange for a slot that has changed (CCID 1.1,
// 6.3.1).
func (u *ccidUnit) notifyLocked(changed *ccidSlot) {
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
	u.notices.add(b, false)
}

// after runs f with the reader's lock held, now or later.
func (r *CCIDReader) after(d time.Duration, f func()) *time.Timer {
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
