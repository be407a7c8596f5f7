package record

import (
	"context"
	"slices"
	"strings"
	"sync"
	"time"

	"openct/internal/usb"
)

// Device wraps a device and keeps what happens on it.
type Device struct {
	usb.Device

	mu  sync.Mutex
	ops []IO
}

var (
	_ usb.Device   = (*Device)(nil)
	_ usb.Resetter = (*Device)(nil)
)

// New records dev.
func New(dev usb.Device) *Device { return &Device{Device: dev} }

// Ops returns what happened until now, in the order it ended.
func (r *Device) Ops() []IO {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.ops)
}

// String returns the operations as a script.
func (r *Device) String() string {
	var b strings.Builder
	for _, op := range r.Ops() {
		b.WriteString(op.String() + "\n")
	}
	return b.String()
}

func (r *Device) keep(op IO, data []byte, n int, err error) {
	op.Err = err
	if op.In() {
		op.Len = len(data)
		op.R = slices.Clone(data[:max(n, 0)])
	} else {
		op.W = slices.Clone(data)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.ops = append(r.ops, op)
}

// Reset implements usb.Resetter: it passes through where the device can be reset, and
// is not kept.
func (r *Device) Reset() error {
	if d, ok := r.Device.(usb.Resetter); ok {
		return d.Reset()
	}
	return nil
}

// Claim passes through and is kept.
func (r *Device) Claim(iface, alt uint8) error {
	err := r.Device.Claim(iface, alt)
	r.keep(IO{Kind: Claim, Iface: iface, Alt: alt}, nil, 0, err)
	return err
}

// Release passes through and is kept.
func (r *Device) Release(iface uint8) error {
	err := r.Device.Release(iface)
	r.keep(IO{Kind: Release, Iface: iface}, nil, 0, err)
	return err
}

// ClearHalt passes through and is kept.
func (r *Device) ClearHalt(ep uint8) error {
	err := r.Device.ClearHalt(ep)
	r.keep(IO{Kind: ClearHalt, Endpoint: ep}, nil, 0, err)
	return err
}

// Control passes through and is kept.
func (r *Device) Control(ctx context.Context, s usb.Setup, data []byte, timeout time.Duration) (int, error) {
	n, err := r.Device.Control(ctx, s, data, timeout)
	r.keep(IO{Kind: Control, Setup: s, Timeout: timeout}, data, n, err)
	return n, err
}

// Bulk passes through and is kept.
func (r *Device) Bulk(ctx context.Context, ep uint8, data []byte, timeout time.Duration) (int, error) {
	n, err := r.Device.Bulk(ctx, ep, data, timeout)
	r.keep(IO{Kind: Bulk, Endpoint: ep, Timeout: timeout}, data, n, err)
	return n, err
}

// Interrupt passes through and is kept, unless the caller gave it up.
func (r *Device) Interrupt(ctx context.Context, ep uint8, buf []byte) (int, error) {
	n, err := r.Device.Interrupt(ctx, ep, buf)
	if err == nil || ctx.Err() == nil {
		r.keep(IO{Kind: Interrupt, Endpoint: ep}, buf, n, err)
	}
	return n, err
}
