//go:build vm

package vm

import (
	"encoding/json"
	"fmt"
	"regexp"
	"strings"
	"testing"
)

// monitors are openct-control monitor, with and without --json, and status --watch,
// for a user of group scard, and monitor for one who is in no group.
type monitors struct{ g *guest }

const monitorText = "/run/monitor-text.out"

func (g *guest) monitor(t *testing.T) monitors {
	t.Helper()
	for unit, c := range map[string]string{
		"monitor-text": "-p SupplementaryGroups=scard openct-control monitor",
		"monitor-json": "-p SupplementaryGroups=scard openct-control monitor --json",
		"monitor-list": "-p SupplementaryGroups=scard openct-control status --watch",
		"monitor-none": "openct-control monitor",
	} {
		g.sh(t, fmt.Sprintf("systemd-run --quiet --collect --unit=%[1]s -p User=nobody -p StandardOutput=truncate:/run/%[1]s.out "+
			"-p StandardError=truncate:/run/%[1]s.err -p KillSignal=SIGINT %[2]s", unit, c))
		t.Cleanup(func() { g.try(t, "systemctl stop "+unit) })
	}
	g.until(t, readyTime, "grep -q 'No readers' /run/monitor-list.out && grep -q 'only what is plugged in' /run/monitor-none.err")
	return monitors{g}
}

func (m monitors) pids(t *testing.T) []string {
	t.Helper()
	return strings.Fields(m.g.sh(t, "systemctl show -P MainPID monitor-text monitor-json monitor-list monitor-none"))
}

// conflict has a client wait for a card that does not answer, another user refused
// because of that client's lock, and the token pulled; all is to be told.
func (m monitors) conflict(t *testing.T, k *token, reader int) {
	t.Helper()
	g := m.g
	shows := func(what string) {
		t.Helper()
		g.until(t, readyTime, "grep -q '"+what+"' "+monitorText)
	}
	waiting(t, g, k, reader, 1)
	shows(" locked .*openct-tool")
	res := g.try(t, fmt.Sprintf("setpriv --reuid=daemon --regid=scard --clear-groups openct-tool -r %d atr", reader))
	if res.Exit == 0 {
		t.Errorf("another user's command went past the lock:\n%s", res.Stdout)
	}
	shows(" conflict .*user daemon")
	shows(" disconnected .*user daemon")
	k.ctl(t, "unplug")
	k.gone(t, reader)
	shows(" unplugged ")

	text := g.sh(t, "cat "+monitorText)
	t.Logf("openct-control monitor:\n%s", text)
	name := `Aladdin eToken PRO 64k: `
	rest := text
	for _, want := range []string{
		` -  plugged       .*driver etoken64, usb:0529/0600/0100, ` + k.node,
		` ready         ` + name + `slot0: card present, driver etoken64, usb:0529/0600/0100, ` + k.node,
		` connected     ` + name + `openct-tool \(process \d+, user root\)`,
		` locked        ` + name + `openct-tool \(process \d+, user root\), shared lock of slot 0`,
		` connected     ` + name + `.* \(process \d+, user daemon\)`,
		` conflict      ` + name + `.* \(process \d+, user daemon\) was refused, slot 0 is locked by openct-tool \(process \d+, user root\)`,
		` disconnected  ` + name + `.* \(process \d+, user daemon\)`,
		` unplugged     ` + name + `.*` + k.node,
	} {
		at := regexp.MustCompile("(?m)^.*" + want + ".*$").FindStringIndex(rest)
		if at == nil {
			t.Errorf("no line %q, or not in its place", want)
			continue
		}
		rest = rest[at[1]:]
	}
	if n := strings.Count(text, " unplugged "); n != 1 {
		t.Errorf("%d lines tell that it was unplugged", n)
	}
	if out := g.sh(t, "grep -v -e ' plugged ' -e ' unplugged ' /run/monitor-none.out || :"); out != "" {
		t.Errorf("a user in no group is told:\n%s", out)
	}
	g.until(t, readyTime, "grep -q '\"event\":\"unplugged\"' /run/monitor-json.out")
	told := m.json(t)
	for _, kind := range []string{"plugged", "ready", "connected", "locked", "conflict", "unplugged"} {
		if told[kind] == nil {
			t.Errorf("monitor --json does not tell %q", kind)
		}
	}
	if holder, _ := told["conflict"]["holder"].(map[string]any); holder["program"] != "openct-tool" || holder["user"] != "root" {
		t.Errorf("holder of the lock with --json: %v", holder)
	}
	g.until(t, readyTime, "test \"$(tail -n 1 /run/monitor-list.out)\" = 'No readers.'")
	for _, unit := range []string{"monitor-text", "monitor-json", "monitor-list"} {
		if out := g.sh(t, "systemctl stop "+unit+"; cat /run/"+unit+".err"); out != "" {
			t.Errorf("%s complains: %s", unit, out)
		}
	}
}

// json is what monitor --json has told, the last event of each kind.
func (m monitors) json(t *testing.T) map[string]map[string]any {
	t.Helper()
	text := m.g.sh(t, "cat /run/monitor-json.out")
	t.Logf("openct-control monitor --json:\n%s", text)
	all := map[string]map[string]any{}
	for line := range strings.Lines(text) {
		var e map[string]any
		if err := json.Unmarshal([]byte(line), &e); err != nil {
			t.Errorf("%v: %s", err, line)
		}
		kind, _ := e["event"].(string)
		if e["time"] == nil || kind == "" {
			t.Errorf("no time or no event: %s", line)
		}
		all[kind] = e
	}
	return all
}
