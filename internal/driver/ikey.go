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

// The Rainbow iKey 2032 and 3000 carry T=1 blocks in vendor requests to the
// interface (doc/devices/ikey.md).
const (
	iKeyDescribe = 0x00 // IN: the token's description, length byte first
	iKeyResult   = 0x01 // IN: what the last command or block led to
	iKeyCommand  = 0x16 // OUT: the command is in wValue
	iKeyBlock    = 0x17 // OUT: T=1 block, its first four bytes in wValue and wIndex
)

// Commands: probably the length of the result in the high byte, what to do in
// the low one.
const (
	iKeyPowerOff   = 0x0000
	iKey2kPowerOn  = 0x1901 // result: the ATR, 25 bytes
	iKey3kPowerOn  = 0x2005 // result: 32 bytes, the ATR behind its length
	iKey3kSelectT1 = 0x0002 // result: the card's PPS response
)

// iKeyAnswer is what is asked for when a block is fetched. No other length was
// ever seen to work.
const iKeyAnswer = 255

func iKeyOut(command uint16) usb.Setup {
	return usb.Setup{RequestType: usb.VendorInterfaceOut, Request: iKeyCommand, Value: command}
}

func iKeyIn(request uint8) usb.Setup {
	return usb.Setup{RequestType: usb.VendorInterfaceIn, Request: request}
}

// iKeyDescribed wants a description. The low nibble of byte 3 is the
// firmware's revision.
func iKeyDescribed(want ...byte) func([]byte) error {
	return func(answer []byte) error {
		masked := append([]byte(nil), answer...)
		if len(masked) > 3 {
			masked[3] &= 0xF0
		}
		return exactly(want...)(masked)
	}
}

// iKey2kResetSteps is the reset of the iKey 2032. The card is powered up
// twice; the first ATR is thrown away.
func iKey2kResetSteps() []step {
	return []step{
		{setup: iKeyIn(iKeyDescribe), in: 0x40, timeout: controlTimeout,
			check: iKeyDescribed(0x0D, 0x63, 0x00, 0x00, 0x2D, 0x2D, 0xC0, 0x80, 0x80, 0x60, 0x80, 0x01, 0x19)},
		{setup: iKeyOut(iKeyPowerOff), timeout: controlTimeout},
		{setup: iKeyIn(iKeyResult), in: 2, timeout: controlTimeout, check: exactly(0x00)},
		{setup: iKeyOut(iKey2kPowerOn), timeout: time.Second},
		{setup: iKeyIn(iKeyResult), in: 25, timeout: time.Second, check: length(25)},
		{setup: iKeyOut(iKeyPowerOff), timeout: time.Second},
		{setup: iKeyIn(iKeyResult), in: 2, timeout: time.Second, check: exactly(0x00)},
		{setup: iKeyOut(iKeyPowerOff), timeout: time.Second},
		{setup: iKeyIn(iKeyResult), in: 32, timeout: time.Second, check: exactly(0x00)},
		{setup: iKeyOut(iKey2kPowerOn), timeout: time.Second},
		{setup: iKeyIn(iKeyResult), in: 25, timeout: time.Second, check: length(25), atr: rawATR},
	}
}

// iKey3kResetSteps is the reset of the iKey 3000. It ends with the token
// switching the card to T=1: FF 11 11 FF is a PPS response.
func iKey3kResetSteps() []step {
	return []step{
		{setup: iKeyIn(iKeyDescribe), in: 0x40, timeout: controlTimeout,
			check: iKeyDescribed(0x0A, 0x61, 0x00, 0x00, 0x2D, 0x2D, 0xC0, 0x80, 0x80, 0x60)},
		{setup: iKeyOut(iKeyPowerOff), timeout: controlTimeout},
		{setup: iKeyIn(iKeyResult), in: 2, timeout: controlTimeout, check: exactly(0x00)},
		{setup: iKeyOut(iKey3kPowerOn), timeout: time.Second},
		{setup: iKeyIn(iKeyResult), in: 32, timeout: time.Second, atr: prefixedATR},
		{setup: iKeyOut(iKey3kSelectT1), timeout: controlTimeout},
		{setup: iKeyIn(iKeyResult), in: 4, timeout: controlTimeout, check: exactly(0xFF, 0x11, 0x11, 0xFF)},
	}
}

func openIKey2k(dev usb.Device, o ifd.Options) (ifd.Reader, error) {
	return openToken(dev, &iKey{dev: dev, reset: iKey2kResetSteps()}, o)
}

func openIKey3k(dev usb.Device, o ifd.Options) (ifd.Reader, error) {
	return openToken(dev, &iKey{dev: dev, reset: iKey3kResetSteps()}, o)
}

// iKey is the slot of either token; they differ in the reset alone.
type iKey struct {
	dev   usb.Device
	reset []step
}

func (t *iKey) Reset(ctx context.Context) ([]byte, error) {
	return runSteps(ctx, t.dev, t.reset)
}

// Protocol is T=1, also for an iKey 3000 whose ATR puts T=0 first: the reset
// has switched it. IFSC is what the card can take; C OpenCT's 256 hangs it.
func (t *iKey) Protocol(_ context.Context, p proto.ID, a *atr.ATR) (proto.Engine, error) {
	if err := t1Only("an iKey", preferT1(p, a), a); err != nil {
		return nil, err
	}
	return proto.NewT1((*iKeyLink)(t), proto.T1Params{
		IFSC: a.IFSC(), CRC: a.CRC(), BWT: a.BWT(atr.Rate{}),
	}), nil
}

// iKeyLink carries the blocks.
type iKeyLink iKey

func (l *iKeyLink) Send(ctx context.Context, block []byte) error {
	if len(block) < 4 {
		return fmt.Errorf("block of %d bytes: %w", len(block), ifd.ErrNotSupported)
	}
	s := usb.Setup{
		RequestType: usb.VendorInterfaceOut, Request: iKeyBlock,
		Value: binary.LittleEndian.Uint16(block), Index: binary.LittleEndian.Uint16(block[2:]),
	}
	return sendAll(ctx, l.dev, s, block[4:], controlTimeout)
}

// Recv fetches a block. Junk may follow it; what of that does not fit into buf
// is dropped here, and the engine drops the rest.
func (l *iKeyLink) Recv(ctx context.Context, buf []byte, timeout time.Duration) (int, error) {
	var answer [iKeyAnswer]byte
	n, err := l.dev.Control(ctx, iKeyIn(iKeyResult), answer[:], timeout)
	return copy(buf, answer[:n]), err
}
