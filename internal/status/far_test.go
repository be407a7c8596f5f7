package status

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

const farDevice = "ssh://desk/0"

func TestFarLock(t *testing.T) {
	dir := initDir(t)
	if n, err := EndFar(dir, watchPatience); n != 0 || err != nil {
		t.Fatalf("without a handler: %d, %v", n, err)
	}
	first := startHelper(t, dir, farHelper)
	if first.line != "waiting" {
		t.Fatal(first.line)
	}
	if second := startHelper(t, dir, farHelper); second.line != ErrBusy.Error() {
		t.Errorf("a second one: %s", second.line)
	}
	if _, err := LockFar(dir, farDevice); !errors.Is(err, ErrBusy) {
		t.Errorf("got %v, want %v", err, ErrBusy)
	}
	other, err := LockFar(dir, "ssh://desk/1")
	if err != nil {
		t.Fatalf("of another reader: %v", err)
	}
	if err := other.Close(); err != nil {
		t.Error(err)
	}
	if n, err := EndFar(dir, watchPatience); n != 1 || err != nil {
		t.Errorf("end: %d, %v", n, err)
	}
	first.Wait()
	if n, err := EndFar(dir, watchPatience); n != 0 || err != nil {
		t.Errorf("after its end: %d, %v", n, err)
	}
	again, err := LockFar(dir, farDevice)
	if err != nil {
		t.Fatal(err)
	}
	if err := again.Close(); err != nil {
		t.Error(err)
	}
}

// All handlers together are waited for no longer than that, and one that does not end
// does not keep the others.
func TestEndFarPatience(t *testing.T) {
	dir := initDir(t)
	h := startHelper(t, dir, farHelper)
	if err := h.Process.Signal(unix.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("/dev/null", filepath.Join(dir, farPrefix+"link")); err != nil {
		t.Fatal(err)
	}
	if n, err := EndFar(dir, time.Millisecond); n != 1 || !errors.Is(err, ErrBusy) || !errors.Is(err, ErrNotRegular) {
		t.Errorf("got %d, %v; want %v and %v", n, err, ErrBusy, ErrNotRegular)
	}
	h.kill(t)
}
