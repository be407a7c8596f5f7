// Package packaging has what makes packages of OpenCT. There is no Go code here
// but this test, of what packages and installations have to agree upon.
package packaging

import (
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"testing"
)

func read(t *testing.T, file string) string {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// minor is the 25 of go1.25.
func minor(t *testing.T, version string) int {
	t.Helper()
	var n int
	if _, err := fmt.Sscanf(strings.TrimPrefix(version, "go"), "1.%d", &n); err != nil {
		t.Fatalf("%q: %v", version, err)
	}
	return n
}

// Files of tests that need a later Go than the build does have a build
// constraint, and are left out without a word where Go is older. go.mod names
// the Go they need, and this test says when they were left out.
func TestGoForTests(t *testing.T) {
	toolchain := regexp.MustCompile(`(?m)^toolchain (go1\.\S+)$`).FindStringSubmatch(read(t, "../go.mod"))
	if toolchain == nil {
		t.Fatal("go.mod names no toolchain")
	}
	constraint := regexp.MustCompile(`(?m)^//go:build .*\b(go1\.\d+)\b`)
	var leftOut []string
	files := 0
	err := filepath.WalkDir("..", func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && (d.Name() == "vendor" || d.Name() == "build" || d.Name() == ".git") {
			return fs.SkipDir
		}
		if !strings.HasSuffix(path, "_test.go") {
			return nil
		}
		m := constraint.FindStringSubmatch(read(t, path))
		if m == nil {
			return nil
		}
		files++
		if minor(t, m[1]) > minor(t, toolchain[1]) {
			t.Errorf("%s needs %s, go.mod says %s", path, m[1], toolchain[1])
		}
		if v := runtime.Version(); strings.HasPrefix(v, "go1.") && minor(t, m[1]) > minor(t, v) {
			leftOut = append(leftOut, path)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if files == 0 {
		t.Error("no test needs a later Go: go.mod need not name one")
	}
	if len(leftOut) > 0 {
		t.Errorf("%s leaves out %d files of tests; use %s (GOTOOLCHAIN=%[3]s has Go fetch it):\n\t%s",
			runtime.Version(), len(leftOut), toolchain[1], strings.Join(leftOut, "\n\t"))
	}
}

// If a rule names a group that does not exist, udev uses the rule without the group.
// Each way of installing makes the group first.
func TestGroupBeforeRule(t *testing.T) {
	group := regexp.MustCompile(`(?m)^GROUP:="(\w+)"`).FindStringSubmatch(read(t, "../udev/60-openct.rules"))
	if group == nil {
		t.Fatal("the rule names no group")
	}
	tests := []struct {
		name, file, begin, end string
		makes, rule            string // rule: what brings it there; empty: it comes after this text
	}{
		{"make install", "../Makefile", "\ninstall: ", "\ndeb:", "scripts/make-users", "$(RULESDIR)/60-openct.rules"},
		{"deb", "debian/openct.preinst", "", "", "for group in openctd", ""},
		{"pacman", "arch/openct.install", "\npre_install() {", "\npost_install() {", "groupadd --system openctd", ""},
		{"apk", "alpine/openct.pre-install", "", "", "addgroup -S openctd", ""},
		{"rpm", "openct.spec", "\n%pre\n", "\n%post\n", "groupadd -r openctd", ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, text, ok := strings.Cut(read(t, tt.file), tt.begin)
			if tt.end != "" {
				text, _, _ = strings.Cut(text, tt.end)
			}
			makes := strings.Index(text, tt.makes)
			if !ok || makes < 0 {
				t.Fatalf("%s does not make the group", tt.file)
			}
			if tt.rule == "" {
				return
			}
			if rule := strings.Index(text, tt.rule); rule < makes {
				t.Errorf("%s: the rule comes before the group", tt.file)
			}
		})
	}
	for _, file := range []string{"../sysusers.d/openct.conf", "../scripts/make-users", "debian/openct.preinst", "openct.spec",
		"arch/openct.install", "alpine/openct.pre-install", "buildroot/openct.mk.in", "openembedded/openct.bb.in"} {
		for _, name := range []string{group[1], "scard"} {
			if !slices.Contains(regexp.MustCompile(`\w+`).FindAllString(read(t, file), -1), name) {
				t.Errorf("%s does not know group %s", file, name)
			}
		}
	}
}

// Each of these files is installed as an example, and doc/no-systemd.md says what to
// do with it, openct(7) with those for systemd; scripts are scripts.
func TestExamples(t *testing.T) {
	install := regexp.MustCompile(`(?s)cd packaging && for file in (.*?);`).FindStringSubmatch(read(t, "../Makefile"))
	if install == nil {
		t.Fatal("the Makefile installs no examples")
	}
	installed := strings.Fields(strings.ReplaceAll(install[1], "\\", ""))
	var files []string
	for _, dir := range []string{"busybox", "mdev", "openrc", "runit", "systemd", "udev"} {
		err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
			if err == nil && !d.IsDir() {
				files = append(files, path)
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	slices.Sort(installed)
	slices.Sort(files)
	if !slices.Equal(files, installed) {
		t.Errorf("there are %q, installed are %q", files, installed)
	}
	page := read(t, "../doc/no-systemd.md") + read(t, "../man/openct.7")
	for _, file := range files {
		if !strings.Contains(page, file) && !strings.Contains(page, "examples/"+filepath.Dir(file)+" ") {
			t.Errorf("doc/no-systemd.md says nothing about %s", file)
		}
		script := strings.HasPrefix(read(t, file), "#!")
		info, err := os.Stat(file)
		if err != nil || (info.Mode()&0o100 != 0) != script {
			t.Errorf("%s: mode %v, a script: %v", file, info.Mode(), script)
		}
		if !script {
			continue
		}
		if out, err := exec.Command("sh", "-n", file).CombinedOutput(); err != nil {
			t.Errorf("%s: %v\n%s", file, err, out)
		}
	}
}

// A page that is installed lies beside the others there: a link that leads up, as it
// may from its folder in the sources, leads nowhere.
func TestInstalledPages(t *testing.T) {
	pages := append(strings.Fields(read(t, "debian/openct.docs")), "doc/no-systemd.md")
	if !slices.Contains(pages, "internal/socket/PROTOCOL.md") {
		t.Errorf("the packages have %q", pages)
	}
	up := regexp.MustCompile(`\]\(\.\./[^)]*\)`)
	for _, page := range pages {
		for _, link := range up.FindAllString(read(t, "../"+page), -1) {
			t.Errorf("%s has a link %s", page, link[1:])
		}
	}
}
