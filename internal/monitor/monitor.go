package monitor

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"os/user"
	"time"

	"openct/internal/machine"
	"openct/internal/status"
	"openct/internal/uevent"
)

// Listener is where events of devices come from: uevent.Listener, and others in tests.
type Listener interface {
	Next() (uevent.Event, error)
	Close() error
}

// Options are what Run needs to know.
type Options struct {
	Dir  string // of status file and sockets
	Root machine.Root

	// Devices tells of devices as they come and leave. Run closes it.
	Devices Listener

	// USB says with which driver OpenCT would serve a device, and what its id is.
	USB func(machine.Device) (driver, id string, ok bool)

	// Lines are the device nodes of the readers in openct.conf, with their drivers.
	Lines func() map[string]string

	// Emit gets each event. Its error ends Run.
	Emit func(Event) error

	// Blind is told what cannot be seen, and why, once each.
	Blind func(error)
}

// pause is between two looks at the files: what happens in between is told together.
const pause = 50 * time.Millisecond

// monitor is one Run. Its fields belong to the goroutine that runs it.
type monitor struct {
	Options
	names     *names
	processes *processes
	now       func() time.Time

	readers [status.Entries]*followed
	devices map[string]device // by node
	stopped bool
	fault   status.Fault
	blind   string // what Blind was told last
	failed  error  // Emit's
}

// Run tells what is there, and then what happens, until ctx ends.
func Run(ctx context.Context, o Options) error {
	m := &monitor{
		Options: o, now: time.Now, devices: map[string]device{},
		names: &names{root: o.Root, users: map[uint32]string{}, lookup: user.LookupId},
	}
	ctx, cancel := context.WithCancel(ctx)
	f := newFiles()
	defer f.work.Wait()
	defer cancel()
	m.processes = f.processes
	defer f.processes.close()
	f.run(func() { <-ctx.Done(); o.Devices.Close() })
	if err := f.watch(ctx, o.Dir); errors.Is(err, fs.ErrPermission) {
		m.cannotSee(err)
	} else if err != nil {
		return err
	}
	plugs := make(chan plug)
	f.run(func() { f.lost <- listen(ctx, o.Devices, plugs) })

	if s, ok := m.look(); ok {
		m.begin(s)
	}
	m.scan()
	for m.failed == nil {
		select {
		case <-ctx.Done():
			return nil
		case p := <-plugs:
			if p.overflow {
				m.scan()
			} else {
				m.plug(p.event)
			}
		case <-f.news:
			if s, ok := m.look(); ok {
				m.compare(s)
			}
			rest(ctx, pause)
		case err := <-f.lost:
			if ctx.Err() != nil {
				return nil
			}
			if !errors.Is(err, fs.ErrPermission) {
				return err
			}
			m.cannotSee(err)
		}
	}
	return m.failed
}

// plug is an event of a device, or the news that some were lost.
type plug struct {
	event    uevent.Event
	overflow bool
}

func listen(ctx context.Context, l Listener, to chan<- plug) error {
	for {
		e, err := l.Next()
		overflow := errors.Is(err, uevent.ErrOverflow)
		if err != nil && !overflow {
			return err
		}
		select {
		case to <- plug{e, overflow}:
		case <-ctx.Done():
			return os.ErrClosed
		}
	}
}

func rest(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}

// look reads the files; ok is false when they cannot be read.
func (m *monitor) look() (s snapshot, ok bool) {
	s, err := look(m.Dir, m.processes, exists)
	if err != nil {
		m.cannotSee(err)
		return s, false
	}
	m.blind = ""
	return s, true
}

// cannotSee passes on why something cannot be seen, once.
func (m *monitor) cannotSee(err error) {
	text := err.Error()
	if errors.Is(err, fs.ErrPermission) {
		text = fs.ErrPermission.Error() // the directory or a file in it, that is the same
	}
	if text != m.blind {
		m.blind = text
		m.Blind(err)
	}
}

// emit passes an event on.
func (m *monitor) emit(e Event) {
	if m.failed != nil {
		return
	}
	if e.Time.IsZero() {
		e.Time = m.now()
	}
	m.failed = m.Emit(e)
}
