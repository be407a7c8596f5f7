//go:build vm

package vm

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
)

// finding is one of "openct-control doctor --json".
type finding struct {
	Level, Check, Text, Next string
}

func doctor(t *testing.T, g *guest, as string) (ok bool, findings []finding, next string) {
	t.Helper()
	res := g.try(t, as+" openct-control doctor --json")
	var report struct {
		OK       bool
		Findings []finding
		Next     string
	}
	if err := json.Unmarshal([]byte(res.Stdout), &report); err != nil {
		t.Fatalf("doctor --json: %v\n%s%s", err, res.Stdout, res.Stderr)
	}
	return report.OK, report.Findings, report.Next
}

func tells(findings []finding, check, text string) bool {
	return slices.ContainsFunc(findings, func(f finding) bool { return f.Check == check && strings.Contains(f.Text, text) })
}

// testDoctor makes each condition real that doctor tells about.
func testDoctor(t *testing.T, g *guest) {
	g.install(t)
	tests := []struct {
		name    string
		plugged bool   // a token is plugged in and served before
		reader  bool   // QEMU's CCID reader is plugged in before
		make    string // the condition; $unit, $node and $ctl are the token's
		undo    string
		as      string // run doctor as

		ok    bool
		check string
		text  string // part of the finding's
		next  string // part of the next step's
	}{
		{name: "all is well", plugged: true, ok: true, check: "served", text: "reader 0) answers"},
		{name: "nothing is plugged", check: "plugged", text: "no device with an OpenCT driver is plugged in", next: "plug the token in"},
		{
			name: "openct.conf has an error", plugged: true,
			make: "cp /etc/openct.conf /run/kept && echo 'debug = = 1;' >>/etc/openct.conf", undo: "cp /run/kept /etc/openct.conf",
			check: "configuration", text: "openct.conf", next: "openct.conf",
		},
		{
			name: "directory is missing", make: "systemctl stop openct && rm -rf /run/openct",
			undo:  "systemd-tmpfiles --create openct.conf && systemctl start openct",
			check: "directory", text: "the directory /run/openct does not exist", next: "systemd-tmpfiles --create openct.conf",
		},
		{
			name: "caller is not in the group", plugged: true, make: "useradd -M caller", undo: "userdel caller",
			as:    "setpriv --reuid caller --regid caller --init-groups",
			check: "access", text: "not in group scard", next: "usermod -aG scard caller",
		},
		{
			name: "caller was put in the group after login", plugged: true, make: "useradd -M -G scard caller", undo: "userdel caller",
			as:    "setpriv --reuid caller --regid caller --clear-groups",
			check: "access", text: "your session began before you became one", next: "log out",
		},
		{
			name: "not started", make: "systemctl stop openct", undo: "systemctl start openct",
			check: "started", text: "not started", next: "systemctl start openct.service",
		},
		{
			name: "service is masked", plugged: true, make: "systemctl mask --runtime -q openct.service", undo: "systemctl unmask --runtime -q openct.service",
			check: "service", text: "masked", next: "unmask openct.service",
		},
		{
			name: "rules are missing",
			make: "mv /lib/udev/rules.d/60-openct.rules /run/kept.rules && udevadm control --reload",
			undo: "mv /run/kept.rules /lib/udev/rules.d/60-openct.rules && udevadm control --reload",

			check: "rules", text: "no udev rule for OpenCT is installed", next: "60-openct.rules",
		},
		{
			name:  "rules start it with RUN",
			make:  `printf 'ATTR{idVendor}=="0529", RUN+="/usr/sbin/openct-control attach $devnode"\n' >/etc/udev/rules.d/70-old.rules && udevadm control --reload`,
			undo:  "rm /etc/udev/rules.d/70-old.rules && udevadm control --reload",
			check: "rules", text: "udev kills them", next: "SYSTEMD_WANTS",
		},
		{
			name: "udev read the rule before its group was there", plugged: true,
			make: `systemctl stop $unit; chgrp root $node; sed 's/^GROUP:="openctd"/GROUP:="latecomer"/' /lib/udev/rules.d/60-openct.rules >/etc/udev/rules.d/60-openct.rules
udevadm control --reload; udevadm trigger --settle --action=add $sys; groupadd --system latecomer; udevadm control --reload; udevadm trigger --settle --action=add $sys`,
			undo:  "rm /etc/udev/rules.d/60-openct.rules; groupdel latecomer; systemctl restart systemd-udevd; udevadm trigger --settle --action=add $sys",
			check: "node", text: "applies them without the group", next: "systemctl restart systemd-udevd.service",
		},
		{
			name: "unit was stopped", plugged: true, make: "systemctl stop $unit",
			check: "unit", text: "was stopped", next: "systemctl start",
		},
		{
			name: "unit is masked", plugged: true, make: "systemctl mask --runtime -q $unit && systemctl stop $unit", undo: "systemctl unmask --runtime -q $unit",
			check: "unit", text: "masked", next: "unmask",
		},
		{
			name: "node belongs to somebody else", plugged: true, make: "systemctl stop $unit && chown root:root $node && chmod 600 $node",
			check: "node", text: "openctd may not open the node", next: "udevadm trigger",
		},
		{
			name: "another program has it", plugged: true,
			make:  "systemctl stop $unit; systemd-run --quiet --collect --unit=holder sh -c \"exec sleep 1000 <>$node\"; until ls -l /proc/$(systemctl show -P MainPID holder)/fd | grep -q $node; do sleep 0.1; done",
			undo:  "systemctl stop holder",
			check: "holder", text: "sleep", next: "end",
		},
		{
			name: "handler does not answer", plugged: true, make: "systemctl kill --signal=STOP $unit", undo: "systemctl kill --signal=CONT $unit",
			check: "served", text: "does not answer", next: "systemctl restart",
		},
		{
			name: "handler was killed and left its entry", make: "cd /; ifdhandler etoken64 virtual piv && kill -KILL $(ps -eo comm,pid | awk '$1 == \"ifdhandler\" {print $2}')",
			undo:  "openct-control init",
			check: "stale", text: "has crashed", next: "openct-control init",
		},
		{
			name: "last error", plugged: true, make: "$ctl stall 1; openct-tool mf >/dev/null 2>&1; true",
			check: "error", text: "the reader's last error", next: "openct-tool -r 0 mf",
		},
		{
			name: "unit has failed", plugged: true,
			make:  "$ctl stall 1 times=-1; systemctl restart --no-block $unit; end=$(($(date +%s) + 100)); until systemctl -q is-failed $unit; do [ $(date +%s) -lt $end ] || exit 1; sleep 0.2; done",
			check: "unit", text: "has failed", next: "journalctl -u",
		},
		{
			name: "pcscd is shut out", plugged: true,
			make: `mkdir -p /usr/lib/pcsc/drivers/openct-ifd.bundle /run/systemd/system/pcscd.service.d
printf '[Service]\nCapabilityBoundingSet=\n' >/run/systemd/system/pcscd.service.d/zz.conf
systemctl daemon-reload; systemctl restart pcscd`,
			undo:  "systemctl stop pcscd.socket pcscd.service; rm -r /run/systemd/system/pcscd.service.d; systemctl daemon-reload; rmdir --ignore-fail-on-non-empty /usr/lib/pcsc/drivers/openct-ifd.bundle",
			check: "programs", text: "may not open the sockets in /run/openct", next: "SupplementaryGroups=scard",
		},
		{
			name: "readers of the class are left to pcscd", reader: true, check: "driver", text: "left to pcscd",
		},
		{
			name: "pcscd has it", reader: true,
			make: "cp /etc/openct.conf /run/kept; systemctl start pcscd; until ls -l /proc/$(systemctl show -P MainPID pcscd)/fd | grep -q bus/usb; do sleep 0.1; done;" +
				"sed -i 's/^ccid = auto/ccid = on/' /etc/openct.conf; grep -q '^ccid = on' /etc/openct.conf",
			undo:  "cp /run/kept /etc/openct.conf; systemctl stop pcscd.socket pcscd.service",
			check: "holder", text: "pcscd", next: "pcscd",
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			env := ""
			if tt.plugged {
				k := g.plug(t, "patient", "")
				k.served(t)
				env = fmt.Sprintf("unit=%s node=%s sys=/sys/bus/usb/devices/%s\nctl='%s ctl %s'\n", k.unit(), k.node, k.busid, vtoken, k.control())
				t.Cleanup(func() { k.ctl(t, "unplug"); k.inactive(t) })
			}
			if tt.reader {
				if err := g.machine.AddUSB("usb-ccid", "patient", nil); err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() {
					if err := g.machine.RemoveUSB("patient"); err != nil {
						t.Error(err)
					}
					g.until(t, time.Minute, "! lsusb -d 08e6:4433")
				})
				g.until(t, time.Minute, "lsusb -d 08e6:4433 && udevadm settle")
			}
			if tt.undo != "" {
				t.Cleanup(func() { g.sh(t, env+tt.undo) })
			}
			g.sh(t, env+tt.make)
			ok, findings, next := doctor(t, g, tt.as)
			if tt.ok && !ok {
				t.Errorf("not ok: %+v", findings)
			}
			if !tells(findings, tt.check, tt.text) {
				t.Errorf("no finding of %s with %q in %+v", tt.check, tt.text, findings)
			}
			if !strings.Contains(next, tt.next) {
				t.Errorf("next step is %q, want %q in it", next, tt.next)
			}
		})
	}
}
