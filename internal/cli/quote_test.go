package cli

import (
	"os/exec"
	"testing"
)

func TestQuote(t *testing.T) {
	for _, tt := range []struct{ name, in, want string }{
		{"a device", "/dev/serial/by-path/pci-0000:00:14.0-usb", "/dev/serial/by-path/pci-0000:00:14.0-usb"},
		{"a unit with an escaped name", `openct-reader@my\x20sim.service`, `'openct-reader@my\x20sim.service'`},
		{"commands", "x; reboot $(id)", "'x; reboot $(id)'"},
		{"a quote", "Bob's", `'Bob'\''s'`},
		{"nothing", "", "''"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := Quote(tt.in); got != tt.want {
				t.Errorf("got %s, want %s", got, tt.want)
			}
			if out, err := exec.Command("sh", "-c", "printf %s "+Quote(tt.in)).Output(); err != nil || string(out) != tt.in {
				t.Errorf("the shell makes %q of it: %v", out, err)
			}
		})
	}
}
