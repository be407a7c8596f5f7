package status

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// TestMain lets the test binary be another handler: with this variable set to a
// directory it claims an entry there, prints its number, and lives until its
// standard input ends.
const helperVar = "OPENCT_STATUS_TEST_DIR"

// watchHelper lets it be the process that watches for devices.
const watchHelper = "OPENCT_STATUS_TEST_WATCH"

// farHelper lets it be the handler of a far reader.
const farHelper = "OPENCT_STATUS_TEST_FAR"

func TestMain(m *testing.M) {
	if dir, ok := os.LookupEnv(farHelper); ok {
		if _, err := LockFar(dir, farDevice); err != nil {
			fmt.Println(errors.Unwrap(err))
			os.Exit(1)
		}
		fmt.Println("waiting")
		io.Copy(io.Discard, os.Stdin)
		os.Exit(0)
	}
	if dir, ok := os.LookupEnv(watchHelper); ok {
		if _, err := LockWatch(dir); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		fmt.Println("watching")
		io.Copy(io.Discard, os.Stdin)
		os.Exit(0)
	}
	if dir, ok := os.LookupEnv(helperVar); ok {
		os.Exit(helper(dir))
	}
	os.Exit(m.Run())
}

func helper(dir string) int {
	f, err := Open(dir)
	if err != nil {
		fmt.Println(err)
		return 1
	}
	s, err := Claim(f, Detail{})
	if err != nil {
		fmt.Println(err)
		return 1
	}
	fmt.Println(s.Index())
	io.Copy(io.Discard, os.Stdin)
	if err := s.Release(); err != nil {
		return 1
	}
	return 0
}

// handler is another process with a claimed entry.
type handler struct {
	*exec.Cmd
	stdin io.Closer
	line  string // what it printed: index or error
}

func startHandler(t *testing.T, dir string) *handler {
	t.Helper()
	return startHelper(t, dir, helperVar)
}

func startHelper(t *testing.T, dir, as string) *handler {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), as+"="+dir)
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	d := &handler{Cmd: cmd, stdin: stdin}
	t.Cleanup(func() {
		d.stdin.Close()
		if d.ProcessState == nil {
			d.Wait()
		}
	})
	line, _ := bufio.NewReader(stdout).ReadString('\n')
	d.line = strings.TrimSpace(line)
	return d
}

func (d *handler) end(t *testing.T) {
	t.Helper()
	d.stdin.Close()
	if err := d.Wait(); err != nil {
		t.Fatal(err)
	}
}

func (d *handler) kill(t *testing.T) {
	t.Helper()
	if err := d.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	d.Wait()
}

// mine leaves files to the caller.
var mine = Options{UID: -1, GID: -1}

func initDir(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	if err := Init(dir, mine); err != nil {
		t.Fatal(err)
	}
	return dir
}

