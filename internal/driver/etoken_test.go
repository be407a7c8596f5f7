package driver

import (
	"context"
	"errors"
	"strings"
	"testing"

	"openct/internal/atr"
	"openct/internal/hextest"
	"openct/internal/ifd"
	"openct/internal/proto"
	"openct/internal/usb"
	"openct/internal/usb/usbtest"
)

// An exchange recorded from C OpenCT's driver (doc/devices/etoken.md), from the
// plug to a command longer than a block.
const recordedEToken64Reset = `
CLAIM 0 0
OUT 40 01 0000 0000 [] T 1000
IN  C0 81 0000 0000 len 35 T 1000 0D 3B F2 18 00 02 C1 0A 31 FE 58 C8 09 75
OUT 40 08 0000 0000 [] T d
IN  C0 88 0000 0000 len 2 T d 12 34
OUT 40 03 0000 0000 [] T d
IN  C0 83 0000 0000 len 1 T d 00
`

const recordedEToken64APDUs = `
OUT 40 06 0000 0000 [00 00 07 00 A4 00 00 02 3F 00 9E] T d
IN  C0 86 0000 0000 len 37 T 20000 00 00 02 90 00 92
OUT 40 06 0000 0000 [00 40 05 00 CA 01 82 00 0C] T d
IN  C0 86 0000 0000 len 37 T 20000 00 C3 01 05 C7
OUT 40 06 0000 0000 [00 E3 01 05 E7] T d
IN  C0 86 0000 0000 len 37 00 40 04 C8 09 90 00 15
OUT 40 06 0000 0000 [00 20 20 00 D6 00 00 28 00 01 02 03 04 05 06 07 08 09 0A 0B 0C 0D 0E 0F 10 11 12 13 14 15 16 17 18 19 1A E5] T d
IN  C0 86 0000 0000 len 37 T 20000 00 90 00 90
OUT 40 06 0000 0000 [00 40 0D 1B 1C 1D 1E 1F 20 21 22 23 24 25 26 27 56] T d
IN  C0 86 0000 0000 len 37 T 20000 00 00 02 90 00 92
`

const recordedETokenReset = `
CLAIM 0 0
OUT 40 01 0000 0000 [] T 1000
IN  C0 81 0000 0000 len 35 T 1000 0D 3B F2 98 00 FF C1 10 31 FE 55 C8 03 15
OUT 40 03 0000 0000 [] T d
IN  C0 83 0000 0000 len 13 T d 01 02 03 04 05 06 07 08 09 0A 0B 0C 0D
OUT 40 02 0000 0000 [00 00 01 00 88 13] T d
IN  C0 82 0000 0000 len 1 T d 00
`

