package driver

import (
	"context"
	"errors"
	"fmt"
	"math/bits"
	"time"

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
	moved      bool // the reader told that the card came or went, and no Status has since

	seen proto.ID // as which kind of memory card something but FF was read

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
	st, err := s.status(ctx)
	if err == nil {
		st.Changed, s.moved = st.Changed || s.moved, false
	}
	return st, err
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
	}
	s.moved = false // a card that came now is no news for the next Status
	if s.memoryOnly {
		return nil, fmt.Errorf("this reader supports memory cards only: %w", ifd.ErrNoATR)
	}
	return s.resetAsync(ctx)
}
