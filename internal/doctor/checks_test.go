package doctor

import (
	"slices"
	"testing"
	"time"

	"openct/internal/machine"
)

func TestHealthy(t *testing.T) {
	r := Diagnose(healthy())
	if !r.OK || r.Next != "" {
		t.Errorf("not well: %+v", r)
	}
	for _, want := range []string{
		"Aladdin eToken (0529:0600) has driver etoken64 (which lists the id); the driver was verified by emulation",
		"/dev/bus/usb/001/004 belongs to root, group openctd, mode 0660: openctd may open the node",
		"udev has systemd start openct-handler@001-004.service",
		"openct-handler@001-004.service: Aladdin eToken PRO 64k, reader 0, card present",
		"the handler of the device (process 71, reader 0) answers on /run/openct/0",
		"you (alice) may use the readers in /run/openct",
	} {
		if !slices.ContainsFunc(r.Findings, func(f Finding) bool { return f.Text == want }) {
			t.Errorf("nobody says %q", want)
		}
	}
}

// Each condition that is not as it should be: who finds it, how bad it is, and
// what is the next step of the whole report.
func TestFindings(t *testing.T) {
	tests := []struct {
		name  string
		from  func() *Facts
		spoil func(f *Facts, d *Device)
		check string
		level Level
		text  string
		next  string
	}{
		{
			name: "openct.conf has a mistake", from: healthy,
			spoil: func(f *Facts, d *Device) { f.Config.Err = "/etc/openct.conf:3: syntax error" },
			check: "configuration", level: Fail, text: "/etc/openct.conf:3: syntax error", next: "correct /etc/openct.conf",
		},
		{
			name: "openct.conf has a line without effect", from: healthy,
			spoil: func(f *Facts, d *Device) { f.Config.Warnings = []string{"/etc/openct.conf:1: unknown key"} },
			check: "configuration", level: Warn, text: ":1: unknown key", next: "correct /etc/openct.conf",
		},
		{
			name: "an openct.conf that is not read", from: healthy,
			spoil: func(f *Facts, d *Device) { f.Config.Unread = []string{"/usr/local/etc/openct.conf"} },
			check: "configuration", level: Warn, text: "/usr/local/etc/openct.conf is not read; the file that is read is /etc/openct.conf",
			next: "move what is needed from /usr/local/etc/openct.conf to /etc/openct.conf",
		},
		{
			name: "no group for the rule", from: unserved,
			spoil: func(f *Facts, d *Device) { f.Rules.Files[0].Group, f.Rules.Files[0].NoSuch = "openctd", true },
			check: "rules", level: Fail, text: "assigns the nodes of tokens to group openctd, which does not exist",
			next: "systemd-sysusers (or, as root: groupadd --system openctd); then: systemctl restart systemd-udevd.service",
		},
		{
			name: "the group came after the rule", from: unserved,
			spoil: func(f *Facts, d *Device) {
				f.Rules.Files[0].Group = "openctd"
				d.Node.Group, d.Node.UserMay = "root", false
			},
			check: "node", level: Fail, text: "udev read its rules before that group existed, and applies them without the group",
			next: "systemctl restart systemd-udevd.service; then: udevadm trigger --action=add /sys/bus/usb/devices/1-2",
		},
		{
			name: "no directory, with systemd", from: unserved,
			spoil: func(f *Facts, d *Device) { f.Dir = Dir{Path: "/run/openct", Missing: true} },
			check: "directory", level: Fail, text: "the directory /run/openct does not exist", next: "systemd-tmpfiles --create openct.conf",
		},
		{
			name: "no directory, without systemd", from: unserved,
			spoil: func(f *Facts, d *Device) { f.Dir, f.Systemd = Dir{Path: "/run/openct", Missing: true}, false },
			check: "directory", level: Fail, text: "the directory /run/openct does not exist", next: "as root: openct-control init",
		},
		{
			name: "no directory, and the environment names it", from: unserved,
			spoil: func(f *Facts, d *Device) { f.Dir = Dir{Path: "/tmp/x", FromEnv: true, Missing: true} },
			check: "directory", level: Fail, text: "named by OPENCT_SOCKETDIR", next: "unset OPENCT_SOCKETDIR",
		},
		{
			name: "the directory is a file", from: unserved,
			spoil: func(f *Facts, d *Device) { f.Dir.Err = "/run/openct is not a directory" },
			check: "directory", level: Fail, text: "is not a directory", next: "correct /run/openct",
		},
		{
			name: "a new member of the group, not logged in again", from: healthy,
			spoil: func(f *Facts, d *Device) { f.Dir.MayEnter, f.Caller.InGroup, f.Status.Unknown = false, false, true },
			check: "access", level: Fail, text: "your session began before you became one", next: "log out and in again",
		},
		{
			name: "no member of the group", from: healthy,
			spoil: func(f *Facts, d *Device) {
				f.Dir.MayEnter, f.Caller.InGroup, f.Caller.IsMember, f.Status.Unknown = false, false, false, true
			},
			check: "access", level: Fail, text: "you (alice) are not in group scard", next: "usermod -aG scard alice",
		},
		{
			name: "a directory for its owner alone", from: healthy,
			spoil: func(f *Facts, d *Device) {
				f.Dir.MayEnter, f.Dir.Mode, f.Caller.InGroup, f.Caller.IsMember = false, 0o700, false, false
			},
			check: "access", level: Fail, text: "only openctd may use the readers", next: "dir-mode = 0750",
		},
		{
			name: "not started", from: unserved,
			spoil: func(f *Facts, d *Device) { f.Status.Missing, f.Service.Active = true, "inactive" },
			check: "started", level: Fail, text: "no status file in /run/openct", next: "systemctl start openct.service",
		},
		{
			name: "not started, without units", from: unserved,
			spoil: func(f *Facts, d *Device) { f.Status.Missing, f.Service.Load = true, "not-found" },
			check: "started", level: Fail, text: "OpenCT is not started", next: "openct-control init",
		},
		{
			name: "status file of the wrong size", from: unserved,
			spoil: func(f *Facts, d *Device) { f.Status.Err = "status file has the wrong size" },
			check: "started", level: Fail, text: "wrong size", next: "openct-control init",
		},
		{
			name: "no openct.service", from: healthy,
			spoil: func(f *Facts, d *Device) { f.Service.Load = "not-found" },
			check: "service", level: Warn, text: "systemd has no unit file for openct.service", next: "install openct.service",
		},
		{
			name: "openct.service is masked", from: healthy,
			spoil: func(f *Facts, d *Device) { f.Service.Load = "masked" },
			check: "service", level: Warn, text: "is masked", next: "systemctl unmask openct.service",
		},
		{
			name: "openct.service cannot be read", from: healthy,
			spoil: func(f *Facts, d *Device) { f.Service.Load = "bad-setting" },
			check: "service", level: Warn, text: "bad-setting", next: "systemctl status openct.service",
		},
		{
			name: "openct.service failed", from: healthy,
			spoil: func(f *Facts, d *Device) { f.Service.Active, f.Service.Result = "failed", "exit-code" },
			check: "service", level: Fail, text: "has failed (exit-code)", next: "journalctl -u openct.service",
		},
		{
			name: "openct.service is not active", from: healthy,
			spoil: func(f *Facts, d *Device) { f.Service.Active = "inactive" },
			check: "service", level: Warn, text: "openct.service is inactive", next: "systemctl enable --now openct.service",
		},
		{
			name: "no udev rule, token served by hand", from: healthy,
			spoil: func(f *Facts, d *Device) { f.Rules.Files, d.Udev = nil, machine.Record{Exists: true} },
			check: "rules", level: Warn, text: "no udev rule for OpenCT is installed", next: "install 60-openct.rules",
		},
		{
			name: "no udev rule, token not served", from: unserved,
			spoil: func(f *Facts, d *Device) { f.Rules.Files, d.Udev, d.Units = nil, machine.Record{Exists: true}, nil },
			check: "record", level: Fail, text: "udev has no rule for the device", next: "install 60-openct.rules",
		},
		{
			name: "a rule with RUN", from: healthy,
			spoil: func(f *Facts, d *Device) {
				f.Rules.Files = append(f.Rules.Files, RulesFile{Path: "/etc/udev/rules.d/90-old.rules", Runs: 7})
			},
			check: "rules", level: Warn, text: "/etc/udev/rules.d/90-old.rules:7 starts handlers with RUN", next: "use SYSTEMD_WANTS",
		},
		{
			name: "the rules are masked", from: unserved,
			spoil: func(f *Facts, d *Device) { f.Rules.Files[0].Masked = "/etc/udev/rules.d/60-openct.rules" },
			check: "rules", level: Warn, text: "in its place", next: "install 60-openct.rules",
		},
		{
			name: "openct.conf names a driver that does not exist", from: unserved,
			spoil: func(f *Facts, d *Device) { d.Driver, d.DriverErr = "", "openct.conf gives it to driver \"x\"" },
			check: "driver", level: Fail, text: "openct.conf gives it to driver", next: "ifdhandler -i lists the drivers",
		},
		{
			name: "no node, with udev", from: unserved,
			spoil: func(f *Facts, d *Device) { d.Node.Missing = true },
			check: "node", level: Fail, text: "the device node /dev/bus/usb/001/004 does not exist", next: "udevadm trigger --action=add /sys/bus/usb/devices/1-2",
		},
		{
			name: "no node, in a container", from: unserved,
			spoil: func(f *Facts, d *Device) { d.Node.Missing, f.Rules.Running = true, false },
			check: "node", level: Fail, text: "the device node /dev/bus/usb/001/004 does not exist", next: "in a container",
		},
		{
			name: "the handlers' user may not open the node", from: unserved,
			spoil: func(f *Facts, d *Device) { d.Node.UserMay, d.Node.Group, d.Node.Mode = false, "root", 0o664 },
			check: "node", level: Fail, text: "group root, mode 0664: openctd may not open the node", next: "udevadm trigger --action=add",
		},
		{
			name: "the caller may not open the node", from: unserved,
			spoil: func(f *Facts, d *Device) { d.Node.UserMay, d.Node.User, f.Rules.Running = false, "", false },
			check: "node", level: Fail, text: "you may not open the node", next: "start the handler as root",
		},
		{
			name: "plugged in before the rules came", from: unserved,
			spoil: func(f *Facts, d *Device) { d.Udev, d.Units = machine.Record{Exists: true}, nil },
			check: "record", level: Fail, text: "before the rule was installed", next: "udevadm trigger --action=add /sys/bus/usb/devices/1-2",
		},
		{
			name: "plugged in before openct.conf gave it to us", from: unserved,
			spoil: func(f *Facts, d *Device) { d.Udev, d.Units = machine.Record{Exists: true, Driver: "none"}, nil },
			check: "record", level: Fail, text: "so did openct.conf when the device was plugged in", next: "udevadm trigger --action=add /sys/bus/usb/devices/1-2",
		},
		{
			name: "pcscd has it, and openct.conf gave it to us since", from: unserved,
			spoil: func(f *Facts, d *Device) {
				d.Udev, d.Units = machine.Record{Exists: true, Driver: "none"}, nil
				d.Holders, d.Claimed, d.Node.UserMay = []Process{{9, "pcscd"}}, true, false
			},
			check: "holder", level: Fail, text: "pcscd (pid 9) has the device open", next: "pcsc = ignore in openct.conf",
		},
		{
			name: "served, but not the next time", from: healthy,
			spoil: func(f *Facts, d *Device) { d.Udev, d.Units = machine.Record{Exists: true}, nil },
			check: "record", level: Warn, text: "udev's record names no unit", next: "udevadm trigger",
		},
		{
			name: "a rule without the tag", from: unserved,
			spoil: func(f *Facts, d *Device) { d.Udev.Tagged = false },
			check: "record", level: Fail, text: "lacks the tag", next: `add TAG+="systemd"`,
		},
		{
			name: "no systemd, and nothing in its place", from: healthy,
			spoil: func(f *Facts, d *Device) { f.Systemd, f.Rules.Files[0].Runs = false, 0 },
			check: "service", level: Warn, text: "no program starts a handler for a device that is plugged in", next: "in /etc/openct.conf, hotplug = yes; then: openct-control init",
		},
		{
			name: "no systemd, and watch does not run", from: healthy,
			spoil: func(f *Facts, d *Device) { f.Systemd, f.Config.Hotplug = false, true },
			check: "service", level: Warn, text: "neither systemd nor openct-control watch runs", next: "openct-control init",
		},
		{
			name: "a rule that would start handlers, without udev", from: healthy,
			spoil: func(f *Facts, d *Device) { f.Systemd, f.Rules.Running, f.Rules.Files[0].Runs = false, false, 7 },
			check: "service", level: Warn, text: "no program starts a handler for a device that is plugged in", next: "hotplug = yes",
		},
		{
			name: "pcscd has it", from: unserved,
			spoil: func(f *Facts, d *Device) { d.Holders, d.Claimed = []Process{{9, "pcscd"}}, true },
			check: "holder", level: Fail, text: "pcscd (pid 9) has the device open", next: "pcsc = ignore in openct.conf",
		},
		{
			name: "scdaemon has it", from: unserved,
			spoil: func(f *Facts, d *Device) { d.Holders, d.Claimed = []Process{{9, "scdaemon"}}, true },
			check: "holder", level: Fail, text: "scdaemon (pid 9)", next: "gpgconf --kill scdaemon",
		},
		{
			name: "another program has it", from: unserved,
			spoil: func(f *Facts, d *Device) { d.Holders = []Process{{9, "qemu"}} },
			check: "holder", level: Fail, text: "qemu (pid 9) has the device open", next: "end qemu (pid 9)",
		},
		{
			name: "somebody has it", from: unserved,
			spoil: func(f *Facts, d *Device) { d.Claimed = true },
			check: "holder", level: Fail, text: "a program has claimed", next: "run openct-control doctor as root",
		},
		{
			name: "the kernel has it", from: unserved,
			spoil: func(f *Facts, d *Device) { d.Kernel = "usbhid" },
			check: "holder", level: Fail, text: "the kernel driver usbhid has claimed the device's interface", next: "blacklist usbhid",
		},
		{
			name: "no unit file", from: unserved,
			spoil: func(f *Facts, d *Device) { d.Units[0].Load = "not-found" },
			check: "unit", level: Fail, text: "no unit file", next: "install openct-handler@.service",
		},
		{
			name: "a masked unit", from: unserved,
			spoil: func(f *Facts, d *Device) { d.Units[0].Load = "masked" },
			check: "unit", level: Fail, text: "is masked", next: "systemctl unmask openct-handler@001-004.service",
		},
		{
			name: "a unit that cannot be read", from: unserved,
			spoil: func(f *Facts, d *Device) { d.Units[0].Load = "bad-setting" },
			check: "unit", level: Fail, text: "cannot be loaded", next: "systemctl status openct-handler@001-004.service",
		},
		{
			name: "a unit that failed", from: unserved,
			spoil: func(f *Facts, d *Device) { d.Units[0].Active, d.Units[0].Result = "failed", "exit-code" },
			check: "unit", level: Fail, text: "has failed (exit-code)", next: "journalctl -u openct-handler@001-004.service",
		},
		{
			name: "a unit that is starting", from: unserved,
			spoil: func(f *Facts, d *Device) { d.Units[0].Active = "activating" },
			check: "unit", level: Fail, text: "is starting", next: "wait 30 seconds",
		},
		{
			name: "a unit that was stopped", from: unserved,
			spoil: func(f *Facts, d *Device) {},
			check: "unit", level: Fail, text: "was stopped", next: "systemctl start openct-handler@001-004.service",
		},
		{
			name: "a handler started by hand, beside the unit", from: healthy,
			spoil: func(f *Facts, d *Device) { d.Units[0].Active = "inactive" },
			check: "unit", level: Warn, text: "the handler was started outside the unit", next: "systemctl restart openct.service",
		},
		{
			name: "nobody serves it", from: unserved,
			spoil: func(f *Facts, d *Device) {
				f.Systemd, f.Rules.Running, f.Watch = false, false, []Process{{5, "openct-watch"}}
			},
			check: "served", level: Fail, text: "no handler serves the device", next: "openct-control attach 001-004",
		},
		{
			name: "its handler does not answer", from: healthy,
			spoil: func(f *Facts, d *Device) { d.Reader.SocketErr = "timeout" },
			check: "served", level: Fail, text: "does not answer: timeout", next: "systemctl restart openct-handler@001-004.service",
		},
		{
			name: "its handler does not answer, and has no unit", from: healthy,
			spoil: func(f *Facts, d *Device) {
				d.Reader.SocketErr, d.Reader.Unit, d.Reader.Proven = "timeout", "", true
			},
			check: "served", level: Fail, text: "does not answer", next: "kill 71; openct-control attach 001-004",
		},
		{
			name: "the status file names a process that is no handler", from: healthy,
			spoil: func(f *Facts, d *Device) {
				d.Reader.SocketErr, d.Reader.Unit, d.Reader.PID = "timeout", "", 1
			},
			check: "served", level: Fail, text: "does not answer", next: "openct-control shutdown; openct-control init",
		},
		{
			name: "an error just now", from: healthy,
			spoil: func(f *Facts, d *Device) {
				d.Reader.LastError, d.Reader.ErrorTime = "device did not answer in time", f.Now.Add(-time.Minute)
			},
			check: "error", level: Warn, text: "1m0s ago: device did not answer in time", next: "openct-tool -r 0 mf",
		},
		{
			name: "another reader does not answer", from: healthy,
			spoil: func(f *Facts, d *Device) {
				f.Readers = []Reader{{Index: 3, Name: "desk", PID: 80, Alive: true, Proven: true, SocketErr: "refused"}}
			},
			check: "readers", level: Fail, text: "the handler of reader 3 (desk), process 80, does not answer: refused", next: "kill 80",
		},
		{
			name: "no room", from: unserved,
			spoil: func(f *Facts, d *Device) {
				f.Readers = slices.Repeat([]Reader{{Name: "other", PID: 80, Alive: true}}, 16)
				f.Devices[0].Driver = "etoken64"
			},
			check: "room", level: Fail, text: "all 16 reader numbers are in use, and none is free for the device at port 1-2", next: "systemctl start",
		},
		{
			name: "an entry of a dead process", from: healthy,
			spoil: func(f *Facts, d *Device) {
				f.Readers = append(f.Readers, Reader{Index: 1, Name: "gone", PID: 99})
			},
			check: "stale", level: Warn, text: "the handler of reader 1 (gone), process 99, has crashed", next: "openct-control init",
		},
		{
			name: "pcscd is shut out", from: healthy,
			spoil: func(f *Facts, d *Device) {
				f.Others, f.ShutOut, f.Bundle = []Process{{8, "pcscd"}, {9, "pcscd"}}, []Process{{9, "pcscd"}}, true
			},
			check: "programs", level: Warn, text: "pcscd (pid 9) may not open the sockets in /run/openct", next: "SupplementaryGroups=scard",
		},
		{
			name: "nothing plugged in", from: unserved,
			spoil: func(f *Facts, d *Device) { f.Devices = nil },
			check: "plugged", level: Warn, text: "no device with an OpenCT driver is plugged in", next: "plug the token in",
		},
		{
			name: "only a stranger plugged in", from: unserved,
			spoil: func(f *Facts, d *Device) { d.Driver, d.Vendor, d.Product = "", 0x1234, 0x5678 },
			check: "plugged", level: Warn, text: "no device with an OpenCT driver is plugged in", next: "if the token is 1234:5678",
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			f := tt.from()
			tt.spoil(f, &f.Devices[0])
			wantFinding(t, Diagnose(f), tt.check, tt.level, tt.text, tt.next)
		})
	}
}

