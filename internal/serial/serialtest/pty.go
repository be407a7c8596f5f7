package serialtest

import (
	"fmt"
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

// Pty makes a pseudo-terminal: the end where the test is the reader, and the
// path under which serial.Open takes the other end. To close the test's end is
// to pull the adapter; the test's cleanup does it at the latest.
func Pty(t testing.TB) (peer *os.File, path string) {
	t.Helper()
	fd, err := unix.Open("/dev/ptmx", unix.O_RDWR|unix.O_NONBLOCK|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatalf("serialtest: no pseudo-terminal: %v", err)
	}
	peer = os.NewFile(uintptr(fd), "/dev/ptmx")
	t.Cleanup(func() { _ = peer.Close() })
	if err := unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0); err != nil {
		t.Fatalf("serialtest: unlock the pseudo-terminal: %v", err)
	}
	n, err := unix.IoctlGetUint32(fd, unix.TIOCGPTN)
	if err != nil {
		t.Fatalf("serialtest: number of the pseudo-terminal: %v", err)
	}
	return peer, fmt.Sprintf("/dev/pts/%d", n)
}
