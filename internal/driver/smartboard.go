package driver

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"openct/internal/atr"
	"openct/internal/device"
	"openct/internal/ifd"
	"openct/internal/proto"
	"openct/internal/serial"
)

// smartBoard is the reader in a Cherry keyboard of the kinds G80-1501 and G83,
// at a serial line of its own. A frame is 00, a length, a code and data, both
// ways, without a checksum (doc/devices/smartboard.md).
type smartBoard struct {
	line serial.Line
	name string
	log  *slog.Logger
	t1   bool          // protocol
	wait time.Duration // for an answer of the card, or for a sign that it is at work

	moved   bool // an event told that the card came or went, and no Status has since
	removed bool // the last such event was that it went
	expect  byte // code of the command under way
	buf     [2 + smartMax]byte
}

var (
	_ ifd.Presence = (*smartBoard)(nil)
	_ proto.Link   = (*smartBoard)(nil)
)

// Codes of commands and of frames from the reader (C OpenCT's ifd-smartboard.c).
const (
	smartInit     = 0x60 // answered with the same code and a text
	smartParams   = 0x61
	smartPowerOn  = 0x62
	smartStatus   = 0x65
	smartExchange = 0x67
	smartShutdown = 0x6A

	smartState    = 0x61 // answer to smartStatus
	smartDone     = 0x62 // answer to smartParams
	smartBusy     = 0x63 // the answer to smartExchange takes longer
	smartData     = 0x64 // the answer to smartPowerOn and smartExchange
	smartInserted = 0x65 // event
	smartRemoved  = 0x66 // event
	smartAgain    = 0x67 // the command must be sent once more
)

const (
	smartMax     = 255          // code and data of a frame
	smartMaxData = smartMax - 1 // bytes of data
	smartPresent = 0x08         // bit of the first byte of smartState

	// How often a command is sent that the reader wants again, and how many
	// frames are passed over that are no answer.
	smartTries  = 4
	smartEvents = 16

	smartTimeout = time.Second // of a frame, C OpenCT's
	smartSilence = 100 * time.Millisecond
)

// What smartParams takes for each protocol: C OpenCT's bytes. They look like
// those that a CCID has for it (CCID 1.1, 6.1.7), in another order.
var (
	smartT0 = []byte{0x00, 0x00, 0x0A, 0x00, 0x10}
	smartT1 = []byte{0x10, 0x00, 0x00, 0x75, 0x10}
)

func openSmartBoardAt(path string, o ifd.Options) (ifd.Reader, error) {
	return openSerialLine(path, o, openSmartBoard)
}

func openSmartBoard(l serial.Line, o ifd.Options) (ifd.Reader, error) {
	s := &smartBoard{line: l, name: o.Name, log: o.Log}
	p := serial.Params{Speed: 115200, Bits: 8, Parity: serial.Even, StopBits: 2, CheckParity: true}
	if err := l.Set(p); err != nil {
		return nil, err
	}
	ctx := context.Background()
	for _, step := range []struct {
		dtr, rts bool
		wait     time.Duration
	}{
		{true, true, 230 * time.Millisecond}, // as opening the line has set them
		{false, false, 230 * time.Millisecond},
		{true, false, 230 * time.Millisecond},
		{true, true, 100 * time.Millisecond},
	} {
		if err := l.SetLines(step.dtr, step.rts); err != nil {
			return nil, err
		}
		if err := serial.Wait(ctx, l, step.wait); err != nil {
			return nil, err
		}
	}
	if err := s.start(ctx); err != nil {
		return nil, err
	}
	return s, nil
}

func (s *smartBoard) Slots() []ifd.Slot     { return []ifd.Slot{s} }
func (s *smartBoard) Name() string          { return s.name }
func (s *smartBoard) Gone() <-chan struct{} { return s.line.Gone() }
func (s *smartBoard) Close() error          { return s.line.Close() }

// start makes the reader begin anew, whatever it was doing.
func (s *smartBoard) start(ctx context.Context) error {
	if err := s.line.Break(ctx, 500*time.Millisecond); err != nil {
		return err
	}
	if err := s.line.Flush(serial.In); err != nil {
		return err
	}
	if _, _, err := s.command(ctx, smartShutdown, nil); err != nil {
		return fmt.Errorf("no SmartBoard on %s: %w", s.line.Name(), err)
	}
	code, text, err := s.command(ctx, smartInit, nil)
	if err == nil && code != smartInit {
		err = fmt.Errorf("answer %02x to the first command: %w", code, ifd.ErrIncompatible)
	}
	if err != nil {
		return fmt.Errorf("no SmartBoard on %s: %w", s.line.Name(), err)
	}
	s.log.Debug("reader identified", "text", fmt.Sprintf("%q", text))
	return nil
}

