//go:build vm

package vm

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

// sim is the handler of the serial reader in the guest, started by hand.
const sim = "sim.service"

// serveSerial starts a handler for a phoenix reader and returns the reader's
// number.
func serveSerial(t *testing.T, g *guest) string {
	t.Helper()
	g.sh(t, "systemd-run --quiet --unit="+sim+" -p Type=exec -p User=openctd -p SupplementaryGroups=dialout "+
		"ifdhandler -F phoenix serial /dev/ttyUSB0")
	t.Cleanup(func() { g.try(t, "systemctl stop "+sim+"; systemctl reset-failed "+sim) })
	return g.until(t, readyTime, "openct-control status | awk '/Phoenix reader/ {print $1}' | grep .")
}

// testSerial serves a reader at a USB-serial adapter of the kernel's: a true
// /dev/ttyUSB0, with true modem lines.
func testSerial(t *testing.T, g *guest) {
	g.install(t)
	for _, c := range []struct {
		name, options string
		apdus         [][2]string
	}{
		{"SIM", "--driver phoenix --card sim", [][2]string{
			{"a0a40000022fe2", "9f0f"}, {"a0a40000022fe2 a0b000000a", "989410325476981032f49000"},
		}},
		{"T=1", "--driver phoenix --card echo", [][2]string{{"00ee000800", "00010203040506079000"}}},
		{"inverse convention", "--driver phoenix:inverse --card echo", [][2]string{{"00ee000808", "00010203040506079000"}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			k := g.plug(t, "sim", c.options)
			g.until(t, readyTime, "[ -c /dev/ttyUSB0 ] && grep -q ftdi_sio /proc/tty/drivers /proc/modules && echo there")
			n := serveSerial(t, g)
			if ms := g.sh(t, "cat /sys/bus/usb-serial/devices/ttyUSB0/latency_timer"); ms != "1" {
				t.Errorf("the adapter keeps bytes for %s ms", ms)
			}
			for _, x := range c.apdus {
				out := strings.ToLower(g.sh(t, fmt.Sprintf("openct-tool -r %s apdu %s", n, x[0])))
				if got := strings.NewReplacer(" ", "", ":", "").Replace(out); !strings.HasSuffix(strings.TrimSpace(got), x[1]) {
					t.Errorf("%s: %q, want %s", x[0], out, x[1])
				}
			}
			if out := g.sh(t, "openct-control status"); !strings.Contains(out, "card present") {
				t.Errorf("CTS is low, and no card is seen:\n%s", out)
			}
			k.ctl(t, "unplug")
			g.reaches(t, goneTime, sim, "inactive")
		})
	}
	t.Run("unplug during an APDU", func(t *testing.T) { testSerialUnplug(t, g) })
	t.Run("time", func(t *testing.T) { testSerialTime(t, g) })
}

// testSerialUnplug pulls the adapter under a command, and plugs it in again.
func testSerialUnplug(t *testing.T, g *guest) {
	k := g.plug(t, "sim", "--driver phoenix --card sim")
	g.until(t, readyTime, "[ -c /dev/ttyUSB0 ] && echo there")
	n := serveSerial(t, g)
	g.sh(t, fmt.Sprintf("openct-tool -r %s apdu a0a40000022fe2", n))
	k.ctl(t, "drop on=e02") // the command's first bytes
	res := g.tryFor(t, time.Minute, fmt.Sprintf("timeout 30 openct-tool -r %s apdu a0a40000022fe2", n))
	if res.Exit == 0 || res.Exit == 124 {
		t.Errorf("client's exit code is %d, want a clean error:\n%s%s", res.Exit, res.Stdout, res.Stderr)
	}
	g.reaches(t, goneTime, sim, "inactive")
	if out := g.sh(t, "openct-control status"); out != "" {
		t.Errorf("an entry is left:\n%s", out)
	}

	k.ctl(t, "plug")
	g.until(t, readyTime, "[ -c /dev/ttyUSB0 ] && echo there")
	n = serveSerial(t, g)
	if out := g.sh(t, fmt.Sprintf("openct-tool -r %s apdu a0a40000022fe2", n)); !strings.Contains(strings.ToLower(strings.ReplaceAll(out, " ", "")), "9f0f") {
		t.Errorf("after the replug:\n%s", out)
	}
	k.ctl(t, "unplug")
	g.reaches(t, goneTime, sim, "inactive")
}

// testSerialTime prints what an APDU takes beside the line's own time. The
// adapter gives a byte 12 bits at 9600 bit/s; nothing can be faster.
func testSerialTime(t *testing.T, g *guest) {
	const (
		apdus = 8
		bytes = 5 + 1 + 255 + 2 // header, procedure byte, data, status word
		line  = apdus * bytes * 12 * time.Second / 9600
	)
	k := g.plug(t, "sim", "--driver phoenix:t0 --card echo")
	g.until(t, readyTime, "[ -c /dev/ttyUSB0 ] && echo there")
	n := serveSerial(t, g)
	took := func(apdus int) time.Duration {
		var start, end float64
		out := g.sh(t, fmt.Sprintf("read a _ </proc/uptime; openct-tool -r %s apdu %s >/dev/null; read b _ </proc/uptime; echo $a $b",
			n, strings.Repeat("00ee00ffff ", apdus)))
		if _, err := fmt.Sscan(out, &start, &end); err != nil {
			t.Fatalf("%q: %v", out, err)
		}
		return time.Duration((end - start) * float64(time.Second))
	}
	alone := took(1)
	more := took(1+apdus) - alone
	fmt.Printf("e2e: serial: %d APDUs of %d bytes in %v; the line needs %v (%.0f %%)\n", apdus, bytes, more, line, 100*float64(more)/float64(line))
	if more < line*95/100 {
		t.Errorf("%v is less than the line's own time %v", more, line)
	}
	k.ctl(t, "unplug")
	g.reaches(t, goneTime, sim, "inactive")
}
