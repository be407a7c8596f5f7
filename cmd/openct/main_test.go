package main

import (
	"bytes"
	"strings"
	"testing"
)

// The name, or the first argument, says which command it is.
func TestNames(t *testing.T) {
	tests := []struct {
		name   string
		args   string
		exit   int
		stdout string // begins with
		stderr string
	}{
		{"a link", "openct-control -h", 0, "usage: openct-control ", ""},
		{"a link, by its path", "/usr/sbin/ifdhandler -h", 0, "usage: ifdhandler ", ""},
		{"another", "openct-tool -h", 0, "usage: openct-tool ", ""},
		{"the first argument", "/usr/sbin/openct openct-tool -h", 0, "usage: openct-tool ", ""},
		{"options of the command stay its own", "openct ifdhandler -h", 0, "usage: ifdhandler ", ""},
		{"neither", "openct", 1, "", "usage: openct COMMAND"},
		{"help", "openct --help", 0, "usage: openct COMMAND", ""},
		{"version", "openct -v", 0, "OpenCT ", ""},
		{"no such command", "openct frobnicate", 1, "", "openct: no command \"frobnicate\"\n"},
		{"any other name", "handler", 1, "", "openct: no command \"handler\"\n"},
		{"a wrong option", "openct -x", 1, "", "openct: invalid option -- 'x'"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var out, err bytes.Buffer
			if exit := run(strings.Fields(tt.args), &out, &err); exit != tt.exit {
				t.Errorf("exit status %d, want %d", exit, tt.exit)
			}
			if !strings.HasPrefix(out.String(), tt.stdout) || tt.stdout == "" && out.Len() > 0 {
				t.Errorf("stdout %q", &out)
			}
			if !strings.HasPrefix(err.String(), tt.stderr) || tt.stderr == "" && err.Len() > 0 {
				t.Errorf("stderr %q", &err)
			}
		})
	}
}
