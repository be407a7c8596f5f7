package emulator

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"openct/internal/cli"
	"openct/internal/devname"
	"openct/internal/usb"
	"openct/internal/vusb"
	"openct/internal/vusb/usbip"
)

// echo is a device whose endpoints 02 and 82 echo, and whose endpoint 81 is
// silent.
type echo struct{ out chan []byte }

func (*echo) Descriptors() vusb.Descriptors {
	return vusb.Descriptors{
		Device: []byte{18, 1, 0x10, 0x01, 0, 0, 0, 8, 0x34, 0x12, 0x78, 0x56, 0, 1, 1, 2, 0, 1},
		Config: []byte{
			9, 2, 9 + 9 + 3*7 + 9, 0, 1, 1, 0, 0x80, 50,
			9, 4, 0, 0, 3, 0xFF, 0, 0, 0,
			7, 5, 0x02, 2, 64, 0, 0,
			7, 5, 0x82, 2, 64, 0, 0,
			7, 5, 0x81, 3, 8, 0, 10,
			9, 4, 0, 1, 0, 0xFF, 0, 0, 0,
		},
		Strings: []string{"Åäö", "echo"},
		Speed:   vusb.FullSpeed,
	}
}

func (*echo) Control(_ context.Context, s usb.Setup, out []byte, length int) ([]byte, error) {
	switch s.Request {
	case 0x01:
		return []byte{byte(s.Value), byte(s.Value >> 8), byte(s.Index), byte(s.Index >> 8), byte(length)}, nil
	case 0x66:
		return nil, errors.New("broken")
	}
	return nil, vusb.ErrStall
}

func (e *echo) Out(_ context.Context, _ uint8, data []byte) error {
	e.out <- data
	return nil
}

