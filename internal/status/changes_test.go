package status

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// waited runs Wait and says whether it returned.
type waited struct {
	t *testing.T
	c *Changes
}

func watchChanges(t *testing.T, dir string) waited {
	t.Helper()
	c, err := NewChanges(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return waited{t, c}
}

// news waits for a change, and fails when none is told.
func (w waited) news(of string) {
	w.t.Helper()
	if err := w.c.inotify.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
		w.t.Fatal(err)
	}
	if err := w.c.Wait(); err != nil {
		w.t.Fatalf("%s: %v", of, err)
	}
}

// quiet fails when a change is told. What the kernel tells it has queued when the
// call that brings it about returns, so that nothing has to be waited for.
func (w waited) quiet(of string) {
	w.t.Helper()
	if err := w.c.inotify.SetReadDeadline(time.Now().Add(time.Millisecond)); err != nil {
		w.t.Fatal(err)
	}
	for {
		if err := w.c.Wait(); errors.Is(err, os.ErrDeadlineExceeded) {
			return
		} else if err != nil {
			w.t.Fatal(err)
		}
		w.t.Errorf("%s: told as a change", of)
	}
}

// drained passes over what else is told of the same change.
func (w waited) drained() {
	w.t.Helper()
	if err := w.c.inotify.SetReadDeadline(time.Now().Add(time.Millisecond)); err != nil {
		w.t.Fatal(err)
	}
	for w.c.Wait() == nil {
	}
}

func TestChanges(t *testing.T) {
	top := t.TempDir()
	dir := filepath.Join(top, "a", "openct")
	w := watchChanges(t, dir)
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(os.WriteFile(filepath.Join(top, "b"), nil, 0o600))
	w.quiet("a file beside the way")
	must(os.Mkdir(filepath.Join(top, "a"), 0o700))
	w.news("a parent appears")
	must(os.Mkdir(dir, 0o700))
	w.news("the directory appears")
	must(os.WriteFile(filepath.Join(top, "a", "c"), nil, 0o600))
	w.quiet("a file beside the directory that is there")

	must(Init(dir, Options{UID: -1, GID: -1}))
	w.news("init")
	w.drained()
	f := mustOpen(t, dir)
	s := mustClaim(t, f)
	w.news("claim")
	w.drained()
	must(s.SetCard(0, true, false))
	w.news("card in")
	w.quiet("nothing else")
	must(s.WriteDetail(sample))
	w.news("side file")
	w.quiet("nothing else")
	if _, err := f.Entries(); err != nil {
		t.Fatal(err)
	}
	if _, err := f.ReadDetail(mustEntry(t, f, 0)); err != nil {
		t.Fatal(err)
	}
	w.quiet("a look at it")
	must(s.Release())
	w.news("release")
	w.drained()
	must(Retire(dir))
	w.news("shutdown")
	w.drained()

	must(os.Rename(dir, dir+"-away"))
	w.news("the directory is moved away")
	w.drained()
	must(Init(dir+"-away", Options{UID: -1, GID: -1}))
	w.quiet("init elsewhere")
	must(os.Mkdir(dir, 0o700))
	w.news("another directory in its place")
	must(os.RemoveAll(filepath.Join(top, "a")))
	w.news("removed with its parent")
	w.drained()
	must(os.MkdirAll(dir, 0o700))
	w.news("there again")
	w.drained()
	must(Init(dir, Options{UID: -1, GID: -1}))
	w.news("init again")
}

// What the kernel could not queue (inotify(7), IN_Q_OVERFLOW) is a change, though no
// event that it did queue is one.
func TestChangesOverflow(t *testing.T) {
	b, err := os.ReadFile("/proc/sys/fs/inotify/max_queued_events")
	if err != nil {
		t.Fatal(err)
	}
	limit, err := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct{ name, below string }{
		{"of the directory", ""},
		{"of the parent of a missing one", "openct"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			files := []string{filepath.Join(dir, ".tmp.1"), filepath.Join(dir, ".tmp.2")}
			if err := os.WriteFile(files[0], nil, 0o600); err != nil {
				t.Fatal(err)
			}
			w := watchChanges(t, filepath.Join(dir, tt.below))
			rename := func(times int) {
				t.Helper()
				for i := range times {
					if err := os.Rename(files[i%2], files[1-i%2]); err != nil {
						t.Fatal(err)
					}
				}
			}
			rename(10)
			w.quiet("a file that is being made")
			rename(limit + limit%2 + 2)
			w.news("overflow")
		})
	}
}

func TestChangesEndByClose(t *testing.T) {
	w := watchChanges(t, t.TempDir())
	done := make(chan error)
	go func() { done <- w.c.Wait() }()
	w.c.Close()
	if err := <-done; !errors.Is(err, os.ErrClosed) {
		t.Errorf("got %v", err)
	}
}

// event is a struct inotify_event as the kernel writes it.
func event(mask uint32, name string) []byte {
	size := 0
	if name != "" {
		size = (len(name)/16 + 1) * 16
	}
	b := make([]byte, unix.SizeofInotifyEvent, unix.SizeofInotifyEvent+size)
	hostOrder().PutUint32(b[4:], mask)
	hostOrder().PutUint32(b[12:], uint32(size))
	return append(b, append([]byte(name), make([]byte, size-len(name))...)...)
}

func TestInotifyEvents(t *testing.T) {
	two := append(event(unix.IN_CREATE, "status"), event(unix.IN_DELETE_SELF, "")...)
	for _, tt := range []struct {
		name string
		b    []byte
		want []inotifyEvent
	}{
		{"none", nil, nil},
		{"two", two, []inotifyEvent{{unix.IN_CREATE, "status"}, {unix.IN_DELETE_SELF, ""}}},
		{"cut in a header", two[:len(two)-1], []inotifyEvent{{unix.IN_CREATE, "status"}}},
		{"cut in a name", two[:20], nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if diff := cmp.Diff(tt.want, inotifyEvents(bytes.Clone(tt.b)), cmp.AllowUnexported(inotifyEvent{})); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

// A process that has ended does not live, though its parent has taken no note of it.
func TestZombieIsNotAlive(t *testing.T) {
	cmd := exec.Command("cat")
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if !Alive(cmd.Process.Pid) {
		t.Error("a process that runs is not alive")
	}
	in.Close()
	var info unix.Siginfo
	if err := unix.Waitid(unix.P_PID, cmd.Process.Pid, &info, unix.WEXITED|unix.WNOWAIT, nil); err != nil {
		t.Fatal(err)
	}
	if Alive(cmd.Process.Pid) {
		t.Error("one that has ended is")
	}
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
}
