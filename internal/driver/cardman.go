package driver

import (
	"context"
	"errors"
	"fmt"
	"time"

	"openct/internal/atr"
	"openct/internal/ifd"
	"openct/internal/proto"
	"openct/internal/usb"
)

// The OMNIKEY CardMan 2020 and its relatives take vendor requests to the
// endpoint recipient, and answer on an interrupt endpoint
// (doc/devices/cardman.md).
const (
	cardManIn     = 0x81
	cardManPacket = 8

	cardManTPDU   = 0x02 // OUT: a T=0 command; answered with data and status word
	cardManOn     = 0x10 // OUT: power and reset, cold (wValue 0) or warm (1); answered with the ATR
	cardManOff    = 0x11 // OUT: power off; no answer
	cardManStatus = 0x20 // OUT: answered with one byte
	cardManSet    = 0x30 // OUT: parameters of the card's line; no answer

	cardManCold, cardManWarm = 0, 1

	cardManPresent = 0x40 // bits of the status
	cardManPowered = 0x80

	// 9600 bit/s at 3.72 MHz, even parity, two stop bits: wValue and wIndex of
	// cardManSet as C OpenCT sends them (ifd-cardman.c).
	cardManDefault     = 0x0100
	cardManDefaultStop = 2
)

const (
	cardManTimeout = 2 * time.Second // C OpenCT's for everything

	// cardManGap is how far the rest of an answer to a command can be once it
	// has begun.
	cardManGap = 2 * time.Second

	// cardManStale is the silence after which nothing is left of an answer
	// that nobody waited for.
	cardManStale = 100 * time.Millisecond

	// cardManPackets bounds the packets of one answer: 33 for 256 bytes and a
	// status word, and some empty ones.
	cardManPackets = 40
)

// cardMan is the reader and its slot.
type cardMan struct {
	token
	on    bool // the card has power
	stale bool // there may be packets that belong to an earlier request
}

func openCardMan(dev usb.Device, o ifd.Options) (ifd.Reader, error) {
	if err := dev.Claim(0, 0); err != nil {
		return nil, err
	}
	c := &cardMan{token: token{dev: dev, name: o.Name}}
	c.slot = c
	return c, nil
}

// Close takes the card's power.
func (c *cardMan) Close() error {
	if c.on {
		_ = c.order(context.Background(), cardManOff, 0, 0, nil) // what fails here fails in Close as well
	}
	return c.token.Close()
}

// Status implements ifd.Presence. A card that has lost its power was taken out
// in between.
func (c *cardMan) Status(ctx context.Context) (ifd.Status, error) {
	b, err := c.ask(ctx, cardManStatus, 0, nil, cardManTimeout, func(b []byte) bool { return len(b) > 0 })
	if err == nil && len(b) != 1 {
		c.stale = true
		err = fmt.Errorf("%d bytes instead of a status: %w", len(b), ifd.ErrComm)
	}
	if err != nil {
		return ifd.Status{}, fmt.Errorf("status: %w", err)
	}
	st := ifd.Status{Present: b[0]&cardManPresent != 0}
	if b[0]&cardManPowered == 0 {
		st.Changed, c.on = c.on, false
	}
	return st, nil
}

// Reset implements ifd.Slot. C OpenCT asks for a warm reset; here it is what a
// card gets that does not answer to a cold one.
func (c *cardMan) Reset(ctx context.Context) ([]byte, error) {
	st, err := c.Status(ctx)
	if err != nil {
		return nil, err
	}
	if !st.Present {
		return nil, ifd.ErrNoCard
	}
	if err := c.order(ctx, cardManSet, cardManDefault, cardManDefaultStop, nil); err != nil {
		return nil, err
	}
	var first error
	for _, kind := range []uint16{cardManCold, cardManWarm} {
		raw, err := c.powerOn(ctx, kind)
		if err == nil {
			return raw, nil
		}
		if first == nil {
			first = err
		}
		if !errors.Is(err, ifd.ErrNoATR) && !errors.Is(err, ifd.ErrInvalidATR) {
			break
		}
	}
	return nil, first
}

// powerOn collects the ATR as far as it tells its length.
func (c *cardMan) powerOn(ctx context.Context, kind uint16) ([]byte, error) {
	c.on = true
	raw, err := c.ask(ctx, cardManOn, kind, nil, cardManTimeout, func(b []byte) bool {
		return atr.Complete(b) || len(b) >= atr.MaxLen || b[0] != atr.TSDirect && b[0] != atr.TSInverse
	})
	switch {
	case errors.Is(err, usb.ErrTimeout) && ctx.Err() == nil && len(raw) == 0:
		return nil, fmt.Errorf("%w: %w", ifd.ErrNoATR, err)
	case errors.Is(err, usb.ErrTimeout) && ctx.Err() == nil:
		return nil, fmt.Errorf("the ATR is incomplete: % x: %w: %w", raw, ifd.ErrInvalidATR, err)
	case err != nil:
		return nil, fmt.Errorf("reset: %w", err)
	case len(raw) > atr.MaxLen:
		err = fmt.Errorf("ATR of %d bytes: %w", len(raw), ifd.ErrInvalidATR)
	default:
		raw, err = rawATR(raw)
	}
	c.stale = err != nil
	return raw, err
}

