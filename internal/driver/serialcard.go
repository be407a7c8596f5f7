package driver

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sort"
	"time"

	"openct/internal/atr"
	"openct/internal/device"
	"openct/internal/ifd"
	"openct/internal/proto"
	"openct/internal/serial"
)

// serialCard is a card whose characters are those of a serial line, echo and
// all, without anything in between that would know a protocol.
type serialCard struct {
	line  serial.Line
	name  string
	log   *slog.Logger
	clock int // the card's, in Hz
	limit int // bit/s that the card may be made to talk with; 0: as it begins

	removed func() bool // the card is known to be out; nil: nobody knows

	odd     bool          // parity of the line; before the first ATR a guess
	inverse bool          // convention of the card
	rate    atr.Rate      // in force
	used    bool          // something was sent since the reset
	t1      bool          // protocol
	guard   time.Duration // between two bytes to the card; 0: the line keeps it
	gap     time.Duration // longest silence within an answer

	echo []byte // was sent and has not come back
	buf  [5 + 256 + 2 + 256 + 2]byte
}

var _ proto.Link = (*serialCard)(nil)

// latency is what adapter, kernel and this program may add to a wait. An FTDI
// chip alone keeps bytes for 16 ms (drivers/usb/serial/ftdi_sio.h, latency
// timer).
const latency = 200 * time.Millisecond

// Waits for an answer to reset. ISO/IEC 7816-3, 6.2.2 gives the card 40000
// clocks to begin and 9600 etu between two characters; C OpenCT waits a second
// for either.
const (
	atrBegin  = time.Second
	atrGapETU = 9600
)

// start sets the line as a card expects it after a reset.
func (c *serialCard) start() error {
	c.rate = atr.Rate{Clock: c.clock}
	c.inverse, c.used, c.t1, c.guard = false, false, false, 0
	c.forgetEcho()
	if err := c.set(); err != nil {
		return fmt.Errorf("card at a clock of %d Hz: %w", c.clock, err)
	}
	return nil
}

// params are those of a line at a rate: the parity bit of the convention, and
// two stop bits for the guard time (ISO/IEC 7816-3, 7.2).
func (c *serialCard) params(r atr.Rate) serial.Params {
	p := serial.Params{Speed: speedOf(r), Bits: 8, Parity: serial.Even, StopBits: 2, CheckParity: true}
	if c.odd {
		p.Parity = serial.Odd
	}
	return p
}

func (c *serialCard) set() error { return c.line.Set(c.params(c.rate)) }

// speedOf is a rate in bit/s.
func speedOf(r atr.Rate) uint32 {
	f, d := int64(r.F), int64(r.D)
	if f == 0 || d == 0 {
		f, d = atr.DefaultFi, atr.DefaultDi
	}
	return uint32((int64(r.Clock)*d + f/2) / f)
}

// readATR reads an answer to reset as far as it tells its length.
//
// A card's first byte tells its convention: a UART reads 3B or 03. With the
// other parity on the line than the convention's, every byte comes with a wrong
// one, and so it must.
func (c *serialCard) readATR(ctx context.Context) ([]byte, error) {
	var raw, have []byte // as it came, and in the card's convention
	wrong, marked := false, false
	buf := make([]byte, atr.MaxLen)
	for wait := atrBegin; atr.Need(have) > 0; wait = c.rate.ETU()*atrGapETU + latency {
		n, err := c.line.Read(ctx, buf[:atr.Need(have)], wait)
		bad := errors.Is(err, serial.ErrParity)
		switch {
		case err == nil, bad:
		case !errors.Is(err, device.ErrTimeout):
			return nil, err
		case len(raw) == 0:
			return nil, fmt.Errorf("%w: no byte within %v", ifd.ErrNoATR, wait)
		default:
			return nil, fmt.Errorf("%w: the ATR ends after %d bytes, % x", ifd.ErrInvalidATR, len(raw), have)
		}
		for i, b := range buf[:n] {
			bad := bad && i == n-1
			if len(raw) == 0 {
				if b != atr.TSDirect && b != tsInverseRaw {
					return nil, fmt.Errorf("%w: first byte %02x is neither 3b nor, in the inverse convention, 03", ifd.ErrInvalidATR, b)
				}
				c.inverse = b == tsInverseRaw
				wrong = c.inverse != c.odd
				marked = bad // the adapter tells parities
			}
			if bad != (wrong && marked) {
				return nil, fmt.Errorf("answer to reset, byte %d: %w: %w", len(raw)+1, ifd.ErrComm, serial.ErrParity)
			}
			raw = append(raw, b)
		}
		have = append(have[:0], raw...)
		if c.inverse {
			atr.Invert(have)
		}
	}
	c.odd = c.inverse
	return have, c.set()
}

