package model_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"testing"

	"openct/internal/driver"
	"openct/internal/ifd"
	"openct/internal/reader"
	"openct/internal/usb"
	"openct/internal/vusb"
	"openct/internal/vusb/card"
	"openct/internal/vusb/token"
)

// openToken plugs a model and opens it with its driver.
func openToken(t *testing.T, name string, m vusb.Model) (*vusb.Port, *reader.Slot) {
	t.Helper()
	port := vusb.Plug("virtual", m)
	dev, err := port.Open()
	if err != nil {
		t.Fatal(err)
	}
	e, ok := driver.ByName(name)
	if !ok {
		t.Fatalf("no driver %s", name)
	}
	if id, ok := driver.ByID(dev.Descriptor().Vendor, dev.Descriptor().Product); len(e.IDs) > 0 && (!ok || id.Name != name) {
		t.Errorf("%s is taken by driver %q", dev.Descriptor().ID(), id.Name)
	}
	r, err := e.Open(dev, ifd.Options{Name: "a token"})
	if err != nil {
		t.Fatal(err)
	}
	if r.Name() != "a token" && name != "acr30u" { // which has a name of its own
		t.Errorf("its name is %q", r.Name())
	}
	if r.Gone() != dev.Gone() {
		t.Error("the reader does not leave with its device")
	}
	rd := reader.New(unasked{r}, slog.New(slog.DiscardHandler), func(int, ifd.Status) {})
	t.Cleanup(func() {
		if err := rd.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	s, err := rd.Slot(0)
	if err != nil {
		t.Fatal(err)
	}
	return port, s
}

func TestETokenEcho(t *testing.T) {
	for _, tt := range []struct {
		name string
		make func(card.Card) *token.EToken
	}{
		{"etoken64", token.NewEToken64},
		{"etoken", token.NewEToken},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, slot := openToken(t, tt.name, tt.make(card.NewEcho()))
			ctx := context.Background()
			atr, err := slot.Reset(ctx)
			if err != nil || !bytes.Equal(atr, card.NewEcho().ATR()) {
				t.Fatalf("ATR % x, %v", atr, err)
			}
			for _, n := range []int{0, 1, 30, 31, 32, 255, 256, 4079, 65535} {
				for _, lc := range []int{0, 1, 27, 28, 250} {
					apdu := []byte{0x00, 0xEE, byte(n >> 8), byte(n)}
					if lc > 0 {
						apdu = append(append(apdu, byte(lc)), make([]byte, lc)...)
					}
					got, err := slot.Transmit(ctx, apdu, nil)
					if err != nil {
						t.Fatalf("%d bytes out, %d in: %v", lc, n, err)
					}
					if len(got) != n+2 || got[n] != 0x90 || n > 0 && got[n-1] != byte(n-1) {
						t.Fatalf("%d bytes out, %d in: got %d bytes", lc, n, len(got))
					}
				}
			}
		})
	}
}

// A card may ask for longer blocks; the token it is in does not hold them, and
// crashes. The host must not go along (doc/devices/etoken.md).
func TestETokenKeepsBlocksShort(t *testing.T) {
	token := token.NewEToken64(card.NewEcho())
	_, slot := openToken(t, "etoken64", token)
	ctx := context.Background()
	if _, err := slot.Reset(ctx); err != nil {
		t.Fatal(err)
	}
	long := append([]byte{0x00, 0xEE, 0x00, 0x02, 250}, make([]byte, 250)...)
	for _, when := range []string{"asking for IFSC 254", "afterwards"} {
		if when != "afterwards" {
			token.Chip().RequestIFS(254)
		}
		if _, err := slot.Transmit(ctx, long, nil); err != nil {
			t.Fatalf("%s: %v", when, err)
		}
	}
}

// What the device does wrong costs one error, the one named; after a reset the
// token works again. Cf. the list of faults recorded with C OpenCT.
func TestETokenFaults(t *testing.T) {
	block := vusb.Transfer{Control: true, Code: 0x86}
	send := vusb.Transfer{Control: true, Code: 0x06}
	tests := []struct {
		name  string
		fault vusb.Fault
		want  error // nil: the APDU succeeds nevertheless
	}{
		{"block write stalls", vusb.Fault{On: send, Stall: true}, usb.ErrStall},
		{"block read stalls", vusb.Fault{On: block, Stall: true}, usb.ErrStall},
		{"block cut to 2 bytes", vusb.Fault{On: block, Mangle: vusb.Short(2)}, nil},
		{"block cut to 4 bytes", vusb.Fault{On: block, Mangle: vusb.Short(4)}, nil},
		{"block empty", vusb.Fault{On: block, Mangle: vusb.Short(0)}, nil},
		{"block garbage once", vusb.Fault{On: block, Mangle: vusb.Garbage(20)}, nil},
		{"unplugged in the middle of a block read", vusb.Fault{On: block, Unplug: true}, usb.ErrUnplugged},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			port, slot := openToken(t, "etoken64", token.NewEToken64(card.NewEcho()))
			ctx := context.Background()
			if _, err := slot.Reset(ctx); err != nil {
				t.Fatal(err)
			}
			port.Inject(tt.fault)
			got, err := slot.Transmit(ctx, []byte{0x00, 0xEE, 0x00, 0x02}, nil)
			if !errors.Is(err, tt.want) {
				t.Fatalf("got %v, want %v", err, tt.want)
			}
			if err == nil && !bytes.Equal(got, []byte{0x00, 0x01, 0x90, 0x00}) {
				t.Errorf("response % x", got)
			}
			if tt.want == usb.ErrUnplugged {
				return
			}
			if _, err := slot.Reset(ctx); err != nil {
				t.Fatalf("next reset: %v", err)
			}
			if _, err := slot.Transmit(ctx, []byte{0x00, 0xEE, 0x00, 0x02}, nil); err != nil {
				t.Errorf("next APDU: %v", err)
			}
		})
	}
}

// unasked is a reader whose core does not ask for its card once a second, so
// that no transfer happens but those of the test.
type unasked struct{ ifd.Reader }

func (unasked) Events() <-chan ifd.Event { return nil }
