package machine

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// proc makes a process in a fake /proc.
func proc(t *testing.T, root, pid, comm, status string, fds ...string) {
	t.Helper()
	dir := filepath.Join(root, "proc", pid)
	if err := os.MkdirAll(filepath.Join(dir, "fd"), 0o755); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{"comm": comm, "status": status} {
		if text == "" {
			continue
		}
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for i, fd := range fds {
		if err := os.Symlink(fd, filepath.Join(dir, "fd", strconv.Itoa(i))); err != nil {
			t.Fatal(err)
		}
	}
}

func TestProcesses(t *testing.T) {
	root := t.TempDir()
	proc(t, root, "700", "pcscd\n", "", "/dev/null", "/dev/bus/usb/001/004", "/dev/null")
	proc(t, root, "99", "", "")
	proc(t, root, strconv.Itoa(os.Getpid()), "self\n", "")
	proc(t, root, "self", "self\n", "")
	type process struct {
		PID  int
		Name string
		Open []string
	}
	var got []process
	for _, p := range Root(root).Processes() {
		got = append(got, process{p.PID, p.Name, p.Open()})
	}
	want := []process{{99, "", nil}, {700, "pcscd", []string{"/dev/null", "/dev/bus/usb/001/004"}}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if got := Root(t.TempDir()).Processes(); got != nil {
		t.Errorf("without /proc: %v", got)
	}
}

func TestShutOut(t *testing.T) {
	status := func(uid, gid int, groups, caps string) string {
		return fmt.Sprintf("Name:\tx\nUid:\t0\t0\t0\t%d\nGid:\t0\t0\t0\t%d\nGroups:\t%s\nCapEff:\t%s\n", uid, gid, groups, caps)
	}
	us, group := os.Geteuid(), os.Getegid()
	tests := []struct {
		name, status string
		mode         os.FileMode
		want         bool
	}{
		{"its own, which it may enter", status(us, 1<<20, "", "0"), 0o700, false},
		{"its own, which it may not enter", status(us, 1<<20, "", "0"), 0o077, true},
		{"its group's", status(us+1<<20, group, "", "0"), 0o710, false},
		{"a further group's", status(us+1<<20, 1<<20, strconv.Itoa(group), "0"), 0o710, false},
		{"another's", status(us+1<<20, 1<<20, "", "0"), 0o750, true},
		{"everybody's", status(us+1<<20, 1<<20, "", "0"), 0o751, false},
		{"a capability opens it", status(us+1<<20, 1<<20, "", "0000000000000002"), 0o700, false},
		{"nothing is to be seen", "", 0o700, false},
		{"nonsense", "Uid:\tx\tx\tx\tx\nCapEff:\tzz\n", 0o700, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			root, dir := t.TempDir(), t.TempDir()
			if err := os.Chmod(dir, tt.mode); err != nil {
				t.Fatal(err)
			}
			proc(t, root, "43", "pcscd\n", tt.status)
			p := Root(root).Processes()[0]
			got := p.ShutOut(dir)
			if err := os.Chmod(dir, 0o700); err != nil {
				t.Fatal(err)
			}
			if got != tt.want {
				t.Errorf("got %v, want %v", got, tt.want)
			}
		})
	}
}

func TestArgs(t *testing.T) {
	for _, tt := range []struct {
		name, line string
		want       []string
	}{
		{"a program", "ifdhandler\x00-d\x00openct\x00", []string{"ifdhandler", "-d", "openct"}},
		{"an empty argument", "a\x00\x00", []string{"a", ""}},
		{"that has changed it", "sshd: user", []string{"sshd: user"}},
		{"a kernel thread", "", nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			root := t.TempDir()
			proc(t, root, "70", "x\n", "")
			if err := os.WriteFile(filepath.Join(root, "proc/70/cmdline"), []byte(tt.line), 0o644); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.want, Root(root).Processes()[0].Args()); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
	if got := (Process{dir: t.TempDir()}).Args(); got != nil {
		t.Errorf("without a file: %q", got)
	}
}
