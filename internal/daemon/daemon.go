// Package daemon is the handler of one reader: it opens the reader, registers it in
// the status file, serves its clients, and cleans up when the reader is unplugged. A
// process serves one reader: a crash, a stuck transfer or a hostile device concerns
// that process alone.
package daemon

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"strconv"
	"time"

	"openct/internal/config"
	"openct/internal/devname"
	"openct/internal/driver"
	"openct/internal/ifd"
	"openct/internal/notify"
	"openct/internal/reader"
	"openct/internal/socket"
	"openct/internal/status"
	"openct/internal/usb"
)

// What keeps a handler from starting, beside what packages status and driver have
// errors for.
var (
	errUnknownType = errors.New("unknown device type")
	errOtherDevice = errors.New("another device is at this place now")
)

// Times that a handler allows itself.
const (
	// initWait is how long it waits for openct-control init: a unit that
	// requires openct.service without ordering after it starts beside it.
	initWait = 10 * time.Second

	// stopWait is how long clients' current requests may take when it is told
	// to stop; systemd's TimeoutStopSec must be longer.
	stopWait = 3 * time.Second

	// closeWait is how long the device may take to be closed. A control
	// transfer that hangs in the kernel cannot be cancelled, but the end of
	// the process ends it.
	closeWait = time.Second
)

// Options are what Run needs to know.
type Options struct {
	Target devname.Target
	Dir    string // of status file and sockets
	Config *config.Config
	Log    *slog.Logger
	Notify *notify.Notifier

	// Openers open USB devices, by the target's type.
	Openers map[string]Opener

	// Ready, if set, is called once clients can be served.
	Ready func()

	// Waits, if set, is called before Ready where the reader is that of another handler
	// and is not there: this process waits for it.
	Waits func(error)

	// Credentials replaces the question who a client is, for tests.
	Credentials func(net.Conn) (socket.Cred, error)
}

// Run serves one reader until it is unplugged or ctx ends, and returns nil for
// both: an unplugged reader is no failure. Any error means that it was never
// served or that serving it failed.
func Run(ctx context.Context, o Options) (err error) {
	d := &daemon{Options: o, since: time.Now()}
	defer func() { d.lastWords(err) }()
	if d.file, err = d.openStatus(ctx); err != nil {
		return err
	}
	defer func() {
		if d.file != nil { // it may have been replaced, see claim
			d.file.Close()
		}
	}()

	if d.dev, d.entry, err = OpenDevice(o.Target, o.Openers, o.Config, o.Log); err != nil {
		return err
	}
	if d.dev != nil {
		d.gone = d.dev.Gone()
	}
	d.nameDevice()
	d.Log = d.identified(o.Log)
	if connect := d.entry.Connect[o.Target.Type]; connect != nil {
		return d.relay(ctx, connect)
	}
	err = d.serve(ctx)
	if d.unplugged() {
		d.Log.Info("unplugged", "reader", d.index())
		return nil
	}
	return err
}

// lastWords writes the error that a handler ends with into the error file, which doctor
// and monitor read.
func (d *daemon) lastWords(err error) {
	var served *status.ServedError
	if err == nil || errors.As(err, &served) || errors.Is(err, errFarWaits) {
		return
	}
	werr := status.WriteFault(d.Dir, status.Fault{
		Time: time.Now(), Device: d.Target.Path, Driver: cmp.Or(d.entry.Name, d.Target.Driver), Unit: d.Notify.Unit(), Error: err.Error(),
	})
	if werr != nil {
		d.Log.Debug("cannot write the error file beside the status file", "error", werr)
	}
}

// openStatus maps the status file, waiting a while for init to make it.
func (o *Options) openStatus(ctx context.Context) (*status.File, error) {
	ctx, cancel := context.WithTimeout(ctx, initWait)
	defer cancel()
	return status.WaitOpen(ctx, o.Dir)
}

// daemon is a reader that is being served.
type daemon struct {
	Options
	file  *status.File
	dev   usb.Device      // nil: the reader is not on USB
	gone  <-chan struct{} // closed when the device has left
	entry driver.Entry
	since time.Time
	names names

	opened ifd.Reader // of a far reader, whose handler stays when the reader has left

	slot   *status.Slot
	reader *reader.Reader
	h      *handler
	server *socket.Server
	report *report
}

