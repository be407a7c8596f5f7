//go:build go1.25

package ccid

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"openct/internal/device"
	"openct/internal/ifd"
	"openct/internal/proto"
	"openct/internal/usb"
	"openct/internal/vusb/ccidreader"
)

// blockReader serves a reader over a socket that keeps message borders, as
// cm4040_cs does.
func blockReader(t testing.TB, chip *testCard, answer func([]byte) []byte) (*blockTransport, *ccidreader.Reader, func()) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	model := ccidreader.New(ccidreader.Profile{Features: uint32(cm4040.Features), NoInterrupt: true}, chip)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		buf := make([]byte, 512)
		for {
			n, err := unix.Read(fds[1], buf)
			if errors.Is(err, unix.EINTR) {
				continue
			}
			if err != nil || n == 0 {
				return
			}
			if err := model.Out(context.Background(), 0x02, buf[:n]); err != nil {
				return
			}
			msg, err := model.In(context.Background(), 0x81, 1<<17)
			if err != nil {
				return
			}
			if msg = answer(msg); msg == nil {
				return
			}
			if _, err := unix.Write(fds[1], msg); err != nil {
				return
			}
		}
	}()
	pull := func() { _ = unix.Shutdown(fds[1], unix.SHUT_RDWR) }
	t.Cleanup(func() {
		pull()
		<-ended
		_ = unix.Close(fds[1])
	})
	tr, err := newBlockTransport("/dev/cmx0", fds[0])
	if err != nil {
		t.Fatal(err)
	}
	return tr, model, pull
}

// TestBlock: the CardMan 4040's way, and its end.
func TestBlock(t *testing.T) {
	tr, model, pull := blockReader(t, &testCard{atr: atrT1, answer: func([]byte) []byte { return counting(256) }},
		func(m []byte) []byte { return m })
	b := &bench{t: t, model: model}
	reader, err := openTransport(tr, &cm4040, nil, nil, b.options())
	if err != nil {
		t.Fatal(err)
	}
	b.reader = reader
	e := b.engine(0)
	b.transmit(e, []byte{0x00, 0xB0, 0x00, 0x00, 0x00}, counting(256))
	st, err := b.slot(0).(ifd.Presence).Status(context.Background())
	if err != nil || !st.Present {
		t.Errorf("status %+v, %v", st, err)
	}
	b.clean()
	pull()
	_, err = e.Transmit(context.Background(), selectMF, nil)
	wantErr(t, "Transmit after the pull", err, usb.ErrUnplugged)
	<-reader.Gone()
	_, err = b.slot(0).Reset(context.Background())
	wantErr(t, "Reset after the pull", err, usb.ErrUnplugged)
	if err := reader.Close(); err != nil {
		t.Errorf("Close: %v", err)
	}
}

// TestBlockHostile: messages that are not what their header says.
func TestBlockHostile(t *testing.T) {
	spoil := false
	tr, model, _ := blockReader(t, &testCard{atr: atrT1}, func(m []byte) []byte {
		if spoil {
			spoil = false
			return m[:len(m)-1]
		}
		return m
	})
	b := &bench{t: t, model: model}
	reader, err := openTransport(tr, &cm4040, nil, nil, b.options())
	if err != nil {
		t.Fatal(err)
	}
	b.reader = reader
	e := b.engine(0)
	spoil = true
	_, err = e.Transmit(context.Background(), selectMF, nil)
	wantErr(t, "Transmit", err, ifd.ErrComm)
	b.transmit(b.engine(0), selectMF, okSW)
	_, err = e.Transmit(context.Background(), append([]byte{0, 0xD6, 0, 0, 0, 2, 0}, make([]byte, 512)...), nil)
	wantErr(t, "an extended APDU", err, proto.ErrInvalidAPDU)
	if err := reader.Close(); err != nil {
		t.Errorf("Close: %v", err)
	}
	if err := tr.close(); err != nil {
		t.Errorf("second close: %v", err)
	}
}

// TestFileErrors: what the kernel says, in the words of package usb.
func TestFileErrors(t *testing.T) {
	for _, c := range []struct {
		in, want error
	}{
		{nil, nil}, {unix.ENODEV, usb.ErrUnplugged}, {unix.ENXIO, usb.ErrUnplugged}, {unix.ENOENT, usb.ErrUnplugged},
		{unix.EBUSY, usb.ErrBusy}, {unix.EACCES, usb.ErrAccess}, {unix.EPERM, usb.ErrAccess}, {unix.EBADF, usb.ErrClosed},
		{os.ErrClosed, usb.ErrClosed}, {unix.EIO, usb.ErrIO}, {unix.EINVAL, usb.ErrIO},
	} {
		if got := device.FileError(c.in); !errors.Is(got, c.want) {
			t.Errorf("%v: %v, want %v", c.in, got, c.want)
		}
	}
}

// A path from openct.conf that is no device's stays as it is.
func TestOpenBlockNoDevice(t *testing.T) {
	plain, want := filepath.Join(t.TempDir(), "plain"), "what a user keeps\n"
	if err := os.WriteFile(plain, []byte(want), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{plain, plain + "2"} {
		if _, err := OpenBlock(path, ifd.Options{Log: slog.New(slog.DiscardHandler)}); !errors.Is(err, device.ErrNotFound) {
			t.Errorf("%s: %v, want %v", path, err, device.ErrNotFound)
		}
	}
	if got, err := os.ReadFile(plain); err != nil || string(got) != want {
		t.Errorf("the file has %q, %v", got, err)
	}
}
