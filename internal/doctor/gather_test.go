package doctor

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"openct/internal/machine"
	"openct/internal/status"
	"openct/internal/status/statustest"
)

// fakeMachine is a file system like that of a machine with a token, in a directory.
type fakeMachine struct {
	t    *testing.T
	root string
	dir  string // of status file and sockets
}

func newMachine(t *testing.T) *fakeMachine {
	m := &fakeMachine{t: t, root: t.TempDir(), dir: t.TempDir()}
	m.write("run/udev/control", "")
	m.write("run/systemd/system/x", "")
	return m
}

func (m *fakeMachine) write(path, text string) {
	m.t.Helper()
	path = filepath.Join(m.root, path)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		m.t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		m.t.Fatal(err)
	}
}

func (m *fakeMachine) link(target, path string) {
	m.t.Helper()
	path = filepath.Join(m.root, path)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		m.t.Fatal(err)
	}
	if err := os.Symlink(target, path); err != nil {
		m.t.Fatal(err)
	}
}

// plug adds a device on bus 1 with one interface.
func (m *fakeMachine) plug(port, address, vendor, product, class, driver string) {
	m.t.Helper()
	place := "sys/devices/pci0000:00/usb1/" + port + "/"
	m.link("../../../devices/pci0000:00/usb1/"+port, "sys/bus/usb/devices/"+port)
	for name, text := range map[string]string{
		"idVendor": vendor, "idProduct": product, "busnum": "1", "devnum": address, "manufacturer": "Maker", "product": "Thing",
		port + ":1.0/bInterfaceClass": class, port + ":1.0/bInterfaceNumber": "00",
	} {
		m.write(place+name, text+"\n")
	}
	if driver != "" {
		m.link("../../../../../../bus/usb/drivers/"+driver, place+port+":1.0/driver")
	}
	b := func(hex string) string { // of a word, as in descriptors
		var n [2]byte
		for i := range 4 {
			n[1-i/2] = n[1-i/2]<<4 | byte(strings.IndexByte("0123456789abcdef", hex[i]))
		}
		return string(n[:])
	}
	c := byte(0xFF)
	if class == "0b" {
		c = 0x0B
	}
	m.write(place+"descriptors", "\x12\x01\x10\x01\x00\x00\x00\x08"+b(vendor)+b(product)+"\x00\x01\x01\x02\x00\x01"+
		"\x09\x02\x12\x00\x01\x01\x00\x80\x32"+"\x09\x04\x00\x00\x00"+string([]byte{c})+"\x00\x00\x00")
	m.write("dev/bus/usb/001/"+("000" + address)[len(address):], "")
}

func (m *fakeMachine) gather(systemctl func(args []string) (string, error)) *Facts {
	return Gather(context.Background(), Options{
		Root: machine.Root(m.root), Dir: m.dir, ConfigFile: filepath.Join(m.root, "etc/openct.conf"),
		Systemctl: func(_ context.Context, args ...string) (string, error) { return systemctl(args) },
	})
}

func silent([]string) (string, error) { return "", errors.New("no systemd") }

func TestGatherDevices(t *testing.T) {
	m := newMachine(t)
	m.write("etc/openct.conf", "ccid = off; driver etoken { ids = { usb:1111/2222, }; }; driver nosuch { ids = { usb:1111/3333, }; };")
	m.plug("1-1", "1", "0529", "0600", "ff", "usbfs")
	m.plug("1-2", "2", "1111", "2222", "ff", "ftdi_sio") // handlers take it from that
	m.plug("1-3", "3", "1111", "3333", "ff", "")
	m.plug("1-4", "4", "1111", "4444", "0b", "usbhid")
	m.plug("1-5", "5", "1111", "5555", "ff", "")
	m.plug("1-6", "6", "1111", "6666", "03", "usbhid")
	m.plug("1-7", "7", "0529", "0600", "ff", "")
	if err := os.Symlink("../../../../bus/usb/drivers/usbip-host", filepath.Join(m.root, "sys/bus/usb/devices/1-7/driver")); err != nil {
		t.Fatal(err)
	}
	type device struct {
		Port, Driver, Why, Err, Kernel string
		Lent                           bool
	}
	var got []device
	f := m.gather(silent)
	for _, d := range f.Devices {
		got = append(got, device{d.Port, d.Driver, d.Why, d.DriverErr, d.Kernel, d.Lent})
		if d.Node.Missing || !d.Node.UserMay && os.Geteuid() == 0 {
			t.Errorf("%s: node %+v", d.Port, d.Node)
		}
	}
	want := []device{
		{"1-1", "etoken64", "which lists the id", "", "", false},
		{"1-2", "etoken", "assigned in openct.conf", "", "", false},
		{"1-3", "", "", "", "", false}, // the statement is skipped
		{"1-5", "", "", "", "", false}, // could be a token
		{"1-7", "", "which lists the id", "", "", true},
	}
	if diff := cmp.Diff([]string{m.root + `/etc/openct.conf:1: "driver": driver "nosuch": no driver has this name; the statement is skipped`}, f.Config.Warnings); diff != "" {
		t.Errorf("warnings (-want +got):\n%s", diff)
	}
	ccid := slices.IndexFunc(got, func(d device) bool { return d.Port == "1-4" })
	if ccid < 0 {
		t.Fatalf("no smart card class reader in %+v", got)
	}
	if d := f.Devices[ccid]; d.Kernel != "usbhid" || d.Driver != "" && d.Left != "pcscd" {
		t.Errorf("reader of the class: %+v", d)
	}
	got = slices.Delete(got, ccid, ccid+1)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("devices (-want +got):\n%s", diff)
	}
	if !f.Devices[0].Claimed {
		t.Error("usbfs is a claim")
	}
	if got, want := f.Devices[0].Label, "Maker Thing"; got != want {
		t.Errorf("label %q, want %q", got, want)
	}
}

