package driver

import (
	"context"
	"errors"
	"fmt"
	"math/bits"
	"time"

	"openct/internal/atr"
	"openct/internal/device"
	"openct/internal/ifd"
	"openct/internal/proto"
	"openct/internal/serial"
)

// towitoko is a Towitoko Chipdrive or Kartenzwerg on a serial line
// (doc/devices/towitoko.md; C OpenCT's ifd-towitoko.c). Its slots share the line:
// one thing happens at a time.
type towitoko struct {
	line  serial.Line
	name  string
	stop  int           // stop bits
	odd   bool          // the line's parity
	turn  chan struct{} // full while a slot has the line
	slots []ifd.Slot
}

// towitokoSlot is one of its slots. A command's checksum begins with the slot's
// seed, which is all that tells the slots apart.
type towitokoSlot struct {
	*towitoko
	seed       byte
	memoryOnly bool // it cannot reset an asynchronous card
	led        byte // as it was set

	inverse bool // convention of the card, which is the line's parity as well
	used    bool // something was sent since the reset
	t1      bool
	gap     time.Duration // longest silence within an answer
}

var (
	_ proto.Link    = (*towitokoSlot)(nil)
	_ ifd.Memory    = (*towitokoSlot)(nil)
	_ ifd.Presence  = (*towitokoSlot)(nil)
	_ proto.PSCLink = (*towitokoSlot)(nil)
)

// towitokoModel is what the type byte says of a reader.
type towitokoModel struct {
	name       string
	slots      int
	stop       int  // stop bits once the reader is known
	bare       bool // without parity until the first reset
	noRTS      bool
	memoryOnly bool
}

// towitokoModels are C OpenCT's (ifd-towitoko.c). Any other type is served as
// a reader with one slot, as there.
var towitokoModels = map[byte]towitokoModel{
	0x61: {name: "Towitoko Chipdrive Micro", slots: 1, stop: 2},
	0x64: {name: "Towitoko Kartenzwerg II", slots: 1, stop: 1, bare: true},
	0x80: {name: "Towitoko Kartenzwerg", slots: 1, stop: 1, bare: true, memoryOnly: true},
	0x84: {name: "Towitoko Chipdrive External", slots: 1, stop: 2},
	0x88: {name: "Towitoko Chipdrive Twin", slots: 2, stop: 2, noRTS: true},
	0x90: {name: "Towitoko Chipdrive Internal", slots: 1, stop: 2},
}

const (
	towitokoStart = time.Second // from power (DTR, RTS) to the first command
	towitokoReply = time.Second // both as C OpenCT waits

	// towitokoATR is the wait for an answer to reset. The card has 40000
	// clocks, 11 ms (ISO/IEC 7816-3, 6.2.2); C OpenCT waits a second, and as
	// long again for each way to reset a card that may be a memory card.
	towitokoATR = 500 * time.Millisecond
)

// noLED is what the LED is before it was set to 0, off, or 1, red.
const noLED = 0xFF

func openTowitokoAt(path string, o ifd.Options) (ifd.Reader, error) {
	return openSerialLine(path, o, openTowitoko)
}

func openTowitoko(l serial.Line, o ifd.Options) (ifd.Reader, error) {
	r := &towitoko{line: l, name: o.Name, stop: 2, turn: make(chan struct{}, 1)}
	if err := r.set(serial.Even); err != nil {
		return nil, err
	}
	ctx := context.Background()
	if err := serial.Wait(ctx, l, towitokoStart); err != nil {
		return nil, err
	}
	id, err := r.command(ctx, 0, []byte{0x00}, 2)
	if err != nil {
		return nil, fmt.Errorf("%w: no Towitoko reader answers: %w", ifd.ErrIncompatible, err)
	}
	m, known := towitokoModels[id[0]]
	if !known {
		m = towitokoModel{name: "Towitoko", slots: 1, stop: 2}
	}
	r.name, r.stop = m.name, m.stop
	if m.bare {
		if err := r.set(serial.None); err != nil {
			return nil, err
		}
	}
	if m.noRTS {
		if err := l.SetLines(true, false); err != nil {
			return nil, err
		}
	}
	for i := range m.slots {
		r.slots = append(r.slots, &towitokoSlot{
			towitoko: r, seed: byte(i), memoryOnly: m.memoryOnly, led: noLED, gap: towitokoReply,
		})
	}
	return r, nil
}

func (r *towitoko) Slots() []ifd.Slot     { return r.slots }
func (r *towitoko) Name() string          { return r.name }
func (r *towitoko) Gone() <-chan struct{} { return r.line.Gone() }
func (r *towitoko) Close() error          { return r.line.Close() }

func (r *towitoko) set(p serial.Parity) error {
	return r.line.Set(serial.Params{Speed: 9600, Bits: 8, Parity: p, StopBits: r.stop})
}

// enter takes the line; the caller must leave.
func (r *towitoko) enter(ctx context.Context) error {
	select {
	case r.turn <- struct{}{}:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("waiting for the reader: %w", context.Cause(ctx))
	}
}

func (r *towitoko) leave() { <-r.turn }

