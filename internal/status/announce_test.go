package status

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// News of a card wakes who watches the file.
func TestAnnounce(t *testing.T) {
	dir := t.TempDir()
	if err := Init(dir, Options{UID: -1, GID: -1}); err != nil {
		t.Fatal(err)
	}
	f, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	s, err := Claim(f, Detail{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Release()

	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		t.Fatal(err)
	}
	watch := os.NewFile(uintptr(fd), "inotify")
	defer watch.Close()
	if _, err := unix.InotifyAddWatch(fd, filepath.Join(dir, "status"), unix.IN_ATTRIB); err != nil {
		t.Fatal(err)
	}
	if err := s.SetCard(0, true, false); err != nil {
		t.Fatal(err)
	}
	if err := watch.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := watch.Read(make([]byte, 4096)); err != nil {
		t.Errorf("nobody was woken: %v", err)
	}
}
