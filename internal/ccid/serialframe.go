package ccid

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"openct/internal/serial"
	"openct/internal/usb"
)

// A message on a serial line: SYNC, a control byte, the message, and the
// exclusive-or of all bytes before (GemCore's serial CCID; libccid's ccid_serial.c).
const (
	serialSync = 0x03
	serialACK  = 0x06
	serialNAK  = 0x15
	// Between frames: a card came or went, which a second byte tells, or, from
	// this byte on, the card asks for more time.
	serialCard     = 0x50
	serialMoreTime = 0x80
)

const (
	serialRepeats = 3               // of a command the reader did not understand
	serialEcho    = 1 * time.Second // for an answer after an echo and a card's movement
)

// serialTransport carries messages over a serial line.
type serialTransport struct {
	line serial.Line

	removed func(slot int) // is called with the bSlot of each slot whose card was taken out

	buf  [256]byte
	have []byte // of buf, not yet looked at
	in   []byte // frame being read

	mu       sync.Mutex
	frame    []byte // last command, framed
	repeats  int    // how often it was repeated
	echoed   bool   // the reader has echoed it
	moved    bool   // and a card came or went since it was sent
	answered bool   // or it has asked for more time
}

var (
	_ transport       = (*serialTransport)(nil)
	_ removalReporter = (*serialTransport)(nil)
)

func newSerialTransport(l serial.Line) *serialTransport {
	return &serialTransport{line: l, removed: func(int) {}}
}

// onRemoval implements removalReporter.
func (t *serialTransport) onRemoval(f func(slot int)) { t.removed = f }

func (t *serialTransport) name() string                            { return t.line.Name() }
func (t *serialTransport) abort(context.Context, byte, byte) error { return errNoAbort }
func (t *serialTransport) gone() <-chan struct{}                   { return t.line.Gone() }
func (t *serialTransport) close() error                            { return t.line.Close() }

func (t *serialTransport) send(ctx context.Context, msg []byte) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	clear(t.frame[:cap(t.frame)]) // there may have been a PIN in it
	t.frame = append(t.frame[:0], serialSync, serialACK)
	t.frame = append(t.frame, msg...)
	t.frame = append(t.frame, xorOf(t.frame))
	t.repeats, t.echoed, t.moved, t.answered = 0, false, false, false
	return t.line.Write(ctx, t.frame)
}

// repeat sends the last command again.
func (t *serialTransport) repeat(ctx context.Context) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.repeats++; t.repeats > serialRepeats || len(t.frame) == 0 {
		return fmt.Errorf("%w: reader does not understand the command", errMalformed)
	}
	t.echoed, t.moved = false, false
	return t.line.Write(ctx, t.frame)
}

func xorOf(b []byte) (sum byte) {
	for _, c := range b {
		sum ^= c
	}
	return sum
}

func (t *serialTransport) recv(ctx context.Context, timeout time.Duration) ([]byte, error) {
	deadline := time.Now().Add(timeout)
	for {
		wait := time.Until(deadline)
		if t.onlyEcho() {
			wait = min(wait, serialEcho)
		}
		b, err := t.byte(ctx, wait)
		if errors.Is(err, usb.ErrTimeout) && t.onlyEcho() && time.Now().Before(deadline) {
			if err := t.repeat(ctx); err != nil {
				return nil, err
			}
			continue
		}
		if err != nil {
			return nil, err
		}
		switch {
		case b == serialSync:
			msg, err := t.readFrame(ctx)
			if err != nil || msg != nil {
				return msg, err
			}
		case b == serialCard:
			state, err := t.byte(ctx, restTimeout)
			if err != nil {
				return nil, err
			}
			for _, c := range parseSlotChange([]byte{serialCard, state}, maxSlotsPerByte) {
				if !c.present && c.changed {
					t.removed(c.slot)
				}
			}
			t.note(func() { t.moved = true })
		case b >= serialMoreTime:
			return t.timeExtension(), nil
		}
		// Anything else is noise on the line.
	}
}

func (t *serialTransport) note(f func()) {
	t.mu.Lock()
	defer t.mu.Unlock()
	f()
}

// onlyEcho says whether the echo may be all that comes: after a card's
// movement, readers forget the command.
func (t *serialTransport) onlyEcho() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.echoed && t.moved && !t.answered
}

// timeExtension puts the line's request for more time into a message, as the
// conn knows it.
func (t *serialTransport) timeExtension() []byte {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.frame) < 2+headerSize {
		return nil
	}
	t.answered = true // the reader is at work with the command
	h := t.frame[2:]
	return []byte{msgDataBlock, 0, 0, 0, 0, h[5], h[6], byte(commandTimeExtension) << 6, 1, 0}
}

// readFrame reads what follows SYNC. It returns nothing for a frame that needs
// no attention, an echo or a refusal.
func (t *serialTransport) readFrame(ctx context.Context) ([]byte, error) {
	t.in = append(t.in[:0], serialSync)
	if err := t.fill(ctx, 2); err != nil {
		return nil, err
	}
	switch t.in[1] {
	case serialNAK:
		if err := t.fill(ctx, 3); err != nil {
			return nil, err
		}
		return nil, t.repeat(ctx)
	case serialACK:
	default:
		return nil, fmt.Errorf("%w: control byte %02X", errMalformed, t.in[1])
	}
	if err := t.fill(ctx, 2+headerSize); err != nil {
		return nil, err
	}
	n := messageLength(t.in[2:])
	if n > messageLimit {
		return nil, fmt.Errorf("%w: the header announces %d bytes", errMalformed, n)
	}
	if err := t.fill(ctx, 2+int(n)+1); err != nil {
		return nil, err
	}
	if xorOf(t.in) != 0 {
		return nil, fmt.Errorf("%w: wrong checksum", errMalformed)
	}
	msg := t.in[2 : len(t.in)-1]
	if msg[0] < firstAnswerType {
		t.note(func() { t.echoed = true })
		return nil, nil
	}
	t.note(func() { t.answered = true })
	return msg, nil
}

// fill reads until the frame has n bytes.
func (t *serialTransport) fill(ctx context.Context, n int) error {
	for len(t.in) < n {
		b, err := t.byte(ctx, restTimeout)
		if errors.Is(err, usb.ErrTimeout) {
			return fmt.Errorf("%w: %d of %d bytes of a frame", errMalformed, len(t.in), n)
		}
		if err != nil {
			return err
		}
		t.in = append(t.in, b)
	}
	return nil
}

func (t *serialTransport) byte(ctx context.Context, timeout time.Duration) (byte, error) {
	if len(t.have) == 0 {
		if timeout <= 0 {
			return 0, usb.Wrap("read", t.line.Name(), usb.ErrTimeout)
		}
		n, err := t.line.Read(ctx, t.buf[:], timeout)
		if err != nil {
			return 0, err
		}
		t.have = t.buf[:n]
	}
	b := t.have[0]
	t.have = t.have[1:]
	return b, nil
}