// towitokoSum is the checksum of a command or a reply.
func towitokoSum(seed byte, b []byte) byte {
	for _, c := range b {
		seed = bits.RotateLeft8(seed^c, 1) ^ 1
	}
	return seed
}

// command sends a command and reads its reply, n bytes. A reply's seed is 01 for
// all slots: one without data is that byte alone.
func (r *towitoko) command(ctx context.Context, seed byte, cmd []byte, n int) ([]byte, error) {
	if err := r.line.Flush(serial.In); err != nil {
		return nil, err
	}
	out := append(append([]byte(nil), cmd...), towitokoSum(seed, cmd))
	defer clear(out) // there may be a PSC
	if err := r.line.Write(ctx, out); err != nil {
		return nil, err
	}
	reply := make([]byte, n+1)
	if got, err := serial.ReadFull(ctx, r.line, reply, towitokoReply); err != nil {
		return nil, fmt.Errorf("reply to command %02x: %d of %d bytes: %w", cmd[0], got, len(reply), err)
	}
	if towitokoSum(1, reply[:n]) != reply[n] {
		return nil, fmt.Errorf("reply to command %02x: wrong checksum: %w", cmd[0], ifd.ErrComm)
	}
	return reply[:n], nil
}

func (s *towitokoSlot) do(ctx context.Context, cmd ...byte) error {
	_, err := s.command(ctx, s.seed, cmd, 0)
	return err
}

// parity sets the reader's parity to the card, and the line's.
func (s *towitokoSlot) parity(ctx context.Context, odd bool) error {
	code, p := byte(0x40), serial.Even
	if odd {
		code, p = 0x80, serial.Odd
	}
	if err := s.do(ctx, 0x6F, code, 0x6A, 0x0F); err != nil {
		return err
	}
	s.odd = odd
	return s.set(p)
}

// status asks for the card. The reader may miss the first question after a card
// was moved.
func (s *towitokoSlot) status(ctx context.Context) (ifd.Status, error) {
	b, err := s.command(ctx, s.seed, []byte{0x03}, 1)
	if errors.Is(err, device.ErrTimeout) {
		b, err = s.command(ctx, s.seed, []byte{0x03}, 1)
	}
	if err != nil {
		return ifd.Status{}, err
	}
	st := ifd.Status{Present: b[0]&0x40 != 0, Changed: b[0]&0x80 != 0}
	led := byte(0)
	if st.Present {
		led = 1
	}
	if s.led != led && s.do(ctx, 0x6F, led, 0x6A, 0x0F) == nil {
		s.led = led
	}
	return st, nil
}

// Status implements ifd.Presence. The core asks once a second, as C OpenCT did:
// the reader has no news of its own.
func (s *towitokoSlot) Status(ctx context.Context) (ifd.Status, error) {
	select {
	case s.turn <- struct{}{}:
	default:
		return ifd.Status{}, ifd.ErrBusy
	}
	defer s.leave()
	return s.status(ctx)
}

// Reset implements ifd.Slot.
func (s *towitokoSlot) Reset(ctx context.Context) ([]byte, error) {
	if err := s.enter(ctx); err != nil {
		return nil, err
	}
	defer s.leave()
	s.used, s.inverse, s.t1, s.gap = false, false, false, towitokoReply
	if err := s.parity(ctx, false); err != nil {
		return nil, err
	}
	if err := s.do(ctx, 0x60, 0x0F); err != nil { // power
		return nil, err
	}
	st, err := s.status(ctx)
	switch {
	case err != nil:
		return nil, err
	case !st.Present:
		return nil, ifd.ErrNoCard
	case s.memoryOnly:
		return nil, fmt.Errorf("this reader is for memory cards alone: %w", ifd.ErrNoATR)
	}
	return s.resetAsync(ctx)
}

// resetAsync tries both polarities of the contact RST, and then both again with
// the other parity, for a reader that throws away what has a wrong one.
func (s *towitokoSlot) resetAsync(ctx context.Context) (raw []byte, err error) {
	for _, odd := range []bool{false, true} {
		if s.odd != odd {
			if err := s.parity(ctx, odd); err != nil {
				return nil, err
			}
		}
		for _, level := range []byte{0x80, 0xA0} {
			cmd := []byte{level, 0x6F, 0x00, 0x05}
			if err := s.line.Flush(serial.In); err != nil {
				return nil, err
			}
			if err := s.line.Write(ctx, append(cmd, towitokoSum(s.seed, cmd))); err != nil {
				return nil, err
			}
			if raw, err = s.readATR(ctx); err == nil {
				return raw, s.parity(ctx, s.inverse)
			}
			if !errors.Is(err, ifd.ErrNoATR) && !errors.Is(err, ifd.ErrInvalidATR) {
				return nil, err
			}
		}
	}
	return nil, err
}

