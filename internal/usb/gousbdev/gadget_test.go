//go:build vhci && cgo

package gousbdev_test

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"log/slog"
	"sync"
	"testing"
	"time"

	"openct/internal/usb"
	"openct/internal/usb/gousbdev"
	"openct/internal/vusb"
	"openct/internal/vusb/usbip"
)

// gadget is a device that says back what it is asked. Control 01 returns its
// setup packet, or takes data; 02 stalls; 03 never ends; bulk 02/82 echo; 81
// is silent.
type gadget struct {
	desc  vusb.Descriptors
	began chan struct{} // one value for each transfer that never ends

	mu     sync.Mutex
	resets int
	queue  [][]byte
}

func newGadget(vendor, product uint16, config ...byte) *gadget {
	dev := []byte{18, 1, 0x10, 0x01, 0, 0, 0, 8, 0, 0, 0, 0, 0, 1, 1, 2, 3, 1}
	binary.LittleEndian.PutUint16(dev[8:], vendor)
	binary.LittleEndian.PutUint16(dev[10:], product)
	head := []byte{9, 2, 0, 0, 1, 1, 0, 0x80, 50}
	binary.LittleEndian.PutUint16(head[2:], uint16(len(head)+len(config)))
	return &gadget{
		desc: vusb.Descriptors{
			Device:  dev,
			Config:  append(head, config...),
			Strings: []string{"OpenCT", "Gadget", "0001"},
			Speed:   vusb.FullSpeed,
		},
		began: make(chan struct{}, 64),
	}
}

// ifaceDesc is an interface descriptor; the three endpoints follow it if eps.
func ifaceDesc(number, alt uint8, eps bool) []byte {
	d := []byte{9, 4, number, alt, 0, 0xFF, 0, 0, 0}
	if eps {
		d[4] = 3
		d = append(d, 7, 5, 0x02, 2, 64, 0, 0, 7, 5, 0x82, 2, 64, 0, 0, 7, 5, 0x81, 3, 8, 0, 10)
	}
	return d
}

func (g *gadget) Descriptors() vusb.Descriptors { return g.desc }

func (g *gadget) Reset() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.resets++
}

func (g *gadget) Control(ctx context.Context, s usb.Setup, out []byte, length int) ([]byte, error) {
	switch s.Request {
	case 1:
		if !s.In() {
			return nil, g.Out(ctx, 2, out)
		}
		return []byte{s.RequestType, s.Request, byte(s.Value), byte(s.Value >> 8), byte(s.Index), byte(s.Index >> 8), byte(length), byte(length >> 8)}, nil
	case 3:
		return nil, g.never(ctx)
	}
	return nil, vusb.ErrStall
}

func (g *gadget) never(ctx context.Context) error {
	g.began <- struct{}{}
	<-ctx.Done()
	return ctx.Err()
}

func (g *gadget) Out(_ context.Context, _ uint8, data []byte) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.queue = append(g.queue, data)
	return nil
}

func (g *gadget) In(ctx context.Context, ep uint8, max int) ([]byte, error) {
	if ep == 0x81 {
		return nil, g.never(ctx)
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if len(g.queue) == 0 {
		return nil, vusb.ErrStall
	}
	data := g.queue[0]
	g.queue = g.queue[1:]
	return data, nil
}

var quiet = slog.New(slog.NewTextHandler(io.Discard, nil))

// plug attaches m; the test's end detaches it.
func plug(t *testing.T, m vusb.Model) (*vusb.Port, *usbip.Attachment) {
	t.Helper()
	port := vusb.Plug("vhci", m)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	a, err := usbip.Attach(ctx, port)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		port.Unplug()
		<-a.Done()
	})
	return port, a
}

func open(t *testing.T, path string) usb.Device {
	t.Helper()
	dev, err := gousbdev.Open(path, quiet)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { dev.Close() })
	return dev
}

func plugOpen(t *testing.T, m vusb.Model) (*vusb.Port, usb.Device) {
	t.Helper()
	port, a := plug(t, m)
	return port, open(t, a.Node)
}

func standard() *gadget { return newGadget(0x1209, 0x0001, ifaceDesc(0, 0, true)...) }

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func wantErr(t *testing.T, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Errorf("got %v, want %v", err, want)
	}
}
