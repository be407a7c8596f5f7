//go:build vm

package vm

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// testInstall installs the package beside a token that was plugged before.
func testInstall(t *testing.T, g *guest) {
	k := g.plug(t, "early", "")
	out := g.tryFor(t, 5*time.Minute, aptInstall)
	if out.Exit != 0 {
		t.Fatalf("apt-get install:\n%s%s", out.Stdout, out.Stderr)
	}
	reader := k.served(t)
	k.works(t, reader)

	t.Run("access", func(t *testing.T) {
		tests := []struct{ name, script, want string }{
			{"node", "stat -c '%U:%G %a' " + k.node, "root:openctd 660"},
			{"directory", "stat -c '%U:%G %a' /run/openct", "openctd:scard 750"},
			{"socket", "stat -c '%U %a' /run/openct/0", "openctd 666"},
			{"handler's user", "stat -c %U /proc/$(systemctl show -P MainPID " + k.unit() + ")", "openctd"},
			{"power/persist", "cat /sys/bus/usb/devices/" + k.busid + "/power/persist", "0"},
			{"a member of scard", "useradd -M -G scard member && setpriv --reuid member --init-groups openct-tool list; userdel member",
				"  0 Aladdin eToken PRO 64k"},
			{"nobody in particular", "setpriv --reuid nobody --clear-groups openct-tool -r 0 atr 2>&1 || echo refused", ""},
		}
		for _, tt := range tests {
			t.Run(tt.name, func(t *testing.T) {
				got := g.sh(t, tt.script)
				if tt.want == "" {
					if !strings.HasSuffix(got, "refused") {
						t.Errorf("got %q, want a refusal", got)
					}
					return
				}
				if got != tt.want {
					t.Errorf("got %q, want %q", got, tt.want)
				}
			})
		}
	})
	t.Run("udev's record", func(t *testing.T) {
		record := "\n" + g.sh(t, "udevadm info "+k.node) + "\n"
		for _, want := range []string{
			"\nE: OPENCT_DRIVER=etoken64\n", "\nE: ID_SMARTCARD_READER=1\n", "openct-handler@" + k.instance + ".service",
		} {
			if !strings.Contains(record, want) {
				t.Errorf("no %q in%s", strings.TrimSpace(want), record)
			}
		}
	})
	t.Run("manual pages are in the package", func(t *testing.T) {
		g.sh(t, "for page in man8/openct-control.8 man8/ifdhandler.8 man8/ifdproxy.8 man1/openct-tool.1 man5/openct.conf.5; do"+
			" dpkg -L openct | grep -q /usr/share/man/$page || exit 1; done")
	})
	k.ctl(t, "unplug")
	k.gone(t, reader)
}

// testInstallAmongEvents installs the package while udev has events without a
// pause: it reads the rule at the moment when that is there, and must know the
// rule's group then.
func testInstallAmongEvents(t *testing.T, g *guest) {
	g.tryFor(t, 5*time.Minute, "DEBIAN_FRONTEND=noninteractive apt-get -qq -y purge openct openct-pcsc")
	if left := g.sh(t, "getent group openctd || :"); left != "" {
		t.Fatalf("the group is there before: %s", left)
	}
	k := g.plug(t, "restless", "")
	g.sh(t, "systemd-run --quiet --collect --unit=events sh -c 'while :; do udevadm control --reload; udevadm trigger --action=add --subsystem-match=usb; udevadm settle; done'")
	out := g.tryFor(t, 5*time.Minute, aptInstall)
	g.sh(t, "systemctl stop events; udevadm settle")
	if out.Exit != 0 {
		t.Fatalf("apt-get install:\n%s%s", out.Stdout, out.Stderr)
	}
	reader := k.served(t)
	k.works(t, reader)
	if got := g.sh(t, "stat -c '%U:%G %a' "+k.node); got != "root:openctd 660" {
		t.Errorf("node: %s", got)
	}
	if log := g.sh(t, "journalctl -b -u systemd-udevd --no-pager | grep -i 'unknown group.*openctd' || :"); log != "" {
		t.Errorf("udevd: %s", log)
	}
	// And the next plug, with the rule as udev keeps it.
	k.ctl(t, "unplug")
	k.gone(t, reader)
	k.ctl(t, "plug")
	reader = k.served(t)
	k.ctl(t, "unplug")
	k.gone(t, reader)
}

