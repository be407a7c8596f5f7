package golden

import (
	"os"
	"path/filepath"
	"testing"
)

// failure notes that a test has failed.
type failure struct {
	testing.TB
	failed bool
}

func (f *failure) Errorf(string, ...any) { f.failed = true }

func TestCompare(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x.golden")
	if err := os.WriteFile(path, []byte("one\ntwo\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name, got string
		fails     bool
	}{
		{"the same", "one\ntwo\n", false},
		{"another line", "one\n2\n", true},
		{"without the last line's end", "one\ntwo", true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f := &failure{TB: t}
			if Compare(f, path, tt.got); f.failed != tt.fails {
				t.Errorf("failed: %v", f.failed)
			}
		})
	}
}
