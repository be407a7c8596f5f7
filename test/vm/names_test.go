//go:build vm

package vm

import (
	"fmt"
	"strings"
	"testing"
)

// testNames has two equal tokens told apart by names, one of them by its serial
// number, and has one released for another program.
func testNames(t *testing.T, g *guest) {
	g.installAll(t)
	office := g.plug(t, "office", "--card echo --serial A17")
	spare := g.plug(t, "spare", "--card echo")
	g.configure(t, fmt.Sprintf("reader office { id = usb:0529/0600; serial = A17; }; reader spare { port = %s; };", spare.busid))
	g.sh(t, "openct-control check-config && systemctl restart openct.service")
	office.served(t)
	spare.served(t)

	t.Run("names", func(t *testing.T) {
		for _, k := range []*token{office, spare} {
			if out := g.sh(t, "openct-tool -r "+k.name+" atr"); !strings.HasPrefix(out, "Detected "+k.name+": Aladdin eToken PRO 64k") {
				t.Errorf("openct-tool -r %s:\n%s", k.name, out)
			}
			g.until(t, readyTime, fmt.Sprintf("systemctl show -P StatusText %s | grep '^%s: Aladdin eToken PRO 64k, reader '", k.unit(), k.name))
			g.until(t, readyTime, fmt.Sprintf("journalctl --boot OPENCT_ALIAS=%s OPENCT_DEVICE=%s | grep 'reader is ready'", k.name, k.node))
		}
		t.Log("\n" + g.sh(t, "openct-control status"))
		if res := g.try(t, "openct-tool -r home atr"); res.Exit != 1 || !strings.Contains(res.Stderr, "no such reader") {
			t.Errorf("a name that nothing has: exit code %d\n%s", res.Exit, res.Stderr)
		}
		g.until(t, readyTime, "[ $(opensc-tool -l | grep -c eToken) = 2 ]")
		list := g.sh(t, "opensc-tool -l")
		t.Log("\n" + list)
		// pcscd's own name: the model, and the serial number.
		if strings.Count(list, "Aladdin eToken PRO 64 (A17) ") != 1 || strings.Contains(list, "office") {
			t.Errorf("opensc-tool -l:\n%s", list)
		}
	})
	t.Run("replug", func(t *testing.T) {
		office.ctl(t, "unplug")
		office.inactive(t)
		office.ctl(t, "plug")
		office.served(t)
		g.sh(t, "openct-tool -r office atr")
	})
	t.Run("release", func(t *testing.T) {
		asUser := "setpriv --reuid=nobody --regid=nogroup --groups=$(getent group scard | cut -d: -f3) "
		if res := g.try(t, asUser+"openct-control release office"); res.Exit != 1 || !strings.Contains(res.Stderr, "next: run openct-control as root") {
			t.Errorf("release by a user: exit code %d\n%s", res.Exit, res.Stderr)
		}
		g.sh(t, "openct-control release office")
		office.inactive(t)
		if out := g.sh(t, asUser+"openct-control status 2>&1"); !strings.Contains(out, "(office, "+office.node+") is released") {
			t.Errorf("status:\n%s", out)
		}
		// The events come in this order, and the second one makes systemd start the unit.
		sysfs := "/sys/bus/usb/devices/" + office.busid
		g.sh(t, "udevadm trigger --settle --action=change "+sysfs+"; udevadm trigger --settle --action=add "+sysfs)
		g.until(t, readyTime, "journalctl --boot -u "+office.unit()+" | grep 'the device is released'")
		office.inactive(t)
		g.sh(t, "systemctl restart openct.service")
		spare.served(t)
		g.sh(t, "openct-control doctor | grep 'is released since'")
		if res := g.try(t, "openct-tool -r office atr || openct-control attach "+office.instance); res.Exit == 0 {
			t.Error("a released token is served")
		}

		// Another program: an OpenCT that knows nothing of this one.
		other := "OPENCT_SOCKETDIR=/run/other "
		g.sh(t, "mkdir /run/other && "+other+"openct-control -n init && "+other+"openct-control attach "+office.instance+" && "+other+"openct-tool -r office atr")
		res := g.try(t, "openct-control take")
		t.Logf("take while another program has it:\n%s", res.Stderr)
		if res.Exit != 1 || !strings.Contains(res.Stderr, office.node+" stays released: ") || !strings.Contains(res.Stderr, "ifdhandler (pid ") {
			t.Errorf("exit code %d", res.Exit)
		}
		office.inactive(t)
		g.sh(t, other+"openct-control shutdown; until ! ls -l /proc/[0-9]*/fd 2>/dev/null | grep -q "+office.node+"; do sleep 0.1; done; rm -r /run/other")
		g.sh(t, "openct-control take office")
		office.works(t, office.served(t))
	})
	t.Run("release of a locked one", func(t *testing.T) {
		g.compile(t, "clientlib", "testdata/clientlib.c")
		g.sh(t, fmt.Sprintf("systemd-run --quiet --collect --unit=holder -p StandardOutput=file:/run/holder.out /run/clientlib %d 1000", office.reader(t)))
		t.Cleanup(func() { g.try(t, "systemctl stop holder; systemctl reset-failed holder") })
		g.until(t, readyTime, "grep locked /run/holder.out")
		g.until(t, readyTime, "openct-control release office 2>&1 | grep 'a program has locked the card: clientlib (pid '")
		office.served(t)
		g.sh(t, "openct-control release --force office")
		office.inactive(t)
	})
	t.Run("forged files", func(t *testing.T) {
		g.sh(t, "openct-control take")
		office.served(t)
		// Every file in the directory is the handlers' user's to write.
		forge := func(file string) {
			t.Helper()
			g.sh(t, fmt.Sprintf(`setpriv --reuid=openctd --regid=openctd --clear-groups sh -ec 'sed "s|\"unit\":\"[^\"]*\"|\"unit\":\"%s\"|" %s >/run/openct/forged; mv -f /run/openct/forged %[2]s'`, spare.unit(), file))
		}
		forge(fmt.Sprintf("/run/openct/.%d.json", office.reader(t)))
		g.sh(t, "openct-control release office")
		office.inactive(t)
		spare.served(t)
		forge("/run/openct/.released.*.json")
		g.sh(t, "systemctl stop "+spare.unit()+" && openct-control take office")
		office.works(t, office.served(t))
		spare.inactive(t)
		g.sh(t, "systemctl start "+spare.unit())
		spare.served(t)
		g.sh(t, "openct-control release office")
		office.inactive(t)
	})
	t.Run("plugged in anew", func(t *testing.T) {
		office.ctl(t, "unplug")
		office.ctl(t, "plug")
		office.works(t, office.served(t))
		if out := g.sh(t, "openct-control status 2>&1"); strings.Contains(out, "is released") {
			t.Errorf("status:\n%s", out)
		}
	})
	office.ctl(t, "unplug")
	spare.ctl(t, "unplug")
	office.inactive(t)
	spare.inactive(t)
}