// tsInverseRaw is TS of the inverse convention as a UART reads it.
const tsInverseRaw = 0x03

// negotiate agrees with the card on protocol and speed. An error that wraps
// atr.ErrPPS says that it must be reset.
func (c *serialCard) negotiate(ctx context.Context, t proto.ID, a *atr.ATR) error {
	if _, specific := a.Specific(); specific {
		if f, d := a.FiDi(); !a.Implicit() {
			c.rate.F, c.rate.D = f, d
		}
		if err := c.set(); err != nil {
			return fmt.Errorf("the card requires %d bit/s from the start (TA2): %w", speedOf(c.rate), err)
		}
		c.settle(t, a)
		return nil
	}
	pps1, rate, err := c.fastest(a)
	if err != nil {
		return err
	}
	if pps1 == atr.Absent && t == a.Default() {
		c.settle(t, a)
		return nil
	}
	req, err := a.PPS(t, pps1)
	if err != nil {
		return err
	}
	accepted, err := c.selectProtocol(ctx, req)
	if err != nil {
		return err
	}
	if accepted {
		c.rate = rate
		if err := c.set(); err != nil {
			return err
		}
	}
	c.settle(t, a)
	return nil
}

// selectProtocol sends a PPS request.
func (c *serialCard) selectProtocol(ctx context.Context, req []byte) (accepted bool, err error) {
	c.gap = c.rate.ETU()*atrGapETU + latency
	return exchangePPS(ctx, c, req, c.gap)
}

// exchangePPS sends a PPS request to a card at the other end of l.
func exchangePPS(ctx context.Context, l proto.Link, req []byte, wait time.Duration) (accepted bool, err error) {
	if err := l.Send(ctx, req); err != nil {
		return false, err
	}
	var resp []byte
	for n := atr.NeedPPS(resp); n > 0; n = atr.NeedPPS(resp) {
		buf := make([]byte, n)
		if _, err := l.Recv(ctx, buf, wait); err != nil {
			if errors.Is(err, device.ErrUnplugged) || ctx.Err() != nil {
				return false, err
			}
			return false, fmt.Errorf("%w: %w", atr.ErrPPS, err)
		}
		resp = append(resp, buf...)
	}
	return atr.CheckPPS(req, resp)
}

// fastest is the highest speed that the card offers, the configuration allows
// and the line can do. atr.Absent: the one the card has already.
func (c *serialCard) fastest(a *atr.ATR) (pps1 int, r atr.Rate, err error) {
	ta1, ok := a.TA1()
	if !ok || c.limit == 0 {
		return atr.Absent, c.rate, nil
	}
	type offer struct {
		pps1 int
		rate atr.Rate
	}
	var offers []offer
	fi, most := a.FiDi()
	for code := byte(1); code < 16; code++ {
		di, ok := atr.Di(code)
		r := atr.Rate{Clock: c.clock, F: fi, D: di}
		if !ok || di > most || speedOf(r) <= speedOf(c.rate) || int64(speedOf(r)) > int64(c.limit) {
			continue
		}
		offers = append(offers, offer{int(ta1&0xF0 | code), r})
	}
	sort.Slice(offers, func(i, j int) bool { return offers[i].rate.D > offers[j].rate.D })
	for _, o := range offers {
		if c.line.Set(c.params(o.rate)) == nil {
			return o.pps1, o.rate, c.set()
		}
	}
	return atr.Absent, c.rate, nil
}

// settle computes the times that hold for the card from now on.
func (c *serialCard) settle(t proto.ID, a *atr.ATR) {
	c.t1 = t == proto.T1
	c.gap = a.WWT(c.rate) + latency
	if c.t1 {
		c.gap = a.CWT(c.rate) + latency
	}
	c.guard = 0
	if n, _ := a.GuardTime(); n != 0 && n != 255 {
		c.guard = a.Guard(t, c.rate)
	}
}

// engine makes the engine for a card that has agreed to everything.
func (c *serialCard) engine(t proto.ID, a *atr.ATR) proto.Engine {
	if t == proto.T1 {
		return proto.NewT1(c, proto.T1Params{
			IFSC: a.IFSC(), CRC: a.CRC(), Stream: true,
			BWT: a.BWT(c.rate), Timeout: a.BWT(c.rate) + latency, CWT: c.gap,
		})
	}
	return proto.NewT0(c, proto.T0Params{Stream: true, WWT: a.WWT(c.rate) + latency})
}

