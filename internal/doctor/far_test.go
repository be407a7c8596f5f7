package doctor

import (
	"os"
	"path/filepath"
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
