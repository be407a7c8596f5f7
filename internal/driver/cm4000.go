package driver

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"openct/internal/atr"
	"openct/internal/device"
	"openct/internal/ifd"
	"openct/internal/pcmcia"
	"openct/internal/proto"
)

// cm4000 is the OMNIKEY CardMan Mobile 4000, a PCMCIA card, behind Linux's driver
// cm4000_cs, which powers the card by itself and talks T=0 and T=1 to it
// (doc/devices/cm4000.md). Linux 6.4 removed that driver.
type cm4000 struct {
	node  pcmcia.Node
	name  string
	reset bool // the card that is in was reset here
}

var _ ifd.Presence = (*cm4000)(nil)

// Requests and status bits of include/uapi/linux/cm4000_cs.h as of Linux 6.3. The
// size that a request's number has is a pointer's.
var (
	cm4000Status  = pcmcia.Request{Direction: pcmcia.Read, Type: 'c', Number: 0, Pointer: true}
	cm4000ATR     = pcmcia.Request{Direction: pcmcia.ReadWrite, Type: 'c', Number: 1, Pointer: true}
	cm4000PTS     = pcmcia.Request{Direction: pcmcia.Write, Type: 'c', Number: 2, Pointer: true}
	cm4000CardOff = pcmcia.Request{Direction: pcmcia.None, Type: 'c', Number: 4}
)

const (
	cm4000Inserted   = 0x01
	cm4000ATRPresent = 0x04
	cm4000ATRValid   = 0x08
	cm4000NoReader   = 0x10
)

// Arguments: struct atreq has the length of the ATR (int), 64 bytes for it, and
// what the kernel does not fill in; struct ptsreq has a bit for the protocol, four
// bytes, and four more that the kernel does not look at.
const (
	cm4000ATRArgument = 76
	cm4000ATRRoom     = 64
	cm4000PTSArgument = 8
)

// Waits. cm4000_cs gives up a command to the card by itself: in T=1 after 10 s for
// sending, a minute for the answer to begin and 6 s for more of it.
const (
	cm4000Command  = 2 * time.Second // C OpenCT's
	cm4000PowerUp  = 5 * time.Second // the kernel takes a second to see an ATR's end
	cm4000Exchange = 80 * time.Second

	// cm4000Message is what is offered to read. In T=0 cm4000_cs leaves SW1 out where
	// no more is offered than it has.
	cm4000Message = 512
)

func openCM4000At(path string, o ifd.Options) (ifd.Reader, error) {
	n, err := pcmcia.Open(path)
	if err != nil {
		return nil, err
	}
	r, err := openCM4000(n, o)
	if err != nil {
		_ = n.Close()
		return nil, err
	}
	return r, nil
}

func openCM4000(n pcmcia.Node, o ifd.Options) (ifd.Reader, error) {
	c := &cm4000{node: n, name: o.Name}
	if _, err := c.status(context.Background()); err != nil {
		return nil, fmt.Errorf("no CardMan 4000 at %s: %w", n.Name(), err)
	}
	return c, nil
}

func (c *cm4000) Slots() []ifd.Slot     { return []ifd.Slot{c} }
func (c *cm4000) Name() string          { return c.name }
func (c *cm4000) Gone() <-chan struct{} { return c.node.Gone() }
func (c *cm4000) Close() error          { return c.node.Close() } // the kernel stops

// status is the kernel's. Bits that a CardMan's driver does not have are another
// driver's.
func (c *cm4000) status(ctx context.Context) (byte, error) {
	arg := make([]byte, 4)
	if err := c.node.Ioctl(ctx, cm4000Status, arg, cm4000Command); err != nil {
		return 0, fmt.Errorf("status: %w", err)
	}
	bits := binary.NativeEndian.Uint32(arg)
	switch {
	case bits > 0x3F:
		return 0, fmt.Errorf("status %08x: %w", bits, ifd.ErrComm)
	case bits&cm4000NoReader != 0:
		return 0, fmt.Errorf("status %02x: %w", bits, device.ErrUnplugged)
	}
	return byte(bits), nil
}

// Status implements ifd.Presence. While the kernel waits for an answer to reset, no
// card that answers is in.
func (c *cm4000) Status(ctx context.Context) (ifd.Status, error) {
	was := c.reset
	bits, err := c.look(ctx)
	if errors.Is(err, pcmcia.ErrPending) {
		return ifd.Status{}, nil
	}
	return ifd.Status{Present: bits&cm4000Inserted != 0, Changed: was && !c.reset}, err
}

// look is status, and tells whether the card is still the one that was reset. The kernel
// forgets an ATR within 50 ms after the card was removed or has lost its power, gives power to
// the next card by itself, and takes more than a second to read an ATR.
func (c *cm4000) look(ctx context.Context) (byte, error) {
	bits, err := c.status(ctx)
	if err == nil && (bits&cm4000Inserted == 0 || bits&cm4000ATRPresent == 0) {
		c.reset = false
	}
	return bits, err
}

