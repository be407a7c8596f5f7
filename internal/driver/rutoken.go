package driver

import (
	"context"
	"fmt"
	"time"

	"openct/internal/atr"
	"openct/internal/ifd"
	"openct/internal/proto"
	"openct/internal/usb"
)

// The Aktiv Rutoken S is a T=0 card behind vendor requests to the interface,
// those of a draft of USB ICCD. Its own view of files and numbers differs from
// what its clients speak; rutokenapdu.go translates
// (doc/devices/rutoken.md).
const (
	rutokenPowerOn  = 0x62 // IN: the ATR
	rutokenPowerOff = 0x63 // OUT
	rutokenWrite    = 0x65 // OUT: header of a command, or its data
	rutokenRead     = 0x6F // IN: response data or status word
	rutokenStatus   = 0xA0 // IN: one byte
)

// The high nibble of the status byte.
const (
	rutokenData = 0x10 // data can be moved, or the ATR fetched
	rutokenSW   = 0x20
	rutokenBusy = 0x40 // the low nibble counts looks
	rutokenMute = 0x80 // the card is silent
)

const (
	rutokenATRLen  = 19
	rutokenTimeout = time.Second // of status and ATR
	rutokenPause   = 10 * time.Millisecond

	// rutokenLooks is how many looks may find a counter that does not count.
	rutokenLooks = 200
)

func rutokenOut(request uint8) usb.Setup {
	return usb.Setup{RequestType: usb.VendorInterfaceOut, Request: request}
}

func rutokenIn(request uint8) usb.Setup {
	return usb.Setup{RequestType: usb.VendorInterfaceIn, Request: request}
}

// rutoken is the slot.
type rutoken struct {
	phases
	dev usb.Device
}

var _ proto.Limiter = (*rutoken)(nil)

func openRutoken(dev usb.Device, o ifd.Options) (ifd.Reader, error) {
	return openToken(dev, &rutoken{dev: dev}, o)
}

func (t *rutoken) Reset(ctx context.Context) ([]byte, error) {
	if err := sendAll(ctx, t.dev, rutokenOut(rutokenPowerOff), nil, controlTimeout); err != nil {
		return nil, fmt.Errorf("reset: power off: %w", err)
	}
	t.give(controlTimeout)
	st, err := t.status(ctx)
	if err == nil && st != rutokenData {
		err = fmt.Errorf("%w: %w", ifd.ErrNoATR, rutokenState(st, rutokenData))
	}
	if err != nil {
		return nil, fmt.Errorf("reset: %w", err)
	}
	s := step{setup: rutokenIn(rutokenPowerOn), in: rutokenATRLen, timeout: rutokenTimeout}
	raw, err := s.run(ctx, t.dev)
	if err == nil {
		raw, err = rawATR(raw)
	}
	if err != nil {
		return nil, fmt.Errorf("reset: power on: %w", err)
	}
	t.Session = proto.Session{}
	return raw, nil
}

func (t *rutoken) Protocol(_ context.Context, p proto.ID, _ *atr.ATR) (proto.Engine, error) {
	return t.engine(p, t.transmit)
}

// transmit runs one command of a client.
func (t *rutoken) transmit(ctx context.Context, apdu, resp []byte) ([]byte, error) {
	c, err := parseTPDU(apdu)
	if err != nil {
		return nil, err
	}
	header := [4]byte(c.header[:])
	c.toNative()
	data, sw, err := t.run(ctx, c)
	if err != nil {
		return nil, err
	}
	if sw == rutokenOK {
		data = fromNative(header, data)
	}
	return append(append(resp, data...), byte(sw>>8), byte(sw)), nil
}

// Status words with a meaning here.
const (
	rutokenOK    = 0x9000
	rutokenMore  = 0x61 // SW1; SW2 bytes are to be fetched
	rutokenWrong = 0x6C // SW1; SW2 is the right Le
)

// run maps a command to T=0. The token knows no case 4, and a SELECT
// has an answer whatever the client asked for.
func (t *rutoken) run(ctx context.Context, c tpdu) ([]byte, uint16, error) {
	sel := c.header[0] == 0x00 && c.header[1] == 0xA4
	answered := sel || c.data != nil && c.le > 0
	if c.data == nil && c.le > 0 {
		c.forceLe()
		data, sw, err := t.fetch(ctx, c.header)
		if err == nil && sel && len(data) == 0 && sw>>8 == rutokenMore {
			return t.getResponse(ctx, byte(sw))
		}
		return data, sw, err
	}
	sw, err := t.send(ctx, c)
	switch {
	case err != nil, c.data == nil:
		return nil, sw, err
	case sw>>8 == rutokenMore:
		data, sw, err := t.getResponse(ctx, byte(sw))
		if !answered {
			data = nil
		}
		return data, sw, err
	case sw == rutokenOK && answered:
		data, again, err := t.getResponse(ctx, 0)
		if len(data) == 0 && again>>12 == 6 {
			// There is nothing to fetch; that must not hide that the command
			// was done.
			again = sw
		}
		return data, again, err
	}
	return nil, sw, nil
}

