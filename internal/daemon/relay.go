package daemon

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"openct/internal/ifd"
	"openct/internal/status"
)

// Pauses between attempts to reach a reader that another handler serves, doubling.
const (
	minAway = time.Second
	maxAway = time.Minute

	// steady is how long a reader must have been there for the pauses to begin anew.
	steady = 10 * time.Second
)

// errFarWaits: there is a handler, as with status.ServedError, but no reader yet.
var errFarWaits = errors.New("a handler waits for the far reader already; openct-control doctor says why it is not there")

// relay serves a reader of another handler's, whenever that is there, until ctx
// ends. While it is not there, it has no entry and no socket, as a token that is
// unplugged: but nothing on this machine tells when it comes back.
func (d *daemon) relay(ctx context.Context, connect func(string, ifd.Options) (ifd.Connector, error)) error {
	way, err := connect(d.Target.Path, ReaderOptions(d.entry, d.Target, d.Config, d.Log))
	if err != nil {
		return fmt.Errorf("driver %s: %w", d.entry.Name, err)
	}
	defer d.bounded("way to the far reader", way.Close)
	lock, err := status.LockFar(d.Dir, d.Target.Path)
	switch {
	case errors.Is(err, status.ErrBusy):
		return d.farServed()
	case err != nil: // the reader can be served all the same
		d.Log.Warn("another handler for the far reader will not be noticed", "error", err)
	default:
		defer lock.Close()
	}
	var once sync.Once
	ready := func(missing error) { // whoever waits for this process goes on, reader or not
		once.Do(func() {
			if missing != nil && d.Waits != nil {
				d.Waits(missing)
			}
			if d.Ready != nil {
				d.Ready()
			}
		})
	}
	told := ""
	for pause := minAway; ; pause = min(2*pause, maxAway) {
		// A reader that is not there has no entry by which openct-control shutdown
		// would find this process.
		err := d.reopenStatus()
		if errors.Is(err, status.ErrNotInitialised) {
			d.Log.Info("OpenCT was stopped here")
			return nil
		}
		if err != nil {
			return err
		}
		rd, err := way.Connect(ctx)
		switch {
		case ctx.Err() != nil && err == nil:
			return rd.Close()
		case ctx.Err() != nil:
			return nil
		case err != nil:
			if told != err.Error() {
				told = err.Error()
				d.Log.Warn("the far reader is not there", "error", err)
				d.lastWords(err)
			}
			d.Notify.Ready("waits for the far reader: " + told)
			ready(err)
		default:
			told = ""
			begun := time.Now()
			if err := d.serveOnce(ctx, rd, func() { ready(nil) }); err != nil || ctx.Err() != nil {
				return err
			}
			if time.Since(begun) >= steady {
				pause = minAway
			}
			d.Notify.Status("waits for the far reader, which has left")
		}
		select {
		case <-time.After(pause + rand.N(pause/4)): // not all at the same time, where many wait
		case <-ctx.Done():
			return nil
		}
	}
}

// reopenStatus maps the status file that clients open now, if that is another one.
func (d *daemon) reopenStatus() error {
	if d.file.Current() {
		return nil
	}
	f, err := status.Open(d.Dir)
	if err != nil {
		return err
	}
	d.file.Close()
	d.file = f
	return nil
}

// serveOnce serves a reader until it leaves or ctx ends, and returns nil for both.
func (d *daemon) serveOnce(ctx context.Context, rd ifd.Reader, ready func()) error {
	once := &daemon{
		Options: d.Options, file: d.file, entry: d.entry, names: d.names, opened: rd, gone: rd.Gone(), since: time.Now(),
	}
	once.Ready = ready
	err := once.serve(ctx)
	d.file = once.file // it may have been replaced, see claim
	if err == nil && ctx.Err() == nil {
		d.Log.Info("unplugged", "reader", once.index())
	}
	return err
}

// farServed says that another handler has the far reader, or waits for it.
func (d *daemon) farServed() error {
	entries, err := d.file.Entries()
	if err != nil {
		return err
	}
	for _, e := range entries {
		if detail, err := d.file.ReadDetail(e); err == nil && e.InUse() && detail.Device == d.Target.Path {
			return &status.ServedError{Device: d.Target.Path, Reader: e.Index, PID: e.PID}
		}
	}
	return fmt.Errorf("%s: %w", d.Target.Path, errFarWaits)
}