// readATR reads an answer to reset as far as it tells its length. A byte that
// begins none is what a memory card may send.
func (s *towitokoSlot) readATR(ctx context.Context) ([]byte, error) {
	var raw, have []byte // as it came, and in the card's convention
	buf := make([]byte, atr.MaxLen)
	for atr.Need(have) > 0 {
		n, err := s.line.Read(ctx, buf[:atr.Need(have)], towitokoATR)
		switch {
		case err == nil:
		case !errors.Is(err, device.ErrTimeout):
			return nil, err
		case len(raw) == 0:
			return nil, fmt.Errorf("%w: nothing comes within %v", ifd.ErrNoATR, towitokoATR)
		default:
			return nil, fmt.Errorf("%w: after %d bytes % x the card stops", ifd.ErrInvalidATR, len(raw), have)
		}
		raw = append(raw, buf[:n]...)
		if raw[0] != atr.TSDirect && raw[0] != atr.TSInverse && raw[0] != tsInverseRaw {
			return nil, fmt.Errorf("%w: first byte %02x begins no answer to reset", ifd.ErrNoATR, raw[0])
		}
		s.inverse = raw[0] == tsInverseRaw
		have = append(have[:0], raw...)
		if s.inverse {
			atr.Invert(have)
		}
	}
	return have, nil
}

// Protocol implements ifd.Slot. The card stays at the speed with which it
// begins, 9600 bit/s at the usual clock.
func (s *towitokoSlot) Protocol(ctx context.Context, id proto.ID, a *atr.ATR) (proto.Engine, error) {
	t, err := choose(id, a)
	if err != nil {
		return nil, err
	}
	if t != proto.T0 && t != proto.T1 {
		return nil, fmt.Errorf("protocol %d: %w", t, ifd.ErrNotSupported)
	}
	var rate atr.Rate
	if _, specific := a.Specific(); specific && !a.Implicit() {
		if f, d := a.FiDi(); f != atr.DefaultFi || d != atr.DefaultDi {
			return nil, fmt.Errorf("card talks with Fi %d, Di %d at once (TA2): %w", f, d, ifd.ErrNotSupported)
		}
	} else if !specific && t != a.Default() {
		if err := s.selectProtocol(ctx, t, a); err != nil {
			return nil, err
		}
	}
	s.t1 = t == proto.T1
	s.gap = a.WWT(rate) + latency
	var e proto.Engine = proto.NewT0(s, proto.T0Params{Stream: true, WWT: s.gap})
	if s.t1 {
		s.gap = a.CWT(rate) + latency
		e = proto.NewT1(s, proto.T1Params{
			IFSC: a.IFSC(), CRC: a.CRC(), Stream: true,
			BWT: a.BWT(rate), Timeout: a.BWT(rate) + latency, CWT: s.gap,
		})
	}
	return towitokoEngine{e, s}, nil
}

// selectProtocol asks a card that was just reset for another protocol than its
// first.
func (s *towitokoSlot) selectProtocol(ctx context.Context, t proto.ID, a *atr.ATR) error {
	req, err := a.PPS(t, atr.Absent)
	if err != nil {
		return err
	}
	if s.used {
		if _, err := s.Reset(ctx); err != nil {
			return err
		}
	}
	if err := s.enter(ctx); err != nil {
		return err
	}
	defer s.leave()
	_, err = exchangePPS(ctx, s, req, towitokoReply)
	return err
}

// towitokoEngine has the line while it exchanges an APDU.
type towitokoEngine struct {
	proto.Engine
	slot *towitokoSlot
}

func (e towitokoEngine) Limits() proto.Limits { return proto.LimitsOf(e.Engine) }

func (e towitokoEngine) Transmit(ctx context.Context, apdu, resp []byte) ([]byte, error) {
	s := e.slot
	if err := s.enter(ctx); err != nil {
		return nil, err
	}
	defer s.leave()
	if s.odd != s.inverse { // the other slot's card has the other convention
		if err := s.parity(ctx, s.inverse); err != nil {
			return nil, err
		}
	}
	return e.Engine.Transmit(ctx, apdu, resp)
}

// Send implements proto.Link: a header says how many bytes for the card follow.
func (s *towitokoSlot) Send(ctx context.Context, b []byte) error {
	s.used = true
	if err := s.line.Flush(serial.In); err != nil {
		return err
	}
	for len(b) > 0 {
		part := b[:min(len(b), 255)]
		b = b[len(part):]
		head := []byte{0x6F, byte(len(part)), 0x05}
		out := append(append(head, towitokoSum(s.seed, head)), part...)
		if s.inverse {
			atr.Invert(out[4:])
		}
		err := s.line.Write(ctx, out)
		clear(out) // there may be a PIN
		if err != nil {
			return err
		}
	}
	return nil
}

// Recv implements proto.Link: timeout is for the first byte.
func (s *towitokoSlot) Recv(ctx context.Context, buf []byte, timeout time.Duration) (int, error) {
	n := 0
	for wait := timeout; n < len(buf); wait = s.gap {
		got, err := s.line.Read(ctx, buf[n:], wait)
		n += got
		switch {
		case err == nil:
		case s.t1 && errors.Is(err, device.ErrTimeout):
			return n, fmt.Errorf("%w: %d of %d bytes: %w", proto.ErrCorrupted, n, len(buf), err)
		default:
			return n, fmt.Errorf("%d of %d bytes: %w", n, len(buf), err)
		}
	}
	if s.inverse {
		atr.Invert(buf)
	}
	return n, nil
}
