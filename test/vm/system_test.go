//go:build vm

package vm

import (
	"testing"
	"time"
)

// testSystem is about the machine itself: without it no other case says
// anything.
func testSystem(t *testing.T, g *guest) {
	t.Run("boot finishes without a failed unit", func(t *testing.T) {
		g.until(t, 2*time.Minute, "systemctl is-system-running")
		t.Log("\n" + g.sh(t, "systemd-analyze; uname -r; systemctl --version | head -n 1"))
	})
	t.Run("virtual host controller", func(t *testing.T) {
		g.sh(t, "modprobe vhci-hcd && test -w /sys/devices/platform/vhci_hcd.0/attach")
	})
	t.Run("USB device of QEMU comes and goes", func(t *testing.T) {
		if err := g.machine.AddUSB("usb-ccid", "probe", nil); err != nil {
			t.Fatal(err)
		}
		g.until(t, 30*time.Second, "lsusb -d 08e6:4433")
		if err := g.machine.RemoveUSB("probe"); err != nil {
			t.Fatal(err)
		}
		g.until(t, 30*time.Second, "! lsusb -d 08e6:4433")
	})
}