// Send implements proto.Link. What comes back is looked at by Recv, together
// with the answer; bytes that must be kept apart are looked at one by one.
func (c *serialCard) Send(ctx context.Context, b []byte) error {
	c.used = true
	if len(c.echo) == 0 {
		// What the card says without being asked belongs to nothing.
		if err := c.line.Flush(serial.In); err != nil {
			return err
		}
	}
	out := append([]byte(nil), b...)
	defer clear(out) // there may be a PIN
	if c.inverse {
		atr.Invert(out)
	}
	if c.guard == 0 {
		c.echo = append(c.echo, out...)
		return c.line.Write(ctx, out)
	}
	for i := range out {
		next := time.Now().Add(c.guard)
		c.echo = append(c.echo, out[i])
		if err := c.line.Write(ctx, out[i:i+1]); err != nil {
			return err
		}
		if _, err := c.Recv(ctx, nil, 0); err != nil { // the echo
			return err
		}
		if err := serial.Wait(ctx, c.line, time.Until(next)); err != nil {
			return err
		}
	}
	return nil
}

// Recv implements proto.Link: timeout is for the first byte, those behind it
// have the card's own time.
func (c *serialCard) Recv(ctx context.Context, buf []byte, timeout time.Duration) (int, error) {
	echo := len(c.echo)
	all := c.buf[:0:len(c.buf)]
	if echo+len(buf) > cap(all) {
		all = make([]byte, 0, echo+len(buf))
	}
	all = all[:echo+len(buf)]
	defer clear(all) // there may be a PIN in the echo
	for n := 0; n < len(all); {
		wait := c.gap
		switch {
		case n < echo:
			wait = c.params(c.rate).Time(echo) + time.Second // as C OpenCT waits
		case n == echo:
			wait = timeout
		}
		got, err := c.line.Read(ctx, all[n:], wait)
		n += got
		if err := c.checkEcho(all[:n], err); err != nil {
			return 0, err
		}
		if err != nil {
			return max(0, n-echo), c.readError(n-echo, len(buf), err)
		}
	}
	c.forgetEcho()
	n := copy(buf, all[echo:])
	if c.inverse {
		atr.Invert(buf[:n])
	}
	return n, nil
}

// checkEcho compares what has come with what was sent; err is that of the read.
func (c *serialCard) checkEcho(have []byte, err error) error {
	n := min(len(have), len(c.echo))
	bad := errors.Is(err, serial.ErrParity)
	for i, b := range have[:n] {
		last := bad && i == len(have)-1
		if b == c.echo[i] && !last {
			continue
		}
		i++
		sent := c.forgetEcho()
		switch {
		case last && c.t1:
			return fmt.Errorf("%w: echo of byte %d of %d: %w", proto.ErrCorrupted, i, sent, err)
		case last:
			return fmt.Errorf("%w: the card signals a parity error in byte %d of %d: %w", ifd.ErrComm, i, sent, err)
		}
		return fmt.Errorf("%w: the echo of byte %d of %d differs: another device is on the line", ifd.ErrComm, i, sent)
	}
	if n < len(c.echo) && errors.Is(err, device.ErrTimeout) {
		sent := c.forgetEcho()
		return fmt.Errorf("%w: the line echoes %d of %d bytes: the reader is missing, of another kind, or has no power", ifd.ErrComm, n, sent)
	}
	return nil
}

func (c *serialCard) forgetEcho() (sent int) {
	sent = len(c.echo)
	clear(c.echo)
	c.echo = c.echo[:0]
	return sent
}

// readError is the error of an answer of which n bytes came. T=1 asks for a
// block again that came damaged, in part or not at all; T=0 has no way to.
func (c *serialCard) readError(n, want int, err error) error {
	timeout := errors.Is(err, device.ErrTimeout)
	if timeout && c.removed != nil && c.removed() {
		return fmt.Errorf("%w (%w)", ifd.ErrNoCard, err)
	}
	if timeout || errors.Is(err, serial.ErrParity) {
		c.forgetEcho()
	}
	switch {
	case c.t1 && (timeout || errors.Is(err, device.ErrIO)):
		return fmt.Errorf("%w: %d of %d bytes: %w", proto.ErrCorrupted, max(0, n), want, err)
	case timeout && n > 0:
		return fmt.Errorf("the card sends %d of %d bytes: %w", n, want, err)
	}
	return err
}
