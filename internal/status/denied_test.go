package status

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
)

// A user who is not in the group of the directory is told so.
func TestOpenDenied(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "openct")
	if err := os.Mkdir(dir, 0); err != nil {
		t.Fatal(err)
	}
	if os.Geteuid() == 0 { // setfsuid(2) is this thread's alone
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		if err := syscall.Setfsuid(65534); err != nil {
			t.Fatal(err)
		}
		defer syscall.Setfsuid(0)
	}
	_, err := OpenReadOnly(dir)
	want := "; only root and the group of " + dir + ` may use the readers, see "openct-control doctor"`
	if !errors.Is(err, fs.ErrPermission) || !strings.HasSuffix(err.Error(), want) {
		t.Errorf("%v", err)
	}
}
