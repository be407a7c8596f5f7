//go:build cgo

package gousbdev

// #include <libusb.h>
import "C"

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/google/gousb"

	"openct/internal/usb"
	"openct/internal/usb/watch"
)

const (
	// maxControl is the longest data stage usbfs accepts, one page (Linux,
	// drivers/usb/core/devio.c, do_proc_control).
	maxControl = 4096

	// goneGrace is how long after an I/O error the kernel may take to notice
	// that the device was pulled: hubs report a disconnect some ten
	// milliseconds after the first transfer has failed.
	goneGrace = 100 * time.Millisecond

	// closeGrace bounds Close. A synchronous transfer inside libusb cannot be
	// ended early; what is left then ends with that transfer's own deadline.
	closeGrace = 2 * time.Second
)

// device is a usb.Device over libusb.
type device struct {
	path  string
	dir   string // sysfs
	log   *slog.Logger
	watch *watch.Watch
	desc  *usb.Descriptor
	ctx   *usbContext
	dev   *gousb.Device

	handle *C.libusb_device_handle // dev's

	alive context.Context // ends with Close
	end   context.CancelFunc

	mu     sync.Mutex
	config *gousb.Config
	claims map[uint8]*claim

	state     sync.Mutex // guards closed and transfers; never held while libusb runs
	closed    bool
	transfers map[*transfer]struct{} // under way, for Close to cancel
	running   sync.WaitGroup         // operations inside libusb
}

// claim is one claimed interface.
type claim struct {
	iface    *gousb.Interface
	detached string // the kernel driver to be given it back
}

var _ usb.Device = (*device)(nil)

func (d *device) Descriptor() *usb.Descriptor { return d.desc }
func (d *device) Gone() <-chan struct{}       { return d.watch.Gone() }

// begin counts an operation in; the caller must call d.running.Done.
func (d *device) begin() error {
	d.state.Lock()
	defer d.state.Unlock()
	if d.closed {
		return usb.ErrClosed
	}
	if d.watch.Check() {
		return usb.ErrUnplugged
	}
	d.running.Add(1)
	return nil
}

// enter lists a transfer for Close to cancel; false: it is too late.
func (d *device) enter(t *transfer) bool {
	d.state.Lock()
	defer d.state.Unlock()
	if !d.closed {
		d.transfers[t] = struct{}{}
	}
	return !d.closed
}

func (d *device) leave(t *transfer) {
	d.state.Lock()
	defer d.state.Unlock()
	delete(d.transfers, t)
}

// run runs one operation with everything around it: state, panics, errors.
func (d *device) run(op string, f func() (int, error)) (n int, err error) {
	if err := d.begin(); err != nil {
		return 0, usb.Wrap(op, d.path, err)
	}
	defer d.running.Done()
	func() {
		defer recovered(&err, usb.ErrIO)
		n, err = f()
	}()
	return max(n, 0), usb.Wrap(op, d.path, d.explain(err))
}

// explain turns gousb's error into ours and finds out whether the device is
// gone.
func (d *device) explain(err error) error {
	var known *usb.BusyError
	if err == nil || errors.As(err, &known) {
		return err
	}
	mapped := err
	if !isSentinel(err) {
		mapped = mapError(err, d.watch.Check())
	} else if d.watch.Check() {
		return usb.ErrUnplugged
	}
	if errors.Is(mapped, usb.ErrIO) {
		grace := time.NewTimer(goneGrace)
		defer grace.Stop()
		select {
		case <-d.Gone():
			return usb.ErrUnplugged
		case <-d.alive.Done():
		case <-grace.C:
		}
	}
	return mapped
}

// isSentinel reports whether err has been given its place already.
func isSentinel(err error) bool {
	for _, s := range []error{
		usb.ErrUnplugged, usb.ErrStall, usb.ErrTimeout, usb.ErrOverflow, usb.ErrIO, usb.ErrBusy,
		usb.ErrAccess, usb.ErrNotFound, usb.ErrClosed, context.Canceled,
	} {
		if errors.Is(err, s) {
			return true
		}
	}
	return false
}

