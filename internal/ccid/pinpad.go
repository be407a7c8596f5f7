package ccid

import (
	"context"
	"errors"
	"fmt"
	"time"

	"openct/internal/ifd"
	"openct/internal/proto"
)

// Waits for a user at the keypad: the reader's own time-out and some more, and
// never less than people need; libccid's commands.c has the same figures.
const (
	minPINWait   = 90 * time.Second
	extraPINWait = 10 * time.Second

	// maxPINTimeout is the longest bTimeOut, a byte (CCID 1.1, 6.1.11.1).
	maxPINTimeout = 255 * time.Second
)

// Limits of a PIN entry in the units used here, whole bytes.
const (
	firstPINByte = 6 // position of the first byte after Lc, counted from 1
	maxPINOffset = 15
	maxPINBlock  = 15
	maxPINDigits = 16
	minPINDigits = 4 // for PINs of any length
	bareDigits   = 8 // most digits where the command has no room for them
)

// Status words by which readers report that the PIN entry has ended without a PIN
// (CT-BCS; PC/SC part 10).
const (
	swUserTimeout = 0x6400
	swUserAbort   = 0x6401
	swMismatch    = 0x6402
)

// Verify implements ifd.Verifier with the message Secure.
func (s verifySlot) Verify(ctx context.Context, v ifd.PINRequest) ([]byte, error) {
	q := s.plan.quirk
	e, offset, err := s.entry(v, v.APDU, v.Offset)
	if err != nil {
		return nil, err
	}
	e.format |= offset << 3
	if q.verifyMessage != nil {
		e.messages = *q.verifyMessage
	}
	if e.block == 0 && q.bareEscape != nil {
		if _, err := s.run(ctx, escape(q.bareEscape), escapeTimeout); err != nil && isFinal(err) {
			return nil, err
		}
	}
	return s.enter(ctx, v.Timeout, e.apdu, func(prologue [3]byte) message {
		e.prologue = prologue
		return secureVerify(e)
	})
}

// Modify implements ifd.Modifier. The request has the form of CT-BCS's MODIFY
// VERIFICATION: Offset is the old PIN's position, the first byte of APDU is
// the new one's, and the command follows. Offset 0 asks for no old PIN.
func (s modifySlot) Modify(ctx context.Context, v ifd.PINRequest) ([]byte, error) {
	q := s.plan.quirk
	if len(v.APDU) < 1 {
		return nil, fmt.Errorf("PIN change without a position of the new PIN: %w", proto.ErrInvalidAPDU)
	}
	offset := v.APDU[0]
	e, offsetNew, err := s.entry(v, v.APDU[1:], offset)
	if err != nil {
		return nil, err
	}
	m := pinModification{pinEntry: e, offsetNew: offsetNew, confirm: confirmNew}
	if v.Offset != 0 {
		first, second, err := s.entry(v, v.APDU[1:], v.Offset)
		if err != nil {
			return nil, err
		}
		m.offsetOld, m.confirm = second, confirmNew|askCurrent
		// Two blocks of one size stand in the command, and do not overlap.
		block := min(m.block, first.block)
		if gap := max(m.offsetNew, m.offsetOld) - min(m.offsetNew, m.offsetOld); gap > 0 {
			block = min(block, gap)
		}
		m.block = block
		m.max = min(m.max, digitsIn(block, v.Control))
	}
	if m.messages != 0 {
		m.messages = 3 // old, new, and the new once more
	}
	switch {
	case q.modifyMessage != nil:
		m.messages = *q.modifyMessage
	case q.modifyDefault && m.messages == 0:
		m.messages = messagesDefault
	}
	m.indexes = modifyIndexes(m.messages)
	if q.allIndexes {
		m.indexes = 3
	}
	return s.enter(ctx, v.Timeout, m.apdu, func(prologue [3]byte) message {
		m.prologue = prologue
		return secureModify(m)
	})
}

// entry translates the common part of a request: OpenCT's PIN_DATA, which is
// CT-BCS's "command to perform", into CCID's fields. offset is the PIN's
// position in bytes after Lc.
func (s *slot) entry(v ifd.PINRequest, apdu []byte, position byte) (e pinEntry, offset byte, err error) {
	if len(apdu) < 4 || len(apdu) > s.plan.MaxMessage-headerSize-32 {
		return e, 0, fmt.Errorf("PIN command of %d bytes: %w", len(apdu), proto.ErrInvalidAPDU)
	}
	if position < firstPINByte {
		return e, 0, fmt.Errorf("PIN at byte %d of the command, before its data: %w", position, proto.ErrInvalidAPDU)
	}
	offset = position - firstPINByte
	if offset > maxPINOffset {
		return e, 0, fmt.Errorf("PIN at byte %d of the command is out of the reader's reach: %w", position, ifd.ErrNotSupported)
	}
	room := bareDigits
	if len(apdu) > 4 {
		if len(apdu) < 5 || len(apdu)-5 != int(apdu[4]) || len(apdu)-5 <= int(offset) {
			return e, 0, fmt.Errorf("PIN command has no room for a PIN at byte %d: %w", position, proto.ErrInvalidAPDU)
		}
		room = min(len(apdu)-5-int(offset), maxPINBlock)
		e.block = byte(room)
	}
	e.format = formatBytes | formatBCD
	if v.Control&1 != 0 {
		e.format = formatBytes | formatASCII
	}
	e.max = min(digitsIn(byte(room), v.Control), maxPINDigits)
	e.min = min(minPINDigits, e.max)
	if fixed := v.Control >> 4; fixed != 0 {
		if fixed > e.max {
			return e, 0, fmt.Errorf("PIN of %d digits does not fit into %d bytes: %w", fixed, room, proto.ErrInvalidAPDU)
		}
		e.min, e.max = fixed, fixed
	}
	q := s.plan.quirk
	if q.maxPIN != 0 {
		e.max = min(e.max, q.maxPIN)
		e.min = min(e.min, e.max)
	}
	e.validation = endAtKey
	if e.min == e.max && !q.onlyKeyEnds {
		e.validation |= endAtMax
	}
	if q.swapDigits {
		e.min, e.max = e.max, e.min
	}
	if s.plan.Display {
		e.messages = 1
	}
	e.timeout = byte(min(max(v.Timeout, 0), maxPINTimeout) / time.Second)
	e.lang = langEnglish
	e.apdu = apdu
	return e, offset, nil
}

