package main

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"openct/internal/driver"
)

func TestUdevDevices(t *testing.T) {
	text := string(udev(table()))
	_, text, _ = strings.Cut(text, "GOTO=\"openct_ask\"\n\n")
	text, _, _ = strings.Cut(text, "\n# The table above is valid")
	want := `# one
ATTR{idVendor}=="0529", ATTR{idProduct}=="0600", ENV{OPENCT_DRIVER}="one"
ATTR{idVendor}=="abcd", ATTR{idProduct}=="0001", ENV{OPENCT_DRIVER}="one"
# two
ATTR{idVendor}=="08e6", ATTR{idProduct}=="3437", GOTO="openct_ask"
`
	if diff := cmp.Diff(want, text); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// What went wrong with such rules before (systemd's NEWS for 247, and
// systemd.device(5)).
func TestUdevTraps(t *testing.T) {
	text := string(udev(driver.Table()))
	var rules []string
	for _, line := range strings.Split(text, "\n") {
		if line != "" && !strings.HasPrefix(line, "#") {
			rules = append(rules, line)
		}
	}
	all := strings.Join(rules, "\n")
	tests := []struct {
		name, contains string
		want           bool
	}{
		{"a bind event takes away what only an add event set", `ACTION=="add"`, false},
		{"ATTRS matches the children as well", "ATTRS{", false},
		{"udev kills what RUN leaves behind", "RUN", false},
		{"without the tag SYSTEMD_WANTS has no effect", "\nTAG+=\"systemd\"\n", true},
		{"an event of a device that stays starts what was stopped", "ACTION==\"change\", IMPORT{db}=\"OPENCT_UNIT\"\n" +
			`ENV{OPENCT_UNIT}=="", ENV{SYSTEMD_WANTS}+="openct-handler@`, true},
		{"SYSTEMD_WANTS of others stays", `ENV{SYSTEMD_WANTS}=`, false},
		{"a token of the table needs no program", "ENV{OPENCT_DRIVER}==\"?*\", TEST!=\"/run/openct/udev-ask\", GOTO=\"openct_ours\"\n" +
			`ENV{OPENCT_DRIVER}=="?*", GOTO="openct_ask"`, true},
		{"libccid's rule comes later", `GROUP:="openctd"`, true},
		{"a CardMan 4000 is openctd's, too", "SUBSYSTEM==\"cardman_4000\", GROUP:=\"openctd\", MODE:=\"0660\"\nSUBSYSTEM!=\"usb\"", true},
		{"what comes back from suspend is plugged anew", `ATTR{power/persist}="0"`, true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := strings.Contains(all, tt.contains); got != tt.want {
				t.Errorf("contains %q: %v, want %v", tt.contains, got, tt.want)
			}
		})
	}
	// Every jump must lead somewhere, or udev ignores its rule.
	for _, r := range rules {
		_, label, ok := strings.Cut(r, `GOTO="`)
		if ok && !strings.Contains(all, `LABEL="`+label) {
			t.Errorf("no label for %s", r)
		}
	}
}
