package config

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"testing/fstest"

	"github.com/google/go-cmp/cmp"

	"openct/internal/devname"
)

// What a reader on a serial line cannot tell.
func TestSerialReader(t *testing.T) {
	for _, tt := range []struct {
		name, keys string
		want       Reader
		warnings   []string
	}{
		{"nothing said", "", Reader{}, nil},
		{"all", "clock = 6000000; speed = 115200; switch = off;", Reader{Clock: 6000000, Speed: 115200, NoSwitch: true}, nil},
		{"with a switch", "switch = yes;", Reader{}, nil},
		{"mistakes", "clock = 6; speed = fast; switch = maybe;", Reader{}, []string{
			`openct.conf:1: "reader.clock": "6" is not a number of Hz from 1000000 to 20000000; the statement is skipped`,
			`openct.conf:1: "reader.speed": "fast" is not a number of bit/s from 1 to 4000000; the statement is skipped`,
			`openct.conf:1: "reader.switch": "maybe" is not on, yes, 1, off, no or 0; the statement is skipped`,
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			src := "reader x { driver = phoenix; device = serial:/dev/ttyS0; " + tt.keys + " };"
			c, warnings := Parse("openct.conf", []byte(src), nil)
			tt.want.Name, tt.want.Driver, tt.want.Device, tt.want.Where = "x", "phoenix", "serial:/dev/ttyS0", "openct.conf:1"
			if diff := cmp.Diff([]Reader{tt.want}, c.Readers, compareID); diff != "" {
				t.Errorf("readers (-want +got):\n%s", diff)
			}
			var said []string
			for _, w := range warnings {
				said = append(said, w.String())
			}
			if diff := cmp.Diff(tt.warnings, said); diff != "" {
				t.Errorf("warnings (-want +got):\n%s", diff)
			}
		})
	}
}

// A handler finds the statement about its reader, whatever link it was given.
func TestReaderAt(t *testing.T) {
	dir := t.TempDir()
	node, link := filepath.Join(dir, "ttyUSB0"), filepath.Join(dir, "by-id")
	if err := os.WriteFile(node, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(node, link); err != nil {
		t.Fatal(err)
	}
	c, _ := Parse("openct.conf", []byte("reader sim { driver = phoenix; device = serial:"+link+"; clock = 6000000; };"), nil)
	for _, tt := range []struct {
		name, driver, typ, path string
		want                    bool
	}{
		{"as it stands there", "phoenix", "serial", link, true},
		{"the node itself", "phoenix", "serial", node, true},
		{"another driver", "smartmouse", "serial", link, false},
		{"another type", "phoenix", "pcmcia", link, false},
		{"another node", "phoenix", "serial", "/dev/null", false},
		{"no node", "phoenix", "serial", "", false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r, ok := c.ReaderAt(devname.Target{Driver: tt.driver, Type: tt.typ, Path: tt.path})
			if ok != tt.want || ok && r.Clock != 6000000 {
				t.Errorf("%+v, %v", r, ok)
			}
		})
	}
}

func TestClassReaders(t *testing.T) {
	if !(&Config{CCID: CCIDOn}).ClassReaders() || (&Config{CCID: CCIDOff}).ClassReaders() {
		t.Error("on and off do not decide")
	}
	if pcscInstalled(fstest.MapFS{"usr/sbin/sshd": {}}) || !pcscInstalled(fstest.MapFS{"usr/sbin/pcscd": {}}) {
		t.Error("pcscd is not told")
	}
}

// What readers are called, of which names may be missing or the same.
func TestInstances(t *testing.T) {
	c := mustParse(t, `reader a { driver = phoenix; device = serial:/dev/ttyS0; };
reader a { driver = phoenix; device = serial:/dev/ttyS1; };
reader { driver = phoenix; device = serial:/dev/ttyS2; };
reader "my sim" { driver = phoenix; device = serial:/dev/ttyS3; };`)
	want := []string{"a", "serial:/dev/ttyS1", "serial:/dev/ttyS2", "my sim"}
	if diff := cmp.Diff(want, c.Instances()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	for i, name := range want {
		if r, ok := c.ReaderNamed(name); !ok || r.Device != fmt.Sprintf("serial:/dev/ttyS%d", i) {
			t.Errorf("%s is %+v", name, r)
		}
	}
	if r, ok := c.ReaderNamed(""); ok {
		t.Errorf("no name is %+v", r)
	}
}

// A device is one reader's: that of the first statement about it.
func TestOneReaderADevice(t *testing.T) {
	c, warnings := Parse("openct.conf", []byte(`reader a { driver = phoenix; device = serial:/dev/ttyS0; };
reader b { driver = smartmouse; device = serial:/dev/./ttyS0; };
reader c { driver = phoenix; device = serial:/dev/ttyS1; };`), nil)
	if len(warnings) != 1 || warnings[0].String() !=
		`openct.conf:2: "reader": the device serial:/dev/./ttyS0 is already that of reader "a" at openct.conf:1; the statement is skipped` {
		t.Errorf("warnings %q", warnings)
	}
	if diff := cmp.Diff([]string{"a", "c"}, c.Instances()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}
