package doctor

import (
	"regexp"
	"testing"
)

// What is looked for in rules, as regular expressions. The program itself has
// none: their package is a twentieth of it.
var (
	startsUnitForm  = regexp.MustCompile(`SYSTEMD_WANTS[}"]*\s*\+?=[^=]`)
	givesGroupForm  = regexp.MustCompile(`GROUP\s*:?=\s*"([^"]+)"`)
	runsHandlerForm = regexp.MustCompile(`RUN(\{program\})?\s*\+?=\s*"[^"]*(openct-control|openct_usb|ifdhandler)`)
)

var ruleLines = []string{
	`ENV{SYSTEMD_WANTS}+="openct@%k.service"`,
	`ENV{SYSTEMD_WANTS}="openct@%k.service"`,
	`ENV{SYSTEMD_WANTS} += "openct@%k.service"`,
	`ENV{SYSTEMD_WANTS}=="openct@%k.service"`,
	`ENV{SYSTEMD_WANTS}=="a", ENV{SYSTEMD_WANTS}="openct@%k.service"`,
	`ENV{SYSTEMD_WANTS}=`,
	`ENV{SYSTEMD_WANTS}`,
	`GROUP="scard"`,
	`MODE="0660", GROUP := "scard", OWNER="openctd"`,
	`GROUP=="a", GROUP="scard"`,
	`GROUP=""`,
	`GROUP="", GROUP="scard"`,
	`GROUP="scard`,
	`GROUP=scard`,
	`RUN+="/usr/sbin/openct-control attach"`,
	`RUN{program}+="/lib/udev/openct_usb"`,
	`RUN{builtin}+="ifdhandler"`,
	`RUN = "true; ifdhandler"`,
	`RUN+="true", ENV{a}="ifdhandler"`,
	`RUN+="true", RUN+="/usr/sbin/ifdhandler`,
	`PROGRAM="openct-control", RUN+=openct-control`,
	"",
}

func TestRuleLines(t *testing.T) {
	for _, line := range ruleLines {
		checkRuleLine(t, line)
	}
}

func FuzzRuleLines(f *testing.F) {
	for _, line := range ruleLines {
		f.Add(line)
	}
	f.Fuzz(checkRuleLine)
}

func checkRuleLine(t *testing.T, line string) {
	if got, want := startsUnit(line), startsUnitForm.MatchString(line); got != want {
		t.Errorf("%q starts a unit: %v, want %v", line, got, want)
	}
	if got, want := runsHandler(line), runsHandlerForm.MatchString(line); got != want {
		t.Errorf("%q runs a handler: %v, want %v", line, got, want)
	}
	want := ""
	if m := givesGroupForm.FindStringSubmatch(line); m != nil {
		want = m[1]
	}
	if got, _ := givesGroup(line); got != want {
		t.Errorf("%q gives the group %q, want %q", line, got, want)
	}
}
