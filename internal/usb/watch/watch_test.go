package watch

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"openct/internal/usb"
)

// hangUpPair gives a watch on a pipe and the other end, whose closing is
// what an unplug is on a usbfs node: POLLHUP and nothing to read.
func hangUpPair(t *testing.T) (*Watch, *os.File) {
	t.Helper()
	var p [2]int
	if err := unix.Pipe2(p[:], unix.O_NONBLOCK|unix.O_CLOEXEC); err != nil {
		t.Fatal(err)
	}
	other := os.NewFile(uintptr(p[1]), "other end")
	t.Cleanup(func() { other.Close() })
	w, err := start(os.NewFile(uintptr(p[0]), "node"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { w.Close() })
	return w, other
}

func isClosed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

func TestGone(t *testing.T) {
	w, other := hangUpPair(t)
	if w.Check() || isClosed(w.Gone()) {
		t.Fatal("gone before anything happened")
	}
	other.Close()
	<-w.Gone()
	if !w.Check() {
		t.Error("Check does not know it")
	}
	if err := w.Close(); err != nil {
		t.Error(err)
	}
}

func TestCheckSeesItFirst(t *testing.T) {
	w, other := hangUpPair(t)
	other.Close()
	if !w.Check() || !isClosed(w.Gone()) {
		t.Error("Check after the hang-up did not report it")
	}
}

func TestCloseEndsTheWatch(t *testing.T) {
	w, _ := hangUpPair(t)
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if isClosed(w.Gone()) || w.Check() {
		t.Error("a closed watch says that the device is gone")
	}
}

func TestOpenErrors(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	fifo := filepath.Join(dir, "fifo")
	if err := unix.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name, path string
		want       error
	}{
		{"missing", filepath.Join(dir, "001", "004"), usb.ErrNotFound},
		{"below a file", filepath.Join(file, "004"), usb.ErrNotFound},
		{"plain file", file, ErrNotNode},
		{"directory", dir, ErrNotNode},
		{"fifo", fifo, ErrNotNode},
		{"other device", "/dev/null", ErrNotNode},
		{"empty", "", usb.ErrNotFound},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			w, err := Open(tt.path)
			if !errors.Is(err, tt.want) {
				t.Errorf("got %v, %v; want %v", w, err, tt.want)
			}
		})
	}
}