func mustOpen(t *testing.T, dir string) *File {
	t.Helper()
	f, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

func mustClaim(t *testing.T, f *File) *Slot {
	t.Helper()
	s, err := Claim(f, Detail{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Release() })
	return s
}

func mustEntry(t *testing.T, f *File, n int) Entry {
	t.Helper()
	e, err := f.Entry(n)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

// fake writes the fields of an entry as a handler of another kind might.
func fake(t *testing.T, f *File, e Entry) {
	t.Helper()
	var b [entrySize]byte
	e.encode(b[:], hostOrder())
	err := f.access(func(words []uint32) {
		for i := range entryWords {
			entryOf(words, e.Index)[i] = hostOrder().Uint32(b[4*i:])
		}
	})
	if err != nil {
		t.Fatal(err)
	}
}

// deadPID is the pid of a process that has ended.
func deadPID(t *testing.T) int {
	t.Helper()
	cmd := exec.Command("true")
	if err := cmd.Run(); err != nil {
		t.Fatal(err)
	}
	return cmd.Process.Pid
}

func TestOpenErrors(t *testing.T) {
	tests := []struct {
		name string
		make func(path string) error
		want error
		text string
	}{
		{"missing", func(string) error { return nil }, ErrNotInitialised, `run "openct-control init"`},
		{"missing, for those who ask the system's way", func(string) error { return nil }, os.ErrNotExist, "can't open"},
		{"empty", func(p string) error { return os.WriteFile(p, nil, 0o644) }, ErrSize, "0 bytes, not 1728"},
		{"short", func(p string) error { return os.WriteFile(p, make([]byte, Size-1), 0o644) }, ErrSize, "1727 bytes"},
		{"long", func(p string) error { return os.WriteFile(p, make([]byte, Size+1), 0o644) }, ErrSize, "1729 bytes"},
		{"directory", func(p string) error { return os.Mkdir(p, 0o755) }, syscall.EISDIR, "is a directory"},
		{"FIFO", func(p string) error { return unix.Mkfifo(p, 0o644) }, ErrNotRegular, "not a regular file"},
		{"symbolic link", func(p string) error {
			target := p + ".target"
			return errors.Join(os.WriteFile(target, make([]byte, Size), 0o644), os.Symlink(target, p))
		}, ErrNotRegular, "symbolic link"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			if err := tt.make(filepath.Join(dir, fileName)); err != nil {
				t.Fatal(err)
			}
			_, err := Open(dir)
			if !errors.Is(err, tt.want) {
				t.Fatalf("got %v, want %v", err, tt.want)
			}
			if !strings.Contains(err.Error(), tt.text) || !strings.Contains(err.Error(), dir) {
				t.Errorf("%q does not say %q and where", err, tt.text)
			}
		})
	}
}

func TestEmptyDirectoryIsTheRoot(t *testing.T) {
	t.Chdir(t.TempDir())
	if err := os.WriteFile(fileName, make([]byte, Size), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenReadOnly(""); err == nil || !strings.Contains(err.Error(), " /status:") {
		t.Errorf("got %v, want no /status", err)
	}
}

func TestTruncatedWhileMapped(t *testing.T) {
	dir := initDir(t)
	f := mustOpen(t, dir)
	s := mustClaim(t, f)
	if err := os.Truncate(filepath.Join(dir, fileName), 0); err != nil {
		t.Fatal(err)
	}
	if err := s.SetCard(0, true, false); !errors.Is(err, ErrSize) {
		t.Errorf("SetCard: %v, want ErrSize", err)
	}
	if err := s.Publish(Info{Name: "x"}); !errors.Is(err, ErrSize) {
		t.Errorf("Publish: %v, want ErrSize", err)
	}
	if _, err := f.Entries(); !errors.Is(err, ErrSize) {
		t.Errorf("Entries: %v, want ErrSize", err)
	}
	if err := s.Release(); !errors.Is(err, ErrSize) {
		t.Errorf("Release: %v, want ErrSize", err)
	}
}

func TestAccessPassesOtherPanicsOn(t *testing.T) {
	f := mustOpen(t, initDir(t))
	defer func() {
		if r := recover(); r != "a bug" {
			t.Errorf("recovered %v", r)
		}
	}()
	f.access(func([]uint32) { panic("a bug") })
	t.Error("panic was swallowed")
}

func TestClosedFile(t *testing.T) {
	f := mustOpen(t, initDir(t))
	s := mustClaim(t, f)
	for range 2 {
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := f.Entries(); !errors.Is(err, ErrClosed) {
		t.Errorf("Entries: %v", err)
	}
	if err := s.SetCard(0, true, true); !errors.Is(err, ErrClosed) {
		t.Errorf("SetCard: %v", err)
	}
	if _, err := Claim(f, Detail{}); !errors.Is(err, ErrClosed) {
		t.Errorf("Claim: %v", err)
	}
}

// However a client's look falls into Publish, it never sees a name without the
// rest of the entry.
func TestReaderSeesWholeEntries(t *testing.T) {
	dir := initDir(t)
	f := mustOpen(t, dir)
	client, err := OpenReadOnly(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	for range 300 {
		s := mustClaim(t, f)
		published := make(chan error, 1)
		go func() { published <- s.Publish(Info{Name: "Reader", Slots: 3, Keypad: true}) }()
		for {
			e := mustEntry(t, client, 0)
			if e.Name == "Reader" && e.Slots == 3 && e.Keypad {
				break
			}
			if e.Name != "" {
				t.Fatalf("half an entry: %+v", e)
			}
		}
		if err := errors.Join(<-published, s.Release()); err != nil {
			t.Fatal(err)
		}
	}
}

func TestWaitOpen(t *testing.T) {
	t.Run("there already", func(t *testing.T) {
		f, err := WaitOpen(t.Context(), initDir(t))
		if err != nil {
			t.Fatal(err)
		}
		f.Close()
	})
	late := []struct {
		name string
		make func(dir string) error
	}{
		{"file comes", func(dir string) error { return Init(dir, mine) }},
		{"C OpenCT's init: empty first", func(dir string) error {
			path := filepath.Join(dir, fileName)
			return errors.Join(os.WriteFile(path, nil, 0o644), os.Truncate(path, Size))
		}},
		{"renamed back", func(dir string) error {
			return errors.Join(os.WriteFile(filepath.Join(dir, keepName), make([]byte, Size), 0o644), Init(dir, mine))
		}},
	}
	for _, tt := range late {
		for _, parents := range []string{"", "run/openct"} {
			t.Run(tt.name+" in "+strconv.Quote(parents), func(t *testing.T) {
				dir := filepath.Join(t.TempDir(), parents)
				opened := make(chan error)
				go func() {
					f, err := WaitOpen(t.Context(), dir)
					if err == nil {
						f.Close()
					}
					opened <- err
				}()
				if err := os.MkdirAll(dir, 0o755); err != nil {
					t.Fatal(err)
				}
				if err := tt.make(dir); err != nil {
					t.Fatal(err)
				}
				if err := <-opened; err != nil {
					t.Error(err)
				}
			})
		}
	}
	t.Run("never", func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
		defer cancel()
		_, err := WaitOpen(ctx, t.TempDir())
		if !errors.Is(err, ErrNotInitialised) || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v, want ErrNotInitialised and the deadline", err)
		}
	})
	t.Run("waiting does not help", func(t *testing.T) {
		dir := t.TempDir()
		if err := os.Mkdir(filepath.Join(dir, fileName), 0o755); err != nil {
			t.Fatal(err)
		}
		if _, err := WaitOpen(t.Context(), dir); !errors.Is(err, syscall.EISDIR) {
			t.Errorf("got %v, want EISDIR", err)
		}
	})
}

// listen makes a reader socket that somebody serves; it returns its server's end.
func listen(t *testing.T, dir string, n int) net.Listener {
	t.Helper()
	l, err := net.Listen("unix", filepath.Join(dir, strconv.Itoa(n)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

func TestMappingAlignment(t *testing.T) {
	f := mustOpen(t, initDir(t))
	for n := range Entries {
		if p := uintptr(unsafe.Pointer(&entryOf(f.words, n)[wordPID])); p%4 != 0 {
			t.Errorf("pid of entry %d at %#x", n, p)
		}
	}
	if want := []int{16, 17, 25, 26}; !slices.Equal(want, []int{wordSlots, wordCards, wordFlags, wordPID}) {
		t.Error("words of an entry")
	}
}
