//go:build vm

package vm

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
)

// What the readers' cases write to openct.conf.
const simReader = "reader phoenix { driver = phoenix; device = serial:/dev/ttyUSB0; };\n"

// simUnit is that reader's unit.
const simUnit = "openct-reader@phoenix.service"

// A command of GSM 11.11, SELECT EF.ICCID, and the answer of the virtual SIM.
const (
	simSelect  = "a0a40000022fe2"
	simOutcome = "9f0f"
)

// restartWith writes openct.conf and has OpenCT read it, as people do. At the end
// of the case that did so first, the file is what it was.
func (g *guest) restartWith(t *testing.T, conf string) {
	t.Helper()
	const kept = "/root/openct.conf.kept" // it outlives a boot
	if g.sh(t, fmt.Sprintf("[ -e %s ] || { cp /etc/openct.conf %[1]s; echo first; }", kept)) == "first" {
		t.Cleanup(func() { g.sh(t, fmt.Sprintf("mv %s /etc/openct.conf && systemctl restart openct", kept)) })
	}
	g.put(t, "/etc/openct.conf", 0o644, conf)
	g.sh(t, "systemctl restart openct")
}

// readerAt is the number of the reader that a unit serves.
func (g *guest) readerAt(t *testing.T, unit string) int {
	t.Helper()
	g.reaches(t, readyTime, unit, "active")
	out := g.sh(t, "openct-control status --json 2>/dev/null")
	var readers []struct {
		Reader int
		Detail struct{ Unit string }
	}
	if err := json.Unmarshal([]byte(out), &readers); err != nil {
		t.Fatalf("status --json: %v\n%s", err, out)
	}
	for _, r := range readers {
		if r.Detail.Unit == unit {
			return r.Reader
		}
	}
	t.Fatalf("%s is active, but status has no reader of it:\n%s", unit, out)
	return -1
}

// simWorks has a virtual SIM answer.
func (g *guest) simWorks(t *testing.T, reader int) {
	t.Helper()
	out := g.sh(t, fmt.Sprintf("openct-tool -r %d apdu %s", reader, simSelect))
	if !strings.HasSuffix(strings.TrimSpace(out), simOutcome) {
		t.Errorf("reader %d: %q", reader, out)
	}
}