// What looks odd and is as it should be.
func TestNoAlarm(t *testing.T) {
	tests := []struct {
		name  string
		spoil func(f *Facts, d *Device)
		text  string // said all the same
	}{
		{"no openct.conf", func(f *Facts, d *Device) { f.Config.Missing = true }, "the defaults apply"},
		{"C OpenCT's own openct.conf", func(f *Facts, d *Device) {
			f.Config.Notes = []string{"/etc/openct.conf:79: the ids for driver ccid have no effect"}
		}, "/etc/openct.conf:79: the ids for driver ccid have no effect"},
		{"a directory of one's own", func(f *Facts, d *Device) { f.Dir.FromEnv = true }, "named by OPENCT_SOCKETDIR"},
		{"no systemd, but watch", func(f *Facts, d *Device) {
			f.Systemd, f.Rules.Running, f.Watch = false, false, []Process{{5, "openct-watch"}}
		}, "openct-watch (pid 5) starts a handler for each device that is plugged in; systemd does not run here"},
		{"no systemd, but watch beside a udev without our rule", func(f *Facts, d *Device) {
			f.Systemd, f.Rules.Files, d.Udev, f.Watch = false, nil, machine.Record{Exists: true}, []Process{{5, "openct-watch"}}
		}, "no udev rule for OpenCT is installed"},
		{"no systemd, but a rule for that", func(f *Facts, d *Device) {
			f.Systemd = false
			f.Rules.Files = append(f.Rules.Files, RulesFile{Path: "/etc/udev/rules.d/61-openct-no-systemd.rules", Runs: 12})
		}, "udev starts a handler for each device that is plugged in (/etc/udev/rules.d/61-openct-no-systemd.rules)"},
		{"that rule, with systemd", func(f *Facts, d *Device) {
			f.Rules.Files = append(f.Rules.Files, RulesFile{Path: "/etc/udev/rules.d/61-openct-no-systemd.rules", Runs: 12})
		}, "udev rules: /usr/lib/udev/rules.d/60-openct.rules, /etc/udev/rules.d/61-openct-no-systemd.rules"},
		{"no systemd, but mdev", func(f *Facts, d *Device) { f.Systemd, f.Rules.Running, f.Mdev = false, false, true }, "mdev, if it runs, starts a handler"},
		{"left to pcscd", func(f *Facts, d *Device) {
			d.Driver, d.Left, d.Reader = "ccid", "pcscd", nil
			d.Holders = []Process{{9, "pcscd"}}
		}, "is left to pcscd"},
		{"lent by USB/IP", func(f *Facts, d *Device) { d.Driver, d.Lent, d.Reader = "", true, nil },
			"is exported to another machine by USB/IP; usbip unbind --busid=1-2 takes it back"},
		{"a stranger beside the token", func(f *Facts, d *Device) {
			f.Devices = append(f.Devices, Device{Port: "1-3", Vendor: 0x1234, Product: 0x5678})
		}, "1234:5678 has no OpenCT driver"},
		{"the handler opened the node before its mode was changed", func(f *Facts, d *Device) { d.Node.UserMay = false },
			"the handler has the node open"},
		{"an error of yesterday", func(f *Facts, d *Device) {
			d.Reader.LastError, d.Reader.ErrorTime = "timeout", f.Now.Add(-24*time.Hour)
		}, "24h0m0s ago: timeout"},
		{"pcscd beside us", func(f *Facts, d *Device) { f.Others, f.Bundle = []Process{{9, "pcscd"}}, true }, "with the PC/SC driver for OpenCT's readers"},
		{"pcscd without our driver", func(f *Facts, d *Device) { f.Others, f.ShutOut = []Process{{9, "pcscd"}}, []Process{{9, "pcscd"}} },
			"the PC/SC driver for OpenCT's readers is not installed"},
		{"scdaemon beside us", func(f *Facts, d *Device) { f.Others = []Process{{9, "scdaemon"}} }, "scdaemon (pid 9) runs"},
		{"a unit without a status line", func(f *Facts, d *Device) { d.Units[0].StatusText = "" }, "openct-handler@001-004.service is active"},
		{"systemd does not answer", func(f *Facts, d *Device) { f.Service, d.Units = Unit{}, nil }, "udev has systemd start"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			f := healthy()
			tt.spoil(f, &f.Devices[0])
			wantNoAlarm(t, Diagnose(f), "", tt.text)
		})
	}
}