// Control implements usb.Device.
func (d *device) Control(ctx context.Context, s usb.Setup, data []byte, timeout time.Duration) (int, error) {
	return d.run(fmt.Sprintf("control %02x/%02x", s.RequestType, s.Request), func() (int, error) {
		if len(data) > maxControl {
			return 0, fmt.Errorf("%w: a data stage of %d bytes, the kernel allows %d", usb.ErrIO, len(data), maxControl)
		}
		return d.transfer(ctx, request{
			kind: C.LIBUSB_TRANSFER_TYPE_CONTROL, setup: s, data: data, timeout: wholeMilliseconds(timeout)})
	})
}

// wholeMilliseconds rounds up to what libusb can count in; 0 would be for ever.
func wholeMilliseconds(t time.Duration) time.Duration {
	return max((t + time.Millisecond - 1).Truncate(time.Millisecond), time.Millisecond)
}

// Bulk implements usb.Device.
func (d *device) Bulk(ctx context.Context, ep uint8, data []byte, timeout time.Duration) (int, error) {
	return d.run(fmt.Sprintf("bulk %02x", ep), func() (int, error) {
		if !d.claimedEndpoint(ep) {
			return 0, errNotClaimed
		}
		return d.transfer(ctx, request{
			kind: C.LIBUSB_TRANSFER_TYPE_BULK, endpoint: ep, data: data, timeout: wholeMilliseconds(timeout)})
	})
}

// Interrupt implements usb.Device.
func (d *device) Interrupt(ctx context.Context, ep uint8, buf []byte) (int, error) {
	return d.run(fmt.Sprintf("interrupt %02x", ep), func() (int, error) {
		if !d.claimedEndpoint(ep) {
			return 0, errNotClaimed
		}
		return d.transfer(ctx, request{kind: C.LIBUSB_TRANSFER_TYPE_INTERRUPT, endpoint: ep, data: buf})
	})
}

var errNotClaimed = fmt.Errorf("%w: no claimed interface has this endpoint", usb.ErrIO)

func (d *device) claimedEndpoint(ep uint8) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, c := range d.claims {
		if _, ok := c.iface.Setting.Endpoints[gousb.EndpointAddress(ep)]; ok {
			return true
		}
	}
	return false
}

// ClearHalt implements usb.Device: the request to the device and the data
// toggle on the host's side, which a plain CLEAR_FEATURE would leave.
func (d *device) ClearHalt(ep uint8) error {
	_, err := d.run(fmt.Sprintf("clear halt %02x", ep), func() (int, error) {
		if code := C.libusb_clear_halt(d.handle, C.uchar(ep)); code != 0 {
			return 0, gousb.Error(code)
		}
		return 0, nil
	})
	return err
}

// Close implements usb.Device. It ends all transfers at once. Should the kernel
// not let go of one, Close waits no longer than two seconds: the rest is then
// given back when it ends.
func (d *device) Close() error {
	d.state.Lock()
	if d.closed {
		d.state.Unlock()
		return nil
	}
	d.closed = true
	d.end()
	for t := range d.transfers {
		t.cancel()
	}
	d.state.Unlock()

	finished := make(chan error, 1)
	go func() { finished <- d.teardown() }()
	grace := time.NewTimer(closeGrace)
	defer grace.Stop()
	select {
	case err := <-finished:
		return usb.Wrap("close", d.path, err)
	case <-grace.C:
		d.log.Warn("a transfer does not end; the device stays open until it does")
		return usb.Wrap("close", d.path, usb.ErrTimeout)
	}
}

// teardown gives everything back, in the order gousb insists on.
func (d *device) teardown() (err error) {
	d.running.Wait()
	defer recovered(&err, usb.ErrIO)
	d.mu.Lock()
	defer d.mu.Unlock()
	for number := range d.claims {
		d.releaseLocked(number)
	}
	if d.config != nil {
		err = d.config.Close()
	}
	err = errors.Join(err, d.dev.Close())
	err = errors.Join(err, d.ctx.close())
	return errors.Join(err, d.watch.Close())
}