// digitsIn is how many digits fit into so many bytes.
func digitsIn(bytes, control byte) byte {
	if control&1 == 0 {
		return 2 * bytes // BCD
	}
	return bytes
}

// enter runs a PIN entry and returns the card's response. At TPDU level the
// protocol engine sends the command as if there were a PIN in it, and the
// keypad takes the place of its first block: numbers, repetitions and requests
// for time are the engine's as ever.
func (s *slot) enter(ctx context.Context, timeout time.Duration, apdu []byte, m func(prologue [3]byte) message) ([]byte, error) {
	if !s.card.settled {
		return nil, fmt.Errorf("PIN entry before the card was reset: %w", proto.ErrResetRequired)
	}
	if d := s.plan.quirk.keyDelay; d > 0 && !sleep(ctx, d) {
		return nil, ctx.Err()
	}
	wait := max(minPINWait, min(timeout, maxPINTimeout)+extraPINWait)
	var out []byte
	if s.plan.Level != TPDU {
		r, err := s.run(ctx, m([3]byte{}), wait)
		if err != nil {
			return nil, err
		}
		out = append(out, r.data...)
		clear(r.data)
	} else {
		var err error
		if out, err = s.enterTPDU(ctx, wait, apdu, m); err != nil {
			return nil, err
		}
	}
	return pinOutcome(out)
}

func (s *slot) enterTPDU(ctx context.Context, wait time.Duration, apdu []byte, m func([3]byte) message) ([]byte, error) {
	l, engine := s.card.link, s.card.engine
	t1, _ := engine.(*proto.T1Engine)
	if t1 != nil && len(apdu) > t1.IFSC() {
		return nil, fmt.Errorf("PIN command of %d bytes does not fit into one block: %w", len(apdu), ifd.ErrNotSupported)
	}
	undo := snapshot(engine)
	sent := 0
	l.secure = func(block []byte) (response, error) {
		if sent++; sent > 1 {
			return response{}, fmt.Errorf("card wants the PIN repeated: %w", ifd.ErrComm)
		}
		var prologue [3]byte
		if t1 != nil {
			copy(prologue[:], block)
		}
		r, err := s.run(ctx, m(prologue), wait)
		if err == nil && t1 != nil && len(r.data) == minSW {
			// Two bytes are no block, but the reader's own account.
			if _, err = pinOutcome(r.data); err == nil {
				err = fmt.Errorf("reader answers with %d bytes that are no block: %w", len(r.data), ifd.ErrComm)
			}
		}
		return r, err
	}
	defer func() { l.secure = nil }()
	out, err := engine.Transmit(ctx, apdu, nil)
	if err == nil {
		if _, told := pinOutcome(out); told != nil {
			undo() // the card has not seen a PIN
		}
		return out, nil
	}
	if failed := l.failed; failed != nil {
		l.failed = nil
		if nothingSent(failed) {
			undo()
			return nil, failed
		}
	}
	return nil, err
}

// nothingSent says whether a failed PIN entry left the card alone.
func nothingSent(err error) bool {
	return errors.Is(err, ifd.ErrUserAbort) || errors.Is(err, ifd.ErrUserTimeout) || errors.Is(err, ifd.ErrNotSupported) ||
		errors.Is(err, ifd.ErrPINMismatch) || errors.Is(err, errRejected) || errors.Is(err, errBadSlot)
}

// snapshot remembers an engine's state, its block numbers above all, so that
// an exchange that never happened can be taken back.
func snapshot(engine proto.Engine) (undo func()) {
	switch e := engine.(type) {
	case *proto.T0Engine:
		was := *e
		return func() { *e = was }
	case *proto.T1Engine:
		was := *e
		return func() { *e = was }
	}
	return func() {}
}

// pinOutcome makes errors of the status words by which some readers report that the PIN
// entry has ended without a PIN.
func pinOutcome(resp []byte) ([]byte, error) {
	if len(resp) < minSW {
		return nil, fmt.Errorf("response of %d bytes has no status word: %w", len(resp), ifd.ErrComm)
	}
	if len(resp) > minSW {
		return resp, nil
	}
	switch uint16(resp[0])<<8 | uint16(resp[1]) {
	case swUserTimeout:
		return nil, ifd.ErrUserTimeout
	case swUserAbort:
		return nil, ifd.ErrUserAbort
	case swMismatch:
		return nil, ifd.ErrPINMismatch
	}
	return resp, nil
}
