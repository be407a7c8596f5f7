//go:build vm

package vm

import (
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// testHardening measures what the handler's unit keeps from it, by systemd's
// own count. That it works under it is what all other cases show.
func testHardening(t *testing.T, g *guest) {
	g.install(t)
	k := g.plug(t, "a", "")
	reader := k.served(t)
	out := g.sh(t, "systemd-analyze security --no-pager "+k.unit())
	m := regexp.MustCompile(`exposure level for \S+: ([0-9.]+)`).FindStringSubmatch(out)
	if m == nil {
		t.Fatalf("no score in\n%s", out)
	}
	score, err := strconv.ParseFloat(m[1], 64)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("systemd-analyze security: %.1f", score)
	if score > 1.0 {
		t.Errorf("score is %.1f, want 1.0 or less:\n%s", score, out)
	}
	t.Run("one device node only", func(t *testing.T) {
		other := g.plug(t, "b", "")
		n := other.served(t)
		// The other token's node, opened by the first one's cgroup and user.
		script := fmt.Sprintf("systemd-run --quiet --collect --pipe --wait -p User=openctd -p DevicePolicy=closed -p 'DeviceAllow=%s rw' dd if=%s bs=18 count=1 status=none", k.node, other.node)
		if res := g.try(t, script); res.Exit == 0 {
			t.Errorf("%s can be opened with DeviceAllow=%s", other.node, k.node)
		}
		g.sh(t, strings.Replace(script, "if="+other.node, "if="+k.node, 1)+" >/dev/null")
		other.ctl(t, "unplug")
		other.gone(t, n)
	})
	k.ctl(t, "unplug")
	k.gone(t, reader)
}

// testIdle counts how often an idle handler wakes up in a minute: the voluntary
// and other context switches of all of its threads; and how often those do who
// watch it. Then there is something to see for them.
func testIdle(t *testing.T, g *guest) {
	// The Go runtime's own monitor wakes up once a minute, for two context
	// switches, and a garbage collection may fall into this one. gousb's own
	// loop would make 600.
	const limit = 12
	g.install(t)
	m := g.monitor(t)
	k := g.plug(t, "a", "")
	reader := k.served(t)
	k.works(t, reader)
	pid := g.sh(t, "systemctl show -P MainPID "+k.unit())
	counts := g.wakeups(t, append([]string{pid}, m.pids(t)...)...)
	t.Logf("wakeups in 60 s: %d of the handler, %d of monitor and status --watch; %s", counts[0], counts[1:],
		strings.Join(strings.Fields(g.sh(t, "grep -h VmRSS /proc/"+pid+"/status")), " "))
	if most := slices.Max(counts); most > limit {
		t.Errorf("%d wakeups in 60 s, want at most %d", most, limit)
	}
	m.conflict(t, k, reader)
}

// wakeups counts the context switches of all of a process's threads in 60 s,
// once it has come to rest, of several at the same time.
func (g *guest) wakeups(t *testing.T, pids ...string) []int {
	t.Helper()
	switches := func() []int {
		var all []int
		out := g.sh(t, "for pid in "+strings.Join(pids, " ")+
			"; do cat /proc/$pid/task/*/status | awk '/ctxt_switches/ {n += $2} END {print n}'; done")
		for _, line := range strings.Fields(out) {
			n, err := strconv.Atoi(line)
			if err != nil {
				t.Fatal(err)
			}
			all = append(all, n)
		}
		return all
	}
	// What the last client left to do (closing the device) is over when the
	// count stands still; a process that polls has half a minute.
	before := switches()
	for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); {
		g.sh(t, "sleep 5")
		last := before
		if before = switches(); slices.Equal(before, last) {
			break
		}
	}
	g.sh(t, "sleep 60")
	after := switches()
	for i := range after {
		after[i] -= before[i]
	}
	return after
}

// testSuspend suspends the machine as far as it can go. The virtual host
// controller refuses to sleep with a device on it, so this is QEMU's CCID
// reader, on an xHCI controller.
func testSuspend(t *testing.T, g *guest) {
	g.install(t)
	g.sh(t, "printf 'ccid = on;\\n' >/etc/openct.conf.e2e && cp /etc/openct.conf /etc/openct.conf.kept && cp /etc/openct.conf.e2e /etc/openct.conf && rm /etc/openct.conf.e2e")
	t.Cleanup(func() { g.try(t, "mv /etc/openct.conf.kept /etc/openct.conf") })
	if err := g.machine.AddUSB("usb-ccid", "sleeper", nil); err != nil {
		t.Fatal(err)
	}
	pulled := false
	pull := func() {
		if !pulled {
			pulled = true
			if err := g.machine.RemoveUSB("sleeper"); err != nil {
				t.Error(err)
			}
		}
	}
	t.Cleanup(pull)
	active := `systemctl list-units --plain --no-legend --state=active 'openct-handler@*' | grep -q . && openct-tool list | grep -q .`
	g.until(t, readyTime, active)
	for _, level := range strings.Fields(g.sh(t, "cat /sys/power/pm_test | tr -d '[]'")) {
		switch level {
		case "freezer", "devices", "platform":
		default:
			continue // the other levels stop processors, which QEMU does not bring back
		}
		t.Run(level, func(t *testing.T) {
			g.sh(t, fmt.Sprintf("echo %s >/sys/power/pm_test && echo mem >/sys/power/state; r=$?; echo none >/sys/power/pm_test; exit $r", level))
			g.until(t, readyTime, active)
		})
	}
	t.Run("verify", func(t *testing.T) {
		const report = "/run/verify-suspend"
		g.sh(t, "echo devices >/sys/power/pm_test; rm -f "+report)
		t.Cleanup(func() { g.try(t, "echo none >/sys/power/pm_test") })
		out := g.sh(t, "echo yes | openct-control verify --suspend -o "+report+" 2>&1")
		t.Log("\n" + out)
		// What comes back is plugged in anew, as the rule has it.
		if want := regexp.MustCompile(`(?m)^ok     suspend  +a client gets an answer \d+ ms after the resume; another node, another handler, another unit$`); !want.MatchString(out) {
			t.Error("not all is well")
		}
		g.sh(t, "grep -q '^ok     suspend' "+report)
		if alarm := g.sh(t, "cat /sys/class/rtc/rtc0/wakealarm"); alarm != "" {
			t.Errorf("the alarm is still set: %s", alarm)
		}
		g.until(t, readyTime, active)
	})
	pull()
	g.until(t, goneTime, "! systemctl list-units --plain --no-legend 'openct-handler@*' | grep .")
}