func (d *daemon) unplugged() bool {
	select {
	case <-d.gone:
		return true
	default:
		return false
	}
}

func (d *daemon) index() int {
	if d.slot == nil {
		return -1
	}
	return d.slot.Index()
}

// serve registers the reader, opens it, and serves it to the end. What was
// taken is given back on every way out, in reverse order.
func (d *daemon) serve(ctx context.Context) (err error) {
	// The entry comes first: that another handler serves the device shows there,
	// and says more than an interface that is taken.
	if d.slot, err = d.claim(ctx); err != nil {
		switch {
		case d.dev != nil:
			d.bounded("device", d.dev.Close)
		case d.opened != nil:
			d.bounded("reader", d.opened.Close)
		}
		return err
	}
	defer func() { err = errors.Join(err, d.slot.Release()) }()

	rd, err := d.openReader()
	if err != nil {
		return fmt.Errorf("driver %s: %w", d.entry.Name, err)
	}
	d.gone = rd.Gone()
	name := d.names.readerName(rd.Name())

	d.report = newReport(d, name)
	d.reader = reader.New(rd, d.Log, d.cardChanged)
	d.h = &handler{
		name: name, reader: d.reader, log: d.Log,
		enforce: d.Config.EnforceLocks, patience: d.Config.LockWait,
		note: d.report.note, fault: d.report.fault,
	}
	if err := d.powerUp(ctx); err != nil {
		d.closeReader()
		return err
	}
	if err := d.publish(ctx, name); err != nil {
		d.closeReader()
		return err
	}
	return d.listen(ctx)
}

// openReader has the driver open the reader. If that fails, openReader closes the
// device; otherwise the reader closes it.
func (d *daemon) openReader() (ifd.Reader, error) {
	if d.opened != nil {
		return d.opened, nil
	}
	o := ReaderOptions(d.entry, d.Target, d.Config, d.Log)
	if d.dev == nil {
		return d.entry.OpenPath[d.Target.Type](d.Target.Path, o)
	}
	rd, err := d.entry.Open(d.dev, o)
	if err != nil {
		d.bounded("device", d.dev.Close)
	}
	return rd, err
}

// identity is what stays the same in the side file.
func (d *daemon) identity() status.Detail {
	detail := status.Detail{
		Driver: d.entry.Name, Type: d.Target.Type, Device: d.Target.Path,
		Unit: d.Notify.Unit(), Since: d.since,
	}
	if d.dev != nil {
		desc := d.dev.Descriptor()
		detail.ID = devname.USBID(desc.Vendor, desc.Product, desc.Release).String()
		detail.Port, detail.Serial = desc.Port, desc.Serial
	}
	detail.Alias = d.names.alias
	if d.Target.Type == "virtual" {
		detail.Device = "" // every one is a device of its own
	}
	return detail
}

// identified is a logger whose records name the device: serial number and name, which
// stay the same wherever the device is plugged in, and where it is now.
func (d *daemon) identified(log *slog.Logger) *slog.Logger {
	log = log.With("device", d.Target.Path, "driver", d.entry.Name)
	if d.names.alias != "" {
		log = log.With("alias", d.names.alias)
	}
	if d.dev == nil {
		return log
	}
	desc := d.dev.Descriptor()
	if desc.Port != "" {
		log = log.With("port", desc.Port)
	}
	if desc.Serial != "" {
		log = log.With("serial", desc.Serial)
	}
	return log
}

// claim takes a status entry. Between opening the file and this, init may have
// put another in its place.
func (d *daemon) claim(ctx context.Context) (*status.Slot, error) {
	detail := d.identity()
	slot, err := status.Claim(d.file, detail)
	if errors.Is(err, status.ErrNotInitialised) {
		d.file.Close()
		if d.file, err = d.openStatus(ctx); err != nil {
			return nil, err
		}
		slot, err = status.Claim(d.file, detail)
	}
	return slot, err
}