// testOldConfiguration keeps the openct.conf of C OpenCT, beside pcscd: QEMU's
// CCID reader (08e6:4433), which that file lists, stays pcscd's; the token is
// ours.
func testOldConfiguration(t *testing.T, g *guest) {
	g.installAll(t)
	classic, err := os.ReadFile("../../internal/config/testdata/classic.conf")
	if err != nil {
		t.Fatal(err)
	}
	g.sh(t, "cp /etc/openct.conf /run/kept.conf")
	t.Cleanup(func() {
		g.sh(t, "cp /run/kept.conf /etc/openct.conf; systemctl stop pcscd.socket pcscd.service; systemctl restart openct.service")
	})
	g.put(t, "/etc/openct.conf", 0o644, string(classic))
	g.sh(t, "systemctl restart openct.service")
	if err := g.machine.AddUSB("usb-ccid", "common", nil); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := g.machine.RemoveUSB("common"); err != nil {
			t.Error(err)
		}
		g.until(t, time.Minute, "! lsusb -d 08e6:4433")
	})
	g.until(t, time.Minute, "lsusb -d 08e6:4433 && udevadm settle")
	k := g.plug(t, "classic", "")
	reader := k.served(t)
	k.works(t, reader)
	g.sh(t, "systemctl start pcscd.socket")
	list := g.until(t, readyTime, "opensc-tool -l | grep eToken >/dev/null && opensc-tool -l | grep -i 'qemu\\|gem' >/dev/null && opensc-tool -l")
	t.Log(list)
	if n := g.sh(t, "openct-control status | grep -c slot0"); n != "1" {
		t.Errorf("OpenCT serves %s readers", n)
	}
	if said := g.sh(t, "openct-control check-config"); !strings.Contains(said, "the ids for driver ccid have no effect") {
		t.Errorf("check-config: %s", said)
	}
	_, findings, _ := doctor(t, g, "")
	if want := "the ids for driver ccid have no effect"; !tells(findings, "configuration", want) {
		t.Errorf("doctor does not tell that %s", want)
	}
	if !tells(findings, "driver", "is left to pcscd") {
		t.Error("doctor does not tell whose the CCID reader is")
	}
	k.ctl(t, "unplug")
	k.gone(t, reader)
}

// testUpgrade puts a newer version in while a token is in use.
func testUpgrade(t *testing.T, g *guest) {
	g.installAll(t)
	k := g.plug(t, "live", "")
	reader := k.served(t)
	before := g.sh(t, "systemctl show -P MainPID "+k.unit())

	// A client that holds a lock over the upgrade, and works on after it.
	g.sh(t, `systemd-run --quiet --collect --unit=in-use sh -c 'while :; do openct-tool -r `+
		"0"+` mf || exit 1; done'`)
	t.Cleanup(func() { g.try(t, "systemctl stop in-use") })

	for _, name := range []string{"openct", "openct-pcsc"} {
		g.put(t, "/root/newer/"+name+".deb", 0o644, newer(t, name))
	}
	out := g.tryFor(t, 5*time.Minute, "dpkg -i /root/newer/*.deb && rm -r /root/newer")
	if out.Exit != 0 {
		t.Fatalf("dpkg -i:\n%s%s", out.Stdout, out.Stderr)
	}
	if v := g.sh(t, "dpkg-query -W -f '${Version}' openct"); !strings.HasSuffix(v, "+newer") {
		t.Fatalf("version is %s", v)
	}
	if after := g.sh(t, "systemctl show -P MainPID "+k.unit()); after != before {
		t.Errorf("the handler was restarted: pid %s, then %s", before, after)
	}
	if state := g.sh(t, "systemctl is-active in-use || :"); state != "active" {
		t.Errorf("the client is %s", state)
	}
	g.sh(t, "systemctl stop in-use")
	k.works(t, reader)

	t.Run("pcscd finds it by the new bundle", func(t *testing.T) {
		g.until(t, readyTime, "opensc-tool -l | grep eToken")
		g.sh(t, "systemctl stop pcscd")
	})
	t.Run("the new version serves the next plug", func(t *testing.T) {
		k.ctl(t, "unplug")
		k.gone(t, reader)
		k.ctl(t, "plug")
		k.works(t, k.served(t))
	})
	k.ctl(t, "unplug")
	k.gone(t, reader)
}

