package doctor

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"openct/internal/devname"
	"openct/internal/machine"
)

func TestFar(t *testing.T) {
	ssh := devname.Target{Driver: "openct", Type: devname.TypeRemote, Path: "ssh://desk/0"}
	tests := []struct {
		name  string
		files []string
		at    devname.Target
		want  *Far
	}{
		{"serial line", nil, devname.Target{Type: "serial", Path: "/dev/ttyS0"}, nil},
		{"socket of this machine", nil, devname.Target{Type: devname.TypeUnix, Path: "/run/other/0"}, &Far{}},
		{"nothing", nil, ssh, &Far{SSH: true, NoSSH: true, NoDir: true}},
		{"ssh alone", []string{"usr/bin/ssh"}, ssh, &Far{SSH: true, NoDir: true}},
		{"public key alone", []string{"usr/bin/ssh", "etc/openct/ssh/id_rsa.pub"}, ssh, &Far{SSH: true, NoKey: true, NoHosts: true}},
		{"all", []string{"usr/bin/ssh", "etc/openct/ssh/id_rsa", "etc/openct/ssh/known_hosts"}, ssh, &Far{SSH: true}},
		{"a config, which may name others", []string{"usr/bin/ssh", "etc/openct/ssh/config"}, ssh, &Far{SSH: true}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			root := t.TempDir()
			for _, file := range tt.files {
				file = filepath.Join(root, file)
				if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(file, nil, 0o600); err != nil {
					t.Fatal(err)
				}
			}
			got := Options{Root: machine.Root(root)}.far(tt.at)
			if (got == nil) != (tt.want == nil) || got != nil && *got != *tt.want {
				t.Errorf("got %+v, want %+v", got, tt.want)
			}
		})
	}
}

// A handler that waits is found by its command line.
func TestWaits(t *testing.T) {
	for _, tt := range []struct {
		name string
		line string
		far  *Far
		want bool
	}{
		{"by hand", "ifdhandler openct remote ssh://desk/0", &Far{SSH: true}, true},
		{"with options", "ifdhandler -dd -f /etc/other.conf openct remote ssh://desk/0", &Far{SSH: true}, true},
		{"another device", "ifdhandler openct remote ssh://desk/1", &Far{SSH: true}, false},
		{"another driver", "ifdhandler etoken64 remote ssh://desk/0", &Far{SSH: true}, false},
		{"no arguments", "ssh://desk/0", &Far{SSH: true}, false},
		{"not to be seen", "", &Far{SSH: true}, false},
		{"a reader of this machine", "ifdhandler openct remote ssh://desk/0", nil, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f := &Facts{Configured: []Configured{{Driver: "openct", Device: "ssh://desk/0", Far: tt.far}}}
			f.waits(Process{PID: 72, Name: "ifdhandler"}, strings.Fields(tt.line))
			if got := f.Configured[0].Waiting; (got != nil) != tt.want || got != nil && got.PID != 72 {
				t.Errorf("got %v", got)
			}
		})
	}
}
