package socket

import (
	"errors"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func mustListen(t *testing.T, path string, opt ListenOptions) *Listener {
	t.Helper()
	l, err := Listen(path, opt)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

func mode(t *testing.T, path string) fs.FileMode {
	t.Helper()
	fi, err := os.Lstat(path)
	if err != nil {
		t.Fatal(err)
	}
	return fi.Mode()
}

func only(t *testing.T, dir string, names ...string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, e := range entries {
		got = append(got, e.Name())
	}
	if strings.Join(got, " ") != strings.Join(names, " ") {
		t.Errorf("files %q, want %q", got, names)
	}
}

func TestListenMode(t *testing.T) {
	for _, tt := range []struct {
		name  string
		mode  fs.FileMode
		umask int
		want  fs.FileMode
	}{
		{"default", 0, 0o022, 0o666},
		{"as told", 0o660, 0o022, 0o660},
		{"against a narrow umask", 0o666, 0o077, 0o666},
		{"against a wide umask", 0o600, 0, 0o600},
	} {
		t.Run(tt.name, func(t *testing.T) {
			defer unix.Umask(unix.Umask(tt.umask))
			dir := shortDir(t)
			path := filepath.Join(dir, "0")
			l := mustListen(t, path, ListenOptions{Mode: tt.mode, UID: -1, GID: -1})
			if m := mode(t, path); m != tt.want|fs.ModeSocket {
				t.Errorf("mode %v, want %v", m, tt.want)
			}
			only(t, dir, "0")
			if l.Path() != path {
				t.Errorf("path %s", l.Path())
			}
			dial(t, path)
		})
	}
}

func TestListenOwner(t *testing.T) {
	path := filepath.Join(shortDir(t), "0")
	uid, gid := os.Getuid(), os.Getgid()
	if uid == 0 {
		uid, gid = 1001, 1002
	}
	mustListen(t, path, ListenOptions{UID: uid, GID: gid})
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		t.Fatal(err)
	}
	if int(st.Uid) != uid || int(st.Gid) != gid {
		t.Errorf("owner %d:%d, want %d:%d", st.Uid, st.Gid, uid, gid)
	}
}

func TestListenReplaces(t *testing.T) {
	for _, tt := range []struct {
		name string
		make func(t *testing.T, path string)
	}{
		{"a socket nobody listens at", func(t *testing.T, path string) {
			l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
			if err != nil {
				t.Fatal(err)
			}
			l.SetUnlinkOnClose(false)
			l.Close()
		}},
		{"a file", func(t *testing.T, path string) {
			if err := os.WriteFile(path, []byte("x"), 0o400); err != nil {
				t.Fatal(err)
			}
		}},
		{"a link that leads nowhere", func(t *testing.T, path string) {
			if err := os.Symlink("/nonexistent", path); err != nil {
				t.Fatal(err)
			}
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := shortDir(t)
			path := filepath.Join(dir, "0")
			tt.make(t, path)
			mustListen(t, path, ListenOptions{UID: -1, GID: -1})
			dial(t, path)
			only(t, dir, "0")
		})
	}
}

// The owner of the directory may put anything in the socket's place once it is
// bound: it keeps its mode and owner, and so does what it leads to.
func TestListenChangesNoOtherFile(t *testing.T) {
	for _, tt := range []struct {
		name string
		swap func(t *testing.T, dir, tmp, victim string)
	}{
		{"symbolic link", func(t *testing.T, _, tmp, victim string) {
			if err := os.Symlink(victim, tmp); err != nil {
				t.Error(err)
			}
		}},
		{"hard link", func(t *testing.T, _, tmp, victim string) {
			if err := os.Link(victim, tmp); err != nil {
				t.Error(err)
			}
		}},
		{"symbolic link to a socket", func(t *testing.T, dir, tmp, _ string) {
			if err := os.Symlink(filepath.Join(dir, "other"), tmp); err != nil {
				t.Error(err)
			}
		}},
		{"second name of a socket", func(t *testing.T, dir, tmp, _ string) {
			if err := os.Link(filepath.Join(dir, "other"), tmp); err != nil {
				t.Error(err)
			}
		}},
		{"pipe", func(t *testing.T, _, tmp, _ string) {
			if err := unix.Mkfifo(tmp, 0o600); err != nil {
				t.Error(err)
			}
		}},
		{"nothing", func(*testing.T, string, string, string) {}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := shortDir(t)
			victim := filepath.Join(dir, "victim")
			if err := os.WriteFile(victim, nil, 0o600); err != nil {
				t.Fatal(err)
			}
			other := mustListen(t, filepath.Join(dir, "other"), ListenOptions{Mode: 0o600, UID: -1, GID: -1})
			swap := func(tmp string) {
				if err := os.Remove(tmp); err != nil {
					t.Error(err)
				}
				tt.swap(t, dir, tmp, victim)
			}
			uid := -1
			if os.Getuid() == 0 {
				uid = 1001
			}
			l, err := Listen(filepath.Join(dir, "0"), ListenOptions{Mode: 0o666, UID: uid, GID: -1, bound: swap})
			if err == nil {
				l.Close()
				t.Error("the socket is said to be there")
			}
			for _, path := range []string{victim, other.Path()} {
				var st unix.Stat_t
				if err := unix.Lstat(path, &st); err != nil {
					t.Fatal(err)
				}
				if st.Mode&0o7777 != 0o600 || int(st.Uid) != os.Getuid() {
					t.Errorf("%s has now mode %o and owner %d", path, st.Mode&0o7777, st.Uid)
				}
			}
			only(t, dir, "other", "victim")
		})
	}
}

