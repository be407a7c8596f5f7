package usbfs

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"openct/internal/usb"
)

func isClosed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

func TestGone(t *testing.T) {
	n, k := testNode(t)
	if n.Check() || isClosed(n.Gone()) {
		t.Fatal("gone before anything happened")
	}
	k.unplug()
	<-n.Gone()
	if !n.Check() {
		t.Error("Check does not know it")
	}
	if err := n.Close(); err != nil {
		t.Error(err)
	}
}

func TestCheckSeesItFirst(t *testing.T) {
	n, k := testNode(t)
	k.unplug()
	if !n.Check() || !isClosed(n.Gone()) {
		t.Error("Check after the hang-up did not report it")
	}
}

func TestCloseEndsTheWatch(t *testing.T) {
	n, _ := testNode(t)
	if err := n.Close(); err != nil {
		t.Fatal(err)
	}
	if isClosed(n.Gone()) || n.Check() {
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
			for _, open := range []func(string) (*Node, error){Open, Look} {
				if n, err := open(tt.path); n != nil || !errors.Is(err, tt.want) {
					t.Errorf("got %v, %v; want %v", n, err, tt.want)
				}
			}
		})
	}
}
