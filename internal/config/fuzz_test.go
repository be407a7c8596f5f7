package config

import (
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"openct/internal/devname"
)

func FuzzParse(f *testing.F) {
	f.Add([]byte(classic))
	for _, s := range []string{
		"debug = 2; # no newline", "a = \"b c\";", "usb;", "ids = { usb:1/2 }", "a { b { c { }; }; };", "a = b",
		"driver ccid { ids = { u:1/2, 0x46a/10, usb:1/2/3/4/5/6 }; };", "}", "= ;", "\"", "a#b;", "a\x00", "reader x;",
		"lock { wait = 9999999999999h; };", "socket { mode = 08; };",
	} {
		f.Add([]byte(s))
	}
	for _, file := range []string{"classic.conf", "gentoo.conf", "phoenix.conf", "mistakes.conf"} {
		src, err := os.ReadFile(filepath.Join("testdata", file))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(src)
	}
	f.Fuzz(func(t *testing.T, src []byte) {
		c, warnings := Parse("f", src, []string{"etoken", "ccid"})
		if len(warnings) > maxWarnings {
			t.Errorf("%d warnings", len(warnings))
		}
		for _, w := range warnings {
			if w.Line < 1 || w.Line > 1+strings.Count(string(src), "\n") {
				t.Errorf("%v has no place", w)
			}
		}
		if c.SocketMode&^fs.ModePerm != 0 || c.LockWait < 0 || c.LockWait > maxWait || c.Debug < 0 {
			t.Errorf("out of range: %+v", c)
		}
		for _, r := range c.Readers {
			if _, err := r.Target(); err != nil {
				t.Errorf("reader without a target: %v", err)
			}
		}
		if slices.ContainsFunc(c.Drivers, func(d DriverIDs) bool { return slices.ContainsFunc(d.IDs, devname.ID.IsZero) }) {
			t.Error("empty id")
		}
		c.Notes()
	})
}
