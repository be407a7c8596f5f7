//go:build vm

package vm

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"
)

// What the case has in the guest: ser2net is the terminal server, with the
// reader's adapter.
const (
	lineUnit   = "openct-line@desk.service"
	deskUnit   = "openct-reader@desk.service"
	serverUnit = "terminal-server.service"
	deskDevice = "/run/openct-line/desk"
)

// terminalServer has ser2net serve /dev/ttyUSB0 with fixed settings.
func terminalServer(t *testing.T, g *guest, settings string) {
	t.Helper()
	g.put(t, "/run/ser2net.yaml", 0o644, fmt.Sprintf(`connection: &desk
  accepter: tcp,192.0.2.7,2000
  connector: serialdev,/dev/ttyUSB0,%s,local
`, settings))
	g.sh(t, "systemd-run --quiet --collect --unit="+serverUnit+" ser2net -n -c /run/ser2net.yaml")
}

// testTerminalServer serves readers whose serial line is at a terminal server, by
// the example of a unit that OpenCT brings.
func testTerminalServer(t *testing.T, g *guest) {
	g.installAll(t)
	example, err := os.ReadFile("../../packaging/systemd/openct-line@.service")
	if err != nil {
		t.Fatal(err)
	}
	g.put(t, "/etc/systemd/system/openct-line@.service", 0o644, string(example))
	// ser2net finds no address on a machine that has no other than 127.0.0.1.
	g.sh(t, "busybox ip addr add 192.0.2.7/32 dev lo")
	t.Cleanup(func() { g.sh(t, "busybox ip addr del 192.0.2.7/32 dev lo") })
	g.put(t, "/etc/default/openct-line-desk", 0o644, "SERVER=192.0.2.7:2000\n")
	t.Cleanup(func() {
		g.sh(t, "systemctl disable --now "+lineUnit+"; systemctl stop "+serverUnit+
			"; rm -f /etc/systemd/system/openct-line@.service /etc/default/openct-line-desk /run/ser2net.yaml; rm -rf /run/openct-line; systemctl daemon-reload")
	})
	for _, r := range []struct{ driver, options, settings string }{
		{"kaan", "kaan --card echo", "9600E81"},
		{"towitoko", "towitoko --card echo", "9600E82"},
	} {
		t.Run(r.driver, func(t *testing.T) {
			t.Cleanup(func() {
				g.sh(t, "systemctl disable --now "+lineUnit+"; systemctl stop "+serverUnit+" || :")
				g.reaches(t, goneTime, deskUnit, "inactive")
			})
			g.plug(t, "far", "--driver "+r.options)
			g.until(t, readyTime, "[ -c /dev/ttyUSB0 ] && echo there")
			g.restartWith(t, "reader desk { driver = "+r.driver+"; device = serial:"+deskDevice+"; };\n")
			terminalServer(t, g, r.settings)
			g.sh(t, "systemctl enable --now "+lineUnit)
			g.deskWorks(t)
			if r.driver == "towitoko" {
				testLineCut(t, g)
			}
		})
	}
}

// deskWorks has the card in the reader answer.
func (g *guest) deskWorks(t *testing.T) {
	t.Helper()
	n := g.readerAt(t, deskUnit)
	if out := g.sh(t, fmt.Sprintf("openct-tool -r %d apdu 00ee000800", n)); !strings.HasSuffix(strings.TrimSpace(out), "00010203040506079000") {
		t.Errorf("%q", out)
	}
}

// testLineCut has the terminal server and OpenCT come and go.
func testLineCut(t *testing.T, g *guest) {
	t.Run("terminal server restarts", func(t *testing.T) {
		g.sh(t, "systemctl stop "+serverUnit)
		g.reaches(t, goneTime, deskUnit, "inactive")
		if out := g.sh(t, "openct-control status 2>&1 >/dev/null"); !strings.Contains(out, "waits for its device: "+deskDevice+" does not exist") {
			t.Errorf("status says %q", out)
		}
		terminalServer(t, g, "9600E82")
		g.deskWorks(t)
	})
	t.Run("terminal server ends while a client is at work", func(t *testing.T) {
		n := g.readerAt(t, deskUnit)
		res := g.tryFor(t, time.Minute, fmt.Sprintf("timeout 50 sh -c 'while openct-tool -r %d apdu 00ee00ff00 00ee00ff00; do :; done' & systemctl stop %s; wait $!", n, serverUnit))
		if res.Exit == 124 {
			t.Errorf("the client waits:\n%s%s", res.Stdout, res.Stderr)
		}
		g.reaches(t, goneTime, deskUnit, "inactive")
		terminalServer(t, g, "9600E82")
		g.deskWorks(t)
	})
	t.Run("stop and start of openct.service", func(t *testing.T) {
		g.sh(t, "systemctl stop openct")
		g.reaches(t, goneTime, deskUnit, "inactive")
		g.reaches(t, goneTime, lineUnit, "inactive")
		g.sh(t, "systemctl start openct")
		g.deskWorks(t)
	})
}
