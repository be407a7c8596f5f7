//go:build vm

package vm

import (
	"fmt"
	"testing"
)

// testClassic puts rules and units of the kind that people wrote for C OpenCT
// in the place of ours (testdata/classic). Each handler is to run in the unit
// that its rule asked for, and there is to be one.
func testClassic(t *testing.T, g *guest) {
	g.install(t)
	g.sh(t, "systemctl stop openct && cp /run/e2e/testdata/classic/*.service /etc/systemd/system/")
	t.Cleanup(func() {
		g.sh(t, "systemctl stop openct; rm -f /etc/systemd/system/openct.service /etc/systemd/system/openct@.service /etc/udev/rules.d/60-openct.rules;"+
			"systemctl daemon-reload && udevadm control --reload && systemctl start openct")
	})
	tests := []struct {
		name, rules string
		unit        func(k *token) string // as systemd-escape would write it
	}{
		{"operands as instance", "instance", func(k *token) string {
			return fmt.Sprintf(`openct@usb:0529-0600-0100\x20usb\x20-dev-bus-usb-%s.service`, k.instance)
		}},
		{"empty instance", "empty", func(k *token) string {
			return g.sh(t, fmt.Sprintf("systemd-escape -p --template=openct@.service $(realpath /sys/bus/usb/devices/%s)", k.busid))
		}},
		{"systemd-escape", "escape", func(k *token) string {
			return g.sh(t, "systemd-escape -p --template=openct@.service "+k.node)
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			g.sh(t, fmt.Sprintf("systemctl stop openct; cp /run/e2e/testdata/classic/%s.rules /etc/udev/rules.d/60-openct.rules &&"+
				"udevadm control --reload && systemctl daemon-reload", tt.rules))
			k := g.plug(t, tt.rules, "")

			// The first plug pulls openct.service in: init and attach run
			// side by side.
			inUnit(t, g, tt.unit(k))

			// Here it is there already.
			k.ctl(t, "unplug")
			ended(t, g, tt.unit(k))
			k.ctl(t, "plug")
			inUnit(t, g, tt.unit(k))

			// And here everything starts anew around the token.
			g.sh(t, "systemctl restart openct.service")
			inUnit(t, g, tt.unit(k))
			k.ctl(t, "unplug")
			ended(t, g, tt.unit(k))
		})
	}
}

// inUnit waits until a token is served by one handler, in the given unit.
func inUnit(t *testing.T, g *guest, unit string) {
	t.Helper()
	g.reaches(t, readyTime, unit, "active")
	g.until(t, readyTime, `openct-tool -r "$(openct-control status | awk 'NR > 2 {print $1}')" atr`)
	handlers := g.sh(t, "ps -eo comm,pid | awk '$1 ~ /^(openct-control|ifdhandler)$/ {print $2}'")
	inside := g.sh(t, fmt.Sprintf("cat /sys/fs/cgroup$(systemctl show -P ControlGroup '%s' | sed 's/\\\\/\\\\/g')/cgroup.procs", unit))
	if handlers != inside || handlers == "" {
		t.Errorf("handlers are %q, %s has %q", handlers, unit, inside)
	}
	if n := g.sh(t, "openct-tool list | wc -l"); n != "1" {
		t.Errorf("%s readers, want 1", n)
	}
}

func ended(t *testing.T, g *guest, unit string) {
	t.Helper()
	g.reaches(t, goneTime, unit, "inactive")
}
