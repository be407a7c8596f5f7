//go:build cgo

package gousbdev

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/google/gousb"

	"openct/internal/usb"
	"openct/internal/usb/usbfs"
)

const (
	// goneGrace is how long after an I/O error the kernel may take to notice
	// that the device was unplugged: hubs report a disconnect some ten
	// milliseconds after the first transfer has failed.
	goneGrace = 100 * time.Millisecond

	// closeGrace bounds Close, should the kernel not let go of a transfer.
	closeGrace = 2 * time.Second
)

// device is a usb.Device on its usbfs node.
type device struct {
	path string
	dir  string // sysfs
	log  *slog.Logger
	node *usbfs.Node
	desc *usb.Descriptor
	dev  *gousb.Device

	mu     sync.Mutex
	config *gousb.Config
	claims map[uint8]*claim

	end    sync.Once
	ending chan struct{} // closed by Close
}

// claim is one claimed interface.
type claim struct {
	iface    *gousb.Interface
	detached string // the kernel driver to be given it back
}

var (
	_ usb.Device   = (*device)(nil)
	_ usb.Resetter = (*device)(nil)
)

func (d *device) Descriptor() *usb.Descriptor { return d.desc }
func (d *device) Gone() <-chan struct{}       { return d.node.Gone() }

// Control implements usb.Device.
func (d *device) Control(ctx context.Context, s usb.Setup, data []byte, timeout time.Duration) (int, error) {
	n, err := d.node.Control(ctx, s, data, timeout)
	if err != nil {
		err = d.failed(fmt.Sprintf("control %02x/%02x", s.RequestType, s.Request), err)
	}
	return n, err
}

// Bulk implements usb.Device.
func (d *device) Bulk(ctx context.Context, ep uint8, data []byte, timeout time.Duration) (n int, err error) {
	if err = d.claimedEndpoint(ep); err == nil {
		n, err = d.node.Bulk(ctx, ep, data, timeout)
	}
	if err != nil {
		err = d.failed(fmt.Sprintf("bulk %02x", ep), err)
	}
	return n, err
}

// Interrupt implements usb.Device.
func (d *device) Interrupt(ctx context.Context, ep uint8, buf []byte) (n int, err error) {
	if err = d.claimedEndpoint(ep); err == nil {
		n, err = d.node.Interrupt(ctx, ep, buf)
	}
	if err != nil {
		err = d.failed(fmt.Sprintf("interrupt %02x", ep), err)
	}
	return n, err
}

// ClearHalt implements usb.Device.
func (d *device) ClearHalt(ep uint8) error {
	if err := d.node.ClearHalt(ep); err != nil {
		return d.failed(fmt.Sprintf("clear halt %02x", ep), err)
	}
	return nil
}

// claimedEndpoint keeps transfers from interfaces that are not claimed: the
// kernel would claim those by itself.
func (d *device) claimedEndpoint(ep uint8) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, c := range d.claims {
		if _, ok := c.iface.Setting.Endpoints[gousb.EndpointAddress(ep)]; ok {
			return nil
		}
	}
	if d.closed() {
		return usb.ErrClosed
	}
	return fmt.Errorf("%w: no claimed interface has this endpoint", usb.ErrIO)
}

func (d *device) closed() bool {
	select {
	case <-d.ending:
		return true
	default:
		return false
	}
}

// failed names the operation and the device in an error, and finds out whether
// the device is gone: kernel and libusb report a stall or an I/O error when they
// meet the unplug half way.
func (d *device) failed(op string, err error) error {
	var busy *usb.BusyError
	switch {
	case errors.As(err, &busy), errors.Is(err, usb.ErrClosed), errors.Is(err, usb.ErrUnplugged):
	case d.node.Check():
		err = usb.ErrUnplugged
	case errors.Is(err, usb.ErrIO):
		grace := time.NewTimer(goneGrace)
		defer grace.Stop()
		select {
		case <-d.Gone():
			err = usb.ErrUnplugged
		case <-d.ending:
		case <-grace.C:
		}
	}
	return usb.Wrap(op, d.path, err)
}

// withLibusb runs f, which calls libusb, unless the device is closed or gone.
func (d *device) withLibusb(op string, f func() error) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	var err error
	switch {
	case d.closed():
		err = usb.ErrClosed
	case d.node.Check():
		err = usb.ErrUnplugged
	default:
		err = d.libusbLocked(f)
	}
	if err != nil {
		return d.failed(op, err)
	}
	return nil
}

func (d *device) libusbLocked(f func() error) (err error) {
	closed := d.node.Do(func(uintptr) {
		defer recovered(&err, usb.ErrIO)
		err = f()
	})
	return errors.Join(closed, err)
}

// Close implements usb.Device. It ends all transfers at once. Should the kernel
// not let go of one, Close waits no longer than two seconds: the rest is then
// given back when it ends.
func (d *device) Close() (err error) {
	d.end.Do(func() {
		close(d.ending)
		finished := make(chan error, 1)
		go func() { finished <- d.teardown() }()
		grace := time.NewTimer(closeGrace)
		defer grace.Stop()
		select {
		case err = <-finished:
		case <-grace.C:
			d.log.Warn("a transfer does not end; the device stays open until it does")
			err = usb.ErrTimeout
		}
	})
	return usb.Wrap("close", d.path, err)
}

// teardown gives everything back, in the order gousb insists on.
func (d *device) teardown() error {
	d.node.End()
	d.mu.Lock()
	defer d.mu.Unlock()
	err := d.libusbLocked(func() (err error) {
		for number := range d.claims {
			d.releaseLocked(number)
		}
		if d.config != nil {
			err = d.config.Close()
		}
		return errors.Join(err, d.dev.Close())
	})
	return errors.Join(err, d.node.Close())
}
