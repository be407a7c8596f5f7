package readerunit

import (
	"os"
	"path/filepath"
	"testing"

	"openct/internal/machine"
)

func TestOfProcess(t *testing.T) {
	tests := []struct{ name, cgroup, want string }{
		{"a token's", "0::/system.slice/system-openct\\x2dhandler.slice/openct-handler@001-004.service\n", "openct-handler@001-004.service"},
		{"a configured reader's", "0::/system.slice/openct-reader@my\\x20sim.service\n", `openct-reader@my\x20sim.service`},
		{"a classic one", "0::/system.slice/openct@x.service\n", "openct@x.service"},
		{"init's", "0::/system.slice/openct.service\n", ""},
		{"a user's", "0::/user.slice/user-1000.slice/user@1000.service/app.slice/x.scope\n", ""},
		{"a pattern", "0::/system.slice/openct-handler@*.service\n", ""},
		{"a command", "0::/system.slice/openct-handler@;reboot;.service\n", ""},
		{"none", "0::/init.scope\n", ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			root := t.TempDir()
			for path, text := range map[string]string{"proc/7/cgroup": tt.cgroup, "run/systemd/system/x": ""} {
				path = filepath.Join(root, path)
				if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			if got := OfProcess(machine.Root(root), 7); got != tt.want {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
}