func (e *echo) In(ctx context.Context, ep uint8, max int) ([]byte, error) {
	var out chan []byte
	if ep == 0x82 {
		out = e.out
	}
	select {
	case b := <-out:
		return b, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (*echo) Reset() {}

// openEcho opens an echo; pull hangs up.
func openEcho(t *testing.T) (h *host, pull func()) {
	t.Helper()
	ours, theirs := net.Pipe()
	served := make(chan error, 1)
	go func() { served <- usbip.Serve(context.Background(), theirs, &echo{out: make(chan []byte, 1)}) }()
	h = newHost("echo", ours, func() {})
	if err := h.enumerate(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		h.Close()
		if err := <-served; err != nil && !errors.Is(err, net.ErrClosed) && !strings.Contains(err.Error(), "closed pipe") {
			t.Errorf("the device's side: %v", err)
		}
	})
	return h, func() { theirs.Close() }
}

func TestEnumerate(t *testing.T) {
	h, _ := openEcho(t)
	d := h.Descriptor()
	if d.ID() != "1234:5678" || d.Manufacturer != "Åäö" || d.ProductString != "echo" || d.Serial != "" || len(d.Interfaces) != 2 {
		t.Errorf("it is %+v", d)
	}
}

func TestTransfers(t *testing.T) {
	h, _ := openEcho(t)
	ctx := context.Background()
	if _, err := h.Bulk(ctx, 0x02, []byte{1}, time.Second); !errors.Is(err, usb.ErrIO) {
		t.Errorf("an endpoint that is not claimed: %v", err)
	}
	for _, tt := range []struct {
		name       string
		iface, alt uint8
		want       error
	}{
		{"claim", 0, 0, nil},
		{"no such interface", 1, 0, usb.ErrNotFound},
		{"another setting", 0, 1, nil},
		{"back", 0, 0, nil},
	} {
		if err := h.Claim(tt.iface, tt.alt); !errors.Is(err, tt.want) {
			t.Errorf("%s: %v, want %v", tt.name, err, tt.want)
		}
	}

	buf := make([]byte, 8)
	n, err := h.Control(ctx, usb.Setup{RequestType: usb.VendorDeviceIn, Request: 1, Value: 0x1234, Index: 0x5678}, buf, time.Second)
	if want := []byte{0x34, 0x12, 0x78, 0x56, 8}; err != nil || !bytes.Equal(buf[:n], want) {
		t.Errorf("control IN: % x, %v", buf[:n], err)
	}
	if n, err := h.Control(ctx, usb.Setup{RequestType: usb.VendorDeviceOut, Request: 1}, []byte{7, 8}, time.Second); n != 2 || err != nil {
		t.Errorf("control OUT: %d, %v", n, err)
	}
	if _, err := h.Control(ctx, usb.Setup{RequestType: usb.VendorDeviceIn, Request: 2}, buf, time.Second); !errors.Is(err, usb.ErrStall) {
		t.Errorf("a stall: %v", err)
	}
	if _, err := h.Control(ctx, usb.Setup{RequestType: usb.VendorDeviceIn, Request: 0x66}, buf, time.Second); !errors.Is(err, usb.ErrIO) {
		t.Errorf("a fault: %v", err)
	}
	if n, err := h.Bulk(ctx, 0x02, []byte{1, 2, 3}, time.Second); n != 3 || err != nil {
		t.Errorf("bulk OUT: %d, %v", n, err)
	}
	if n, err := h.Bulk(ctx, 0x82, buf, time.Second); n != 3 || err != nil || !bytes.Equal(buf[:3], []byte{1, 2, 3}) {
		t.Errorf("bulk IN: % x, %v", buf[:n], err)
	}
	if _, err := h.Bulk(ctx, 0x02, []byte{1, 2, 3}, time.Second); err != nil {
		t.Errorf("bulk OUT: %v", err)
	}
	if _, err := h.Bulk(ctx, 0x82, buf[:2], time.Second); !errors.Is(err, usb.ErrOverflow) {
		t.Errorf("more than was asked for: %v", err)
	}
	if err := h.ClearHalt(0x82); err != nil {
		t.Errorf("clear halt: %v", err)
	}
	if err := h.Release(0); err != nil {
		t.Error(err)
	}
	if _, err := h.Bulk(ctx, 0x82, buf, time.Second); !errors.Is(err, usb.ErrIO) {
		t.Errorf("an endpoint that was released: %v", err)
	}
}

// The end of a transfer that waits.
func TestEnd(t *testing.T) {
	canceled, cancel := context.WithCancel(context.Background())
	cancel()
	late, end := context.WithDeadline(context.Background(), time.Unix(0, 0))
	defer end()
	for _, tt := range []struct {
		name string
		run  func(h *host, pull func()) error
		want error
		gone bool
	}{
		{"timeout", func(h *host, _ func()) error {
			_, err := h.Bulk(context.Background(), 0x82, make([]byte, 8), time.Millisecond)
			return err
		}, usb.ErrTimeout, false},
		{"a context that has ended", func(h *host, _ func()) error {
			_, err := h.Interrupt(canceled, 0x81, make([]byte, 8))
			return err
		}, context.Canceled, false},
		{"a deadline that is over", func(h *host, _ func()) error {
			_, err := h.Interrupt(late, 0x81, make([]byte, 8))
			return err
		}, usb.ErrTimeout, false},
		{"a context that ends", func(h *host, _ func()) error {
			return waiting(h, cancelLater)
		}, context.Canceled, false},
		{"unplugged", func(h *host, pull func()) error {
			return waiting(h, func(*host, context.CancelFunc) { pull() })
		}, usb.ErrUnplugged, true},
		{"closed", func(h *host, _ func()) error {
			return waiting(h, func(h *host, _ context.CancelFunc) { h.Close() })
		}, usb.ErrClosed, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			h, pull := openEcho(t)
			if err := h.Claim(0, 0); err != nil {
				t.Fatal(err)
			}
			if err := tt.run(h, pull); !errors.Is(err, tt.want) {
				t.Errorf("got %v, want %v", err, tt.want)
			}
			if tt.gone {
				<-h.Gone()
			}
			select {
			case <-h.Gone():
				if !tt.gone {
					t.Error("it is gone")
				}
			default:
			}
			if !tt.gone && !h.closed {
				if _, err := h.Control(context.Background(), usb.Setup{RequestType: usb.VendorDeviceIn, Request: 1}, make([]byte, 5), time.Second); err != nil {
					t.Errorf("the next transfer: %v", err)
				}
			}
			if err := h.Close(); err != nil {
				t.Error(err)
			}
			if _, err := h.Bulk(context.Background(), 0x82, nil, time.Second); !errors.Is(err, usb.ErrClosed) {
				t.Errorf("after Close: %v", err)
			}
		})
	}
}

func cancelLater(_ *host, cancel context.CancelFunc) { cancel() }

// waiting reads where nothing comes, and disturbs that when it is under way.
func waiting(h *host, disturb func(*host, context.CancelFunc)) error {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	result := make(chan error, 1)
	go func() {
		_, err := h.Interrupt(ctx, 0x81, make([]byte, 8))
		result <- err
	}()
	for under := false; !under; {
		h.mu.Lock()
		under = len(h.pending) > 0
		h.mu.Unlock()
	}
	disturb(h, cancel)
	return <-result
}

