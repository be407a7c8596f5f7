package control

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"openct/internal/cli"
	"openct/internal/config"
	"openct/internal/machine"
	"openct/internal/readerunit"
	"openct/internal/socket"
)

// What init does for the readers of openct.conf, with systemd and without: which
// programs it runs, and what it says.
func TestStartReaders(t *testing.T) {
	const (
		one = "reader phoenix { driver = phoenix; device = serial:/dev/ttyUSB0; };\n"
		two = one + "reader \"my sim\" { driver = smartmouse; device = serial:/dev/ttyUSB1; };\n"
	)
	const handler = "ifdhandler -H "
	tests := []struct {
		name      string
		conf      string
		before    string // the configuration when systemd read its unit files last
		nodes     string // that are there
		systemd   bool
		generator bool   // systemd has it
		file      string // the configuration file, other than the installed one
		runs      []string
		says      string
	}{
		{"nothing has changed", two, two, "ttyUSB0 ttyUSB1", true, true, "",
			[]string{`systemctl start --no-block -- openct-reader@phoenix.service openct-reader@my\x20sim.service`}, ""},
		{"openct.conf has been edited", two, one, "ttyUSB0 ttyUSB1", true, true, "",
			[]string{"systemctl daemon-reload", `systemctl start --no-block -- openct-reader@phoenix.service openct-reader@my\x20sim.service`}, ""},
		{"a reader has another device now", one, strings.ReplaceAll(one, "USB0", "USB7"), "ttyUSB0", true, true, "",
			[]string{"systemctl daemon-reload", "systemctl start --no-block -- openct-reader@phoenix.service"}, ""},
		{"a reader is not configured any more", one, two, "ttyUSB0 ttyUSB1", true, true, "",
			[]string{"systemctl daemon-reload", `systemctl stop --no-block -- openct-reader@my\x20sim.service`, "systemctl start --no-block -- openct-reader@phoenix.service"}, ""},
		{"the last reader is not configured any more", "", one, "ttyUSB0", true, true, "",
			[]string{"systemctl daemon-reload", "systemctl stop --no-block -- openct-reader@phoenix.service"}, ""},
		{"no readers", "", "", "", true, true, "", nil, ""},
		{"a device is not there", two, two, "ttyUSB0", true, true, "",
			[]string{"systemctl start --no-block -- openct-reader@phoenix.service"}, "reader my sim waits for its device: /dev/ttyUSB1 does not exist\n"},
		{"systemd has no generator", one, "", "ttyUSB0", true, false, "",
			[]string{"systemctl daemon-reload", handler + "phoenix serial /dev/ttyUSB0"}, ""},
		{"another configuration file", one, "", "ttyUSB0", true, true, "/root/my.conf",
			[]string{handler + "-f /root/my.conf phoenix serial /dev/ttyUSB0"}, ""},
		{"no systemd", two, "", "ttyUSB0 ttyUSB1", false, false, "",
			[]string{handler + "phoenix serial /dev/ttyUSB0", handler + "smartmouse serial /dev/ttyUSB1"}, ""},
		{"no systemd, and a device is not there", two, "", "ttyUSB0", false, false, "",
			[]string{handler + "phoenix serial /dev/ttyUSB0", handler + "smartmouse serial /dev/ttyUSB1"}, ""},
		{"no systemd, and watch will see it come", "hotplug = yes;\n" + two, "", "ttyUSB0", false, false, "",
			[]string{handler + "phoenix serial /dev/ttyUSB0"}, "reader my sim waits for its device: /dev/ttyUSB1 does not exist\n"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			root := t.TempDir()
			bin, log, generated := filepath.Join(root, "bin"), filepath.Join(root, "log"), filepath.Join(root, readerunit.Dir)
			next := filepath.Join(root, "next")
			dirs := []string{bin, filepath.Join(root, "dev"), generated, next}
			if tt.systemd {
				dirs = append(dirs, filepath.Join(root, "run/systemd/system"))
			}
			for _, dir := range dirs {
				if err := os.MkdirAll(dir, 0o755); err != nil {
					t.Fatal(err)
				}
			}
			for _, node := range strings.Fields(tt.nodes) {
				if err := os.WriteFile(filepath.Join(root, "dev", node), nil, 0o600); err != nil {
					t.Fatal(err)
				}
			}
			file := cli.ConfigFile
			if tt.file != "" {
				file = tt.file
			}
			write := func(conf, dir string) *config.Config {
				cfg, warnings := config.Parse(file, []byte(conf), nil)
				if len(warnings) > 0 {
					t.Fatal(warnings)
				}
				files, err := readerunit.Make(cfg, machine.Root(root))
				if err == nil {
					err = files.Write(dir)
				}
				if err != nil {
					t.Fatal(err)
				}
				return cfg
			}
			if tt.generator {
				write(tt.before, generated)
			}
			cfg := write(tt.conf, next)
			reload := ""
			if tt.generator {
				reload = fmt.Sprintf("if [ \"$1\" = daemon-reload ]; then rm -r %s; mv %s %[1]s; fi", generated, next)
			}
			for name, does := range map[string]string{"systemctl": reload, "ifdhandler": ""} {
				script := fmt.Sprintf("#!/bin/sh\nprintf '%%s\\n' \"%s $*\" >>%s\n%s\n", name, log, does)
				if err := os.WriteFile(filepath.Join(bin, name), []byte(script), 0o755); err != nil {
					t.Fatal(err)
				}
			}
			t.Setenv("PATH", bin+":"+os.Getenv("PATH"))
			cfg.Program = filepath.Join(bin, "ifdhandler")
			var said bytes.Buffer
			c := &Control{Root: machine.Root(root), Dir: socket.DefaultDir, Config: cfg, ConfigFile: file, Err: &said}
			if os.Geteuid() == 0 {
				cfg.User = "root" // this machine may not have the directory, whose owner it would be
			}
			c.startReaders()
			got, err := os.ReadFile(log)
			if err != nil && tt.runs != nil {
				t.Fatalf("ran nothing, said %q", &said)
			}
			want := ""
			for _, line := range tt.runs {
				want += line + "\n"
			}
			if diff := cmp.Diff(want, string(got)); diff != "" {
				t.Errorf("ran (-want +got):\n%s", diff)
			}
			if said.String() != tt.says {
				t.Errorf("said %q, want %q", &said, tt.says)
			}
		})
	}
}