// Protocol is T=0: how the reader carries T=1 blocks is not known. No PPS is
// needed, as an ATR puts T=0 first if it has it at all (ISO/IEC 7816-3, 8.2.3), and
// the speed stays the default one, as in C OpenCT.
func (c *cardMan) Protocol(_ context.Context, p proto.ID, a *atr.ATR) (proto.Engine, error) {
	p, err := choose(p, a)
	if err != nil {
		return nil, err
	}
	if p != proto.T0 || a.Default() != proto.T0 {
		return nil, fmt.Errorf("a CardMan does not support protocol T=%d with this driver: %w", p, ifd.ErrNotSupported)
	}
	return proto.NewT0(&cardManLink{c: c}, proto.T0Params{WWT: a.WWT(atr.Rate{})}), nil
}

// order sends a request that has no answer.
func (c *cardMan) order(ctx context.Context, request uint8, value, index uint16, out []byte) error {
	s := usb.Setup{RequestType: usb.VendorEndpointOut, Request: request, Value: value, Index: index}
	return sendAll(ctx, c.dev, s, out, cardManTimeout)
}

// ask sends a request and collects the packets of its answer until that is
// whole. With an error it returns what came.
func (c *cardMan) ask(ctx context.Context, request uint8, value uint16, out []byte, timeout time.Duration, whole func([]byte) bool) ([]byte, error) {
	if err := c.send(ctx, request, value, out); err != nil {
		return nil, err
	}
	return c.collect(ctx, timeout, timeout, whole)
}

// send sends a request that has an answer. The endpoint keeps the answer until
// the host fetches it (USB 2.0, 5.7): C OpenCT begins to read before it sends.
func (c *cardMan) send(ctx context.Context, request uint8, value uint16, out []byte) error {
	if c.stale {
		buf := make([]byte, cardManPacket)
		for range cardManPackets {
			until, cancel := context.WithTimeout(ctx, cardManStale)
			_, err := interrupt(until, c.dev, cardManIn, buf)
			cancel()
			if err != nil {
				break // silence; what is worse shows at once
			}
		}
	}
	c.stale = true
	return c.order(ctx, request, value, 0, out)
}

// collect takes packets until the answer is whole: the first within timeout,
// each of the others within gap.
func (c *cardMan) collect(ctx context.Context, timeout, gap time.Duration, whole func([]byte) bool) ([]byte, error) {
	var answer []byte
	for range cardManPackets {
		until, cancel := context.WithTimeout(ctx, timeout)
		buf := make([]byte, cardManPacket)
		n, err := interrupt(until, c.dev, cardManIn, buf)
		cancel()
		answer = append(answer, buf[:n]...)
		if err != nil {
			return answer, err
		}
		if n == 0 { // the end of an answer before this one, which filled its last packet
			continue
		}
		if whole(answer) {
			c.stale = false
			return answer, nil
		}
		timeout = gap
	}
	return answer, fmt.Errorf("the answer has no end after %d packets: %w", cardManPackets, ifd.ErrComm)
}

// cardManLink carries T=0 commands whole: the reader deals with procedure
// bytes.
type cardManLink struct {
	c   *cardMan
	max int // bytes of the longest answer to the command that was sent
}

// Send implements proto.Link.
func (l *cardManLink) Send(ctx context.Context, tpdu []byte) error {
	l.max = 2
	if len(tpdu) == 5 { // P3 is Le (ISO/IEC 7816-3, 10.3.2)
		l.max += int(tpdu[4])
		if tpdu[4] == 0 {
			l.max += 256
		}
	}
	return l.c.send(ctx, cardManTPDU, 0, tpdu)
}

// Recv implements proto.Link. In T=0 a card sends all the data that P3 asks
// for, or none. A packet that is not full ends the answer. Where none comes, the
// card may be gone.
func (l *cardManLink) Recv(ctx context.Context, buf []byte, timeout time.Duration) (int, error) {
	answer, err := l.c.collect(ctx, timeout, cardManGap, func(b []byte) bool {
		return len(b) >= l.max || len(b)%cardManPacket != 0
	})
	if n := len(answer); err == nil && n > l.max {
		err = fmt.Errorf("the answer has %d bytes, more than %d: %w", n, l.max, ifd.ErrComm)
	}
	if n := len(answer); err == nil && (n < 2 || answer[n-2]>>4 != 6 && answer[n-2]>>4 != 9) {
		// There is no checksum; SW1 is 6X or 9X (ISO/IEC 7816-3, 10.3.3).
		err = fmt.Errorf("answer of %d bytes without a status word at its end: %w", n, ifd.ErrComm)
	}
	l.c.stale = err != nil
	if errors.Is(err, usb.ErrTimeout) && ctx.Err() == nil {
		if st, lost := l.c.Status(ctx); lost == nil && !st.Present {
			err = fmt.Errorf("%w (%w)", ifd.ErrNoCard, err)
		}
	}
	return copy(buf, answer), err
}