// forceLe puts in the lengths the token wants to be asked for, whatever the
// client thinks: a file header for SELECT, all there is for an object's.
func (c *tpdu) forceLe() {
	switch [2]byte(c.header[:]) {
	case [2]byte{0x00, 0xA4}:
		c.header[4] = rutokenFile
	case [2]byte{0x80, 0x30}:
		c.header[4] = 0xFF
	}
}

func (t *rutoken) getResponse(ctx context.Context, n byte) ([]byte, uint16, error) {
	return t.fetch(ctx, [5]byte{0x00, 0xC0, 0x00, 0x00, n})
}

// fetch sends a command without data and takes its answer. A wrong Le is
// put right once.
func (t *rutoken) fetch(ctx context.Context, header [5]byte) ([]byte, uint16, error) {
	data, sw, err := t.fetchOnce(ctx, header)
	if err == nil && sw>>8 == rutokenWrong {
		header[4] = byte(sw)
		data, sw, err = t.fetchOnce(ctx, header)
	}
	return data, sw, err
}

func (t *rutoken) fetchOnce(ctx context.Context, header [5]byte) (data []byte, sw uint16, err error) {
	if err := t.write(ctx, header[:]); err != nil {
		return nil, 0, err
	}
	st, err := t.status(ctx)
	if err == nil && st == rutokenData {
		data, err = t.read(ctx, orMax(header[4]))
		if err == nil && len(data) == 0 {
			err = fmt.Errorf("the token sends no data although it announced some: %w", ifd.ErrComm)
		}
	}
	if err == nil {
		sw, err = t.readSW(ctx)
	}
	return data, sw, err
}

// send sends a command that brings data, or none at all. A card may refuse it
// after its header.
func (t *rutoken) send(ctx context.Context, c tpdu) (uint16, error) {
	if err := t.write(ctx, c.header[:]); err != nil {
		return 0, err
	}
	if len(c.data) > 0 {
		st, err := t.status(ctx)
		switch {
		case err != nil:
			return 0, err
		case st == rutokenData:
			err = t.write(ctx, c.data)
		case st != rutokenSW:
			err = rutokenState(st, rutokenData)
		}
		if err != nil {
			return 0, err
		}
	}
	return t.readSW(ctx)
}

// rutokenState is the error of a token in a state it should not be in.
func rutokenState(st, want byte) error {
	if st == rutokenMute {
		return fmt.Errorf("the card in the token does not answer: %w", ifd.ErrComm)
	}
	return fmt.Errorf("token is in state %02X, want %02X: %w", st, want, ifd.ErrComm)
}

// write sends a block and asks for the state after it. A caller that needs the state
// asks once more: so does C OpenCT, whose exchange was recorded.
func (t *rutoken) write(ctx context.Context, b []byte) error {
	err := sendAll(ctx, t.dev, rutokenOut(rutokenWrite), b, controlTimeout)
	if err == nil {
		_, err = t.status(ctx)
	}
	return err
}

// read fetches a block of up to n bytes.
func (t *rutoken) read(ctx context.Context, n int) ([]byte, error) {
	s := step{setup: rutokenIn(rutokenRead), in: n, timeout: controlTimeout}
	b, err := s.run(ctx, t.dev)
	if err == nil {
		_, err = t.status(ctx)
	}
	return b, err
}

func (t *rutoken) readSW(ctx context.Context) (uint16, error) {
	st, err := t.status(ctx)
	if err != nil {
		return 0, err
	}
	if st != rutokenSW {
		return 0, rutokenState(st, rutokenSW)
	}
	b, err := t.read(ctx, 2)
	if err == nil && len(b) != 2 {
		err = fmt.Errorf("status word of %d bytes: %w", len(b), ifd.ErrComm)
	}
	if err != nil {
		return 0, err
	}
	return uint16(b[0])<<8 | uint16(b[1]), nil
}

// status waits while the token is busy and returns the high nibble of what it
// is instead. As long as the counter counts, the token is at work.
func (t *rutoken) status(ctx context.Context) (byte, error) {
	var last byte
	for looks := 0; ; {
		st, err := statusByte(ctx, t.dev, rutokenIn(rutokenStatus), rutokenTimeout)
		if err != nil || st&0xF0 != rutokenBusy {
			return st & 0xF0, err
		}
		if st&0x0F != (last+1)&0x0F {
			looks++
		}
		last = st & 0x0F
		if err = t.overdue(); err == nil && looks > rutokenLooks {
			err = fmt.Errorf("the token stays busy: %w", usb.ErrTimeout)
		}
		if err == nil {
			err = pause(ctx, t.dev, rutokenPause)
		}
		if err != nil {
			return 0, err
		}
	}
}
