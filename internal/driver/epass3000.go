package driver

import (
	"context"
	"encoding/binary"
	"fmt"
	"time"

	"openct/internal/atr"
	"openct/internal/ifd"
	"openct/internal/proto"
	"openct/internal/usb"
)

// The Feitian ePass3000 takes whole T=0 commands in frames on two bulk
// endpoints (doc/devices/epass3000.md):
//
//	52 36 command(2) length(2) value      to the token
//	52 36 status(2)  length(2) value      from the token
//
// Numbers are big-endian. Which status says success is not known.
const (
	ePassOut = 0x02
	ePassIn  = 0x81

	ePassTag     = 0x5236 // "R6"
	ePassHeader  = 6
	ePassGetATR  = 0x0001
	ePassCommand = 0x0002

	// ePassValue bounds a value: 256 bytes of data, a status word, and some.
	ePassValue = 512

	// The value of the answer to ePassGetATR has bytes of unknown meaning
	// around the ATR.
	ePassBefore, ePassAfter = 2, 3

	// ePassWork is how long a command may take, keys included: C OpenCT's
	// value. The ATR has controlTimeout.
	ePassWork = 200 * time.Second

	// ePassGap is how far the rest of an answer can be once it has begun.
	ePassGap = 2 * time.Second

	// ePassStale is the silence after which nothing is left of an answer
	// that nobody waited for.
	ePassStale = 100 * time.Millisecond
)

// ePass3000 is the slot.
type ePass3000 struct {
	dev    usb.Device
	packet int  // bytes in a full packet: reads are a multiple of it
	full   bool // the last read ended in a full one, and an empty one may follow
}

func openEPass3000(dev usb.Device, o ifd.Options) (ifd.Reader, error) {
	t := &ePass3000{dev: dev, packet: 64}
	for _, i := range dev.Descriptor().Interfaces {
		for _, e := range i.Endpoints {
			if e.Address == ePassIn && e.MaxPacket > 0 {
				t.packet = int(e.MaxPacket)
			}
		}
	}
	return openToken(dev, t, o)
}

func (t *ePass3000) Reset(ctx context.Context) ([]byte, error) {
	if err := t.drain(ctx); err != nil {
		return nil, fmt.Errorf("reset: %w", err)
	}
	if err := t.write(ctx, ePassGetATR, nil); err != nil {
		return nil, fmt.Errorf("reset: ask for the ATR: %w", err)
	}
	value, err := t.read(ctx, controlTimeout)
	if err != nil {
		return nil, fmt.Errorf("reset: read the ATR: %w", err)
	}
	n := len(value) - ePassBefore - ePassAfter
	switch {
	case n <= 0:
		return nil, fmt.Errorf("reset: %d bytes for an ATR: %w", len(value), ifd.ErrNoATR)
	case n > atr.MaxLen:
		return nil, fmt.Errorf("reset: ATR of %d bytes: %w", n, ifd.ErrInvalidATR)
	}
	return rawATR(value[ePassBefore : ePassBefore+n])
}

func (t *ePass3000) Protocol(_ context.Context, p proto.ID, a *atr.ATR) (proto.Engine, error) {
	p, err := choose(p, a)
	if err != nil {
		return nil, err
	}
	if p != proto.T0 {
		return nil, fmt.Errorf("protocol T=%d on an ePass3000: %w", p, ifd.ErrNotSupported)
	}
	return proto.NewT0((*ePassLink)(t), proto.T0Params{Timeout: ePassWork}), nil
}

// ePassLink carries TPDUs and their answers.
type ePassLink ePass3000

func (l *ePassLink) Send(ctx context.Context, tpdu []byte) error {
	return (*ePass3000)(l).write(ctx, ePassCommand, tpdu)
}

func (l *ePassLink) Recv(ctx context.Context, buf []byte, timeout time.Duration) (int, error) {
	value, err := (*ePass3000)(l).read(ctx, timeout)
	if err == nil && len(value) > len(buf) {
		err = fmt.Errorf("the answer has %d bytes, more than %d: %w", len(value), len(buf), ifd.ErrComm)
	}
	return copy(buf, value), err
}

// write sends one frame.
func (t *ePass3000) write(ctx context.Context, command uint16, value []byte) error {
	frame := binary.BigEndian.AppendUint16(nil, ePassTag)
	frame = binary.BigEndian.AppendUint16(frame, command)
	frame = binary.BigEndian.AppendUint16(frame, uint16(len(value)))
	frame = append(frame, value...)
	n, err := bulk(ctx, t.dev, ePassOut, frame, controlTimeout)
	clear(frame) // there may be a PIN
	if err == nil && n != len(frame) {
		err = fmt.Errorf("token took %d of %d bytes: %w", n, len(frame), ifd.ErrComm)
	}
	return err
}

// read takes one frame, packet by packet at first, so that it need not end in
// a short one, and returns its value.
func (t *ePass3000) read(ctx context.Context, timeout time.Duration) ([]byte, error) {
	var frame []byte
	for want := ePassHeader; len(frame) < want; {
		missing := want - len(frame)
		buf := make([]byte, (missing+t.packet-1)/t.packet*t.packet)
		n, err := bulk(ctx, t.dev, ePassIn, buf, timeout)
		if err != nil {
			return nil, err
		}
		if n == 0 && t.full {
			t.full = false // the end of the answer before this one
			continue
		}
		if n == 0 {
			return nil, fmt.Errorf("the answer ends after %d bytes: %w", len(frame), ifd.ErrComm)
		}
		frame, t.full, timeout = append(frame, buf[:n]...), n%t.packet == 0, min(timeout, ePassGap)
		if len(frame) < ePassHeader {
			continue
		}
		if tag := binary.BigEndian.Uint16(frame); tag != ePassTag {
			return nil, fmt.Errorf("answer begins with %04X, want %04X: %w", tag, ePassTag, ifd.ErrComm)
		}
		want = ePassHeader + int(binary.BigEndian.Uint16(frame[4:]))
		switch {
		case want == ePassHeader:
			return nil, fmt.Errorf("empty answer, status %04X: %w", binary.BigEndian.Uint16(frame[2:]), ifd.ErrComm)
		case want > ePassHeader+ePassValue:
			return nil, fmt.Errorf("answer announces %d bytes: %w", want-ePassHeader, ifd.ErrComm)
		}
	}
	return frame[ePassHeader : ePassHeader+int(binary.BigEndian.Uint16(frame[4:]))], nil
}

// drain throws away what is left of an answer nobody has read to its end, the
// last owner's of the token included.
func (t *ePass3000) drain(ctx context.Context) error {
	t.full = false
	buf := make([]byte, t.packet)
	for range 2 * (ePassHeader + ePassValue) / t.packet {
		if err := ctx.Err(); err != nil {
			return err
		}
		if _, err := bulk(ctx, t.dev, ePassIn, buf, ePassStale); err != nil {
			break // silence; what is worse shows at once
		}
	}
	return nil
}