// session opens a token and resets its card.
func session(t *testing.T, open func(usb.Device, ifd.Options) (ifd.Reader, error), dev usb.Device) (ifd.Slot, []byte) {
	t.Helper()
	r, err := open(dev, ifd.Options{})
	if err != nil {
		t.Fatal(err)
	}
	slot := r.Slots()[0]
	raw, err := slot.Reset(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	return slot, raw
}

func TestEToken64Recorded(t *testing.T) {
	dev := usbtest.Parse(t, recordedEToken64Reset+recordedEToken64APDUs)
	defer dev.Done(t)
	slot, raw := session(t, openEToken64, dev)
	a, err := atr.Parse(raw)
	if err != nil {
		t.Fatal(err)
	}
	e, err := slot.Protocol(context.Background(), proto.Default, a)
	if err != nil {
		t.Fatal(err)
	}
	for _, x := range []struct{ command, response string }{
		{"00 A4 00 00 02 3F 00", "90 00"},
		{"00 CA 01 82 00", "C8 09 90 00"}, // with a waiting time extension
		{"00 D6 00 00 28 000102030405060708090A0B0C0D0E0F101112131415161718191A1B1C1D1E1F2021222324252627", "90 00"},
	} {
		got, err := e.Transmit(context.Background(), hextest.Bytes(t, x.command), nil)
		if err != nil {
			t.Fatalf("%s: %v", x.command, err)
		}
		if want := hextest.Bytes(t, x.response); string(got) != string(want) {
			t.Errorf("%s: got % x, want % x", x.command, got, want)
		}
	}
}

func TestETokenRecorded(t *testing.T) {
	dev := usbtest.Parse(t, recordedETokenReset)
	defer dev.Done(t)
	_, raw := session(t, openEToken, dev)
	if want := hextest.Bytes(t, "3B F2 98 00 FF C1 10 31 FE 55 C8 03 15"); string(raw) != string(want) {
		t.Errorf("ATR % x, want % x", raw, want)
	}
}

// What the device does wrong in a reset is one clear error, and the reset
// after it works.
func TestEToken64ResetFaults(t *testing.T) {
	lines := strings.Split(strings.TrimSpace(recordedEToken64Reset), "\n")
	tests := []struct {
		name string
		line int    // of the reset, counted from 0
		with string // what stands there instead
		want error
		says string
	}{
		{"ATR request stalls", 1, "OUT 40 01 0000 0000 [] T 1000 STALL", usb.ErrStall, "step 1 of 6"},
		{"ATR never comes", 2, "IN  C0 81 0000 0000 len 35 T 1000 TIMEOUT", usb.ErrTimeout, "step 2 of 6"},
		{"ATR empty", 2, "IN  C0 81 0000 0000 len 35 T 1000 00", ifd.ErrNoATR, ""},
		{"no bytes at all", 2, "IN  C0 81 0000 0000 len 35 T 1000", ifd.ErrNoATR, ""},
		{"ATR shorter than it says", 2, "IN  C0 81 0000 0000 len 35 T 1000 0D 3B F2", ifd.ErrInvalidATR, "13 bytes in 2"},
		{"length byte 255", 2, "IN  C0 81 0000 0000 len 35 T 1000 FF 3B F2", ifd.ErrInvalidATR, ""},
		{"init read short", 4, "IN  C0 88 0000 0000 len 2 T d 12", ifd.ErrIncompatible, "step 4 of 6"},
		{"init answer wrong", 6, "IN  C0 83 0000 0000 len 1 T d 01", ifd.ErrIncompatible, "want 00"},
		{"unplugged in the last step", 6, "IN  C0 83 0000 0000 len 1 T d UNPLUG", usb.ErrUnplugged, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			script := append(append([]string{}, lines[:tt.line]...), tt.with)
			if tt.want != usb.ErrUnplugged {
				script = append(script, lines[1:]...)
			}
			dev := usbtest.Parse(t, strings.Join(script, "\n"))
			defer dev.Done(t)
			r, err := openEToken64(dev, ifd.Options{})
			if err != nil {
				t.Fatal(err)
			}
			slot := r.Slots()[0]
			_, err = slot.Reset(context.Background())
			if !errors.Is(err, tt.want) || !strings.Contains(err.Error(), tt.says) {
				t.Errorf("got %v, want %v saying %q", err, tt.want, tt.says)
			}
			if tt.want == usb.ErrUnplugged {
				return
			}
			if _, err := slot.Reset(context.Background()); err != nil {
				t.Errorf("next reset: %v", err)
			}
		})
	}
}

func TestETokenRefusesOtherProtocols(t *testing.T) {
	a, err := atr.Parse(hextest.Bytes(t, "3B F2 18 00 02 C1 0A 31 FE 58 C8 09 75"))
	if err != nil {
		t.Fatal(err)
	}
	slot := &eToken{}
	for _, p := range []proto.ID{proto.T0, proto.Transparent, proto.I2CLong, 77, -7} {
		if _, err := slot.Protocol(context.Background(), p, a); !errors.Is(err, ifd.ErrNotSupported) {
			t.Errorf("protocol %d: got %v, want %v", p, err, ifd.ErrNotSupported)
		}
	}
}

func TestETokenBusy(t *testing.T) {
	dev := usbtest.Parse(t, "CLAIM 0 0 BUSY")
	defer dev.Done(t)
	if _, err := openEToken64(dev, ifd.Options{}); !errors.Is(err, usb.ErrBusy) {
		t.Errorf("got %v, want %v", err, usb.ErrBusy)
	}
}
