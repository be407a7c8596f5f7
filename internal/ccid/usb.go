package ccid

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"openct/internal/usb"
)

// Class requests (CCID 1.1, table 5.3-1).
const (
	reqAbort        = 0x01
	reqGetDataRates = 0x03
)

// usbTransport is CCID's own transport: a bulk endpoint each way, and the
// class request ABORT (CCID 1.1, 3 and 5).
type usbTransport struct {
	dev  usb.Device
	node string
	fn   function
	buf  []byte // one message, in whole packets
	have int    // bytes in buf of a message whose rest is still to come
}

var _ transport = (*usbTransport)(nil)

func newUSBTransport(dev usb.Device, fn function) *usbTransport {
	return &usbTransport{dev: dev, node: deviceName(dev.Descriptor()), fn: fn}
}

// deviceName is the device's node, or its id for one that has none.
func deviceName(d *usb.Descriptor) string {
	if d.Bus == 0 && d.Address == 0 {
		return d.ID()
	}
	return usb.NodePath(d.Bus, d.Address)
}

func (u *usbTransport) name() string          { return u.node }
func (u *usbTransport) gone() <-chan struct{} { return u.dev.Gone() }

// close closes the device, also for the other readers it may carry.
func (u *usbTransport) close() error { return u.dev.Close() }

// send writes the message in one transfer. No empty packet follows when it
// ends on a full one: the reader knows its length from the header (CCID 1.1,
// 6.1), and readers were built for hosts that send none.
func (u *usbTransport) send(ctx context.Context, msg []byte) error {
	_, err := u.dev.Bulk(ctx, u.fn.out, msg, sendTimeout)
	if errors.Is(err, usb.ErrStall) {
		if err = u.dev.ClearHalt(u.fn.out); err == nil {
			_, err = u.dev.Bulk(ctx, u.fn.out, msg, sendTimeout)
		}
	}
	return err
}

func (u *usbTransport) read(ctx context.Context, buf []byte, timeout time.Duration) (int, error) {
	n, err := u.dev.Bulk(ctx, u.fn.in, buf, timeout)
	if errors.Is(err, usb.ErrStall) {
		if err = u.dev.ClearHalt(u.fn.in); err == nil {
			n, err = u.dev.Bulk(ctx, u.fn.in, buf, timeout)
		}
	}
	return n, err
}

// recv reads one packet, whose header tells how many are to come, and then
// these in one transfer. So the end of a message needs no packet of its own:
// whether a reader sends an empty one behind a last full packet or not (CCID
// 1.1, 6, wants it), nothing waits for it. It is skipped when the next message
// is due, like the empty packets that some readers send ahead of each message,
// and the zero bytes of one that pads its messages.
//
// A message of which a part has come when ctx or timeout ends the call is
// completed by the next call.
func (u *usbTransport) recv(ctx context.Context, timeout time.Duration) ([]byte, error) {
	packet := u.fn.packet
	if len(u.buf) < packet {
		u.buf = make([]byte, packet)
	}
	for empty, padding := 0, 0; u.have == 0; {
		n, err := u.read(ctx, u.buf[:packet], timeout)
		switch {
		case n == 0 && err != nil:
			return nil, err
		case n == 0:
			if empty++; empty > maxEmpty {
				return nil, fmt.Errorf("%w: the reader sends empty transfers only", errMalformed)
			}
		case isZero(u.buf[:n]):
			if padding += n; padding > messageLimit {
				return nil, fmt.Errorf("%w: the reader sends zero bytes only", errMalformed)
			}
		default:
			u.have = n
		}
		if u.have > 0 && err != nil {
			return nil, err
		}
	}
	if u.have < headerSize {
		return nil, u.drop(fmt.Errorf("%w: %d bytes", errMalformed, u.have))
	}
	announced := messageLength(u.buf)
	if announced > messageLimit {
		return nil, u.drain(ctx, fmt.Errorf("%w: the header announces %d bytes", errMalformed, announced))
	}
	want := int(announced)
	whole := wholePackets(want, packet)
	if len(u.buf) < whole {
		u.buf = append(make([]byte, 0, whole), u.buf...)[:whole]
	}
	for u.have < want {
		if u.have%packet != 0 {
			return nil, u.drop(fmt.Errorf("%w: %d bytes instead of the %d in the header", errMalformed, u.have, want))
		}
		n, err := u.read(ctx, u.buf[u.have:whole], restTimeout)
		u.have += n
		switch {
		case err == nil && n > 0:
		case err != nil && ctx.Err() != nil:
			return nil, err
		case err == nil, errors.Is(err, usb.ErrTimeout):
			return nil, u.drop(fmt.Errorf("%w: %d bytes instead of the %d in the header", errMalformed, u.have, want))
		default:
			return nil, u.drop(err)
		}
	}
	msg := u.buf[:u.have]
	u.have = 0
	return msg, nil
}

// drop gives up the message of which a part has come, and returns why.
func (u *usbTransport) drop(why error) error {
	u.have = 0
	return why
}

func isZero(b []byte) bool {
	for _, c := range b {
		if c != 0 {
			return false
		}
	}
	return true
}

// wholePackets rounds n up to whole packets.
func wholePackets(n, packet int) int { return (n + packet - 1) / packet * packet }

// drain reads away the rest of a message that is not wanted, for as long as
// full packets come, and returns why.
func (u *usbTransport) drain(ctx context.Context, why error) error {
	n := u.have
	for total := n; n == u.fn.packet && total < 2*messageLimit; total += n {
		var err error
		if n, err = u.dev.Bulk(ctx, u.fn.in, u.buf[:u.fn.packet], drainTimeout); err != nil {
			break
		}
	}
	return u.drop(why)
}

const drainTimeout = 100 * time.Millisecond

// abort ignores a stall: many readers know the message of that name, but not
// the request (CCID 1.1, 5.3.1).
func (u *usbTransport) abort(ctx context.Context, slot, seq byte) error {
	_, err := u.dev.Control(ctx, usb.Setup{
		RequestType: usb.ClassInterfaceOut,
		Request:     reqAbort,
		Value:       uint16(seq)<<8 | uint16(slot),
		Index:       uint16(u.fn.iface),
	}, nil, controlTimeout)
	if errors.Is(err, usb.ErrStall) {
		return nil
	}
	return err
}

// dataRates fetches the table of data rates in bit/s that the slots can do,
// at most n entries (CCID 1.1, 5.3.3). Readers that announce a table and then
// refuse it, or send part of a number, have none: nil.
func (u *usbTransport) dataRates(ctx context.Context, n int) ([]uint32, error) {
	if n == 0 {
		return nil, nil
	}
	buf := make([]byte, 4*n)
	got, err := u.dev.Control(ctx, usb.Setup{
		RequestType: usb.ClassInterfaceIn,
		Request:     reqGetDataRates,
		Index:       uint16(u.fn.iface),
	}, buf, controlTimeout)
	if errors.Is(err, usb.ErrUnplugged) {
		return nil, err
	}
	if err != nil || got%4 != 0 {
		return nil, nil
	}
	rates := make([]uint32, got/4)
	for i := range rates {
		rates[i] = binary.LittleEndian.Uint32(buf[4*i:])
	}
	return rates, nil
}