// Status implements ifd.Presence. An event is an answer as well.
func (s *smartBoard) Status(ctx context.Context) (ifd.Status, error) {
	code, data, err := s.command(ctx, smartStatus, nil)
	switch {
	case err != nil:
		return ifd.Status{}, err
	case code == smartInserted, code == smartRemoved:
		s.event(code)
	case code != smartState || len(data) == 0:
		return ifd.Status{}, fmt.Errorf("status: answer %02x with %d bytes: %w", code, len(data), ifd.ErrComm)
	default:
		s.removed = data[0]&smartPresent == 0
	}
	st := ifd.Status{Present: !s.removed, Changed: s.moved}
	s.moved = false
	return st, nil
}

func (s *smartBoard) event(code byte) { s.moved, s.removed = true, code == smartRemoved }

// Reset implements ifd.Slot. A reader that does not tell its status is made to
// begin anew first.
func (s *smartBoard) Reset(ctx context.Context) ([]byte, error) {
	code, data, err := s.power(ctx)
	switch {
	case err != nil:
		return nil, fmt.Errorf("reset: %w", err)
	case code != smartData:
		return nil, fmt.Errorf("reset: answer %02x: %w", code, ifd.ErrComm)
	case len(data) == 0 && s.removed:
		return nil, ifd.ErrNoCard
	}
	s.moved = false // a card that came now is no news for the next Status
	return rawATR(append([]byte(nil), data...))
}

func (s *smartBoard) power(ctx context.Context) (byte, []byte, error) {
	st, err := s.Status(ctx)
	if err != nil && ctx.Err() == nil && !errors.Is(err, device.ErrUnplugged) {
		s.log.Info("the reader has restarted", "error", err)
		if err := s.start(ctx); err != nil {
			return 0, nil, err
		}
		st, err = s.Status(ctx)
	}
	switch {
	case err != nil:
		return 0, nil, err
	case !st.Present:
		return 0, nil, ifd.ErrNoCard
	}
	return s.command(ctx, smartPowerOn, nil)
}

// Protocol implements ifd.Slot.
func (s *smartBoard) Protocol(ctx context.Context, id proto.ID, a *atr.ATR) (proto.Engine, error) {
	t, err := choose(id, a)
	if err != nil {
		return nil, err
	}
	params := smartT0
	switch t {
	case proto.T0:
		s.t1, s.wait = false, a.WWT(atr.Rate{})+smartTimeout
	case proto.T1:
		s.t1, s.wait, params = true, a.BWT(atr.Rate{})+smartTimeout, smartT1
	default:
		return nil, fmt.Errorf("protocol %d: %w", t, ifd.ErrNotSupported)
	}
	code, _, err := s.command(ctx, smartParams, params)
	if err == nil && code != smartDone {
		err = fmt.Errorf("answer %02x: %w", code, ifd.ErrComm)
	}
	if err != nil {
		return nil, fmt.Errorf("parameters for %v: %w", t, err)
	}
	if s.t1 {
		// Blocks of 32 bytes both ways, as C OpenCT's: longer ones fit, and
		// nobody has seen them pass.
		return proto.NewT1(s, proto.T1Params{MaxIFSC: atr.DefaultIFSC, CRC: a.CRC(), BWT: a.BWT(atr.Rate{}), Timeout: s.wait}), nil
	}
	return smartT0Engine{proto.NewT0(s, proto.T0Params{Timeout: s.wait})}, nil
}

// smartT0Engine is T=0 in TPDUs that fit into a frame.
type smartT0Engine struct{ *proto.T0Engine }

var _ proto.Limiter = smartT0Engine{}

// smartMaxLc is the most data for which header and data fit.
const smartMaxLc = smartMaxData - 5

// Limits implements proto.Limiter.
func (smartT0Engine) Limits() proto.Limits {
	return proto.Limits{Command: 5 + smartMaxLc + 1, Response: smartMaxData}
}

func (e smartT0Engine) Transmit(ctx context.Context, apdu, resp []byte) ([]byte, error) {
	if c, err := proto.ParseCommand(apdu); err == nil && len(c.Data) > smartMaxLc && e.Lost() == nil {
		return nil, fmt.Errorf("T=0: %w: %d bytes of data; a SmartBoard accepts at most %d", proto.ErrInvalidAPDU, len(c.Data), smartMaxLc)
	}
	return e.T0Engine.Transmit(ctx, apdu, resp)
}

// Send implements proto.Link. A card that came since the reset gets nothing that was
// meant for the one before.
func (s *smartBoard) Send(ctx context.Context, b []byte) error {
	if err := s.settle(ctx); err != nil {
		return err
	}
	if s.moved {
		return ifd.ErrNoCard
	}
	return s.write(ctx, smartExchange, b)
}