// testReaderUnits serves readers of openct.conf in units of their own.
func testReaderUnits(t *testing.T, g *guest) {
	g.installAll(t)
	g.restartWith(t, simReader)
	t.Run("waiting", func(t *testing.T) {
		if state := g.sh(t, "systemctl show -P ActiveState "+simUnit); state != "inactive" {
			t.Errorf("the unit is %s", state)
		}
		if jobs := g.sh(t, "systemctl list-jobs --no-legend"); jobs != "" {
			t.Errorf("systemd waits:\n%s", jobs)
		}
		if out := g.sh(t, "openct-control status 2>&1 >/dev/null"); !strings.Contains(out, "phoenix waits for its device: /dev/ttyUSB0 does not exist") {
			t.Errorf("status says %q", out)
		}
		if _, findings, _ := doctor(t, g, ""); !tells(findings, "device", "starts when it appears") {
			t.Errorf("doctor finds %+v", findings)
		}
	})

	k := g.plug(t, "sim", "--driver phoenix --card sim")
	reader := g.readerAt(t, simUnit)
	g.simWorks(t, reader)
	t.Run("as openctd, with its device and nothing else", func(t *testing.T) {
		pid := g.sh(t, "systemctl show -P MainPID "+simUnit)
		who := strings.Fields(g.sh(t, "ps -o user=,supgrp= -p "+pid))
		if len(who) != 2 || who[0] != "openctd" || !slices.Contains(strings.Split(who[1], ","), "dialout") || strings.Contains(who[1], "root") {
			t.Errorf("it runs as %q", who)
		}
		if other := g.sh(t, "ps -eo user=,comm= | awk '$2 == \"ifdhandler\" && $1 == \"root\"'"); other != "" {
			t.Errorf("as root: %s", other)
		}
		allowed := g.sh(t, "systemctl show -P DeviceAllow "+simUnit)
		if !strings.Contains(allowed, "/dev/ttyUSB0 rw") {
			t.Errorf("DeviceAllow=%s", allowed)
		}
	})
	t.Run("systemctl status tells a person", func(t *testing.T) {
		out := g.sh(t, "systemctl status --no-pager "+simUnit)
		for _, want := range []string{"OpenCT reader phoenix on /dev/ttyUSB0", "Phoenix reader", fmt.Sprintf("reader %d", reader), "card present"} {
			if !strings.Contains(out, want) {
				t.Errorf("no %q in\n%s", want, out)
			}
		}
		if strings.Contains(out, "daemon-reload") {
			t.Errorf("systemd is not told:\n%s", out)
		}
	})
	t.Run("doctor", func(t *testing.T) {
		ok, findings, next := doctor(t, g, "")
		if !ok || !tells(findings, "served", "answers on") {
			t.Errorf("next: %s, %+v", next, findings)
		}
	})
	t.Run("kill", func(t *testing.T) {
		before := g.sh(t, "systemctl show -P MainPID "+simUnit)
		g.sh(t, "kill -KILL "+before)
		g.until(t, readyTime, fmt.Sprintf("systemctl is-active %s && test $(systemctl show -P MainPID %[1]s) != %s", simUnit, before))
		g.simWorks(t, g.readerAt(t, simUnit))
	})
	t.Run("stop and start of openct.service", func(t *testing.T) {
		g.sh(t, "systemctl stop openct")
		g.reaches(t, goneTime, simUnit, "inactive")
		g.sh(t, "systemctl start openct")
		g.simWorks(t, g.readerAt(t, simUnit))
	})
	t.Run("unplug during an APDU, and replug", func(t *testing.T) {
		n := g.readerAt(t, simUnit)
		k.ctl(t, "drop on=e02") // the command's first bytes
		res := g.tryFor(t, time.Minute, fmt.Sprintf("timeout 30 openct-tool -r %d apdu %s", n, simSelect))
		if res.Exit == 0 || res.Exit == 124 {
			t.Errorf("client's exit code is %d, want a clean error:\n%s%s", res.Exit, res.Stdout, res.Stderr)
		}
		g.reaches(t, goneTime, simUnit, "inactive")
		if out := g.sh(t, "openct-control status 2>/dev/null"); out != "" {
			t.Errorf("an entry is left:\n%s", out)
		}
		k.ctl(t, "plug")
		g.simWorks(t, g.readerAt(t, simUnit))
	})
	t.Run("release", func(t *testing.T) { testReleaseReader(t, g) })
	t.Run("two at once, one by its link and with an odd name", func(t *testing.T) { testTwoReaders(t, g) })
	t.Run("pcscd", func(t *testing.T) { testReaderPCSC(t, g) })
	t.Run("plugged again and again", func(t *testing.T) { testReaderCycles(t, g, k) })
	k.ctl(t, "unplug")
	g.reaches(t, goneTime, simUnit, "inactive")
}

// testReleaseReader has another program use the device of a reader of openct.conf.
func testReleaseReader(t *testing.T, g *guest) {
	g.sh(t, "openct-control release phoenix")
	g.reaches(t, goneTime, simUnit, "inactive")
	g.sh(t, "udevadm trigger --settle --action=change /sys/class/tty/ttyUSB0; udevadm trigger --settle --action=add /sys/class/tty/ttyUSB0; systemctl restart openct.service")
	g.sh(t, "systemctl start "+simUnit)
	if out := g.sh(t, "journalctl --boot -u "+simUnit+" | grep -c 'the device is released'"); strings.TrimSpace(out) == "0" {
		t.Error("the unit does not say that the reader is released")
	}
	g.reaches(t, goneTime, simUnit, "inactive")
	if ok, findings, next := doctor(t, g, ""); !ok || !tells(findings, "released", "is released since") {
		t.Errorf("next: %s, %+v", next, findings)
	}
	// Another program: an OpenCT that knows nothing of this one. Its init serves the
	// readers of openct.conf.
	const other = "OPENCT_SOCKETDIR=/run/other openct-control "
	g.sh(t, "mkdir /run/other && "+other+"-n init && "+other+"status | grep 'Phoenix reader'")
	res := g.try(t, "openct-control take phoenix")
	t.Logf("take while another program has it:\n%s", res.Stderr)
	if res.Exit != 1 || !strings.Contains(res.Stderr, "/dev/ttyUSB0 stays released: ") || !strings.Contains(res.Stderr, "ifdhandler (pid ") {
		t.Errorf("exit code %d", res.Exit)
	}
	g.sh(t, other+"shutdown; until ! ls -l /proc/[0-9]*/fd 2>/dev/null | grep -q /dev/ttyUSB0; do sleep 0.1; done; rm -r /run/other")
	g.sh(t, "openct-control take phoenix")
	g.simWorks(t, g.readerAt(t, simUnit))
}

