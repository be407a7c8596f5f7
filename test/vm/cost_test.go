//go:build vm

package vm

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"
)

// cost is the measuring program.
const cost = "/run/e2e/cost"

// costs are what an APDU may cost a handler: calls to the system (see countCalls), and switches of
// its threads when they wait. A transfer is three calls (usbfs.Node: submit, sleep,
// take back), the request and its reply are one each, and up to four are those of Go's
// poller before the next request: 11 for two transfers, 59 for eighteen. A transfer that
// takes longer than 20 ms, as on a busy machine, is six. The limits leave room for a
// quarter of such transfers; they are below what any other way to wait would cost.
var costs = []struct {
	name, options string
	apdu          string
	calls, swaps  float64 // at most
}{
	{"eToken", "", "5:2", 15, 8},
	{"eToken", "", "5:258", 75, 40},
	{"CCID short APDU", "--driver ccid:P3", "5:2", 15, 8},
	{"CCID T=1 TPDU", "--driver ccid:P2", "5:2", 15, 8},
	{"CCID T=1 TPDU", "--driver ccid:P2", "5:258", 26, 14},
	{"CCID T=1 TPDU", "--driver ccid:P2", "260:2", 22, 12},
}

// fewestCalls are those of two transfers, and the request's and the reply's.
const fewestCalls = 8

// An idle handler has about 1 MB of memory that it shares with no other process: Go's heap
// and stacks. A position-independent executable would add 0.7 MB of relocated pointers
// (Makefile, GO_LDFLAGS), huge pages 7 MB (cmd/openct/footprint.go). In kB; less than
// the least cannot be.
const leastOwn, mostOwn = 300, 1500

// countCalls is the environment variable that has calls counted as well. To count them
// the kernel changes its own code while it runs, and under QEMU's software emulation
// with two processors it hung at that in three runs of six. Each thread switch is a
// transfer's or a client's too, and usbfs's own tests count a transfer's calls.
const countCalls = "OPENCT_E2E_CALLS"

