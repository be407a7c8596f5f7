package serialtest

import (
	"context"
	"errors"
	"fmt"
	"time"

	"openct/internal/device"
	"openct/internal/usb"
)

// usbReplay is a Replay as a reader on USB, with one vendor-class interface.
// What is not in a recording - claims, cleared halts - succeeds.
type usbReplay struct{ r *Replay }

var _ usb.Device = usbReplay{}

func (u usbReplay) Descriptor() *usb.Descriptor {
	return &usb.Descriptor{Interfaces: []usb.Interface{{Class: 0xFF}}}
}
func (u usbReplay) Claim(uint8, uint8) error { return nil }
func (u usbReplay) Release(uint8) error      { return nil }
func (u usbReplay) ClearHalt(uint8) error    { return nil }
func (u usbReplay) Gone() <-chan struct{}    { return u.r.Gone() }
func (u usbReplay) Close() error             { return u.r.Close() }

// USB is the Replay as a reader on USB.
func (r *Replay) USB() usb.Device { return usbReplay{r} }

// Control implements usb.Device for requests to the reader.
func (u usbReplay) Control(ctx context.Context, s usb.Setup, data []byte, _ time.Duration) (int, error) {
	u.r.t.Helper()
	if s.In() {
		u.r.mu.Lock()
		defer u.r.mu.Unlock()
		return 0, u.r.misfitLocked(Step{Kind: Write, Pipe: controlPipe(s)})
	}
	if err := u.r.send(ctx, controlPipe(s), data); err != nil {
		return 0, err
	}
	return len(data), nil
}

// Bulk implements usb.Device.
func (u usbReplay) Bulk(ctx context.Context, ep uint8, data []byte, timeout time.Duration) (int, error) {
	u.r.t.Helper()
	if ep&0x80 != 0 {
		return u.read(ctx, ep, data, timeout, len(data)%bulkPacket == 0)
	}
	if err := u.r.send(ctx, endpointPipe(ep), data); err != nil {
		return 0, err
	}
	return len(data), nil
}

// Interrupt implements usb.Device.
func (u usbReplay) Interrupt(ctx context.Context, ep uint8, buf []byte) (int, error) {
	n, err := u.read(ctx, ep, buf, time.Hour, false)
	if errors.Is(err, context.DeadlineExceeded) {
		err = fmt.Errorf("%w: %w", device.ErrTimeout, err)
	}
	return n, err
}

func endpointPipe(ep uint8) string { return fmt.Sprintf("%02x", ep) }

// bulkPacket is the size of a full packet of a bulk endpoint.
const bulkPacket = 64

// read takes what comes next from an endpoint.
func (u usbReplay) read(ctx context.Context, ep uint8, buf []byte, timeout time.Duration, full bool) (int, error) {
	return u.r.readPipe(ctx, endpointPipe(ep), buf, timeout, full)
}

// readPipe takes what comes next from a pipe. What does not fit is an overflow,
// as on a bus, or the next transfer's where full packets fill buf.
func (r *Replay) readPipe(ctx context.Context, pipe string, buf []byte, timeout time.Duration, full bool) (int, error) {
	return r.receive(ctx, buf, timeout, func(buf []byte) (int, time.Duration, error) {
		for i, a := range r.in {
			if a.pipe != pipe {
				continue
			}
			if wait := time.Until(a.at); wait > 0 {
				return 0, wait, nil
			}
			if full && len(a.data) > len(buf) {
				r.in[i].data = a.data[len(buf):]
				return copy(buf, a.data), 0, nil
			}
			r.in = append(r.in[:i:i], r.in[i+1:]...)
			if len(a.data) > len(buf) {
				return 0, 0, usb.ErrOverflow
			}
			return copy(buf, a.data), 0, nil
		}
		return 0, 0, nil
	})
}
