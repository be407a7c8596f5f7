package driver

import (
	"context"
	"time"

	"openct/internal/atr"
	"openct/internal/ifd"
	"openct/internal/proto"
	"openct/internal/usb"
)

// The Aladdin eToken PRO in its two firmware families carries T=1 blocks in
// vendor requests to the device, wValue and wIndex always 0. Request n to the
// device has its answer at n|80 (doc/devices/etoken.md).
const (
	eTokenReset = 0x01 // power the card up; 81 fetches the ATR behind a length byte
	eTokenSet   = 0x02 // set parameters; 82 fetches the result, 00 is success
	eTokenQuery = 0x03 // 83 fetches 13 bytes on the 16k/32k, 1 byte on the 64k
	eTokenBlock = 0x06 // T=1 block to the card; 86 fetches the card's
	eTokenModel = 0x08 // 88 fetches 2 bytes, on the 64k only

	eTokenATRMax     = 0x23        // wLength of the ATR request
	eTokenATRTimeout = time.Second // of both requests of the reset proper
)

// eTokenIFS is the largest information field of a block, both ways, whatever
// the ATR says: it advertises 254, and longer blocks crash the token.
const eTokenIFS = 32

func eTokenOut(request uint8) usb.Setup {
	return usb.Setup{RequestType: usb.VendorDeviceOut, Request: request}
}

func eTokenIn(request uint8) usb.Setup {
	return usb.Setup{RequestType: usb.VendorDeviceIn, Request: request | 0x80}
}

// eTokenResetSteps is the reset of the eToken PRO 16k and 32k.
func eTokenResetSteps() []step {
	return []step{
		{setup: eTokenOut(eTokenReset), timeout: eTokenATRTimeout},
		{setup: eTokenIn(eTokenReset), in: eTokenATRMax, timeout: eTokenATRTimeout, atr: prefixedATR},
		{setup: eTokenOut(eTokenQuery), timeout: controlTimeout},
		{setup: eTokenIn(eTokenQuery), in: 13, timeout: controlTimeout, check: length(13)},
		// The last two bytes are probably a timeout of 5000 ms, little-endian.
		{setup: eTokenOut(eTokenSet), out: []byte{0x00, 0x00, 0x01, 0x00, 0x88, 0x13}, timeout: controlTimeout},
		{setup: eTokenIn(eTokenSet), in: 1, timeout: controlTimeout, check: exactly(0x00)},
	}
}

// eToken64ResetSteps is the reset of the eToken PRO 64k.
func eToken64ResetSteps() []step {
	return []step{
		{setup: eTokenOut(eTokenReset), timeout: eTokenATRTimeout},
		{setup: eTokenIn(eTokenReset), in: eTokenATRMax, timeout: eTokenATRTimeout, atr: prefixedATR},
		{setup: eTokenOut(eTokenModel), timeout: controlTimeout},
		{setup: eTokenIn(eTokenModel), in: 2, timeout: controlTimeout, check: length(2)},
		{setup: eTokenOut(eTokenQuery), timeout: controlTimeout},
		{setup: eTokenIn(eTokenQuery), in: 1, timeout: controlTimeout, check: exactly(0x00)},
	}
}

func openEToken(dev usb.Device, o ifd.Options) (ifd.Reader, error) {
	return openToken(dev, &eToken{dev: dev, reset: eTokenResetSteps()}, o)
}

func openEToken64(dev usb.Device, o ifd.Options) (ifd.Reader, error) {
	return openToken(dev, &eToken{dev: dev, reset: eToken64ResetSteps()}, o)
}

// eToken is the slot of either family; they differ in the reset alone.
type eToken struct {
	dev   usb.Device
	reset []step
}

func (t *eToken) Reset(ctx context.Context) ([]byte, error) {
	return runSteps(ctx, t.dev, t.reset)
}

func (t *eToken) Protocol(_ context.Context, p proto.ID, a *atr.ATR) (proto.Engine, error) {
	if err := t1Only("an eToken", p, a); err != nil {
		return nil, err
	}
	link := &controlLink{dev: t.dev, send: eTokenOut(eTokenBlock), get: eTokenIn(eTokenBlock)}
	return proto.NewT1(link, proto.T1Params{
		IFSC: eTokenIFS, MaxIFSC: eTokenIFS, IFSD: eTokenIFS,
		CRC: a.CRC(), BWT: a.BWT(atr.Rate{}),
	}), nil
}
