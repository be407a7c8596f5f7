package readerunit

import (
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"openct/internal/config"
	"openct/internal/golden"
	"openct/internal/machine"
)

// files is a file system with two groups of serial ports; nodes are files.
func files(t *testing.T, nodes ...string) machine.Root {
	t.Helper()
	root := t.TempDir()
	for path, text := range map[string]string{
		"etc/group": "root:x:0:\ndialout:x:20:alice\nscard:x:998:\n+::0:\n",
		"usr/lib/systemd/system/openct-reader@.service": "",
	} {
		nodes = append(nodes, path+"="+text)
	}
	for _, n := range nodes {
		path, text, _ := strings.Cut(n, "=")
		path = filepath.Join(root, path)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		var err error
		if target, ok := strings.CutPrefix(text, link); ok {
			err = os.Symlink(target, path)
		} else {
			err = os.WriteFile(path, []byte(text), 0o644)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return machine.Root(root)
}

func parse(t *testing.T, conf string) *config.Config {
	t.Helper()
	c, warnings := config.Parse("/etc/openct.conf", []byte(conf), nil)
	if len(warnings) > 0 {
		t.Fatal(warnings)
	}
	return c
}

// A link may lead to a pseudo-terminal.
func TestIsPseudo(t *testing.T) {
	root := files(t, "dev/pts/3=", "dev/ttyUSB0=", "dev/ttyNET0=-> pts/3", "dev/serial/by-id/usb-x=-> ../../ttyUSB0")
	for node, want := range map[string]bool{
		"/dev/pts/3": true, "/dev/pts/4": true, "/dev/ttyNET0": true,
		"/dev/ttyUSB0": false, "/dev/ttyUSB1": false, "/dev/serial/by-id/usb-x": false,
	} {
		if got := isPseudo(node, root); got != want {
			t.Errorf("%s: %v", node, got)
		}
	}
}

// Each statement, and everything that is written for it.
func TestMake(t *testing.T) {
	tests := []struct {
		name, conf string
	}{
		{"phoenix", "reader phoenix { driver = phoenix; device = serial:/dev/ttyUSB0; };"},
		{"by-id", "reader sim { driver = phoenix; device = serial:/dev/serial/by-id/usb-FTDI_FT232R-if00-port0; };"},
		{"remote", "reader desk { driver = openct; device = remote:ssh://alice@desk:2222/0; };"},
		{"unix", "reader other { driver = openct; device = unix:/run/other/0; };"},
		{"two", "reader a { driver = phoenix; device = serial:/dev/ttyUSB0; };\nreader b { driver = smartmouse; device = serial:/dev//ttyUSB1; };"},
		{"same name, no name", "reader a { driver = phoenix; device = serial:/dev/ttyS0; };\nreader a { driver = phoenix; device = serial:/dev/ttyS1; };\n" +
			"reader { driver = phoenix; device = serial:/dev/ttyS2; };"},
		{"odd names", `reader "SIM 50% $HOME/ä\" { driver = phoenix; device = "serial:/dev/my port\%n"; };` + "\nreader .-x { driver = phoenix; device = serial:/dev/ttyS0; };"},
		{"pseudo-terminal", "reader net { driver = phoenix; device = serial:/dev/pts/3; };"},
		{"link to a pseudo-terminal", "reader desk { driver = towitoko; device = serial:/run/openct-line/desk; };"},
		{"not serial", "reader v { driver = etoken64; device = virtual:echo; };\nreader c { driver = ccid; device = pcmcia_block:/dev/pcmcia0; };\n" +
			"reader u { driver = ccid; device = usb:/dev/bus/usb/001/004; };\nreader r { driver = phoenix; device = serial:ttyS0; };"},
		{"none", "debug = 1;"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			made, err := Make(parse(t, tt.conf), files(t))
			if err != nil {
				t.Fatal(err)
			}
			dir := t.TempDir()
			if err := made.Write(dir); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(made, Read(dir)); diff != "" {
				t.Errorf("read back (-written +read):\n%s", diff)
			}
			var got strings.Builder
			for _, path := range slices.Sorted(maps.Keys(made)) {
				fmt.Fprintf(&got, "=== %s\n%s\n", path, strings.TrimSuffix(made[path], "\n"))
			}
			file := strings.NewReplacer(" ", "-", ",", "").Replace(tt.name) + ".golden"
			golden.Compare(t, filepath.Join("testdata", file), got.String())
		})
	}
}

// The groups of a node: those that distributions have for serial ports, and the
// node's own.
func TestGroups(t *testing.T) {
	tests := []struct {
		name, file string
		gid        uint32
		serial     bool
		want       []string
	}{
		{"Debian, before udev has seen the node", "root:x:0:\ndialout:x:20:\n", 0, true, []string{"dialout"}},
		{"Debian", "dialout:x:20:\n", 20, true, []string{"dialout"}},
		{"Arch", "uucp:x:986:\n", 986, true, []string{"uucp"}},
		{"both", "uucp:x:14:\ndialout:x:20:\n", 20, true, []string{"dialout", "uucp"}},
		{"a group of its own", "dialout:x:20:\nreaders:x:1001:\n", 1001, true, []string{"dialout", "readers"}},
		{"a group without a name", "dialout:x:20:\n", 1001, true, []string{"dialout", "1001"}},
		{"not serial", "dialout:x:20:\nopenctd:x:999:\n", 999, false, []string{"openctd"}},
		{"no groups", "", 0, true, nil},
		{"no group file worth the name", "::::\nx\n:\n", 0, true, nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			root := files(t)
			if err := os.WriteFile(root.Path("etc/group"), []byte(tt.file), 0o644); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.want, groups(tt.gid, tt.serial, groupNames(root))); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

// A reader that systemd cannot have a unit for keeps the others from nothing.
func TestMakeFails(t *testing.T) {
	long := strings.Repeat("x", 300)
	made, err := Make(parse(t, "reader "+long+" { driver = phoenix; device = serial:/dev/ttyS0; };\nreader b { driver = phoenix; device = serial:/dev/ttyS1; };"),
		files(t))
	if err == nil || !strings.Contains(err.Error(), "/etc/openct.conf:1: reader") || !strings.Contains(err.Error(), "too long") {
		t.Errorf("error %v", err)
	}
	if diff := cmp.Diff([]string{"openct-reader@b.service"}, made.Units()); diff != "" {
		t.Errorf("units (-want +got):\n%s", diff)
	}
}

// What is there counts only as far as it is what is wanted.
func TestHas(t *testing.T) {
	root := files(t)
	want, _ := Make(parse(t, "reader a { driver = phoenix; device = serial:/dev/ttyS0; };"), root)
	other, _ := Make(parse(t, "reader a { driver = phoenix; device = serial:/dev/ttyS1; };"), root)
	unit := Name("a")
	for _, tt := range []struct {
		name string
		have Files
		is   bool
	}{
		{"the same", want, true},
		{"another device", other, false},
		{"nothing", Files{}, false},
	} {
		if got := tt.have.Has(want, unit); got != tt.is {
			t.Errorf("%s: %v", tt.name, got)
		}
	}
	if (Files{}).Has(Files{}, unit) {
		t.Error("what nobody wants is there")
	}
}

// systemd itself reads the units without a complaint.
func TestVerify(t *testing.T) {
	analyze, err := exec.LookPath("systemd-analyze")
	if err != nil {
		t.Log("there is no systemd-analyze; golden files alone have to do")
		return
	}
	dir := t.TempDir()
	c := parse(t, `reader "SIM 50% $HOME/x\" { driver = phoenix; device = "serial:/dev/my port\%n"; };`+"\nreader a { driver = phoenix; device = serial:/dev/ttyS0; };")
	made, err := Make(c, files(t))
	if err != nil {
		t.Fatal(err)
	}
	if err := made.Write(dir); err != nil {
		t.Fatal(err)
	}
	template, err := os.ReadFile("../../systemd/openct-reader@.service")
	if err != nil {
		t.Fatal(err)
	}
	// What is not installed here is no mistake in the unit.
	text := strings.NewReplacer("/usr/sbin/openct-control", "/bin/true", "man:openct-control(8) man:openct.conf(5)", "man:man(1)").Replace(string(template))
	for name, text := range map[string]string{"openct-reader@.service": text, "openct.service": "[Service]\nExecStart=/bin/true\n"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for _, unit := range made.Units() {
		cmd := exec.Command(analyze, "verify", "--man=no", unit)
		cmd.Env = append(os.Environ(), "SYSTEMD_UNIT_PATH="+dir+":", "SYSTEMD_LOG_LEVEL=notice")
		out, err := cmd.CombinedOutput()
		if err != nil || strings.Contains(string(out), "openct") {
			t.Errorf("%s: %v\n%s", unit, err, out)
		}
	}
}