// Reset implements ifd.Slot. The kernel has powered a card that is in; with the
// power taken it gives it back and returns when there is an ATR again. For a card
// that has never answered it would wait for ever.
func (c *cm4000) Reset(ctx context.Context) ([]byte, error) {
	c.reset = false
	bits, err := c.status(ctx)
	switch {
	case err != nil:
		return nil, err
	case bits&cm4000Inserted == 0:
		return nil, ifd.ErrNoCard
	}
	if bits&cm4000ATRValid != 0 {
		if err := c.node.Ioctl(ctx, cm4000CardOff, nil, cm4000PowerUp); err != nil {
			return nil, c.mute(ctx, err)
		}
	}
	arg := make([]byte, cm4000ATRArgument)
	if err := c.node.Ioctl(ctx, cm4000ATR, arg, cm4000PowerUp); err != nil {
		return nil, c.mute(ctx, err)
	}
	n := int32(binary.NativeEndian.Uint32(arg))
	switch {
	case n == -1 || n == 0:
		return nil, fmt.Errorf("%w: the kernel reports no valid ATR", ifd.ErrNoATR)
	case n < 0 || n > cm4000ATRRoom || n > atr.MaxLen:
		return nil, fmt.Errorf("ATR of %d bytes: %w", n, ifd.ErrInvalidATR)
	}
	raw, err := rawATR(arg[4 : 4+n])
	c.reset = err == nil
	return raw, err
}

// mute is the error of a failed reset: ErrNoATR for one that has timed out.
func (c *cm4000) mute(ctx context.Context, err error) error {
	if errors.Is(err, device.ErrTimeout) && ctx.Err() == nil {
		return fmt.Errorf("%w: %w", ifd.ErrNoATR, err)
	}
	return fmt.Errorf("reset: %w", err)
}

// Protocol implements ifd.Slot. Without being asked the kernel talks the protocol
// that the ATR puts first, at the rate of TA1 if it is the only one.
func (c *cm4000) Protocol(ctx context.Context, p proto.ID, a *atr.ATR) (proto.Engine, error) {
	p, err := choose(p, a)
	switch {
	case err != nil:
		return nil, err
	case p != proto.T0 && p != proto.T1:
		return nil, fmt.Errorf("protocol T=%d: %w", p, ifd.ErrNotSupported)
	case p != a.Default():
		arg := make([]byte, cm4000PTSArgument)
		binary.NativeEndian.PutUint32(arg, 1<<p)
		if err := c.node.Ioctl(ctx, cm4000PTS, arg, cm4000PowerUp); err != nil {
			return nil, fmt.Errorf("%w: %w", atr.ErrPPS, err)
		}
	}
	link := &cm4000Link{c: c, t0: p == proto.T0}
	if p == proto.T1 {
		return proto.NewT1(link, proto.T1Params{IFSC: a.IFSC(), CRC: a.CRC(), BWT: a.BWT(atr.Rate{})}), nil
	}
	return &cm4000T0{proto.NewT0(link, proto.T0Params{}), link}, nil
}

// cm4000Link carries whole TPDUs and blocks. The kernel exchanges them in write(2);
// read(2) fetches what came.
type cm4000Link struct {
	c    *cm4000
	t0   bool
	bare bool // T=0: the next TPDU is of an APDU that is a header alone
}

// Send implements proto.Link. With five bytes of which the last is 0 the kernel
// expects 256 bytes of data, with four none. It would wait for a card that is not in
// or was just inserted, and send that one what was meant for the card before.
func (l *cm4000Link) Send(ctx context.Context, b []byte) error {
	if _, err := l.c.look(ctx); err != nil {
		return err
	}
	if !l.c.reset {
		return ifd.ErrNoCard
	}
	if l.bare && len(b) == 5 {
		b = b[:4]
	}
	l.bare = false
	return l.lost(ctx, l.c.node.Write(ctx, b, cm4000Exchange))
}

// Recv implements proto.Link.
func (l *cm4000Link) Recv(ctx context.Context, buf []byte, _ time.Duration) (int, error) {
	answer := make([]byte, cm4000Message)
	n, err := l.c.node.Read(ctx, answer, cm4000Command)
	if err == nil && n > len(buf) {
		err = fmt.Errorf("the answer has %d bytes, more than %d: %w", n, len(buf), ifd.ErrComm)
	}
	if err == nil && l.t0 && (n < 2 || answer[n-2]>>4 != 6 && answer[n-2]>>4 != 9) {
		// There is no checksum; SW1 is 6X or 9X (ISO/IEC 7816-3, 10.3.3).
		err = fmt.Errorf("answer of %d bytes without a status word at its end: %w", n, ifd.ErrComm)
	}
	return copy(buf, answer[:n]), l.lost(ctx, err)
}

// lost looks for the card after an error: the kernel has the same error for a card
// that was removed and for one that does not answer.
func (l *cm4000Link) lost(ctx context.Context, err error) error {
	if !errors.Is(err, device.ErrIO) || ctx.Err() != nil {
		return err
	}
	if bits, serr := l.c.look(ctx); serr == nil && bits&cm4000Inserted == 0 {
		return fmt.Errorf("%w (%w)", ifd.ErrNoCard, err)
	}
	return fmt.Errorf("%w: %w", ifd.ErrComm, err)
}

// cm4000T0 is T=0 that tells its link of APDUs that are a header alone.
type cm4000T0 struct {
	*proto.T0Engine
	link *cm4000Link
}

// Transmit implements proto.Engine.
func (e *cm4000T0) Transmit(ctx context.Context, apdu, resp []byte) ([]byte, error) {
	c, err := proto.ParseCommand(apdu)
	e.link.bare = err == nil && c.Data == nil && c.Le == 0
	return e.T0Engine.Transmit(ctx, apdu, resp)
}
