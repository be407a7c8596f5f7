//go:build vm && go1.25

package vm

import (
	"fmt"
	"regexp"
	"strings"
	"testing"
	"testing/synctest"

	"openct/internal/verify"
	"openct/internal/verify/verifytest"
)

// testVerify has a token, a CCID reader and a serial reader checked as their owners
// would: the unit is stopped for it and served again afterwards.
func testVerify(t *testing.T, g *guest) {
	g.install(t)
	g.configure(t, "ccid = on;")
	for _, tt := range []struct{ name, options string }{
		{"eToken", "--card piv"},
		{"CCID", "--driver ccid:P2 --card piv"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			k := g.plug(t, "verify", tt.options)
			reader := k.served(t)
			report := "/run/verify-" + tt.name
			out := g.sh(t, fmt.Sprintf("rm -f %s; openct-control verify %d -o %s", report, reader, report))
			t.Log("\n" + out)
			if strings.Contains(out, "wrong") || !strings.Contains(out, "ok") {
				t.Error("not all is well")
			}
			if serial := g.sh(t, "cat /sys/bus/usb/devices/"+k.busid+"/serial || :"); serial != "" {
				g.sh(t, fmt.Sprintf("! grep -qi '%s' %s", serial, report))
			}
			g.playReport(t, report)
			k.served(t)
			k.works(t, k.reader(t))
			k.ctl(t, "unplug")
			k.inactive(t)
		})
	}
	t.Run("phoenix", func(t *testing.T) {
		g.plug(t, "verify", "--driver phoenix --card sim")
		g.until(t, readyTime, "test -c /dev/ttyUSB0")
		const report = "/run/verify-phoenix"
		out := g.sh(t, "rm -f "+report+"; openct-control verify phoenix serial /dev/ttyUSB0 -o "+report)
		t.Log("\n" + out)
		if strings.Contains(out, "wrong") || !strings.Contains(out, "10 of 10") {
			t.Error("not all is well")
		}
		g.playReport(t, report)
	})
	t.Run("misbehaving", func(t *testing.T) {
		k := g.plug(t, "verify", "--card piv")
		reader := k.served(t)
		k.ctl(t, "stall times=-1 on=c86") // every answer to a block
		const report = "/run/verify-misbehaving"
		res := g.try(t, fmt.Sprintf("rm -f %s; openct-control verify %d -o %s", report, reader, report))
		if out := res.Stdout; res.Exit == 0 || !strings.Contains(out, "wrong  short ") {
			t.Errorf("exit status %d, said %q", res.Exit, out)
		}
		g.sh(t, "grep -q 'IN  C0 86 .* STALL' "+report)
		g.playReport(t, report)
		k.ctl(t, "heal")
		k.ctl(t, "unplug")
		k.inactive(t)
	})
	t.Run("unplug", func(t *testing.T) {
		k := g.plug(t, "verify", "--card echo")
		reader := k.served(t)
		g.sh(t, fmt.Sprintf("rm -f /run/verify-unplug; systemd-run --quiet --unit=verify -p StandardOutput=file:/run/verify.out -p StandardError=file:/run/verify.err "+
			"-p RemainAfterExit=yes openct-control verify %d --unplug -o /run/verify-unplug", reader))
		t.Cleanup(func() { g.try(t, "systemctl stop verify; systemctl reset-failed verify") })
		g.until(t, readyTime, "grep -qi 'unplug the device' /run/verify.out /run/verify.err")
		k.ctl(t, "unplug")
		g.until(t, readyTime, "grep -qi 'plug the device in again' /run/verify.out /run/verify.err")
		k.ctl(t, "plug")
		out := g.until(t, readyTime, "grep -hi 'the handler ended' /run/verify.out /run/verify-unplug")
		t.Log(out)
		if !regexp.MustCompile(`ended \d+ ms after the unplug; the next one was ready \d+ ms after the plug`).MatchString(out) {
			t.Errorf("said %q", out)
		}
		k.served(t)
		k.ctl(t, "unplug")
		k.inactive(t)
	})
}

// playReport plays the report of a device in the machine against its driver, as the
// test does that is made of it.
func (g *guest) playReport(t *testing.T, file string) {
	t.Helper()
	text := g.sh(t, "cat "+file) + "\n"
	r, err := verify.Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	synctest.Test(t, func(t *testing.T) { verifytest.Replay(t, r) })
}
