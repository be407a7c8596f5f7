package status

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

const watchPatience = 20 * time.Second

func TestWatchLock(t *testing.T) {
	dir := initDir(t)
	if was, err := EndWatch(dir, watchPatience); was || err != nil {
		t.Fatalf("without a file: %v, %v", was, err)
	}
	w := startHelper(t, dir, watchHelper)
	if w.line != "watching" {
		t.Fatal(w.line)
	}
	if _, err := LockWatch(dir); !errors.Is(err, ErrBusy) {
		t.Errorf("a second one: got %v, want %v", err, ErrBusy)
	}
	if was, err := EndWatch(dir, watchPatience); !was || err != nil {
		t.Fatalf("end: %v, %v", was, err)
	}
	w.Wait()
	if !w.ProcessState.Sys().(interface{ Signaled() bool }).Signaled() {
		t.Errorf("it has ended with %v", w.ProcessState)
	}
	if was, err := EndWatch(dir, watchPatience); was || err != nil {
		t.Errorf("after its end: %v, %v", was, err)
	}
	lock, err := LockWatch(dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := lock.Close(); err != nil {
		t.Error(err)
	}
}

// One that does not end is not waited for without end.
func TestEndWatchPatience(t *testing.T) {
	dir := initDir(t)
	w := startHelper(t, dir, watchHelper)
	if err := w.Process.Signal(unix.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	if was, err := EndWatch(dir, time.Millisecond); !was || !errors.Is(err, ErrBusy) {
		t.Errorf("got %v, %v; want %v", was, err, ErrBusy)
	}
	w.kill(t)
}

// What is in the place of the lock may be another user's work.
func TestWatchLockNotTrusted(t *testing.T) {
	tests := []struct {
		name string
		make func(path string) error
		end  error
	}{
		{"a link", func(path string) error { return os.Symlink("/dev/null", path) }, ErrNotRegular},
		{"a pipe", func(path string) error { return unix.Mkfifo(path, 0o666) }, ErrNotRegular},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			dir := initDir(t)
			if err := tt.make(filepath.Join(dir, watchName)); err != nil {
				t.Fatal(err)
			}
			if was, err := EndWatch(dir, watchPatience); was || !errors.Is(err, tt.end) {
				t.Errorf("end: %v, %v; want %v", was, err, tt.end)
			}
			lock, err := LockWatch(dir)
			if err != nil {
				t.Fatal(err)
			}
			lock.Close()
			var st unix.Stat_t
			if err := unix.Lstat(filepath.Join(dir, watchName), &st); err != nil || st.Mode != unix.S_IFREG|0o600 {
				t.Errorf("mode %o, %v", st.Mode, err)
			}
		})
	}
}