// C OpenCT's own openct.conf asks for common readers, and one that was built from
// source lies elsewhere.
func TestGatherConfig(t *testing.T) {
	m := newMachine(t)
	m.write("etc/openct.conf", "ccid = off; driver ccid { ids = { usb:04e6/5115, }; };")
	m.write("usr/local/etc/openct.conf", "")
	m.plug("1-1", "1", "04e6", "5115", "0b", "")
	f := m.gather(silent)
	file := filepath.Join(m.root, "etc/openct.conf")
	want := Config{
		File:   file,
		Notes:  []string{file + ":1: the ids for driver ccid have no effect: readers of the USB smart card class are left to pcscd; ccid = on; changes that"},
		Unread: []string{"/usr/local/etc/openct.conf"},
	}
	if diff := cmp.Diff(want, f.Config); diff != "" {
		t.Errorf("configuration (-want +got):\n%s", diff)
	}
	if d := f.Devices[0]; d.Left != "pcscd" {
		t.Errorf("reader of the class: %+v", d)
	}
}

func TestGatherUdev(t *testing.T) {
	tests := []struct {
		name, record string
		want         machine.Record
	}{
		{"ours", "V:1\nE:ID_BUS=usb\nE:OPENCT_DRIVER=etoken64\nE:SYSTEMD_WANTS=smartcard.target openct-handler@001-004.service\nG:systemd\nQ:systemd\n",
			machine.Record{Exists: true, Driver: "etoken64", Wants: []string{"openct-handler@001-004.service"}, Tagged: true}},
		{"before systemd 247", "E:SYSTEMD_WANTS=a@b.service\nG:systemd\n",
			machine.Record{Exists: true, Wants: []string{"a@b.service"}, Tagged: true}},
		{"a tag of an earlier event", "E:SYSTEMD_WANTS=a@b.service\nG:systemd\nQ:seat\n",
			machine.Record{Exists: true, Wants: []string{"a@b.service"}}},
		{"an empty template", "E:SYSTEMD_WANTS=openct@.service\nG:systemd\n",
			machine.Record{Exists: true, Wants: []string{`openct@sys-devices-pci0000:00-usb1-1\x2d2.service`}, Tagged: true}},
		{"left alone", "E:OPENCT_DRIVER=none\n", machine.Record{Exists: true, Driver: "none"}},
		{"nonsense", "\x00\xff\n::::\nE:\nE:SYSTEMD_WANTS\n", machine.Record{Exists: true}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			m := newMachine(t)
			m.plug("1-2", "4", "0529", "0600", "ff", "")
			m.write("run/udev/data/c189:3", tt.record)
			f := m.gather(silent)
			if diff := cmp.Diff(tt.want, f.Devices[0].Udev); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func TestGatherRules(t *testing.T) {
	ours, err := os.ReadFile("../../udev/60-openct.rules")
	if err != nil {
		t.Fatal(err)
	}
	const (
		classic = `ENV{ID_MODEL_ID}=="0600", TAG+="systemd", ENV{SYSTEMD_WANTS}+="openct@a.service"` + "\n"
		old     = "# openct\n\n" + `ACTION=="add", RUN+="/usr/sbin/openct-control attach usb:529/600/100 usb $devnode"` + "\n"
	)
	tests := []struct {
		name  string
		files map[string]string
		want  []RulesFile
	}{
		{"none", nil, nil},
		{"of others", map[string]string{"lib/udev/rules.d/50-a.rules": "# openct is not here\nSUBSYSTEM==\"usb\"\n"}, nil},
		{"ours", map[string]string{"usr/lib/udev/rules.d/60-openct.rules": string(ours)},
			[]RulesFile{{Path: "/usr/lib/udev/rules.d/60-openct.rules", Starts: true, Group: "openctd"}}},
		{"an admin's", map[string]string{"etc/udev/rules.d/10-token.rules": classic, "etc/udev/rules.d/README": classic},
			[]RulesFile{{Path: "/etc/udev/rules.d/10-token.rules", Starts: true}}},
		{"with RUN", map[string]string{"etc/udev/rules.d/10-token.rules": old},
			[]RulesFile{{Path: "/etc/udev/rules.d/10-token.rules", Runs: 3}}},
		{"for a group that is there", map[string]string{"etc/udev/rules.d/10-token.rules": `ENV{OPENCT_DRIVER}=="?*", GROUP="root"` + "\n"},
			[]RulesFile{{Path: "/etc/udev/rules.d/10-token.rules", Group: "root"}}},
		{"for a group that is not", map[string]string{"etc/udev/rules.d/10-token.rules": `ENV{OPENCT_DRIVER}=="?*", GROUP:="no-such-group"` + "\n"},
			[]RulesFile{{Path: "/etc/udev/rules.d/10-token.rules", Group: "no-such-group", NoSuch: true}}},
		{"masked", map[string]string{"etc/udev/rules.d/60-openct.rules": "", "usr/lib/udev/rules.d/60-openct.rules": string(ours)},
			[]RulesFile{{Path: "/usr/lib/udev/rules.d/60-openct.rules", Starts: true, Group: "openctd", Masked: "/etc/udev/rules.d/60-openct.rules"}}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			m := newMachine(t)
			for path, text := range tt.files {
				m.write(path, text)
			}
			got := m.gather(silent).Rules
			for i := range got.Files {
				if f := &got.Files[i]; f.Group == "openctd" {
					f.NoSuch = false // whether this machine has it
				}
			}
			if diff := cmp.Diff(Rules{Running: true, Files: tt.want}, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func TestGatherUnits(t *testing.T) {
	m := newMachine(t)
	m.plug("1-2", "4", "0529", "0600", "ff", "")
	m.write("run/udev/data/c189:3", "E:SYSTEMD_WANTS=openct-handler@001-004.service\nQ:systemd\n")
	asked := ""
	f := m.gather(func(args []string) (string, error) {
		asked = strings.Join(args[len(args)-2:], " ")
		return "LoadState=loaded\nActiveState=active\nResult=success\nStatusText=\nUser=\n\n" +
			"User=root\nLoadState=loaded\nActiveState=failed\nResult=exit-code\nStatusText=a=b\n", nil
	})
	if want := "openct.service openct-handler@001-004.service"; asked != want {
		t.Errorf("asked for %q, want %q", asked, want)
	}
	if want := (Unit{Name: "openct.service", Load: "loaded", Active: "active", Result: "success"}); f.Service != want {
		t.Errorf("%+v, want %+v", f.Service, want)
	}
	want := Unit{Name: "openct-handler@001-004.service", Load: "loaded", Active: "failed", Result: "exit-code", StatusText: "a=b", User: "root"}
	d := f.Devices[0]
	if len(d.Units) != 1 || d.Units[0] != want {
		t.Errorf("%+v, want %+v", d.Units, want)
	}
	if d.Node.User != "root" || !d.Node.UserMay {
		t.Errorf("root may open every node: %+v", d.Node)
	}
}

func TestGatherProcesses(t *testing.T) {
	m := newMachine(t)
	m.plug("1-2", "4", "0529", "0600", "ff", "usbfs")
	m.write("proc/42/comm", "scdaemon\n")
	m.link("/dev/bus/usb/001/004", "proc/42/fd/5")
	m.link("/dev/bus/usb/001/004", "proc/42/fd/6")
	m.write("proc/43/comm", "pcscd\n")
	m.link("/dev/null", "proc/43/fd/0")
	m.write("proc/44/comm", "openct-watch\n")
	m.write("proc/self/comm", "x\n")
	f := m.gather(silent)
	if diff := cmp.Diff([]Process{{44, "openct-watch"}}, f.Watch); diff != "" {
		t.Errorf("watch (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]Process{{42, "scdaemon"}}, f.Devices[0].Holders); diff != "" {
		t.Errorf("holders (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]Process{{42, "scdaemon"}, {43, "pcscd"}}, f.Others); diff != "" {
		t.Errorf("others (-want +got):\n%s", diff)
	}
}

func TestGatherHotplug(t *testing.T) {
	const line = "DEVTYPE=usb_device;PRODUCT=529/600/.*;bus/usb/.* root:openctd 0660 @/usr/sbin/openct-control attach /dev/$MDEV\n"
	for _, tt := range []struct {
		name, mdev string
		want       bool
	}{
		{"a line of ours", ".* 0:0 0600\n" + line, true},
		{"commented out", "# " + line, false},
		{"nothing of ours", ".* 0:0 0600\n", false},
		{"no file", "", false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			m := newMachine(t)
			m.write("etc/openct.conf", "hotplug = yes;")
			if tt.mdev != "" {
				m.write("etc/mdev.conf", tt.mdev)
			}
			if f := m.gather(silent); f.Mdev != tt.want || !f.Config.Hotplug {
				t.Errorf("mdev %v, want %v; hotplug %v", f.Mdev, tt.want, f.Config.Hotplug)
			}
		})
	}
}

func TestGatherShutOut(t *testing.T) {
	status := func(uid, gid int, groups, caps string) string {
		return fmt.Sprintf("Name:\tpcscd\nUid:\t%d\t%[1]d\t%[1]d\t%[1]d\nGid:\t%d\t%[2]d\t%[2]d\t%[2]d\nGroups:\t%s\nCapEff:\t%s\n", uid, gid, groups, caps)
	}
	const nobody, powerless = 65534, "0000000000000000"
	me, mine := os.Getuid(), os.Getgid()
	tests := []struct {
		name   string
		mode   os.FileMode
		status string
		want   bool
	}{
		{"somebody else", 0o750, status(nobody, nobody, "7 8", powerless), true},
		{"nobody's group of many", 0o750, status(nobody, nobody, "", powerless), true},
		{"in the group", 0o750, status(nobody, nobody, fmt.Sprint("7 ", mine), powerless), false},
		{"of the group", 0o750, status(nobody, mine, "", powerless), false},
		{"in the group, which may not", 0o705, status(nobody, mine, "", powerless), true},
		{"open to everybody", 0o755, status(nobody, nobody, "", powerless), false},
		{"the owner", 0o700, status(me, nobody, "", powerless), false},
		{"with CAP_DAC_OVERRIDE", 0o700, status(nobody, nobody, "", "0000000000000002"), false},
		{"with CAP_DAC_READ_SEARCH", 0o700, status(nobody, nobody, "", "0000000000000004"), false},
		{"with another capability", 0o700, status(nobody, nobody, "", "0000000000000008"), true},
		{"nothing to be seen", 0o700, "", false},
		{"nonsense", 0o700, "Uid:\tx\ty\tz\tw\nCapEff:\tx\n", false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			m := newMachine(t)
			if err := os.Chmod(m.dir, tt.mode); err != nil {
				t.Fatal(err)
			}
			m.write("proc/43/comm", "pcscd\n")
			m.write("proc/43/status", tt.status)
			m.write("usr/lib64/pcsc/drivers/openct-ifd.bundle/Contents/Info.plist", "")
			f := m.gather(silent)
			if got := len(f.ShutOut) == 1; got != tt.want || !f.Bundle {
				t.Errorf("shut out: %v, want %v; bundle %v", got, tt.want, f.Bundle)
			}
		})
	}
}

func TestGatherStatus(t *testing.T) {
	m := newMachine(t)
	m.plug("1-2", "4", "0529", "0600", "ff", "")
	if f := m.gather(silent); !f.Status.Missing || f.Dir.Missing || !f.Dir.MayEnter {
		t.Errorf("before init: %+v %+v", f.Status, f.Dir)
	}
	statustest.Init(t, m.dir)
	statustest.Claim(t, m.dir, status.Detail{Device: "/dev/bus/usb/001/004", LastError: "stall"})
	f := m.gather(silent)
	if len(f.Readers) != 1 || f.Devices[0].Reader != &f.Readers[0] {
		t.Fatalf("readers %+v, of the device %+v", f.Readers, f.Devices[0].Reader)
	}
	// It has an entry, and no socket.
	r := f.Readers[0]
	if r.PID != os.Getpid() || !r.Alive || r.LastError != "stall" || !strings.Contains(r.SocketErr, "no such file") {
		t.Errorf("%+v", r)
	}
	if err := os.Truncate(filepath.Join(m.dir, "status"), 10); err != nil {
		t.Fatal(err)
	}
	if f := m.gather(silent); !strings.Contains(f.Status.Err, "wrong size") {
		t.Errorf("a short status file: %+v", f.Status)
	}
	m.dir = filepath.Join(m.dir, "status")
	if f := m.gather(silent); !strings.Contains(f.Dir.Err, "is not a directory") {
		t.Errorf("a file for a directory: %+v", f.Dir)
	}
	m.dir += ".none"
	if f := m.gather(silent); !f.Dir.Missing {
		t.Errorf("no directory: %+v", f.Dir)
	}
}

// A machine without anything is no reason to fail.
func TestGatherNothing(t *testing.T) {
	m := &fakeMachine{t: t, root: t.TempDir(), dir: "/nowhere"}
	f := m.gather(silent)
	if r := Diagnose(f); r.OK || len(f.Devices) > 0 || f.Systemd || f.Rules.Running || !f.Config.Missing {
		t.Errorf("%+v", f)
	}
}
