package device

import (
	"errors"
	"net"
	"os"
	"path/filepath"
	"syscall"
	"testing"
)

func TestFileError(t *testing.T) {
	for _, tt := range []struct {
		name     string
		in, want error
	}{
		{"nothing", nil, nil},
		{"card pulled", syscall.ENODEV, ErrUnplugged},
		{"no driver behind the node", syscall.ENXIO, ErrUnplugged},
		{"no node", syscall.ENOENT, ErrUnplugged},
		{"another opener", syscall.EBUSY, ErrBusy},
		{"no access", syscall.EACCES, ErrAccess},
		{"a filter", syscall.EPERM, ErrAccess},
		{"closed", os.ErrClosed, ErrClosed},
		{"anything else", syscall.ENOTTY, ErrIO},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := FileError(tt.in); !errors.Is(got, tt.want) || (tt.in != nil && !errors.Is(got, tt.in)) {
				t.Errorf("%v, want %v", got, tt.want)
			}
		})
	}
}

func TestOpenNode(t *testing.T) {
	dir := t.TempDir()
	socket := filepath.Join(dir, "socket")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	plain := filepath.Join(dir, "plain")
	if err := os.WriteFile(plain, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name, path string
		want       error
	}{
		{"character device", "/dev/null", nil},
		{"no node", filepath.Join(dir, "none"), ErrNotFound},
		{"nobody behind it", socket, ErrNotFound},
		{"directory", dir, ErrIO},
		{"plain file", plain, ErrNotFound},
	} {
		t.Run(tt.name, func(t *testing.T) {
			fd, err := OpenNode(tt.path)
			if !errors.Is(err, tt.want) {
				t.Fatalf("%v, want %v", err, tt.want)
			}
			if err == nil {
				_ = syscall.Close(fd)
			}
		})
	}
}
