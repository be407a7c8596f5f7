package vusb

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"openct/internal/usb"
)

// Port is a USB port with a virtual device in it. It is a Model itself: what
// passes through it can be disturbed (Inject) and cut off (Unplug).
type Port struct {
	name  string
	model Model

	gone context.Context // ends with the unplug
	pull context.CancelFunc

	mu     sync.Mutex
	faults []*Fault
	claims map[uint8]*device
	halted map[uint8]bool // endpoints that have stalled: so they stay until ClearHalt (USB 2.0, 9.4.5)
}

var _ Model = (*Port)(nil)

// Plug puts a device into a port of its own. The name appears in errors where
// a real device has its node.
func Plug(name string, m Model) *Port {
	gone, pull := context.WithCancel(context.Background())
	return &Port{name: name, model: m, gone: gone, pull: pull, claims: map[uint8]*device{}, halted: map[uint8]bool{}}
}

// Unplug pulls the device: pending and later transfers fail, Gone is closed.
// Plugging again takes a new Port.
func (p *Port) Unplug() { p.pull() }

// Gone is closed by Unplug.
func (p *Port) Gone() <-chan struct{} { return p.gone.Done() }

// Descriptors implements Model.
func (p *Port) Descriptors() Descriptors { return p.model.Descriptors() }

// Reset implements Model.
func (p *Port) Reset() { p.model.Reset() }

// Control implements Model.
func (p *Port) Control(ctx context.Context, s usb.Setup, out []byte, length int) ([]byte, error) {
	f, err := p.before(ctx, Transfer{Control: true, Code: s.Request})
	if err != nil {
		return nil, err
	}
	in, err := p.model.Control(ctx, s, out, length)
	return f.after(in, err)
}

// Out implements Model.
func (p *Port) Out(ctx context.Context, ep uint8, data []byte) error {
	if _, err := p.before(ctx, Transfer{Code: ep}); err != nil {
		return err
	}
	return p.model.Out(ctx, ep, data)
}

// In implements Model.
func (p *Port) In(ctx context.Context, ep uint8, max int) ([]byte, error) {
	f, err := p.before(ctx, Transfer{Code: ep})
	if err != nil {
		return nil, err
	}
	in, err := p.model.In(ctx, ep, max)
	if in, err = f.after(in, err); len(in) > max {
		in = in[:max]
	}
	return in, err
}

// Open opens the device in this process. Several owners may open it, as with
// usbfs: claims are per interface.
func (p *Port) Open() (usb.Device, error) {
	if p.gone.Err() != nil {
		return nil, usb.Wrap("open", p.name, usb.ErrNotFound)
	}
	d := p.Descriptors()
	desc, err := usb.ParseDescriptors(append(append([]byte{}, d.Device...), d.Config...))
	if err != nil {
		return nil, usb.Wrap("open", p.name, err)
	}
	str := func(at int) string {
		if i := int(d.Device[at]); i >= 1 && i <= len(d.Strings) {
			return d.Strings[i-1]
		}
		return ""
	}
	// iManufacturer, iProduct, iSerialNumber (USB 2.0, table 9-8).
	desc.Manufacturer, desc.ProductString, desc.Serial = str(14), str(15), str(16)
	open, shut := context.WithCancelCause(p.gone)
	return &device{port: p, desc: desc, open: open, shut: shut}, nil
}

// device is one owner's handle on the device in a Port.
type device struct {
	port *Port
	desc *usb.Descriptor
	open context.Context // ends with Close and with the unplug
	shut context.CancelCauseFunc
}

var _ usb.Device = (*device)(nil)

func (d *device) Descriptor() *usb.Descriptor { return d.desc }
func (d *device) Gone() <-chan struct{}       { return d.port.Gone() }

func (d *device) Claim(iface, alt uint8) error {
	op := fmt.Sprintf("claim interface %d", iface)
	if err := d.alive(); err != nil {
		return usb.Wrap(op, d.port.name, err)
	}
	if !d.hasInterface(iface, alt) {
		return usb.Wrap(op, d.port.name, usb.ErrNotFound)
	}
	d.port.mu.Lock()
	defer d.port.mu.Unlock()
	if owner := d.port.claims[iface]; owner != nil && owner != d {
		return usb.Wrap(op, d.port.name, &usb.BusyError{})
	}
	d.port.claims[iface] = d
	return nil
}

func (d *device) hasInterface(iface, alt uint8) bool {
	for _, i := range d.desc.Interfaces {
		if i.Number == iface && i.Alt == alt {
			return true
		}
	}
	return false
}

func (d *device) Release(iface uint8) error {
	d.port.mu.Lock()
	defer d.port.mu.Unlock()
	if d.port.claims[iface] == d {
		delete(d.port.claims, iface)
	}
	return nil
}

