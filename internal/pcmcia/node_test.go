package pcmcia_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"
	"time"

	"openct/internal/device"
	"openct/internal/pcmcia"
	"openct/internal/serial/serialtest"
)

func TestOpen(t *testing.T) {
	plain := filepath.Join(t.TempDir(), "plain")
	if err := os.WriteFile(plain, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name, path string
		want       error
	}{
		{"character device", "/dev/null", nil},
		{"not there", plain + "2", device.ErrNotFound},
		{"plain file", plain, device.ErrNotFound},
	} {
		t.Run(tt.name, func(t *testing.T) {
			n, err := pcmcia.Open(tt.path)
			if !errors.Is(err, tt.want) {
				t.Fatalf("error %v, want %v", err, tt.want)
			}
			if err != nil {
				return
			}
			for range 2 {
				if err := n.Close(); err != nil {
					t.Errorf("close: %v", err)
				}
			}
		})
	}
}

// A terminal in canonical mode gives a line at once, as a reader's driver gives a
// message.
func TestMessages(t *testing.T) {
	peer, path := serialtest.Pty(t)
	n, err := pcmcia.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	ctx := t.Context()
	buf := make([]byte, 8)
	if _, err := peer.Write([]byte("9000\n")); err != nil {
		t.Fatal(err)
	}
	if got, err := n.Read(ctx, buf, time.Minute); err != nil || string(buf[:got]) != "9000\n" {
		t.Errorf("read %q, %v", buf[:got], err)
	}
	if _, err := peer.Write([]byte("longer than that\n")); err != nil {
		t.Fatal(err)
	}
	if got, err := n.Read(ctx, buf, time.Minute); !errors.Is(err, device.ErrIO) || got != 0 {
		t.Errorf("read %d bytes, %v", got, err)
	}
	if err := n.Write(ctx, []byte("00b0"), time.Minute); err != nil {
		t.Errorf("write: %v", err)
	}
	// A terminal does not know the request.
	if err := n.Ioctl(ctx, pcmcia.Request{Direction: pcmcia.Read, Type: 'c', Pointer: true}, buf[:4], time.Minute); !errors.Is(err, device.ErrIO) {
		t.Errorf("ioctl: %v", err)
	}
	if err := n.Close(); err != nil {
		t.Errorf("close: %v", err)
	}
	if err := n.Write(ctx, []byte("00b0"), time.Minute); !errors.Is(err, device.ErrClosed) {
		t.Errorf("write after close: %v", err)
	}
}

// A request that the kernel does not finish holds up the others for no longer than
// they can wait, and they work again when it has.
func TestPending(t *testing.T) {
	peer, path := serialtest.Pty(t)
	n, err := pcmcia.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	buf := make([]byte, 8)
	begun := make(chan error, 1)
	// More than the terminal keeps for a peer that does not read.
	go func() { begun <- n.Write(ctx, bytes.Repeat([]byte("x"), 1<<20), time.Minute) }()
	// As soon as it has its turn, another request has none.
	for {
		err := n.Write(t.Context(), []byte("x"), 10*time.Millisecond)
		if errors.Is(err, pcmcia.ErrPending) && errors.Is(err, device.ErrTimeout) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	cancel()
	if err := <-begun; !errors.Is(err, context.Canceled) {
		t.Errorf("long write: %v", err)
	}
	if err := n.Write(t.Context(), []byte("x"), time.Millisecond); !errors.Is(err, pcmcia.ErrPending) {
		t.Errorf("write: %v", err)
	}
	go func() { _, _ = io.Copy(io.Discard, peer) }() // until the test closes it
	if err := n.Write(t.Context(), []byte("x"), time.Minute); err != nil {
		t.Errorf("write when the long one has ended: %v", err)
	}
	select {
	case <-n.Gone():
		t.Error("the device is gone")
	default:
	}

	// Nothing comes: the device is of no use, whether the client still waits or not, and
	// closing does not wait.
	if _, err := n.Read(ctx, buf, 10*time.Millisecond); !errors.Is(err, device.ErrUnplugged) {
		t.Errorf("read that does not end: %v", err)
	}
	<-n.Gone()
	if err := n.Close(); err != nil {
		t.Errorf("close: %v", err)
	}
	if err := n.Write(t.Context(), []byte("x"), time.Minute); !errors.Is(err, device.ErrClosed) {
		t.Errorf("write after close: %v", err)
	}
}