// newer is a package under test as a later version.
func newer(t *testing.T, name string) string {
	t.Helper()
	dir := t.TempDir()
	debs, err := filepath.Abs(setting("OPENCT_E2E_DEBS", "../../build/deb"))
	if err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("sh", "-ec", `cd "$1"; dpkg-deb -R "$2/$3"_*.deb tree
sed -i 's/^Version: .*/&+newer/; s/openct (= [^)]*/&+newer/' tree/DEBIAN/control; dpkg-deb -Zgzip -b tree newer.deb`,
		"sh", dir, debs, name).CombinedOutput()
	if err != nil {
		t.Fatalf("dpkg-deb: %v\n%s", err, out)
	}
	deb, err := os.ReadFile(filepath.Join(dir, "newer.deb"))
	if err != nil {
		t.Fatal(err)
	}
	return string(deb)
}

// testPurge takes the packages away while a token is plugged in, and in use by
// pcscd.
func testPurge(t *testing.T, g *guest) {
	g.installAll(t)
	k := g.plug(t, "late", "")
	k.served(t)
	g.until(t, readyTime, "opensc-tool -l | grep eToken")
	files := g.sh(t, "dpkg -L openct openct-pcsc")
	g.put(t, "/run/files", 0o644, files+"\n")
	out := g.tryFor(t, 5*time.Minute, "DEBIAN_FRONTEND=noninteractive apt-get -qq -y purge openct")
	if out.Exit != 0 {
		t.Fatalf("apt-get purge:\n%s%s", out.Stdout, out.Stderr)
	}
	tests := []struct{ name, script string }{
		{"files", `while read -r f; do [ -d "$f" ] || [ ! -e "$f" ] || echo "$f"; done </run/files`},
		{"other files", "ls -d /etc/openct* /run/openct* /var/lib/openct* /etc/systemd/system/*/openct* 2>/dev/null || :"},
		{"processes", "ps -eo comm,args | grep -E '^(openct-control|ifdhandler) ' || :"},
		{"units", "systemctl list-units --all --plain --no-legend 'openct*'"},
		{"users and groups", "getent passwd openctd; getent group openctd scard || :"},
		{"failed units", "systemctl --failed --plain --no-legend"},
		{"udev's record", "udevadm settle; udevadm info " + k.node + " | grep -E 'OPENCT|openct' || :"},
		{"package state", "dpkg-query -W -f '${binary:Package} ${db:Status-Abbrev}\\n' openct openct-pcsc 2>/dev/null | grep -v ' un ' || :"},
		{"pcscd, which goes on", "systemctl restart pcscd.service && systemctl is-active pcscd.service | grep -vx active || :"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if left := g.sh(t, tt.script); left != "" {
				t.Errorf("left:\n%s", left)
			}
		})
	}
	// The drop-in's group is there before openct, which makes it, is configured.
	t.Run("pcscd beside a package that is only unpacked", func(t *testing.T) {
		defer func() {
			g.sh(t, "dpkg --purge openct-pcsc && systemctl daemon-reload && systemctl restart pcscd.service")
			if left := g.sh(t, "getent group scard || :"); left != "" {
				t.Errorf("left: %s", left)
			}
		}()
		g.sh(t, "dpkg --unpack /run/e2e/debs/openct-pcsc_*.deb && systemctl daemon-reload && systemctl restart pcscd.service")
		if groups := g.sh(t, "systemctl show -P SupplementaryGroups pcscd.service"); groups != "scard" {
			t.Errorf("pcscd.service has the groups %q", groups)
		}
		g.sh(t, "systemctl is-active pcscd.service")
	})
}