// Recv implements proto.Link.
func (s *smartBoard) Recv(ctx context.Context, buf []byte, timeout time.Duration) (int, error) {
	code, data, err := s.answer(ctx, timeout)
	switch {
	case err == nil && code != smartData:
		err = fmt.Errorf("answer %02x of the card's: %w", code, ifd.ErrComm)
	case err == nil && len(data) > len(buf):
		err = fmt.Errorf("answer of %d bytes, want at most %d: %w", len(data), len(buf), ifd.ErrComm)
	}
	switch {
	case ctx.Err() != nil, errors.Is(err, device.ErrUnplugged):
		return 0, err
	case s.removed && err == nil && len(data) == 0:
		return 0, ifd.ErrNoCard
	case s.removed && err != nil:
		return 0, fmt.Errorf("%w (%w)", ifd.ErrNoCard, err)
	case s.t1 && (errors.Is(err, ifd.ErrComm) || errors.Is(err, device.ErrIO)):
		return 0, fmt.Errorf("%w: %w", proto.ErrCorrupted, err)
	}
	return copy(buf, data), err
}

// command sends a command, again if the reader asks for that, and returns code
// and data of the answer, which are valid until the next one.
func (s *smartBoard) command(ctx context.Context, code byte, data []byte) (byte, []byte, error) {
	for range smartTries {
		if err := s.send(ctx, code, data); err != nil {
			return 0, nil, err
		}
		answer, data, err := s.answer(ctx, smartTimeout)
		if err != nil || answer != smartAgain {
			return answer, data, err
		}
	}
	return 0, nil, fmt.Errorf("the reader repeatedly requests command %02x: %w", code, ifd.ErrComm)
}

// send sends one frame. What has come before belongs to no command.
func (s *smartBoard) send(ctx context.Context, code byte, data []byte) error {
	if err := s.settle(ctx); err != nil {
		return err
	}
	return s.write(ctx, code, data)
}

// settle reads what has come before a command. Events are noted.
func (s *smartBoard) settle(ctx context.Context) error {
	for range smartEvents {
		code, _, err := s.frame(ctx, 0)
		if code == smartInserted || code == smartRemoved {
			s.event(code)
		}
		if errors.Is(err, device.ErrTimeout) {
			break
		}
		if ctx.Err() != nil || errors.Is(err, device.ErrUnplugged) {
			return err
		}
	}
	return nil
}

func (s *smartBoard) write(ctx context.Context, code byte, data []byte) error {
	if len(data) > smartMaxData {
		return fmt.Errorf("%w: %d bytes do not fit into a frame", proto.ErrInvalidAPDU, len(data))
	}
	s.expect = code
	frame := append(append(s.buf[:0], 0, byte(1+len(data)), code), data...)
	defer clear(frame) // there may be a PIN
	return s.line.Write(ctx, frame)
}

// answer reads the answer to the command under way.
func (s *smartBoard) answer(ctx context.Context, wait time.Duration) (byte, []byte, error) {
	end := time.Now().Add(maxBusy)
	for events := 0; ; {
		code, data, err := s.frame(ctx, wait)
		switch {
		case err != nil:
			return 0, nil, err
		case s.expect != smartStatus && (code == smartInserted || code == smartRemoved):
			s.event(code)
			if events++; events == smartEvents {
				return 0, nil, fmt.Errorf("the reader sends events instead of an answer: %w", ifd.ErrComm)
			}
		case s.expect == smartExchange && code == smartBusy:
			if time.Now().After(end) {
				return 0, nil, fmt.Errorf("the card stays busy: %w", device.ErrTimeout)
			}
		default:
			return code, data, nil
		}
	}
}

// frame reads one frame, which has to begin within wait. After something that is
// none the line is silent.
func (s *smartBoard) frame(ctx context.Context, wait time.Duration) (code byte, data []byte, err error) {
	head := s.buf[:2]
	n, err := s.line.Read(ctx, head, wait)
	if err == nil && n < len(head) {
		_, err = serial.ReadFull(ctx, s.line, head[n:], smartTimeout)
		n = len(head)
	}
	switch {
	case n == 0 && errors.Is(err, device.ErrTimeout):
		return 0, nil, fmt.Errorf("no answer to command %02x: %w", s.expect, err)
	case err == nil && (head[0] != 0 || head[1] == 0):
		err = fmt.Errorf("% x is not the start of a frame: %w", head, ifd.ErrComm)
	case err == nil:
		body := s.buf[2 : 2+int(head[1])]
		if n, err = serial.ReadFull(ctx, s.line, body, smartTimeout); err == nil {
			return body[0], body[1:], nil
		}
		if errors.Is(err, device.ErrTimeout) {
			err = fmt.Errorf("the frame ends after %d of %d bytes: %w: %w", n, len(body), ifd.ErrComm, err)
		}
	}
	if errors.Is(err, ifd.ErrComm) || errors.Is(err, device.ErrIO) {
		s.silence(ctx)
	}
	return 0, nil, err
}

// silence reads until nothing comes any more. It bounds how much that may be:
// a line that fails for good says so at the next command.
func (s *smartBoard) silence(ctx context.Context) {
	for n := 0; n < 8*smartMax; {
		got, err := s.line.Read(ctx, s.buf[:], smartSilence)
		if err != nil && !errors.Is(err, serial.ErrParity) {
			return
		}
		n += got
	}
}
