//go:build go1.25

package serialline_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"openct/internal/serial"
	"openct/internal/usb"
	"openct/internal/vusb"
	"openct/internal/vusb/card"
	"openct/internal/vusb/phoenix"
	"openct/internal/vusb/serialline"
)

// fake is a reader that echoes, and is bad at FF.
type fake struct {
	params   serial.Params
	dtr, rts bool
	inputs   serial.Inputs
}

func (f *fake) Set(p serial.Params)   { f.params = p }
func (f *fake) Inputs() serial.Inputs { return f.inputs }
func (f *fake) SetLines(dtr, rts bool) []serialline.Char {
	f.dtr, f.rts = dtr, rts
	return nil
}
func (f *fake) Send(b byte) []serialline.Char {
	return []serialline.Char{{Byte: b, Bad: b == 0xFF}}
}

func request(t *testing.T, a *serialline.FTDI, request uint8, value, index uint16) {
	t.Helper()
	s := usb.Setup{RequestType: usb.VendorDeviceOut, Request: request, Value: value, Index: index}
	if _, err := a.Control(context.Background(), s, nil, 0); err != nil {
		t.Fatal(err)
	}
}

// The divisors that ftdi_sio sends for an FT232B.
func TestFTDISpeed(t *testing.T) {
	for _, tt := range []struct {
		value, index uint16
		want         uint32
	}{
		{0x4138, 0, 9600},    // 312 4/8
		{0x009C, 0, 19231},   // 156
		{0x001A, 0, 115385},  // 26: the nearest of which is 115200's
		{0x0000, 0, 3000000}, // special
		{0x0001, 0, 2000000},
		{0x8035, 1, 55814}, // 53 6/8
	} {
		f := &fake{}
		request(t, serialline.NewFTDI(f), 3, tt.value, tt.index)
		if f.params.Speed != tt.want {
			t.Errorf("%04x %d: %d bit/s, want %d", tt.value, tt.index, f.params.Speed, tt.want)
		}
	}
}

func TestFTDISettings(t *testing.T) {
	f := &fake{inputs: serial.Inputs{CTS: true, DCD: true}}
	a := serialline.NewFTDI(f)
	request(t, a, 4, 2<<11|2<<8|8, 0)
	if got := f.params.String(); got != "9600 8E2" {
		t.Errorf("settings %s", got)
	}
	request(t, a, 4, 0<<11|1<<8|7, 0)
	if got := f.params.String(); got != "9600 7O1" {
		t.Errorf("settings %s", got)
	}
	request(t, a, 1, 0x0303, 0)
	if !f.dtr || !f.rts {
		t.Error("DTR and RTS are not set")
	}
	request(t, a, 1, 0x0200, 0)
	if !f.dtr || f.rts {
		t.Errorf("DTR %v, RTS %v", f.dtr, f.rts)
	}
	b, err := a.Control(context.Background(), usb.Setup{RequestType: usb.VendorDeviceIn, Request: 5}, nil, 2)
	if err != nil || fmt.Sprintf("%x", b) != "9160" {
		t.Errorf("modem status %x, %v", b, err)
	}
	if _, err := a.Control(context.Background(), usb.Setup{RequestType: usb.VendorDeviceOut, Request: 0x55}, nil, 0); !errors.Is(err, vusb.ErrStall) {
		t.Errorf("an unknown request: %v", err)
	}
}

// Bytes arrive at the line's speed, in packets that leave when they are full
// or the latency timer has run out; bad ones apart, and marked.
func TestFTDIPackets(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := serialline.NewFTDI(&fake{})
		request(t, a, 4, 2<<11|2<<8|8, 0) // 12 bits a byte
		request(t, a, 9, 1, 0)            // latency timer
		begin := time.Now()
		if err := a.Out(context.Background(), 0x02, []byte{1, 2, 0xFF, 3}); err != nil {
			t.Fatal(err)
		}
		for _, want := range []struct {
			packet string
			after  time.Duration
		}{
			{"016001", 2250 * time.Microsecond}, // its time, and the latency timer
			{"016002", 3500 * time.Microsecond},
			{"0164ff", 4750 * time.Microsecond},
			{"016003", 6000 * time.Microsecond},
		} {
			b, err := a.In(context.Background(), 0x81, 512)
			if err != nil || fmt.Sprintf("%x", b) != want.packet {
				t.Errorf("packet %x, %v; want %s", b, err, want.packet)
			}
			if took := time.Since(begin); took != want.after {
				t.Errorf("%s after %v, want %v", want.packet, took, want.after)
			}
		}
	})
}

// An APDU takes the line's own time, and no more than the latency timer's twice
// beside it.
func TestFTDITime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := serialline.NewFTDI(phoenix.New(card.NewEchoATR(card.T0ATR("x"))))
		request(t, a, 4, 2<<11|2<<8|8, 0)
		request(t, a, 9, 1, 0)
		request(t, a, 1, 0x0303, 0)
		request(t, a, 1, 0x0301, 0) // out of reset
		read := func(n int) {
			for n > 0 {
				b, err := a.In(context.Background(), 0x81, 512)
				if err != nil {
					t.Fatal(err)
				}
				n -= len(b) - 2
			}
		}
		read(3)
		begin := time.Now()
		if err := a.Out(context.Background(), 0x02, []byte{0x00, 0xEE, 0x00, 0xFF, 0xFF}); err != nil {
			t.Fatal(err)
		}
		const bytes = 5 + 1 + 255 + 2
		read(bytes)
		line := bytes * 12 * time.Second / 9600
		if took := time.Since(begin); took < line || took > line+2*time.Millisecond {
			t.Errorf("%d bytes took %v, the line needs %v", bytes, took, line)
		}
	})
}

// A change of the reader's lines is told without a byte.
func TestFTDITellsLines(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fake{}
		a := serialline.NewFTDI(f)
		packet := make(chan []byte)
		go func() {
			b, err := a.In(context.Background(), 0x81, 512)
			if err != nil {
				t.Error(err)
			}
			packet <- b
		}()
		synctest.Wait()
		f.inputs.CTS = true
		a.Changed()
		if b := <-packet; fmt.Sprintf("%x", b) != "1160" {
			t.Errorf("packet %x", b)
		}
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		if _, err := a.In(ctx, 0x81, 512); !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	})
}

func TestFTDIDescribesItself(t *testing.T) {
	dev, err := vusb.Plug("test", serialline.NewFTDI(&fake{})).Open()
	if err != nil {
		t.Fatal(err)
	}
	d := dev.Descriptor()
	if d.Vendor != 0x0403 || d.Product != 0x6001 || len(d.Interfaces) != 1 || len(d.Interfaces[0].Endpoints) != 2 {
		t.Errorf("%+v", d)
	}
}
