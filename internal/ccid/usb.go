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
	buf  []byte // one message, and whole packets

	longest  int  // message that the reader sends, bytes
	onePiece bool // it has ended a message on a full packet, without the empty one that should follow
}

var _ transport = (*usbTransport)(nil)

func newUSBTransport(dev usb.Device, fn function, p Plan) *usbTransport {
	return &usbTransport{dev: dev, node: deviceName(dev.Descriptor()), fn: fn, longest: p.MaxMessage}
}

// deviceName is the device's node, or its id for one that has none.
func deviceName(d *usb.Descriptor) string {
	if d.Bus == 0 && d.Address == 0 {
		return d.ID()
	}
	return fmt.Sprintf("/dev/bus/usb/%03d/%03d", d.Bus, d.Address)
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

// recv reads a message in one transfer, which a short packet ends, or an empty
// one after a message of full packets. A reader that leaves that out is waited
// for once, for endPatience at most; from then on its messages are read as one packet
// and then exactly what its header announces. An empty packet that follows
// nothing is skipped.
func (u *usbTransport) recv(ctx context.Context, timeout time.Duration) ([]byte, error) {
	packet := u.fn.packet
	first := wholePackets(max(u.longest, minMessage), packet)
	if u.onePiece {
		first = packet
	}
	if len(u.buf) < first {
		u.buf = make([]byte, first)
	}
	n := 0
	for empty := 0; n == 0; empty++ {
		if empty > maxEmpty {
			return nil, fmt.Errorf("%w: nothing but empty transfers", errMalformed)
		}
		var err error
		if n, err = u.read(ctx, u.buf[:first], min(timeout, endPatience)); n > 0 && errors.Is(err, usb.ErrTimeout) {
			u.onePiece = true
		} else if err != nil {
			return nil, err
		}
	}
	if n < headerSize {
		return nil, fmt.Errorf("%w: %d bytes", errMalformed, n)
	}
	announced := messageLength(u.buf)
	if announced > messageLimit {
		return nil, u.drain(ctx, n, fmt.Errorf("%w: its header announces %d bytes", errMalformed, announced))
	}
	want := int(announced)
	if n > want {
		return nil, u.drain(ctx, n, fmt.Errorf("%w: longer than the %d bytes its header announces", errMalformed, want))
	}
	whole := wholePackets(want, packet)
	if len(u.buf) < whole {
		u.buf = append(make([]byte, 0, whole), u.buf...)[:whole]
	}
	for last := n; n < want; n += last {
		if last%packet != 0 || last == 0 {
			return nil, fmt.Errorf("%w: %d bytes where its header announces %d", errMalformed, n, want)
		}
		var err error
		if last, err = u.read(ctx, u.buf[n:whole], restTimeout); err != nil {
			return nil, err
		}
	}
	if n > want {
		return nil, u.drain(ctx, n, fmt.Errorf("%w: longer than the %d bytes its header announces", errMalformed, want))
	}
	return u.buf[:n], nil
}

// wholePackets rounds n up to whole packets.
func wholePackets(n, packet int) int { return (n + packet - 1) / packet * packet }

// drain reads away the rest of a message that is not wanted, for as long as
// full packets come, and returns why.
func (u *usbTransport) drain(ctx context.Context, n int, why error) error {
	for total := n; n == u.fn.packet && total < 2*messageLimit; total += n {
		var err error
		if n, err = u.dev.Bulk(ctx, u.fn.in, u.buf[:u.fn.packet], drainTimeout); err != nil {
			break
		}
	}
	return why
}

const (
	drainTimeout = 100 * time.Millisecond

	// endPatience is how long one transfer lasts, in which a message may have
	// come whole and only its end be missing. It is begun again while a
	// command waits, and there is none otherwise.
	endPatience = time.Second
)

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