// testTwoReaders adds a second reader to openct.conf, and takes it away again.
func testTwoReaders(t *testing.T, g *guest) {
	g.plug(t, "second", "--driver phoenix --card sim --serial E2E")
	link := g.until(t, readyTime, "ls /dev/serial/by-id/*E2E*")
	second := strings.TrimSpace(g.sh(t, `systemd-escape --template=openct-reader@.service "Bob's SIM/2"`))
	g.restartWith(t, simReader+`reader "Bob's SIM/2" { driver = phoenix; device = serial:`+link+`; };`+"\n")
	a, b := g.readerAt(t, simUnit), g.readerAt(t, second)
	if a == b {
		t.Errorf("both are reader %d", a)
	}
	g.simWorks(t, a)
	g.simWorks(t, b)

	g.restartWith(t, simReader)
	g.simWorks(t, g.readerAt(t, simUnit))
	g.reaches(t, goneTime, second, "inactive")
	if failed := g.sh(t, "systemctl --failed --plain --no-legend"); failed != "" {
		t.Errorf("failed units:\n%s", failed)
	}
}

// readerConf is what users of C OpenCT have in /etc/reader.conf.d; the library is
// where they have it.
func readerConf(library string) string {
	return "FRIENDLYNAME \"OpenCT\"\nDEVICENAME /dev/null\nLIBPATH " + library + "\nCHANNELID 0\n"
}

// scanSIM has PC/SC's programs use reader 0.
func scanSIM(t *testing.T, g *guest, library string) {
	t.Helper()
	g.put(t, "/etc/reader.conf.d/openct-e2e", 0o644, readerConf(library))
	t.Cleanup(func() { g.try(t, "rm -f /etc/reader.conf.d/openct-e2e; systemctl try-restart pcscd.service") })
	g.sh(t, "systemctl restart pcscd.service")
	if out := g.until(t, readyTime, "opensc-tool -r 0 -s A0:A4:00:00:02:2F:E2 2>&1 | grep -i 'SW1=0x9F'"); !strings.Contains(out, "SW2=0x0F") {
		t.Errorf("opensc-tool -s:\n%s", out)
	}
	if out := g.sh(t, "timeout 20 pcsc_scan -r"); !strings.Contains(out, "OpenCT") {
		t.Errorf("pcsc_scan:\n%s", out)
	}
}

func testReaderPCSC(t *testing.T, g *guest) {
	if n := g.readerAt(t, simUnit); n != 0 {
		t.Fatalf("it is reader %d, and reader.conf names reader 0", n)
	}
	scanSIM(t, g, g.sh(t, "ls /usr/lib/*/openct-ifd.so"))
}

// testReaderCycles plugs and pulls the adapter again and again.
func testReaderCycles(t *testing.T, g *guest, k *token) {
	cycles := plugs(t) / 4
	reaches := func(limit time.Duration, want string) error {
		state, err := g.client.Unit(context.Background(), simUnit, limit, want, "failed")
		if err == nil && state != want {
			err = fmt.Errorf("%s is %s, want %s", simUnit, state, want)
		}
		return err
	}
	begin := time.Now()
	for i := range cycles {
		err := k.order("unplug")
		if err == nil {
			err = reaches(goneTime, "inactive")
		}
		if err == nil {
			err = k.order("plug")
		}
		if err == nil {
			err = reaches(readyTime, "active")
		}
		if err != nil {
			t.Fatalf("plug %d of %d: %v", i+1, cycles, err)
		}
	}
	t.Logf("%d plugs in %v", cycles, time.Since(begin).Round(time.Second))
	g.simWorks(t, g.readerAt(t, simUnit))
}
