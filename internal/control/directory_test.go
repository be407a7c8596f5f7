package control

import (
	"io/fs"
	"os"
	"os/user"
	"path/filepath"
	"testing"

	"openct/internal/config"
)

func TestSetAccess(t *testing.T) {
	// The caller's own names, so that it works without being root.
	me, err := user.Current()
	if err != nil {
		t.Fatal(err)
	}
	group, err := user.LookupGroupId(me.Gid)
	if err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name   string
		config config.Config
		want   fs.FileMode
		fails  bool
	}{
		{"nothing set", config.Config{}, 0o700, false},
		{"a mode", config.Config{DirMode: 0o750}, 0o750, false},
		{"owner, group and mode", config.Config{DirOwner: me.Username, DirGroup: group.Name, DirMode: 0o710}, 0o710, false},
		{"owner alone", config.Config{DirOwner: me.Username}, 0o700, false},
		{"no such owner", config.Config{DirOwner: "no such user", DirMode: 0o777}, 0o700, true},
		{"no such group", config.Config{DirGroup: "no such group", DirMode: 0o777}, 0o700, true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			if err := os.Chmod(dir, 0o700); err != nil {
				t.Fatal(err)
			}
			if err := setAccess(dir, &tt.config); (err != nil) != tt.fails {
				t.Fatalf("error %v", err)
			}
			st, err := os.Stat(dir)
			if err != nil || st.Mode().Perm() != tt.want {
				t.Errorf("mode %v, %v; want %v", st.Mode().Perm(), err, tt.want)
			}
		})
	}
}

func TestSetAccessFollowsNoLink(t *testing.T) {
	dir := t.TempDir()
	target := filepath.Join(dir, "elsewhere")
	link := filepath.Join(dir, "openct")
	if err := os.Mkdir(target, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(target, link); err != nil {
		t.Fatal(err)
	}
	if err := setAccess(link, &config.Config{DirMode: 0o777}); err == nil {
		t.Error("no error")
	}
	if st, err := os.Stat(target); err != nil || st.Mode().Perm() != 0o700 {
		t.Errorf("mode %v, %v", st.Mode().Perm(), err)
	}
}

// The directory is made where it is missing.
func TestMakeDirectory(t *testing.T) {
	me, err := user.Current()
	if err != nil {
		t.Fatal(err)
	}
	group, err := user.LookupGroupId(me.Gid)
	if err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name         string
		there        bool
		owner, group string
		mode         fs.FileMode
	}{
		{"missing", false, me.Username, group.Name, 0o750},
		{"missing, and there is no such user or group", false, "no such user", "no such group", 0o755},
		{"there", true, me.Username, group.Name, 0o711},
		{"there, and there is no such user", true, "no such user", group.Name, 0o711},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "openct")
			if tt.there {
				if err := os.Mkdir(dir, 0o711); err != nil {
					t.Fatal(err)
				}
			}
			if err := makeDirectory(dir, tt.owner, tt.group); err != nil {
				t.Fatal(err)
			}
			if st, err := os.Stat(dir); err != nil || st.Mode().Perm() != tt.mode {
				t.Errorf("mode %v, %v; want %v", st.Mode().Perm(), err, tt.mode)
			}
		})
	}
	if err := makeDirectory(filepath.Join(t.TempDir(), "no", "openct"), me.Username, group.Name); err == nil {
		t.Error("no error where the parent is missing")
	}
}
