package driver

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"time"

	"openct/internal/atr"
	"openct/internal/ifd"
	"openct/internal/usb"
)

// step is one control transfer of a fixed sequence, such as a token's reset.
// The sequences are tables, so that they can be read beside the specification.
type step struct {
	setup   usb.Setup
	out     []byte // data stage to the device
	in      int    // longest data stage from the device, bytes
	timeout time.Duration

	// check refuses a wrong answer; nil takes any. atr, where it is set, takes
	// the ATR out of an answer that passed.
	check func(answer []byte) error
	atr   func(answer []byte) ([]byte, error)
}

// controlTimeout is C OpenCT's timeout for a control transfer for which a driver
// names no other (usb.c).
const controlTimeout = 10 * time.Second

// runSteps runs a sequence and returns the ATR that one of its steps yields.
func runSteps(ctx context.Context, dev usb.Device, steps []step) ([]byte, error) {
	var raw []byte
	for i, s := range steps {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		answer, err := s.run(ctx, dev)
		if err == nil && s.check != nil {
			err = s.check(answer)
		}
		if err == nil && s.atr != nil {
			raw, err = s.atr(answer)
		}
		if err != nil {
			return nil, fmt.Errorf("reset step %d of %d (request %02x/%02x): %w",
				i+1, len(steps), s.setup.RequestType, s.setup.Request, err)
		}
	}
	return raw, nil
}

func (s *step) run(ctx context.Context, dev usb.Device) ([]byte, error) {
	if !s.setup.In() {
		return nil, sendAll(ctx, dev, s.setup, s.out, s.timeout)
	}
	buf := make([]byte, s.in)
	n, err := dev.Control(ctx, s.setup, buf, s.timeout)
	if err != nil {
		return nil, err
	}
	return buf[:n], nil
}

// sendAll is a control OUT that must transfer all of data: it is an error if the device
// takes less.
func sendAll(ctx context.Context, dev usb.Device, s usb.Setup, data []byte, timeout time.Duration) error {
	n, err := dev.Control(ctx, s, data, timeout)
	if err != nil {
		return err
	}
	if n != len(data) {
		return fmt.Errorf("device took %d of %d bytes: %w", n, len(data), ifd.ErrComm)
	}
	return nil
}

// bulk is a bulk transfer. An endpoint that has stalled stays so until the host clears
// that (USB 2.0, 9.4.5); the transfer has failed all the same.
func bulk(ctx context.Context, dev usb.Device, ep uint8, data []byte, timeout time.Duration) (int, error) {
	n, err := dev.Bulk(ctx, ep, data, timeout)
	clearHalt(dev, ep, err)
	return n, err
}

// interrupt is an interrupt transfer, after which a stalled endpoint works again as well.
func interrupt(ctx context.Context, dev usb.Device, ep uint8, buf []byte) (int, error) {
	n, err := dev.Interrupt(ctx, ep, buf)
	clearHalt(dev, ep, err)
	return n, err
}

func clearHalt(dev usb.Device, ep uint8, err error) {
	if errors.Is(err, usb.ErrStall) {
		_ = dev.ClearHalt(ep)
	}
}

// exactly wants an answer to be these bytes.
func exactly(want ...byte) func([]byte) error {
	return func(answer []byte) error {
		if !bytes.Equal(answer, want) {
			return fmt.Errorf("device answered % x, want % x: %w", answer, want, ifd.ErrIncompatible)
		}
		return nil
	}
}

// length wants an answer of n bytes, whatever they are.
func length(n int) func([]byte) error {
	return func(answer []byte) error {
		if len(answer) != n {
			return fmt.Errorf("device answered %d bytes, want %d: %w", len(answer), n, ifd.ErrIncompatible)
		}
		return nil
	}
}

// rawATR takes an ATR that is the whole answer. It refuses an answer that is no ATR;
// the reader core checks the rest of the ATR.
func rawATR(answer []byte) ([]byte, error) {
	if len(answer) == 0 {
		return nil, ifd.ErrNoATR
	}
	if _, err := atr.Parse(answer); errors.Is(err, atr.ErrInvalid) {
		return nil, fmt.Errorf("ATR % x: %w: %w", answer, ifd.ErrInvalidATR, err)
	}
	return answer, nil
}

// prefixedATR takes an ATR that follows its length byte; padding may follow.
func prefixedATR(answer []byte) ([]byte, error) {
	if len(answer) == 0 || answer[0] == 0 {
		return nil, ifd.ErrNoATR
	}
	n := int(answer[0])
	if n > len(answer)-1 {
		return nil, fmt.Errorf("ATR of %d bytes in %d: %w", n, len(answer)-1, ifd.ErrInvalidATR)
	}
	return answer[1 : 1+n], nil
}

// statusByte asks a token for its one-byte status.
func statusByte(ctx context.Context, dev usb.Device, s usb.Setup, timeout time.Duration) (byte, error) {
	var b [1]byte
	n, err := dev.Control(ctx, s, b[:], timeout)
	if err == nil && n != 1 {
		err = fmt.Errorf("token answered no status byte: %w", ifd.ErrComm)
	}
	return b[0], err
}

// pause waits between two looks at a token that is busy. It ends early when
// ctx ends or the token is unplugged.
func pause(ctx context.Context, dev usb.Device, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-dev.Gone():
		return usb.Wrap("wait", dev.Descriptor().ID(), usb.ErrUnplugged)
	}
}
