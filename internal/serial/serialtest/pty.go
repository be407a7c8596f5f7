package serialtest

import (
	"fmt"
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

// Pty is OpenPty for a test, whose cleanup closes peer at the latest.
func Pty(t testing.TB) (peer *os.File, path string) {
	t.Helper()
	peer, path, err := OpenPty()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = peer.Close() })
	return peer, path
}

// OpenPty makes a pseudo-terminal: the end where the test is the reader, and the
// path under which serial.Open takes the other end. To close peer is to pull the
// adapter.
func OpenPty() (peer *os.File, path string, err error) {
	fd, err := unix.Open("/dev/ptmx", unix.O_RDWR|unix.O_NONBLOCK|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, "", fmt.Errorf("no pseudo-terminal: %w", err)
	}
	err = unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0)
	var n uint32
	if err == nil {
		n, err = unix.IoctlGetUint32(fd, unix.TIOCGPTN)
	}
	if err != nil {
		_ = unix.Close(fd)
		return nil, "", fmt.Errorf("pseudo-terminal: %w", err)
	}
	return os.NewFile(uintptr(fd), "/dev/ptmx"), fmt.Sprintf("/dev/pts/%d", n), nil
}
