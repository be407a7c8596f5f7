package control

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"openct/internal/machine"
	"openct/internal/status"
	"openct/internal/status/statustest"
)

// handlerEnv has the test program be a handler of the directory that it names, of the
// sort that its argument names.
const handlerEnv = "OPENCT_CONTROL_TEST_HANDLER"

const farReader = "ssh://desk/0"

// beHandler is a process that has what shutdown knows handlers by. It ends at SIGTERM;
// one of the sort "far last" ends at the end of its standard input alone.
func beHandler(dir, sort string) error {
	if sort == "far last" {
		signal.Ignore(unix.SIGTERM)
	}
	if strings.HasPrefix(sort, "far") {
		if _, err := status.LockFar(dir, farReader); err != nil {
			return err
		}
	}
	if sort == "far twice" {
		if _, err := status.LockFar(dir, farReader+"1"); err != nil {
			return err
		}
	}
	if sort == "near" || sort == "far and there" {
		f, err := status.Open(dir)
		if err != nil {
			return err
		}
		if _, err := status.Claim(f, status.Detail{}); err != nil {
			return err
		}
	}
	fmt.Println("ready")
	_, err := io.Copy(io.Discard, os.Stdin)
	return err
}

// startHandler starts one, with a standard input and other files, and ends it after
// the test.
func startHandler(t *testing.T, dir, sort string, stdin *os.File, other ...*os.File) *exec.Cmd {
	t.Helper()
	cmd := exec.Command(os.Args[0], sort)
	cmd.Env = append(os.Environ(), handlerEnv+"="+dir)
	cmd.Stdin, cmd.ExtraFiles = stdin, other
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill() // it has ended in most cases
		_ = cmd.Wait()
	})
	if b, err := io.ReadAll(io.LimitReader(out, 6)); string(b) != "ready\n" {
		t.Fatalf("%q, %v", b, err)
	}
	return cmd
}

// pipe is a pipe that is closed after the test.
func pipe(t *testing.T) (r, w *os.File) {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close(); w.Close() })
	return r, w
}

// Handlers are asked all at once: the first one here ends after the last one.
func TestShutdownAsksAllAtOnce(t *testing.T) {
	dir := t.TempDir()
	statustest.Init(t, dir)
	never, _ := pipe(t)
	r, w := pipe(t)
	startHandler(t, dir, "near", never, w)
	startHandler(t, dir, "far last", r)
	if err := errors.Join(r.Close(), w.Close()); err != nil {
		t.Fatal(err)
	}
	var out, said bytes.Buffer
	c := &Control{Dir: dir, Out: &out, Err: &said, Root: machine.Here}
	if err := c.shutdown(30 * time.Second); err != nil {
		t.Error(err)
	}
	if out.String() != "2 processes killed.\n" || said.Len() > 0 {
		t.Errorf("printed %q, %q", out.String(), said.String())
	}
}

// A handler that does not end is named, with what to do, and OpenCT is stopped all the
// same.
func TestShutdownNamesWhatDoesNotEnd(t *testing.T) {
	for _, tt := range []struct{ sort, what string }{
		{"near", "the handler of reader 0"},
		{"far", "the handler of a far reader"},
		{"far and there", "the handler of reader 0"}, // one process
		{"far twice", "the handler of a far reader"},
	} {
		t.Run(tt.sort, func(t *testing.T) {
			dir := t.TempDir()
			statustest.Init(t, dir)
			never, _ := pipe(t)
			cmd := startHandler(t, dir, tt.sort, never)
			if err := cmd.Process.Signal(unix.SIGSTOP); err != nil {
				t.Fatal(err)
			}
			var out, said bytes.Buffer
			c := &Control{Dir: dir, Out: &out, Err: &said, Root: machine.Here}
			if err := c.shutdown(time.Millisecond); err != nil {
				t.Error(err)
			}
			pid := cmd.Process.Pid
			want := fmt.Sprintf("Error: %s, process %d (%s %s), has not ended within 1ms\nnext: kill -KILL %[2]d\n", tt.what, pid, os.Args[0], tt.sort)
			if out.String() != "1 process killed.\n" || said.String() != want {
				t.Errorf("printed %q, %q; want %q", out.String(), said.String(), want)
			}
			if _, err := status.OpenReadOnly(dir); !errors.Is(err, status.ErrNotInitialised) {
				t.Errorf("status file: %v", err)
			}
		})
	}
}
