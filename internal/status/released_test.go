package status

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"unicode"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
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

func FuzzDecodeReleased(f *testing.F) {
	f.Add([]byte(`{"reader":0,"device":"/dev/bus/usb/001/004","name":"a\u001b[2J"}`))
	f.Add([]byte(`{"reader":-1,"inode":-1}`))
	f.Add([]byte(`[]`))
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := DecodeReleased(b)
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
