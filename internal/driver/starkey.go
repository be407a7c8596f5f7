package driver

import (
	"context"
	"errors"
	"fmt"
	"time"

	"openct/internal/atr"
	"openct/internal/ifd"
	"openct/internal/proto"
	"openct/internal/usb"
)

// The G&D StarKey 100 sends its ATR by itself, on an interrupt endpoint, once
// after it was plugged in. Nothing is known to make it send another. Blocks
// travel as in the eToken PRO (doc/devices/starkey.md).
const (
	starKeyIn     = 0x81
	starKeyATRMax = 32
	starKeyBlock  = 0x06 // 86 fetches the card's

	starKeyFirst = 5 * time.Second // for the first ATR
	starKeyAgain = 2 * time.Second // for a later one, which may never come
)

// starKey is the slot.
type starKey struct {
	dev usb.Device
	atr []byte // of the card, once it was seen
}

func openStarKey(dev usb.Device, o ifd.Options) (ifd.Reader, error) {
	return openToken(dev, &starKey{dev: dev}, o)
}

// Reset waits for an ATR. Where none comes any more, the card starts its T=1
// session anew instead, and has the ATR it had.
func (t *starKey) Reset(ctx context.Context) ([]byte, error) {
	wait := starKeyFirst
	if t.atr != nil {
		wait = starKeyAgain
	}
	raw, err := t.readATR(ctx, wait)
	if err == nil {
		_, err := atr.Parse(raw)
		switch {
		case errors.Is(err, atr.ErrInvalid):
			return nil, fmt.Errorf("reset: %w: %w", ifd.ErrInvalidATR, err)
		case err == nil || t.atr == nil: // a sound one is not given up for one with errors
			t.atr = raw
		}
		return raw, nil
	}
	if t.atr == nil || !errors.Is(err, usb.ErrTimeout) {
		return nil, fmt.Errorf("reset: %w", err)
	}
	if err := proto.NewT1(t.link(), proto.T1Params{}).Resynchronise(ctx); err != nil {
		return nil, fmt.Errorf("reset: no new ATR, and %w", err)
	}
	return t.atr, nil
}

// readATR takes packets until the ATR is complete.
func (t *starKey) readATR(ctx context.Context, wait time.Duration) ([]byte, error) {
	until, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	var raw []byte
	for {
		buf := make([]byte, starKeyATRMax)
		n, err := interrupt(until, t.dev, starKeyIn, buf)
		raw = append(raw, buf[:n]...)
		switch {
		case n > 0 && (atr.Complete(raw) || len(raw) >= starKeyATRMax):
			return raw, nil
		case ctx.Err() != nil:
			return nil, ctx.Err()
		case until.Err() != nil && len(raw) > 0:
			return raw, nil // what is missing may not be needed
		case until.Err() != nil:
			return nil, fmt.Errorf("%w: %w", ifd.ErrNoATR, usb.ErrTimeout)
		case err != nil:
			return nil, err
		case n == 0: // an empty packet; a token that sends nothing else is not hurried
			if err := pause(until, t.dev, 10*time.Millisecond); errors.Is(err, usb.ErrUnplugged) {
				return nil, err
			}
		}
	}
}

func (t *starKey) link() proto.Link {
	return &controlLink{
		dev:  t.dev,
		send: usb.Setup{RequestType: usb.VendorDeviceOut, Request: starKeyBlock},
		get:  usb.Setup{RequestType: usb.VendorDeviceIn, Request: starKeyBlock | 0x80},
	}
}

func (t *starKey) Protocol(_ context.Context, p proto.ID, a *atr.ATR) (proto.Engine, error) {
	if err := t1Only("a StarKey", preferT1(p, a), a); err != nil {
		return nil, err
	}
	// The same request carries blocks for the eToken, which takes no longer
	// ones than these.
	return proto.NewT1(t.link(), proto.T1Params{
		IFSC: eTokenIFS, MaxIFSC: eTokenIFS, IFSD: eTokenIFS,
		CRC: a.CRC(), BWT: a.BWT(atr.Rate{}),
	}), nil
}
