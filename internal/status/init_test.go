package status

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

func inode(t *testing.T, path string) uint64 {
	t.Helper()
	fi, err := os.Lstat(path)
	if err != nil {
		t.Fatal(err)
	}
	return fi.Sys().(*syscall.Stat_t).Ino
}

func names(t *testing.T, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

func checkReady(t *testing.T, dir string) {
	t.Helper()
	fi, err := os.Lstat(filepath.Join(dir, fileName))
	if err != nil {
		t.Fatal(err)
	}
	if fi.Mode() != 0o644 || fi.Size() != Size {
		t.Errorf("status file: %v, %d bytes", fi.Mode(), fi.Size())
	}
	if uid := int(fi.Sys().(*syscall.Stat_t).Uid); uid != os.Geteuid() {
		t.Errorf("status file belongs to user %d", uid)
	}
}

func TestInitCreates(t *testing.T) {
	defer unix.Umask(unix.Umask(0o077)) // as in a hardened unit
	dir := initDir(t)
	checkReady(t, dir)
	if got := names(t, dir); !slices.Equal(got, []string{".lock", "status"}) {
		t.Errorf("directory holds %v", got)
	}
	fi, err := os.Lstat(filepath.Join(dir, lockName))
	if err != nil {
		t.Fatal(err)
	}
	if fi.Mode() != 0o600 {
		t.Errorf("lock file: %v, want it closed to clients", fi.Mode())
	}
	b, err := os.ReadFile(filepath.Join(dir, fileName))
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(b, recordings(t)["after init, no reader"]) {
		t.Error("not the bytes that C OpenCT's init writes")
	}
}

func TestInitReusesInode(t *testing.T) {
	dir := initDir(t)
	path := filepath.Join(dir, fileName)
	f := mustOpen(t, dir)
	d := startHandler(t, dir)
	fake(t, f, Entry{Index: 1, Name: "Dead", Slots: 1, PID: deadPID(t)})
	fake(t, f, Entry{Index: 2, Name: "Nobody's", Slots: 1})
	fake(t, f, Entry{Index: 3, Name: "Reused pid", Slots: 1, PID: os.Getppid()})
	if err := errors.Join(os.Chmod(path, 0o600), os.Truncate(path, Size+entrySize)); err != nil {
		t.Fatal(err)
	}
	before := inode(t, path)
	if err := Init(dir, mine); err != nil {
		t.Fatal(err)
	}
	checkReady(t, dir)
	if inode(t, path) != before {
		t.Error("init made a new inode")
	}
	if got := mustEntry(t, f, 0).PID; got != d.Process.Pid {
		t.Errorf("living handler's entry has pid %d now", got)
	}
	for n := 1; n < Entries; n++ {
		if e := mustEntry(t, f, n); e != (Entry{Index: n}) {
			t.Errorf("left over: %+v", e)
		}
	}
}

func TestInitReplacesWhatCannotBeTrusted(t *testing.T) {
	tests := []struct {
		name string
		make func(path, victim string) error
	}{
		{"symbolic link", func(p, victim string) error { return os.Symlink(victim, p) }},
		{"hard link", func(p, victim string) error { return os.Link(victim, p) }},
		{"too short", func(p, _ string) error { return os.WriteFile(p, make([]byte, Size-1), 0o644) }},
		{"FIFO", func(p, _ string) error { return unix.Mkfifo(p, 0o644) }},
	}
	for _, tt := range tests {
		for _, file := range []string{fileName, keepName, lockName} {
			if tt.name == "too short" && file == lockName {
				continue // has no size
			}
			t.Run(tt.name+" as "+file, func(t *testing.T) {
				dir, victim := t.TempDir(), filepath.Join(t.TempDir(), "victim")
				content := bytes.Repeat([]byte("secret "), 300)
				if err := os.WriteFile(victim, content, 0o640); err != nil {
					t.Fatal(err)
				}
				if err := tt.make(filepath.Join(dir, file), victim); err != nil {
					t.Fatal(err)
				}
				if err := Init(dir, mine); err != nil {
					t.Fatal(err)
				}
				checkReady(t, dir)
				mustClaim(t, mustOpen(t, dir))
				got, err := os.ReadFile(victim)
				if err != nil {
					t.Fatal(err)
				}
				fi, err := os.Stat(victim)
				if err != nil {
					t.Fatal(err)
				}
				if !bytes.Equal(got, content) || fi.Mode() != 0o640 {
					t.Error("the file behind the link was touched")
				}
			})
		}
	}
}

func TestInitErrors(t *testing.T) {
	t.Run("no directory", func(t *testing.T) {
		dir := filepath.Join(t.TempDir(), "missing")
		err := Init(dir, mine)
		if !errors.Is(err, os.ErrNotExist) || !strings.Contains(err.Error(), dir) {
			t.Errorf("got %v", err)
		}
	})
	t.Run("directory in the way", func(t *testing.T) {
		dir := t.TempDir()
		if err := os.MkdirAll(filepath.Join(dir, fileName, "full"), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := Init(dir, mine); err == nil || !strings.Contains(err.Error(), "can't create") {
			t.Errorf("got %v", err)
		}
		if got := names(t, dir); !slices.Equal(got, []string{".lock", "status"}) {
			t.Errorf("left behind: %v", got)
		}
	})
}

// The client that mapped the file an hour ago: readers of every later generation
// must show up in its mapping.
func TestMappingOutlivesRestarts(t *testing.T) {
	dir := initDir(t)
	client, err := OpenReadOnly(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	first := inode(t, filepath.Join(dir, fileName))
	for generation := range 3 {
		f := mustOpen(t, dir)
		s := mustClaim(t, f)
		if err := s.Publish(Info{Name: "Token", Slots: 1}); err != nil {
			t.Fatal(err)
		}
		if e := mustEntry(t, client, 0); e.Name != "Token" || !e.InUse() {
			t.Fatalf("generation %d: client sees %+v", generation, e)
		}
		if err := Retire(dir); err != nil {
			t.Fatal(err)
		}
		if e := mustEntry(t, client, 0); e != (Entry{}) {
			t.Errorf("generation %d, shut down: client sees %+v", generation, e)
		}
		if _, err := OpenReadOnly(dir); !errors.Is(err, ErrNotInitialised) {
			t.Errorf("after shutdown: %v, want ErrNotInitialised", err)
		}
		if err := s.SetCard(0, true, true); !errors.Is(err, ErrLost) {
			t.Errorf("handler that shutdown overtook: %v, want ErrLost", err)
		}
		if err := s.Release(); err != nil {
			t.Errorf("its release: %v", err)
		}
		if err := Init(dir, mine); err != nil {
			t.Fatal(err)
		}
		checkReady(t, dir)
		if got := inode(t, filepath.Join(dir, fileName)); got != first {
			t.Fatalf("generation %d: inode %d, was %d", generation, got, first)
		}
	}
	if got := names(t, dir); !slices.Equal(got, []string{".lock", "status"}) {
		t.Errorf("directory holds %v", got)
	}
}

func TestRetire(t *testing.T) {
	t.Run("nothing there", func(t *testing.T) {
		dir := t.TempDir()
		if err := Retire(dir); !errors.Is(err, ErrNotInitialised) {
			t.Errorf("got %v, want ErrNotInitialised", err)
		}
		if got := names(t, dir); len(got) != 0 {
			t.Errorf("made %v", got)
		}
	})
	t.Run("not a status file", func(t *testing.T) {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, fileName), []byte("x"), 0o644); err != nil {
			t.Fatal(err)
		}
		if err := Retire(dir); err != nil {
			t.Fatal(err)
		}
		if got := names(t, dir); !slices.Equal(got, []string{".lock"}) {
			t.Errorf("directory holds %v", got)
		}
	})
}

func TestInitBesideClaims(t *testing.T) {
	dir := initDir(t)
	f := mustOpen(t, dir)
	done := make(chan error, 1)
	go func() {
		var err error
		for range 50 {
			err = errors.Join(err, Init(dir, mine))
		}
		done <- err
	}()
	for range 50 {
		s, err := Claim(f, Detail{})
		if err != nil {
			t.Fatal(err)
		}
		if e := mustEntry(t, f, s.Index()); e.PID != os.Getpid() {
			t.Fatalf("init cleared the entry of a living handler: %+v", e)
		}
		if err := s.Release(); err != nil {
			t.Fatal(err)
		}
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// What a killed handler leaves beside the file goes with its entry; what is no
// socket is not ours to take away.
func TestInitTidiesUp(t *testing.T) {
	dir := initDir(t)
	for _, name := range []string{"0", "1"} {
		fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM, 0)
		if err != nil {
			t.Fatal(err)
		}
		if err := unix.Bind(fd, &unix.SockaddrUnix{Name: filepath.Join(dir, name)}); err != nil {
			t.Fatal(err)
		}
		unix.Close(fd)
	}
	for _, name := range []string{".0.json", "2"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("{}"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := Init(dir, Options{UID: -1, GID: -1}); err != nil {
		t.Fatal(err)
	}
	if got, want := names(t, dir), []string{".lock", "2", "status"}; !slices.Equal(got, want) {
		t.Errorf("directory holds %v, want %v", got, want)
	}
}