// powerUp resets the card of a token once, so that one that does not work is a
// failure now and not in a client's hands. Clients must reset it themselves
// all the same, as they always had to. A reader's slot may be empty, and a
// reader that is not on USB is served without a card.
func (d *daemon) powerUp(ctx context.Context) error {
	slot, err := d.reader.Slot(0)
	if err != nil || d.dev == nil || !slot.Present() {
		return nil
	}
	if err := slot.Enter(ctx); err != nil {
		return err
	}
	defer slot.Leave()
	if err = slot.PowerUp(ctx); err != nil {
		err = slot.PowerUp(ctx) // some need a second push
	}
	return err
}

// publish fills the status entry.
func (d *daemon) publish(ctx context.Context, name string) error {
	display, keypad := d.reader.Features()
	for i := range d.reader.Slots() {
		// A removable card shows from the start. A reader that cannot tell now
		// will tell later.
		if s, err := d.reader.Slot(i); err == nil {
			_, _ = s.Status(ctx)
		}
	}
	err := d.slot.Publish(status.Info{Name: name, Slots: d.reader.Slots(), Display: display, Keypad: keypad})
	for i := range d.reader.Slots() {
		if s, serr := d.reader.Slot(i); serr == nil {
			err = errors.Join(err, d.slot.SetCard(i, s.Present(), false))
		}
	}
	return err
}

// cardChanged is the reader's news of a card.
func (d *daemon) cardChanged(slot int, s ifd.Status) {
	if err := d.slot.SetCard(slot, s.Present, s.Changed); err != nil && !errors.Is(err, status.ErrLost) {
		d.Log.Warn("status entry not updated", "error", err)
	}
	d.report.touch()
}

// listen serves clients until the device or ctx is gone.
func (d *daemon) listen(ctx context.Context) error {
	path := socket.Path(d.Dir, strconv.Itoa(d.slot.Index()))
	l, err := socket.Listen(path, socket.ListenOptions{Mode: fs.FileMode(d.Config.SocketMode), UID: -1, GID: -1})
	if err != nil {
		d.closeReader()
		return err
	}
	d.server = socket.NewServer(d.h, socket.Options{Log: d.Log, Credentials: d.Credentials})
	served := make(chan struct{}) // closed when serving has ended, with failed
	var failed error
	go func() {
		defer close(served)
		failed = d.server.Serve(l)
	}()
	stopReport := d.report.start()
	stopWatchdog := d.Notify.Watchdog(d.alive)

	d.Notify.Ready(d.report.text())
	d.Log.Info("reader is ready", "reader", d.slot.Index(), "name", d.report.name)
	if d.Ready != nil {
		d.Ready()
	}

	select {
	case <-d.gone:
		if d.opened == nil {
			d.Notify.Stopping("unplugged")
		}
		d.server.Fail(socket.DeviceDisconnected)
	case <-ctx.Done():
		d.Notify.Stopping("stopping")
	case <-served:
		err = fmt.Errorf("reader %d: %w", d.slot.Index(), failed)
	}
	stopWatchdog()
	d.drain()
	<-served // which closes the socket and removes its name
	stopReport()
	d.closeReader()
	return err
}

// drain lets requests that are under way end, for a while. No new client gets in,
// and the socket's name is free.
func (d *daemon) drain() {
	wait, cancel := context.WithTimeout(context.Background(), stopWait)
	defer cancel()
	if d.unplugged() {
		cancel()
	}
	if err := d.server.Wait(wait); err != nil {
		d.Log.Debug("requests did not end in time", "error", err)
	}
}

// alive is the watchdog's probe: it waits until each slot's current request has ended.
func (d *daemon) alive(ctx context.Context) error {
	for i := range d.reader.Slots() {
		slot, err := d.reader.Slot(i)
		if err != nil {
			return err
		}
		if err := slot.Enter(ctx); err != nil {
			return err
		}
		slot.Leave()
	}
	return nil
}

// closeReader ends the reader and with it the device, or gives up on it.
func (d *daemon) closeReader() { d.bounded("reader", d.reader.Close) }

func (d *daemon) bounded(what string, closer func() error) {
	done := make(chan error, 1)
	go func() { done <- closer() }()
	select {
	case err := <-done:
		if err != nil && !d.unplugged() {
			d.Log.Debug("closing the "+what, "error", err)
		}
	case <-time.After(closeWait):
		d.Log.Debug(what + " does not close in time")
	}
}
