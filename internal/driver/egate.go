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

// The Schlumberger e-gate is a T=0 card with a USB port of its own. Vendor
// requests to the device move the phases of a command, and a status byte says
// which one is due (doc/devices/egate.md).
const (
	eGateHeader = 0x80 // OUT: CLA INS P1 P2 P3
	eGateRead   = 0x81 // IN: response data or status word
	eGateData   = 0x82 // OUT: command data
	eGateATR    = 0x83 // IN: the ATR as it is
	eGateReset  = 0x90 // OUT
	eGateStatus = 0xA0 // IN: one byte, the high nibble counts
)

// The high nibble of the status byte.
const (
	eGateReady     = 0x00
	eGateDataPhase = 0x10
	eGateSW        = 0x20
	eGateBusy      = 0x40
)

const (
	eGateTimeout = time.Second // of everything but the two below
	eGateATRMax  = 0x23

	// eGateSettle goes before each transfer of the reset: newer sealed tokens
	// need it.
	eGateSettle = 100 * time.Millisecond

	// eGateResetBusy is how long the card may be busy after a reset.
	eGateResetBusy = 3 * time.Second
)

func eGateOut(request uint8) usb.Setup {
	return usb.Setup{RequestType: usb.VendorDeviceOut, Request: request}
}

func eGateIn(request uint8) usb.Setup {
	return usb.Setup{RequestType: usb.VendorDeviceIn, Request: request}
}

// eGate is the slot.
type eGate struct {
	phases
	dev usb.Device
}

var _ proto.Limiter = (*eGate)(nil)

func openEGate(dev usb.Device, o ifd.Options) (ifd.Reader, error) {
	return openToken(dev, &eGate{dev: dev}, o)
}

func (t *eGate) Reset(ctx context.Context) ([]byte, error) {
	var raw []byte
	for i, do := range []func() error{
		func() error { return sendAll(ctx, t.dev, eGateOut(eGateReset), nil, 2*time.Second) },
		func() error { t.give(eGateResetBusy); _, err := t.status(ctx); return err },
		func() (err error) {
			s := step{setup: eGateIn(eGateATR), in: eGateATRMax, timeout: eGateTimeout}
			if raw, err = s.run(ctx, t.dev); err == nil {
				raw, err = rawATR(raw)
			}
			return err
		},
	} {
		err := pause(ctx, t.dev, eGateSettle)
		if err == nil {
			err = do()
		}
		if err != nil {
			return nil, fmt.Errorf("reset step %d of 3: %w", i+1, err)
		}
	}
	t.Session = proto.Session{}
	return raw, nil
}

// Protocol hands APDUs to the token as they are. 61xx and 6Cxx are the
// client's to act on, as with every T=0 reader that does not do it.
func (t *eGate) Protocol(_ context.Context, p proto.ID, _ *atr.ATR) (proto.Engine, error) {
	return t.engine(p, t.transmit)
}

// status waits until the token is not busy and returns what it is instead.
func (t *eGate) status(ctx context.Context) (byte, error) {
	for wait := 100 * time.Microsecond; ; wait = min(2*wait, 10*time.Millisecond) {
		st, err := statusByte(ctx, t.dev, eGateIn(eGateStatus), eGateTimeout)
		switch {
		case err != nil:
			return 0, err
		case st&0xF0 != eGateBusy:
			return st & 0xF0, nil
		}
		if err = t.overdue(); err == nil {
			err = pause(ctx, t.dev, wait)
		}
		if err != nil {
			return 0, err
		}
	}
}

// phase waits like status, and wants one of two outcomes.
func (t *eGate) phase(ctx context.Context, a, b byte) (byte, error) {
	st, err := t.status(ctx)
	if err == nil && st != a && st != b {
		err = fmt.Errorf("token is in phase %02X, want %02X: %w", st, a, ifd.ErrComm)
	}
	return st, err
}

// transmit runs one command. In case 4 the token is not told Le.
func (t *eGate) transmit(ctx context.Context, apdu, resp []byte) ([]byte, error) {
	c, err := parseTPDU(apdu)
	if err != nil {
		return nil, err
	}
	if _, err := t.phase(ctx, eGateReady, eGateReady); err != nil {
		return nil, err
	}
	if err := sendAll(ctx, t.dev, eGateOut(eGateHeader), c.header[:], controlTimeout); err != nil {
		return nil, err
	}
	st, err := t.phase(ctx, eGateSW, eGateDataPhase)
	if err != nil {
		return nil, err
	}
	if st == eGateDataPhase && len(c.data) > 0 {
		if err := sendAll(ctx, t.dev, eGateOut(eGateData), c.data, controlTimeout); err != nil {
			return nil, err
		}
		if st, err = t.phase(ctx, eGateSW, eGateDataPhase); err != nil {
			return nil, err
		}
	}
	for st == eGateDataPhase && len(resp) < c.le {
		if resp, err = t.read(ctx, resp, c.le-len(resp)); err != nil {
			return nil, err
		}
		if st, err = t.phase(ctx, eGateSW, eGateDataPhase); err != nil {
			return nil, err
		}
	}
	if st != eGateSW {
		return nil, fmt.Errorf("the token requests more data than the command has: %w", ifd.ErrComm)
	}
	before := len(resp)
	if resp, err = t.read(ctx, resp, 2); err == nil && len(resp) != before+2 {
		err = fmt.Errorf("status word of one byte: %w", ifd.ErrComm)
	}
	return resp, err
}

// read appends up to n bytes of response, and at least one.
func (t *eGate) read(ctx context.Context, resp []byte, n int) ([]byte, error) {
	buf := make([]byte, n)
	got, err := t.dev.Control(ctx, eGateIn(eGateRead), buf, eGateTimeout)
	if err == nil && got == 0 {
		err = fmt.Errorf("the token sends no data although it announced some: %w", ifd.ErrComm)
	}
	return append(resp, buf[:got]...), err
}
