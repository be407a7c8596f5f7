//go:build vm

package vm

import (
	"context"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"
)

// readyTime is how long a token may take from the plug until it is served, and
// goneTime how long it may take from the pull until nothing is left of it.
// Both are far above what it takes under software emulation on a busy machine;
// what the times really are is printed by the cases, not asserted.
const (
	readyTime = 2 * time.Minute
	goneTime  = time.Minute
)

// token is a virtual token in the guest: a unit of its own that runs
// openct-vtoken.
type token struct {
	g    *guest
	name string

	// Of the present plug.
	node     string // /dev/bus/usb/003/002
	instance string // 003-002
	busid    string // 3-1, the physical port
	port     int    // of the virtual host controller
}

// vtoken is the program out of the package under test; it is there whether or
// not the package is installed.
const vtoken = "/run/e2e/under-test/usr/sbin/openct-vtoken"

// plug plugs a token and waits until the kernel has it. It is pulled at the end
// of the case. options are openct-vtoken's; without any it is an eToken with a
// card that needs no keys, which take seconds to make.
func (g *guest) plug(t testing.TB, name, options string) *token {
	t.Helper()
	if options == "" {
		options = "--card echo"
	}
	k := &token{g: g, name: name}
	g.sh(t, fmt.Sprintf("modprobe vhci-hcd && systemd-run --quiet --collect --unit=vtoken-%s %s plug --control %s %s",
		name, vtoken, k.control(), options))
	t.Cleanup(func() { g.try(t, "systemctl stop vtoken-"+name) })
	k.plugged(t)
	return k
}

func (k *token) control() string { return "/run/vtoken-" + k.name }

// plugged waits until the kernel has the token, and takes down where.
func (k *token) plugged(t testing.TB) {
	t.Helper()
	if err := k.parse(k.g.until(t, readyTime, fmt.Sprintf("%s ctl %s status | grep '^{'", vtoken, k.control()))); err != nil {
		t.Fatal(err)
	}
}

// parse takes down what openct-vtoken tells of a plugged token.
func (k *token) parse(line string) error {
	var status struct {
		Port           int
		BusID, Devnode string
	}
	if err := json.Unmarshal([]byte(line), &status); err != nil {
		return fmt.Errorf("openct-vtoken said %q: %w", line, err)
	}
	k.node, k.busid, k.port = status.Devnode, status.BusID, status.Port
	k.instance = strings.ReplaceAll(strings.TrimPrefix(k.node, "/dev/bus/usb/"), "/", "-")
	return nil
}

// ctl gives the token an order, one of openct-vtoken's. After "plug" it is
// known where the token is now.
func (k *token) ctl(t testing.TB, order string) {
	t.Helper()
	if err := k.order(order); err != nil {
		t.Fatal(err)
	}
}

func (k *token) order(order string) error {
	answer, err := k.g.client.Line(context.Background(), k.control(), order, scriptTime)
	if err != nil {
		return fmt.Errorf("%s: %s: %w", k.name, order, err)
	}
	text, ok := strings.CutPrefix(answer, "ok")
	if !ok {
		return fmt.Errorf("%s: %s: %s", k.name, order, answer)
	}
	if order == "plug" {
		return k.parse(strings.TrimSpace(text))
	}
	return nil
}

// unit is the token's handler.
func (k *token) unit() string { return "openct-handler@" + k.instance + ".service" }

// served waits until the token's unit is active, and returns the reader's
// number.
func (k *token) served(t testing.TB) int {
	t.Helper()
	k.g.reaches(t, readyTime, k.unit(), "active")
	return k.reader(t)
}

// reader is the number of the token's reader in the status file.
func (k *token) reader(t testing.TB) int {
	t.Helper()
	out := k.g.sh(t, "openct-control status --json")
	var readers []struct {
		Reader int
		Detail struct{ Device string }
	}
	if err := json.Unmarshal([]byte(out), &readers); err != nil {
		t.Fatalf("status --json: %v\n%s", err, out)
	}
	for _, r := range readers {
		if r.Detail.Device == k.node {
			return r.Reader
		}
	}
	t.Fatalf("status has no reader at %s:\n%s", k.node, out)
	return -1
}