// What comes from the other side is a stream of answers, of which none is believed.
func FuzzAnswers(f *testing.F) {
	message := func(kind, seq uint32, status int32, actual uint32, data ...byte) []byte {
		m := make([]byte, headerLen)
		binary.BigEndian.PutUint32(m[0:], kind)
		binary.BigEndian.PutUint32(m[4:], seq)
		binary.BigEndian.PutUint32(m[20:], uint32(status))
		binary.BigEndian.PutUint32(m[24:], actual)
		return append(m, data...)
	}
	f.Add(message(retSubmit, 1, 0, 2, 0x55, 0xAA))
	f.Add(message(retSubmit, 1, 0, 1<<31))
	f.Add(message(retSubmit, 1, 0, 4, 1))
	f.Add(message(retSubmit, 9, 0, 0))
	f.Add(message(retUnlink, 1, statusUnlinked, 0))
	f.Add(append(message(retSubmit, 1, statusStall, 0), message(retSubmit, 1, 0, 0)...))
	f.Add(message(77, 1, 0, 0))
	f.Fuzz(func(t *testing.T, stream []byte) {
		ours, theirs := net.Pipe()
		go func() {
			var m [headerLen]byte
			if _, err := theirs.Read(m[:]); err == nil {
				theirs.SetWriteDeadline(time.Now().Add(5 * time.Second))
				_, _ = theirs.Write(stream)
			}
			theirs.Close()
		}()
		h := newHost("fuzz", ours, func() {})
		defer h.Close()
		buf := make([]byte, 4)
		n, err := h.Control(context.Background(), usb.Setup{RequestType: usb.VendorDeviceIn}, buf, time.Minute)
		if n < 0 || n > len(buf) || errors.Is(err, usb.ErrTimeout) && !bytes.Contains(stream, []byte{0xFF, 0xFF, 0xFF, 0x98}) {
			t.Errorf("%d bytes, %v", n, err)
		}
	})
}

// A program that is not there, and one that refuses.
func TestOpenErrors(t *testing.T) {
	dir := t.TempDir()
	script := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte("#!/bin/sh\n"+text), 0o755); err != nil {
			t.Fatal(err)
		}
		return path
	}
	target := devname.Target{Driver: "etoken64", Type: "virtual", Path: "piv"}
	var hint *cli.Hint
	if _, err := open(filepath.Join(dir, "none"), target, slog.New(slog.DiscardHandler)); !errors.As(err, &hint) || !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no program: %v", err)
	}
	for _, tt := range []struct{ name, text, want string }{
		{"says why", `echo "openct-vtoken: no card called $3" >&2; exit 1`, "no card called piv"},
		{"says nothing", `exit 1`, "virtual"},
		{"hangs up and stays", `exec <&-; exec sleep 600`, "virtual"},
		{"says too much", `head -c 100000 /dev/zero | tr '\0' y >&2; exit 1`, "yyyy"},
		{"speaks something else", `echo "This is a text, which is longer than a header is, by some bytes" >&0; cat >/dev/null 2>&1`, "virtual"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dev, err := open(script(tt.name, tt.text), target, slog.New(slog.DiscardHandler))
			if err == nil {
				dev.Close()
			}
			if err == nil || !strings.Contains(err.Error(), tt.want) || len(err.Error()) > maxSaid {
				t.Errorf("got %.200v", err)
			}
		})
	}
}

// A device that describes itself in part is none, whatever it leaves out.
func TestDescriptionsThatAreCutShort(t *testing.T) {
	e := &echo{}
	for lacks := range 3 {
		ours, theirs := net.Pipe()
		h := newHost("echo", ours, func() {})
		go func() {
			asked := 0
			for {
				var m [headerLen]byte
				if _, err := io.ReadFull(theirs, m[:]); err != nil {
					return
				}
				d := e.Descriptors()
				answer := d.Device
				if asked > 0 {
					answer = d.Config[:min(len(d.Config), int(binary.BigEndian.Uint32(m[24:])))]
				}
				if asked == lacks {
					answer = nil
				}
				asked++
				reply := make([]byte, headerLen)
				binary.BigEndian.PutUint32(reply[0:], retSubmit)
				copy(reply[4:8], m[4:8])
				binary.BigEndian.PutUint32(reply[24:], uint32(len(answer)))
				if _, err := theirs.Write(append(reply, answer...)); err != nil {
					return
				}
			}
		}()
		if err := h.enumerate(); !errors.Is(err, usb.ErrDescriptor) {
			t.Errorf("without description %d: %v", lacks, err)
		}
		h.Close()
	}
}