func (d *device) Control(ctx context.Context, s usb.Setup, data []byte, timeout time.Duration) (int, error) {
	t, end := d.transfer(ctx, timeout)
	defer end()
	var in []byte
	err := d.ready(ctx)
	if err == nil {
		if s.In() {
			in, err = d.port.Control(t, s, nil, len(data))
		} else {
			_, err = d.port.Control(t, s, data, len(data))
		}
	}
	if err != nil {
		op := fmt.Sprintf("control %02x/%02x", s.RequestType, s.Request)
		return 0, usb.Wrap(op, d.port.name, d.fault(ctx, err))
	}
	if !s.In() {
		return len(data), nil
	}
	return copy(data, in), nil
}

func (d *device) Bulk(ctx context.Context, ep uint8, data []byte, timeout time.Duration) (int, error) {
	t, end := d.transfer(ctx, timeout)
	defer end()
	n, err := d.endpoint(t, ep, data)
	if err != nil {
		return n, usb.Wrap(fmt.Sprintf("bulk %02x", ep), d.port.name, d.fault(ctx, err))
	}
	return n, nil
}

func (d *device) Interrupt(ctx context.Context, ep uint8, buf []byte) (int, error) {
	t, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(d.open, cancel)()
	n, err := d.endpoint(t, ep, buf)
	if err != nil {
		return 0, usb.Wrap(fmt.Sprintf("interrupt %02x", ep), d.port.name, d.fault(ctx, err))
	}
	return n, nil
}

// endpoint runs one transfer on a claimed endpoint.
func (d *device) endpoint(ctx context.Context, ep uint8, data []byte) (int, error) {
	if err := d.ready(ctx); err != nil {
		return 0, err
	}
	if !d.claimed(ep) {
		return 0, fmt.Errorf("endpoint of an interface that is not claimed: %w", usb.ErrIO)
	}
	if d.port.isHalted(ep) {
		return 0, ErrStall
	}
	var in []byte
	var err error
	n := len(data)
	if ep&0x80 == 0 {
		err = d.port.Out(ctx, ep, data)
	} else {
		in, err = d.port.In(ctx, ep, len(data))
		n = copy(data, in)
	}
	if errors.Is(err, ErrStall) {
		d.port.halt(ep, true)
	}
	if err != nil {
		return 0, err
	}
	return n, nil
}

func (p *Port) isHalted(ep uint8) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.halted[ep]
}

func (p *Port) halt(ep uint8, halted bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.halted[ep] = halted
}

func (d *device) claimed(ep uint8) bool {
	d.port.mu.Lock()
	defer d.port.mu.Unlock()
	for _, i := range d.desc.Interfaces {
		for _, e := range i.Endpoints {
			if e.Address == ep && d.port.claims[i.Number] == d {
				return true
			}
		}
	}
	return false
}

func (d *device) ClearHalt(ep uint8) error {
	d.port.halt(ep, false)
	return usb.Wrap(fmt.Sprintf("clear halt %02x", ep), d.port.name, d.alive())
}

func (d *device) Close() error {
	d.shut(usb.ErrClosed)
	d.port.mu.Lock()
	defer d.port.mu.Unlock()
	for iface, owner := range d.port.claims {
		if owner == d {
			delete(d.port.claims, iface)
		}
	}
	return nil
}

func (d *device) alive() error {
	switch {
	case d.port.gone.Err() != nil:
		return usb.ErrUnplugged
	case d.open.Err() != nil:
		return usb.ErrClosed
	}
	return nil
}

// ready says why a transfer is not even begun.
func (d *device) ready(ctx context.Context) error {
	if err := d.alive(); err != nil {
		return err
	}
	return ctx.Err()
}

// transfer is the context of one transfer: the caller's, until the timeout, the
// end of the handle, or the unplug.
func (d *device) transfer(ctx context.Context, timeout time.Duration) (t context.Context, end func()) {
	t, cancel := context.WithTimeout(ctx, timeout)
	stop := context.AfterFunc(d.open, cancel)
	return t, func() { stop(); cancel() }
}

// fault translates what a model said, or the end of the caller's context or of
// the transfer's, into the errors of package usb.
func (d *device) fault(ctx context.Context, err error) error {
	if dead := d.alive(); dead != nil {
		return dead
	}
	switch {
	case errors.Is(err, ErrStall):
		return usb.ErrStall
	case errors.Is(ctx.Err(), context.DeadlineExceeded):
		return fmt.Errorf("%w: %w", usb.ErrTimeout, ctx.Err())
	case ctx.Err() != nil:
		return ctx.Err()
	case errors.Is(err, context.DeadlineExceeded):
		return usb.ErrTimeout
	}
	return err
}
