package script

import (
	"os/exec"
	"slices"
	"strings"
	"testing"
)

// What serves real devices holds no virtual ones, nor their cards' cryptography; what
// plays virtual devices holds nothing that serves readers.
func TestNotLinked(t *testing.T) {
	t.Parallel()
	useSources(t)
	for _, tt := range []struct {
		program string
		is      string // a package that is linked
		not     []string
	}{
		{"openct/cmd/openct", "openct/internal/daemon",
			[]string{"openct/internal/vusb", "crypto/", "net/http", "text/template", "regexp"}},
		{"openct/cmd/openct-vtoken", "openct/internal/vusb/model",
			[]string{"openct/internal/daemon", "openct/internal/control", "openct/internal/driver", "openct/internal/ccid",
				"openct/internal/config", "openct/internal/usb/usbfs", "crypto/x509", "net/http", "text/template", "regexp", "github.com/google"}},
	} {
		t.Run(tt.program, func(t *testing.T) {
			linked := listed(t, "-deps", tt.program)
			if !slices.Contains(linked, tt.is) {
				t.Fatalf("the list lacks what is there:\n%s", linked)
			}
			for _, p := range linked {
				if slices.ContainsFunc(tt.not, func(prefix string) bool { return strings.HasPrefix(p, prefix) }) {
					t.Errorf("%s is linked", p)
				}
			}
		})
	}
}

// Another module in the handler's executable is a decision, and no accident.
func TestModules(t *testing.T) {
	t.Parallel()
	useSources(t)
	want := []string{"github.com/coreos/go-systemd/v22", "github.com/spf13/pflag", "golang.org/x/sys", "openct"}
	linked := listed(t, "-deps", "-f", "{{with .Module}}{{.Path}}{{end}}", "openct/cmd/openct")
	slices.Sort(linked)
	linked = slices.DeleteFunc(slices.Compact(linked), func(module string) bool {
		return module == "github.com/google/gousb" // which needs cgo
	})
	if !slices.Equal(linked, want) {
		t.Errorf("of the modules %q packages are linked, want %q", linked, want)
	}
}

// listed is what "go list" prints.
func listed(t *testing.T, args ...string) []string {
	t.Helper()
	out, err := exec.Command("go", append([]string{"list"}, args...)...).Output()
	if err != nil {
		t.Fatal(err)
	}
	return strings.Fields(string(out))
}