// testCost prints what it costs to serve a token, and asserts what can be counted.
func testCost(t *testing.T, g *guest) {
	g.install(t)
	g.configure(t, "ccid = on;")
	if pages := g.sh(t, "cat /sys/kernel/mm/transparent_hugepage/enabled"); strings.Contains(pages, "[never]") {
		t.Errorf("not this kernel's own setting: transparent_hugepage %s", pages)
	}
	var k *token
	var plugged string
	reader, pid := 0, ""
	pull := func() {
		if k != nil {
			k.ctl(t, "unplug")
			k.inactive(t)
			g.sh(t, "systemctl stop vtoken-"+k.name)
		}
	}
	for i, c := range costs {
		if k == nil || plugged != c.options {
			pull()
			k, plugged = g.plug(t, fmt.Sprintf("cost-%d", i), "--card echo "+c.options), c.options
			reader = k.served(t)
			pid = g.sh(t, "systemctl show -P MainPID "+k.unit())
			t.Logf("%s: %s; idle %s", c.name, k.readyAfterPlug(t), g.memory(t, pid))
			if kB := g.own(t, pid); kB < leastOwn || kB > mostOwn {
				t.Errorf("an idle handler has %d kB of memory for itself, want %d to %d", kB, leastOwn, mostOwn)
			}
		}
		t.Run(c.name+" "+strings.Replace(c.apdu, ":", " to ", 1), func(t *testing.T) {
			run := fmt.Sprintf("%s load -reader %d -pid %s -apdu %s", cost, reader, pid, c.apdu)
			one := g.measure(t, run)
			t.Logf("%.1f switches, %.2f ms CPU an APDU; %.0f APDUs per second (4 clients: %.0f, 16: %.0f); %s",
				one.Switches, one.CPU, one.PerSecond,
				g.measure(t, run+" -clients 4").PerSecond, g.measure(t, run+" -clients 16").PerSecond, g.memory(t, pid))
			if one.Switches > c.swaps {
				t.Errorf("%.1f thread switches an APDU, want at most %.0f", one.Switches, c.swaps)
			}
			if os.Getenv(countCalls) == "" {
				return
			}
			traced := g.measure(t, run+" -seconds 4 -calls")
			t.Logf("%.1f calls an APDU: %s", traced.Calls, traced.names())
			if traced.Calls < fewestCalls {
				t.Errorf("%.1f system calls an APDU: the count is wrong", traced.Calls)
			}
			if traced.Calls > c.calls {
				t.Errorf("%.1f system calls an APDU, want at most %.0f", traced.Calls, c.calls)
			}
		})
	}
	pull()

	// The same transfers and nothing else; then, by hand.
	g.sh(t, "udevadm control --stop-exec-queue")
	defer g.try(t, "udevadm control --start-exec-queue")
	for i, c := range costs {
		name := "etoken64"
		if strings.Contains(c.options, "ccid") {
			name = "ccid"
		}
		bare := g.plug(t, fmt.Sprintf("bare-%d", i), "--card echo "+c.options)
		run := fmt.Sprintf("%s bare -node %s -driver %s -apdu %s", cost, bare.node, name, c.apdu)
		m := g.measure(t, run)
		t.Logf("bare %s %s: %.1f calls, %.1f switches, %.2f ms CPU an APDU; %.0f APDUs per second", c.name, c.apdu, m.Calls, m.Switches, m.CPU, m.PerSecond)
		m = g.measure(t, run+" -clients 1")
		t.Logf("bare, for clients: %.1f switches, %.2f ms CPU an APDU; %.0f APDUs per second (4 clients: %.0f, 16: %.0f)",
			m.Switches, m.CPU, m.PerSecond, g.measure(t, run+" -clients 4").PerSecond, g.measure(t, run+" -clients 16").PerSecond)
		g.sh(t, "systemctl stop vtoken-"+bare.name)
	}
	hand := g.plug(t, "hand", "")
	hand.ctl(t, "unplug")
	t.Log("by hand: " + g.sh(t, fmt.Sprintf("%s cycle -control %s", cost, hand.control())))
}

// measured is what cost prints.
type measured struct {
	APDUs     float64 `json:"apdus"`
	PerSecond float64 `json:"per_second"`
	CPU       float64 `json:"cpu_ms"`
	Switches  float64 `json:"switches"`
	Calls     float64 `json:"calls"`

	ByName  map[string]float64 `json:"by_name"`
	Monitor float64            `json:"monitor"`
}

func (g *guest) measure(t testing.TB, command string) (m measured) {
	t.Helper()
	out := g.sh(t, command)
	if err := json.Unmarshal([]byte(out), &m); err != nil {
		t.Fatalf("%s: %q: %v", command, out, err)
	}
	return m
}

// own is the process's anonymous memory in kB (proc(5), RssAnon of status).
func (g *guest) own(t testing.TB, pid string) (kB int) {
	t.Helper()
	out := g.sh(t, fmt.Sprintf("grep ^RssAnon: /proc/%s/status", pid))
	if _, err := fmt.Sscanf(out, "RssAnon: %d kB", &kB); err != nil {
		t.Fatalf("%q: %v", out, err)
	}
	return kB
}

func (g *guest) memory(t testing.TB, pid string) string {
	t.Helper()
	return strings.Join(strings.Fields(g.sh(t, fmt.Sprintf("grep -hE '^(VmRSS|RssAnon|AnonHugePages)' /proc/%[1]s/status /proc/%[1]s/smaps_rollup", pid))), " ")
}

// names tells the calls that are made at least every 20th APDU.
func (m measured) names() string {
	var all []string
	for _, name := range slices.Sorted(maps.Keys(m.ByName)) {
		if m.ByName[name] >= 0.05 {
			all = append(all, fmt.Sprintf("%s %.2f", name, m.ByName[name]))
		}
	}
	return fmt.Sprintf("%s; and Go's monitor thread %.2f", strings.Join(all, ", "), m.Monitor)
}
