package doctor

import (
	"slices"
	"strings"
	"testing"
	"time"

	"openct/internal/machine"
)

// healthy is a machine with systemd on which a token is being served.
func healthy() *Facts {
	f := &Facts{
		Now:     time.Date(2026, 1, 2, 12, 0, 0, 0, time.UTC),
		Caller:  Caller{UID: 1000, Name: "alice", InGroup: true, IsMember: true},
		Config:  Config{File: "/etc/openct.conf"},
		Dir:     Dir{Path: "/run/openct", Owner: "openctd", Group: "scard", Mode: 0o750, MayEnter: true},
		Rules:   Rules{Running: true, Files: []RulesFile{{Path: "/usr/lib/udev/rules.d/60-openct.rules", Starts: true}}},
		Systemd: true,
		Service: Unit{Name: "openct.service", Load: "loaded", Active: "active"},
		Readers: []Reader{{
			Index: 0, Name: "Aladdin eToken PRO 64k", PID: 71, Alive: true, Device: "/dev/bus/usb/001/004",
			Unit: "openct-handler@001-004.service", Socket: "/run/openct/0",
		}},
	}
	f.Devices = []Device{{
		Port: "1-2", Bus: 1, Address: 4, Vendor: 0x0529, Product: 0x0600, Label: "Aladdin eToken",
		Driver: "etoken64", Why: "which lists the id", Verified: "emulation",
		Node: Node{Path: "/dev/bus/usb/001/004", Owner: "root", Group: "openctd", Mode: 0o660, User: "openctd", UserMay: true},
		Udev: machine.Record{Exists: true, Driver: "etoken64", Wants: []string{"openct-handler@001-004.service"}, Tagged: true},
		Units: []Unit{{Name: "openct-handler@001-004.service", Load: "loaded", Active: "active", User: "openctd",
			StatusText: "Aladdin eToken PRO 64k, reader 0, card present"}},
		Claimed: true, Holders: []Process{{71, "openct-control"}},
		Reader: &f.Readers[0],
	}}
	return f
}

// unserved is healthy, but for the token, which nobody serves.
func unserved() *Facts {
	f := healthy()
	f.Readers = nil
	d := &f.Devices[0]
	d.Reader, d.Holders, d.Claimed = nil, nil, false
	d.Units[0].Active, d.Units[0].StatusText = "inactive", ""
	return f
}

// wantFinding wants a report of something wrong: a finding of this check and level with
// text in it, and next in the next step of the whole.
func wantFinding(t *testing.T, r Report, check string, level Level, text, next string) {
	t.Helper()
	if r.OK {
		t.Error("all is well")
	}
	if !strings.Contains(r.Next, next) {
		t.Errorf("next: %q, want %q in it", r.Next, next)
	}
	i := slices.IndexFunc(r.Findings, func(f Finding) bool { return f.Check == check && f.Level == level })
	if i < 0 {
		t.Fatalf("no %s by %s in %+v", level, check, r.Findings)
	}
	if !strings.Contains(r.Findings[i].Text, text) {
		t.Errorf("%q, want %q in it", r.Findings[i].Text, text)
	}
	for _, f := range r.Findings {
		if (f.Level == OK) != (f.Next == "") {
			t.Errorf("%s without (or ok with) a next step: %+v", f.Level, f)
		}
	}
}

// wantNoAlarm wants a report of nothing wrong, in which something is said of a subject;
// empty: of any.
func wantNoAlarm(t *testing.T, r Report, subject, text string) {
	t.Helper()
	if !r.OK {
		t.Errorf("alarm: %+v", r)
	}
	if !slices.ContainsFunc(r.Findings, func(f Finding) bool {
		return (subject == "" || f.Subject == subject) && strings.Contains(f.Text, text)
	}) {
		t.Errorf("nobody says %q: %+v", text, r.Findings)
	}
}

func TestPrint(t *testing.T) {
	f := unserved()
	f.Devices[0].Holders = []Process{{9, "scdaemon"}}
	var text, object strings.Builder
	r := Diagnose(f)
	if err := r.Print(&text); err != nil {
		t.Fatal(err)
	}
	if err := r.PrintJSON(&object); err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSuffix(text.String(), "\n"), "\n")
	if last := lines[len(lines)-1]; last != "next: gpgconf --kill scdaemon, and disable-ccid in ~/.gnupg/scdaemon.conf" {
		t.Errorf("ends with %q", last)
	}
	if !slices.Contains(lines, "fail  1-2     scdaemon (pid 9) has the device open") {
		t.Errorf("no line for the finding:\n%s", &text)
	}
	for _, want := range []string{`"ok": false`, `"check": "holder"`, `"device": "/dev/bus/usb/001/004"`, `"next": "gpgconf`} {
		if !strings.Contains(object.String(), want) {
			t.Errorf("no %s in\n%s", want, &object)
		}
	}
	text.Reset()
	if err := Diagnose(healthy()).Print(&text); err != nil {
		t.Fatal(err)
	}
	if !strings.HasSuffix(text.String(), "\nnext: nothing, all is well\n") {
		t.Errorf("ends otherwise:\n%s", &text)
	}
}
