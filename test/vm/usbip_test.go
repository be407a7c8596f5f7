//go:build vm

package vm

import (
	"fmt"
	"strings"
	"testing"
)

// testUSBIP lends a reader by USB/IP to the same machine, over TCP: usbip-host of
// the kernel has the one end, vhci-hcd the other. The reader is QEMU's, as the
// kernel does not lend what is at vhci-hcd itself.
func testUSBIP(t *testing.T, g *guest) {
	g.installAll(t)
	g.sh(t, "systemctl stop pcscd.socket pcscd.service")
	t.Cleanup(func() { g.sh(t, "systemctl start pcscd.socket") })
	g.configure(t, "ccid = on;")
	if err := g.machine.AddUSB("usb-ccid", "lent", nil); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { g.machine.RemoveUSB("lent") })
	db := "sql:" + cardDatabase(t)
	far := g.usbReader(t, "pci")
	n := far.served(t)
	if _, err := g.machine.QMP("device_add", map[string]any{
		"driver": "ccid-card-emulated", "id": "lentcard", "bus": "lent.0", "backend": "certificates",
		"db": db, "cert1": "one", "cert2": "two", "cert3": "three",
	}); err != nil {
		t.Fatal(err)
	}
	g.until(t, readyTime, "openct-control status | grep 'card present'")
	far.works(t, n)

	g.sh(t, "modprobe -a usbip-host vhci-hcd; systemd-run --quiet --collect --unit=usbipd usbipd")
	t.Cleanup(func() { g.try(t, "usbip unbind --busid="+far.busid+"; systemctl stop usbipd; modprobe -r usbip-host") })
	g.sh(t, "usbip bind --busid="+far.busid+" 2>&1") // taken from the handler that serves it
	far.gone(t, n)
	if _, findings, _ := doctor(t, g, ""); !tells(findings, "driver", "is exported to another machine") {
		t.Errorf("doctor finds %+v", findings)
	}
	g.sh(t, "systemctl restart openct; udevadm trigger --action=change "+"/sys/bus/usb/devices/"+far.busid+"; udevadm settle")
	if out := g.sh(t, "openct-control status; openct-control attach "+far.node+" 2>&1 || :"); !strings.Contains(out, "is exported to another machine by USB/IP") || strings.Contains(out, "QEMU") {
		t.Errorf("what is lent is served:\n%s", out)
	}

	g.sh(t, "usbip attach --remote=127.0.0.1 --busid="+far.busid+" 2>&1")
	near := g.usbReader(t, "vhci")
	n = near.served(t)
	near.works(t, n)
	if list := g.sh(t, "openct-control status | grep -c QEMU"); list != "1" {
		t.Errorf("%s readers of one device", list)
	}
	if port := g.sh(t, "usbip port"); !strings.Contains(port, "usbip://127.0.0.1:3240/"+far.busid) {
		t.Errorf("usbip port:\n%s", port)
	}
	g.sh(t, "usbip detach --port=$(usbip port | sed -n 's/^Port 0*\\([0-9][0-9]*\\): .*/\\1/p' | head -1) 2>&1")
	near.gone(t, n)

	g.sh(t, "usbip unbind --busid="+far.busid+" 2>&1")
	far.works(t, far.served(t))
	g.machine.RemoveUSB("lent")
	far.inactive(t)
}

// usbReader is QEMU's reader, at a host controller of QEMU's or at vhci_hcd.
func (g *guest) usbReader(t *testing.T, at string) *token {
	t.Helper()
	out := g.until(t, readyTime, "cd /sys/bus/usb/devices; for d in $(grep -l 4433 */idProduct); do d=${d%/*}; "+
		"case $(readlink $d) in *"+at+"*) echo $d $(cat $d/busnum) $(cat $d/devnum);; esac; done | grep .")
	k := &token{g: g}
	var bus, device int
	if _, err := fmt.Sscan(out, &k.busid, &bus, &device); err != nil {
		t.Fatalf("%q: %v", out, err)
	}
	k.instance = fmt.Sprintf("%03d-%03d", bus, device)
	k.node = "/dev/bus/usb/" + strings.ReplaceAll(k.instance, "-", "/")
	return k
}
