package daemon

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"

	"openct/internal/status"
)

// report tells people how the reader is: systemd's status line and the side
// file of the status entry. Clients and locks may change thousands of times a
// second; what is told lags behind by at most reportPause.
type report struct {
	d    *daemon
	name string

	history history

	news    chan struct{} // holds an element while something is untold
	telling sync.Mutex

	mu   sync.Mutex
	last error
	when time.Time
}

// reportPause is the time between two tellings.
const reportPause = 250 * time.Millisecond

func newReport(d *daemon, name string) *report {
	return &report{d: d, name: name, news: make(chan struct{}, 1)}
}

// touch says that something changed. It never waits.
func (r *report) touch() {
	select {
	case r.news <- struct{}{}:
	default:
	}
}

// note remembers an event, and tells it soon.
func (r *report) note(e status.Event) {
	r.history.add(e)
	r.touch()
}

// fault notes what went wrong last, in the journal as well. Whoever is answered with
// an error finds the reason told already; only of faults in a row, the later ones wait,
// and are in the journal for debugging alone: a client can bring them about at will.
func (r *report) fault(err error) {
	r.mu.Lock()
	now := time.Now()
	first := now.Sub(r.when) > reportPause
	r.last, r.when = err, now
	r.mu.Unlock()
	r.history.add(status.Event{Event: status.Failed, Error: err.Error()})
	if !r.d.unplugged() {
		level := slog.LevelDebug
		if first {
			level = slog.LevelWarn
		}
		r.d.Log.Log(context.Background(), level, "request failed", "reader", r.d.slot.Index(), "error", err)
	}
	if first {
		r.tell()
		return
	}
	r.touch()
}

// start tells news as they come; the function it returns ends that.
func (r *report) start() (stop func()) {
	quit, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for {
			select {
			case <-r.news:
			case <-quit:
				return
			}
			r.tell()
			select {
			case <-time.After(reportPause):
			case <-quit:
				return
			}
		}
	}()
	return func() { close(quit); <-done }
}

func (r *report) tell() {
	r.telling.Lock()
	defer r.telling.Unlock()
	r.d.Notify.Status(r.text())
	if err := r.d.slot.WriteDetail(r.detail()); err != nil {
		r.d.Log.Debug("side file not written", "error", err)
	}
}

// maxTextLocks is how many locks the line names: a client can hold 64.
const maxTextLocks = 4

// text is one line: "Aladdin eToken PRO 64k, reader 0, card present".
func (r *report) text() string {
	parts := []string{r.name, fmt.Sprintf("reader %d", r.d.slot.Index())}
	slots := r.d.reader.Slots()
	for i := range slots {
		s, err := r.d.reader.Slot(i)
		if err != nil {
			continue
		}
		card := "no card"
		if s.Present() {
			card = "card present"
		}
		if slots > 1 {
			card = fmt.Sprintf("slot %d: %s", i, card)
		}
		parts = append(parts, card)
	}
	switch n := r.history.clients(); n {
	case 0:
	case 1:
		parts = append(parts, "1 client")
	default:
		parts = append(parts, fmt.Sprintf("%d clients", n))
	}
	locks := r.d.h.locks.Holders()
	for _, g := range locks[:min(len(locks), maxTextLocks)] {
		kind := "shared"
		if g.Exclusive {
			kind = "exclusive"
		}
		parts = append(parts, fmt.Sprintf("%s lock by pid %d (uid %d) since %s",
			kind, g.Client.PID, g.Client.UID, g.Since.Format(time.TimeOnly)))
	}
	if more := len(locks) - maxTextLocks; more > 0 {
		parts = append(parts, fmt.Sprintf("further locks: %d", more))
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.last != nil {
		parts = append(parts, fmt.Sprintf("last error at %s: %v", r.when.Format(time.TimeOnly), r.last))
	}
	return strings.Join(parts, ", ")
}

func (r *report) detail() status.Detail {
	detail := r.d.identity()
	detail.Events, detail.Connections = r.history.now()
	detail.Clients = len(detail.Connections)
	for _, g := range r.d.h.locks.Holders() {
		detail.Locks = append(detail.Locks, status.Lock{
			Slot: g.Slot, Exclusive: g.Exclusive,
			PID: int(g.Client.PID), UID: g.Client.UID, Since: g.Since,
		})
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.last != nil {
		detail.LastError, detail.ErrorTime = r.last.Error(), r.when
	}
	return detail
}