func TestListenPathLength(t *testing.T) {
	dir := shortDir(t)
	for len(dir) < 90 {
		dir = filepath.Join(dir, strings.Repeat("d", min(10, 91-len(dir))))
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	fit := filepath.Join(dir, strings.Repeat("s", maxSocketPath-len(dir)-1))
	mustListen(t, fit, ListenOptions{UID: -1, GID: -1})
	dial(t, fit)
	if _, err := Listen(fit+"s", ListenOptions{UID: -1, GID: -1}); !errors.Is(err, ErrPathTooLong) {
		t.Errorf("one byte more: %v", err)
	}
	only(t, dir, filepath.Base(fit))
	if _, err := Dial(t.Context(), fit+"s"); !errors.Is(err, ErrPathTooLong) {
		t.Errorf("Dial: %v", err)
	}
}

func TestListenFails(t *testing.T) {
	dir := shortDir(t)
	if err := os.MkdirAll(filepath.Join(dir, "0", "x"), 0o700); err != nil {
		t.Fatal(err)
	}
	if _, err := Listen(filepath.Join(dir, "0"), ListenOptions{UID: -1, GID: -1}); err == nil {
		t.Error("a directory was replaced")
	}
	only(t, dir, "0")
	if _, err := Listen(filepath.Join(dir, "none", "0"), ListenOptions{UID: -1, GID: -1}); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("in a directory that is not there: %v", err)
	}
}

func TestCloseRemovesItsOwnOnly(t *testing.T) {
	dir := shortDir(t)
	path := filepath.Join(dir, "0")
	first := mustListen(t, path, ListenOptions{UID: -1, GID: -1})
	second := mustListen(t, path, ListenOptions{UID: -1, GID: -1})
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	dial(t, path) // the second's
	if err := second.Close(); err != nil {
		t.Fatal(err)
	}
	only(t, dir)
}

func TestDir(t *testing.T) {
	for _, tt := range []struct {
		name     string
		env      string
		set      bool
		elevated bool
		want     string
		reader   string
	}{
		{"default", "", false, false, "/run/openct", "/run/openct/12"},
		{"set", "/tmp/x", true, false, "/tmp/x", "/tmp/x/12"},
		{"set to nothing", "", true, false, "", "/12"},
		{"elevated", "/tmp/x", true, true, "/run/openct", "/run/openct/12"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			d := dir(func(name string) (string, bool) { return tt.env, tt.set && name == "OPENCT_SOCKETDIR" }, tt.elevated)
			if d != tt.want || ReaderPath(d, 12) != tt.reader {
				t.Errorf("%q, %q", d, ReaderPath(d, 12))
			}
		})
	}
	t.Setenv(EnvDir, "/elsewhere")
	if d := Dir(); d != "/elsewhere" {
		t.Errorf("Dir is %q", d)
	}
}
