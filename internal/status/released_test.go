package status

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"unicode"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"golang.org/x/sys/unix"
)

func TestReleased(t *testing.T) {
	dir := t.TempDir()
	node := "/dev/null" // a character device that is always there
	r := Released{Reader: 3, Name: "office: Token", Alias: "office", Driver: "etoken64", Type: "usb", Device: node, Unit: "openct-handler@001-004.service"}
	if _, is := ReleasedAt(dir, node); is || AllReleased(dir, "/") != nil {
		t.Fatal("released before it was")
	}
	if err := WriteReleased(dir, node, r); err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(node, link); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{node, link} {
		got, is := ReleasedAt(dir, path)
		if diff := cmp.Diff(r, got, cmpopts.IgnoreFields(Released{}, "Inode", "Time", "UID", "file")); diff != "" || !is {
			t.Errorf("%s (-want +got):\n%s", path, diff)
		}
	}
	if all := AllReleased(dir, "/"); len(all) != 1 || all[0].UID != os.Geteuid() || all[0].Time.IsZero() {
		t.Errorf("all: %+v", all)
	}
	if _, is := ReleasedAt(dir, "/dev/zero"); is {
		t.Error("another device")
	}
	ForgetReleased(dir, "/")
	for range 2 {
		if len(AllReleased(dir, "/")) == 0 {
			t.Error("forgotten")
		}
		if err := RemoveReleased(dir, node); err != nil {
			t.Fatal(err)
		}
		if _, is := ReleasedAt(dir, node); is {
			t.Error("still released")
		}
		if err := WriteReleased(dir, node, r); err != nil {
			t.Fatal(err)
		}
	}
	if err := WriteReleased(dir, dir, r); err == nil || !strings.Contains(err.Error(), "not a device") {
		t.Errorf("a directory: %v", err)
	}
}

// A device that is plugged in anew has a node with another inode, though the same
// number.
func TestReleasedOfAnotherLife(t *testing.T) {
	dir := t.TempDir()
	if err := WriteReleased(dir, "/dev/null", Released{Device: "/dev/null"}); err != nil {
		t.Fatal(err)
	}
	path := AllReleased(dir, "/")[0].File()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	b = bytes.Replace(b, []byte(`"inode":`), []byte(`"inode":9`), 1)
	if err := os.WriteFile(path, b, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, is := ReleasedAt(dir, "/dev/null"); is || len(AllReleased(dir, "/")) != 0 {
		t.Error("taken for the same device")
	}
	ForgetReleased(dir, "/")
	if _, err := os.Stat(path); err == nil {
		t.Error("the file stays")
	}
}

// The directory is the handlers' user's, who can put anything in a file's place.
func TestReleasedHostile(t *testing.T) {
	tests := []struct {
		name  string
		make  func(path string) error
		stays bool // another file cannot take its place
	}{
		{"garbage", func(path string) error { return os.WriteFile(path, []byte("garbage"), 0o644) }, false},
		{"too long", func(path string) error {
			return os.WriteFile(path, bytes.Repeat([]byte(" "), maxReleased+1), 0o644)
		}, false},
		{"an endless one", func(path string) error { return os.Symlink("/dev/zero", path) }, false},
		{"a FIFO", func(path string) error { return unix.Mkfifo(path, 0o644) }, false},
		{"a link to another record", func(path string) error {
			if err := WriteReleased(filepath.Dir(path), "/dev/null", Released{Device: "/dev/null"}); err != nil {
				return err
			}
			return errors.Join(os.Rename(path, path+".old"), os.Symlink(path+".old", path))
		}, false},
		{"a folder", func(path string) error { return os.MkdirAll(filepath.Join(path, "x"), 0o755) }, true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "[a")
			if err := os.Mkdir(dir, 0o755); err != nil {
				t.Fatal(err)
			}
			path, _, err := releasedFile(dir, "/dev/null")
			if err == nil {
				err = tt.make(path)
			}
			if err != nil {
				t.Fatal(err)
			}
			if _, is := ReleasedAt(dir, "/dev/null"); is || len(AllReleased(dir, "/")) > 0 {
				t.Error("it is believed")
			}
			if err := WriteReleased(dir, "/dev/null", Released{Device: "/dev/null"}); (err != nil) != tt.stays {
				t.Errorf("error %v", err)
			}
			if len(AllReleased(dir, "/")) > 0 == tt.stays {
				t.Error("what is written does not count")
			}
			if left, _ := filepath.Glob(filepath.Join(filepath.Dir(dir), "*", ".tmp.*")); len(left) > 0 {
				t.Errorf("left: %v", left)
			}
			if err := RemoveReleased(dir, "/dev/null"); (err != nil) != tt.stays {
				t.Errorf("remove: %v", err)
			}
		})
	}
}

func FuzzDecodeReleased(f *testing.F) {
	f.Add([]byte(`{"reader":0,"device":"/dev/bus/usb/001/004","name":"a\u001b[2J"}`))
	f.Add([]byte(`{"reader":-1,"inode":-1}`))
	f.Add([]byte(`[]`))
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := decodeReleased(b)
		if err != nil {
			return
		}
		for _, s := range []string{r.Name, r.Alias, r.Driver, r.Type, r.Device, r.Unit} {
			if len(s) > maxString || strings.ContainsFunc(s, unicode.IsControl) {
				t.Errorf("%q", s)
			}
		}
	})
}