// works has the card answer.
func (k *token) works(t testing.TB, reader int) {
	t.Helper()
	out := k.g.sh(t, fmt.Sprintf("openct-tool -r %d atr", reader))
	if !strings.Contains(out, "ATR: 3b") {
		t.Errorf("openct-tool atr:\n%s", out)
	}
}

// gone waits until nothing is left of a reader, which was this token: its unit
// is inactive, not failed, its entry free, its socket away.
func (k *token) gone(t testing.TB, reader int) {
	t.Helper()
	k.inactive(t)
	left := k.g.sh(t, fmt.Sprintf(`ls -A /run/openct | grep -E '^\.?%d(\.json)?$'; openct-control status | grep -E '^ +%[1]d '; :`, reader))
	if left != "" {
		t.Errorf("left in /run/openct and in the status file:\n%s", left)
	}
}

// inactive waits until the token's unit is.
func (k *token) inactive(t testing.TB) {
	t.Helper()
	k.g.reaches(t, goneTime, k.unit(), "inactive")
}

// readyAfterPlug is how long it took by the guest's own clock.
func (k *token) readyAfterPlug(t testing.TB) string {
	t.Helper()
	us := func(unit string) int64 {
		v, err := strconv.ParseInt(k.g.sh(t, "systemctl show -P ActiveEnterTimestampMonotonic "+unit), 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
	dev := "dev-bus-usb-" + k.instance + ".device"
	return fmt.Sprintf("%d ms from udev's record to READY", (us(k.unit())-us(dev))/1000)
}

// inactiveAfterPull is how long it took by the guest's own clock, from the
// kernel's message to systemd's.
func (k *token) inactiveAfterPull(t testing.TB) string {
	t.Helper()
	lines := k.g.sh(t, fmt.Sprintf("journalctl --boot --output=short-monotonic | grep -E 'usb %s: USB disconnect|%s: Deactivated' | tail -n 2",
		k.busid, k.unit()))
	var pulled, inactive float64
	if _, err := fmt.Sscanf(strings.ReplaceAll(lines, "[", " "), "%f", &pulled); err != nil {
		t.Fatalf("%q: %v", lines, err)
	}
	_, second, _ := strings.Cut(lines, "\n")
	if _, err := fmt.Sscanf(strings.ReplaceAll(second, "[", " "), "%f", &inactive); err != nil {
		t.Fatalf("%q: %v", lines, err)
	}
	return fmt.Sprintf("%.0f ms from the kernel's disconnect to inactive", (inactive-pulled)*1000)
}

// install installs the packages under test, if they are not, and has it checked
// at the end of the case that nothing is left.
func (g *guest) install(t testing.TB) {
	t.Helper()
	if res := g.tryFor(t, 5*time.Minute, "dpkg-query -W openct >/dev/null 2>&1 || "+aptInstall); res.Exit != 0 {
		t.Fatalf("apt-get install:\n%s%s", res.Stdout, res.Stderr)
	}
	t.Cleanup(func() { g.clean(t) })
}

const aptInstall = "DEBIAN_FRONTEND=noninteractive apt-get -qq -y --no-install-recommends install /run/e2e/debs/openct_*.deb"

// clean checks that no token is served any more, and that nothing says so.
func (g *guest) clean(t testing.TB) {
	t.Helper()
	res := g.try(t, `fail=0
list() { systemctl list-units --all --plain --no-legend 'openct-handler@*' 'openct-reader@*'; }
end=$(($(date +%s) + 60))
while list | grep -q . && [ $(date +%s) -lt $end ]; do sleep 0.2; done
list | grep . && { echo "handler units are left"; fail=1; }
ps -eo pid,comm,args | awk '$2 ~ /^(openct-control|ifdhandler)$/ {print; n=1} END {exit !n}' && { echo "handlers are left"; fail=1; }
systemctl --failed --plain --no-legend | grep . && { echo "failed units are left"; systemctl reset-failed; fail=1; }
if [ -d /run/openct ]; then
	find /run/openct -name '[0-9]*' -o -name '.[0-9]*' | grep . && { echo "sockets are left"; fail=1; }
	[ ! -e /run/openct/status ] || openct-control status | grep . && { echo "entries are left"; fail=1; }
fi
exit $fail`)
	if res.Exit != 0 {
		t.Errorf("leftovers:\n%s%s", res.Stdout, res.Stderr)
	}
}
