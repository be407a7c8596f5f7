//go:build go1.25

package driver

import (
	"context"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	"openct/internal/device"
	"openct/internal/ifd"
	"openct/internal/proto"
	"openct/internal/serial"
	"openct/internal/usb"
	"openct/internal/vusb/card"
	virtual "openct/internal/vusb/phoenix"
	"openct/internal/vusb/serialline"
)

// ftdiLine is a line at 9600 8E2 through a virtual adapter, with what Linux's
// ftdi_sio sends it. The adapter gives each byte the line's own time.
type ftdiLine struct {
	serial.Line
	t    *testing.T
	a    *serialline.FTDI
	in   []byte
	gone chan struct{}
}

func (l *ftdiLine) request(request uint8, value uint16) error {
	s := usb.Setup{RequestType: usb.VendorDeviceOut, Request: request, Value: value}
	_, err := l.a.Control(context.Background(), s, nil, 0)
	return err
}

func (l *ftdiLine) Name() string                  { return "ftdi" }
func (l *ftdiLine) Gone() <-chan struct{}         { return l.gone }
func (l *ftdiLine) Close() error                  { return nil }
func (l *ftdiLine) Lines() (serial.Inputs, error) { return serial.Inputs{}, nil }

func (l *ftdiLine) Flush(serial.Queue) error {
	l.in = nil
	return nil
}

func (l *ftdiLine) Set(p serial.Params) error {
	if p.String() != "9600 8E2" {
		return serial.ErrUnsupported
	}
	if err := l.request(3, 0x4138); err != nil { // 312 4/8
		return err
	}
	return l.request(4, 2<<11|2<<8|8)
}

func (l *ftdiLine) SetLines(dtr, rts bool) error {
	value := uint16(0x300)
	if dtr {
		value |= 1
	}
	if rts {
		value |= 2
	}
	return l.request(1, value)
}

func (l *ftdiLine) Write(ctx context.Context, b []byte) error { return l.a.Out(ctx, 0x02, b) }

func (l *ftdiLine) Read(ctx context.Context, buf []byte, timeout time.Duration) (int, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	for len(l.in) == 0 {
		packet, err := l.a.In(ctx, 0x81, 512)
		if err != nil {
			return 0, device.ErrTimeout
		}
		if packet[1]&0x04 != 0 {
			l.t.Errorf("wrong parity: % x", packet)
		}
		l.in = packet[2:]
	}
	n := copy(buf, l.in)
	l.in = l.in[n:]
	return n, nil
}

// An APDU takes the line's own time, 12 bits a byte, and the adapter's
// millisecond at each change of direction: for the larger ones less than a tenth
// more.
func TestPhoenixTime(t *testing.T) {
	const millisecond = 1 // of the adapter's latency timer
	out := make([]byte, 5+200)
	copy(out, []byte{0x00, 0xD6, 0x00, 0x00, 200})
	for _, tt := range []struct {
		name  string
		card  card.Card
		apdu  []byte
		bytes int // on the line
		turns int // times the host waits for the card
	}{
		{"T=0, 2 bytes from the card", card.NewEchoATR(card.T0ATR("x")), []byte{0x00, 0xEE, 0x00, 0x00, 0x00}, 5 + 2, 1},
		{"T=0, 255 bytes from the card", card.NewEchoATR(card.T0ATR("x")), []byte{0x00, 0xEE, 0x00, 0xFF, 0xFF}, 5 + 1 + 255 + 2, 1},
		{"T=0, 200 bytes to the card", card.NewEchoATR(card.T0ATR("x")), out, 5 + 1 + 200 + 2, 2},
		{"T=1, 16 bytes from the card", card.NewEcho(), []byte{0x00, 0xEE, 0x00, 0x10, 0x10}, 4 + 5 + 4 + 16 + 2, 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := &ftdiLine{t: t, a: serialline.NewFTDI(virtual.New(tt.card)), gone: make(chan struct{})}
				if err := l.request(9, millisecond); err != nil {
					t.Fatal(err)
				}
				r, err := openPhoenix(l, ifd.Options{Log: slog.New(slog.DiscardHandler)})
				if err != nil {
					t.Fatal(err)
				}
				e := engineFor(t, r.Slots()[0], proto.Default)
				begin := time.Now()
				if _, err := e.Transmit(context.Background(), tt.apdu, nil); err != nil {
					t.Fatal(err)
				}
				line := time.Duration(tt.bytes) * 12 * time.Second / 9600
				took := time.Since(begin)
				t.Logf("%d bytes in %v; the line needs %v (%.1f %%)", tt.bytes, took, line, 100*float64(took)/float64(line))
				if most := line + time.Duration(tt.turns)*millisecond*time.Millisecond; took < line || took > most {
					t.Errorf("%d bytes took %v; the line needs %v, and %v are allowed", tt.bytes, took, line, most)
				}
			})
		})
	}
}
