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
	if asked, err := EndFar(dir); len(asked) != 0 || err != nil {
		t.Fatalf("without a handler: %v, %v", asked, err)
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
	asked, err := EndFar(dir)
	if len(asked) != 1 || err != nil || asked[0].PID != first.Process.Pid {
		t.Fatalf("end: %v, %v", asked, err)
	}
	if !asked[0].Wait(time.Now().Add(watchPatience)) {
		t.Error("it has not ended")
	}
	asked[0].Close()
	first.Wait()
	if asked, err := EndFar(dir); len(asked) != 0 || err != nil {
		t.Errorf("after its end: %v, %v", asked, err)
	}
	again, err := LockFar(dir, farDevice)
	if err != nil {
		t.Fatal(err)
	}
	if err := again.Close(); err != nil {
		t.Error(err)
	}
}

// Handlers are asked without waiting for one that does not end, and what else lies in
// the directory does not keep them.
func TestEndFarAsksAll(t *testing.T) {
	dir := initDir(t)
	h := startHelper(t, dir, farHelper)
	if err := h.Process.Signal(unix.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("/dev/null", filepath.Join(dir, farPrefix+"link")); err != nil {
		t.Fatal(err)
	}
	asked, err := EndFar(dir)
	if len(asked) != 1 || !errors.Is(err, ErrNotRegular) {
		t.Fatalf("got %v, %v; want one and %v", asked, err, ErrNotRegular)
	}
	defer asked[0].Close()
	if asked[0].Wait(time.Now().Add(time.Millisecond)) {
		t.Error("a process that is stopped has ended")
	}
	h.kill(t)
	// The time is over, and it has ended all the same.
	if !asked[0].Wait(time.Now().Add(-time.Second)) {
		t.Error("it has not ended")
	}
}
