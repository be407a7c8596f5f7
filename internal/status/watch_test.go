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
	if e, err := EndWatch(dir); e != nil || err != nil {
		t.Fatalf("without a file: %v, %v", e, err)
	}
	w := startHelper(t, dir, watchHelper)
	if w.line != "watching" {
		t.Fatal(w.line)
	}
	if _, err := LockWatch(dir); !errors.Is(err, ErrBusy) {
		t.Errorf("a second one: got %v, want %v", err, ErrBusy)
	}
	e, err := EndWatch(dir)
	if e == nil || err != nil || e.PID != w.Process.Pid {
		t.Fatalf("end: %v, %v", e, err)
	}
	if !e.Wait(time.Now().Add(watchPatience)) {
		t.Error("it has not ended")
	}
	e.Close()
	w.Wait()
	if !w.ProcessState.Sys().(interface{ Signaled() bool }).Signaled() {
		t.Errorf("it has ended with %v", w.ProcessState)
	}
	if e, err := EndWatch(dir); e != nil || err != nil {
		t.Errorf("after its end: %v, %v", e, err)
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
	e, err := EndWatch(dir)
	if e == nil || err != nil {
		t.Fatalf("got %v, %v", e, err)
	}
	defer e.Close()
	if e.Wait(time.Now().Add(time.Millisecond)) {
		t.Error("a process that is stopped has ended")
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
			if e, err := EndWatch(dir); e != nil || !errors.Is(err, tt.end) {
				t.Errorf("end: %v, %v; want %v", e, err, tt.end)
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
