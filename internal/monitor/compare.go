package monitor

import (
	"cmp"
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"openct/internal/status"
)

// followed is a reader that has been told of.
type followed struct {
	reader
	since     time.Time // when its handler began to serve it; zero where that is not known
	seq       uint64    // of the last event in its side file that was told
	who       known
	unplugged bool // told already
}

// maxAge is how old an event may be; what claims to be older, or of the future, has
// the time at which it was seen.
const maxAge = time.Minute

// compare tells what is different now.
func (m *monitor) compare(s snapshot) {
	if s.fault != m.fault && s.fault != (status.Fault{}) {
		m.fault = s.fault
		m.faulty(s.fault)
	}
	if s.stopped != m.stopped && !s.stopped {
		m.emit(Event{Event: Init})
	}
	for n := range s.readers {
		m.reader(n, s.readers[n])
	}
	if s.stopped != m.stopped && s.stopped {
		m.emit(Event{Event: Shutdown})
	}
	m.stopped = s.stopped
}

// begin tells of the readers that are there. What has happened before is not told.
func (m *monitor) begin(s snapshot) {
	m.fault, m.stopped = s.fault, s.stopped
	for n, r := range s.readers {
		if !r.ready {
			continue
		}
		f := m.follow(n, r)
		e := f.event(n, Present)
		e.Slots = slots(r.entry)
		for _, c := range r.detail.Connections {
			e.Clients = append(e.Clients, f.who[c.Connection])
		}
		for _, l := range r.detail.Locks {
			e.Locks = append(e.Locks, Lock{l.Slot, l.Exclusive, f.holder(m, l.PID, l.UID)})
		}
		m.emit(f.describe(e))
		if events := r.detail.Events; len(events) > 0 {
			f.seq = events[len(events)-1].Seq
		}
	}
}

func (m *monitor) follow(n int, r reader) *followed {
	f := &followed{reader: r, since: r.detail.Since, who: known{}}
	for _, c := range r.detail.Connections {
		f.who[c.Connection] = m.names.client(c.PID, c.UID)
	}
	m.readers[n] = f
	return f
}

// holder names the holder of a lock, of whom the side file says no connection.
func (f *followed) holder(m *monitor, pid int, uid uint32) Client {
	for _, who := range f.who {
		if who.PID == pid && who.UID == uid {
			return who
		}
	}
	return m.names.client(pid, uid)
}

// reader tells what is different at one reader.
func (m *monitor) reader(n int, now reader) {
	f := m.readers[n]
	if f != nil && (f.entry.PID != now.entry.PID || f.again(now.detail)) {
		m.ended(n, f, now.died == f.entry.PID)
		f = nil
	}
	switch {
	case !now.ready && f == nil:
		return
	case f == nil:
		f = m.follow(n, now)
		e := f.event(n, Ready)
		e.Slots = slots(now.entry)
		m.emit(f.describe(e))
	default:
		m.cards(n, f, now.entry)
	}
	m.events(n, f, now.detail)
	if f.reader = now; now.detail.PID != 0 {
		f.who = f.who.forget(now.detail.Connections)
	}
	if !now.detail.Since.IsZero() {
		f.since = now.detail.Since
	}
}

// again says whether the same process serves a reader anew: that of another
// OpenCT's does so when the reader comes back.
func (f *followed) again(d status.Detail) bool {
	return !f.since.IsZero() && !d.Since.IsZero() && !d.Since.Equal(f.since)
}

// ended tells that a reader is no longer served.
func (m *monitor) ended(n int, f *followed, died bool) {
	m.readers[n] = nil
	if died {
		e := f.event(n, Fault)
		e.Error = fmt.Sprintf("handler died (process %d)", f.entry.PID)
		if f.detail.LastError != "" {
			e.Error += "; last error: " + f.detail.LastError
		}
		e.Device, e.Unit, e.Handler = f.detail.Device, f.detail.Unit, f.entry.PID
		m.emit(e)
	}
	switch {
	case f.unplugged:
	case isNode(f.detail.Device) && !m.Root.Exists(f.detail.Device):
		m.forget(f.detail.Device)
		m.emit(f.describe(f.event(n, Unplugged)))
	case !died:
		m.emit(f.describe(f.event(n, Stopped)))
	}
}

// isNode says whether a device has a place in /dev. The file that names it is not
// root's: no other place is looked at.
func isNode(device string) bool {
	return strings.HasPrefix(device, "/dev/") && filepath.Clean(device) == device
}

func (m *monitor) cards(n int, f *followed, now status.Entry) {
	for slot := range now.Slots {
		before, after := f.entry.Cards[slot], now.Cards[slot]
		if before == after {
			continue
		}
		for _, c := range []struct {
			kind Kind
			card uint32
		}{{CardOut, before}, {CardIn, after}} {
			if c.card != 0 {
				e := f.event(n, c.kind)
				e.Slot = &slot
				m.emit(e)
			}
		}
	}
}

// events tells what is new in a side file.
func (m *monitor) events(n int, f *followed, d status.Detail) {
	for _, e := range d.Events {
		if e.Seq <= f.seq {
			continue
		}
		if missed := e.Seq - f.seq - 1; missed > 0 {
			lost := f.event(n, Missed)
			lost.Missed = missed
			m.emit(lost)
		}
		f.seq = e.Seq
		out := f.event(n, Kind(e.Event))
		out.Time = m.time(e.Time)
		out.Error = e.Error
		who := f.who.meet(m.names, e.Client)
		switch e.Event {
		case status.Connected:
			out.Client = &who
			f.who[e.Client.Connection] = who
		case status.Disconnected:
			out.Client = &who
		case status.Locked, status.Unlocked, status.Conflict:
			out.Client, out.Slot, out.Exclusive = &who, &e.Slot, &e.Exclusive
			if e.Holder.Connection != 0 {
				holder := f.who.meet(m.names, e.Holder)
				out.Holder = &holder
			}
		case status.Failed:
		default:
			continue // of a later OpenCT
		}
		m.emit(out)
	}
}

// time is when something has happened, as a handler says.
func (m *monitor) time(said time.Time) time.Time {
	now := m.now()
	if age := now.Sub(said); age < 0 || age > maxAge {
		return now
	}
	return said.Local()
}

// faulty tells why a handler has failed.
func (m *monitor) faulty(s status.Fault) {
	e := Event{
		Time: m.time(s.Time), Event: Fault, Error: cmp.Or(s.Error, "handler has failed"), Device: s.Device, Driver: s.Driver, Unit: s.Unit, Handler: s.PID,
	}
	for n, f := range m.readers {
		if f != nil && f.entry.PID == s.PID {
			e.Reader, e.Name = &n, f.entry.Name
		}
	}
	m.emit(e)
}

func (f *followed) event(n int, kind Kind) Event {
	return Event{Event: kind, Reader: &n, Name: f.entry.Name}
}

// describe adds what is known of the device.
func (f *followed) describe(e Event) Event {
	d := f.detail
	e.Driver, e.Device, e.ID, e.Port, e.Serial, e.Unit, e.Handler = d.Driver, d.Device, d.ID, d.Port, d.Serial, d.Unit, f.entry.PID
	return e
}

func slots(e status.Entry) []Slot {
	var slots []Slot
	for i := range e.Slots {
		slots = append(slots, Slot{i, e.Present(i)})
	}
	return slots
}
