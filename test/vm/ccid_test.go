//go:build vm

package vm

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// testCCID serves readers of the smart card class. pcscd of this release
// does not know that it is to leave them alone, and rests meanwhile.
func testCCID(t *testing.T, g *guest) {
	g.installAll(t)
	g.sh(t, "systemctl stop pcscd.socket pcscd.service")
	t.Cleanup(func() { g.sh(t, "systemctl start pcscd.socket") })
	g.configure(t, "ccid = on;")

	t.Run("QEMU's reader and card", func(t *testing.T) { testQEMUReader(t, g) })
	for _, level := range []struct {
		name, profile string
		extended      bool
	}{
		{"TPDU level", "P2", true},
		{"short APDU level", "P3", false},
		{"extended APDU level", "P4", true},
	} {
		t.Run(level.name, func(t *testing.T) {
			k := g.plug(t, "level", "--driver ccid:"+level.profile+" --card piv")
			n := k.served(t)
			k.works(t, n)
			pivSigns(t, g, n, level.extended)
			t.Run("pkcs11-tool", func(t *testing.T) { throughBridge(t, g, n) })
			k.ctl(t, "unplug")
			k.gone(t, n)
		})
	}
	t.Run("beside libccid", func(t *testing.T) { testBesideLibccid(t, g) })
}

// testQEMUReader is about a reader and a card that others wrote: QEMU's
// usb-ccid, and libcacard's CAC card with three certificates in it.
func testQEMUReader(t *testing.T, g *guest) {
	if err := g.machine.AddUSB("usb-ccid", "reader", nil); err != nil {
		t.Fatal(err)
	}
	pulled := false
	defer func() {
		if !pulled {
			g.machine.RemoveUSB("reader")
		}
	}()
	at := g.until(t, readyTime, "lsusb -d 08e6:4433")
	var bus, device string
	if _, err := fmt.Sscanf(at, "Bus %3s Device %3s", &bus, &device); err != nil {
		t.Fatalf("lsusb: %q: %v", at, err)
	}
	k := &token{g: g, node: "/dev/bus/usb/" + bus + "/" + device, instance: bus + "-" + device}
	n := k.served(t)
	if out := g.sh(t, "openct-control status"); strings.Contains(out, "card present") {
		t.Errorf("a card in the empty reader:\n%s", out)
	}

	db := "sql:" + cardDatabase(t)
	if _, err := g.machine.QMP("device_add", map[string]any{
		"driver": "ccid-card-emulated", "id": "card", "bus": "reader.0", "backend": "certificates",
		"db": db, "cert1": "one", "cert2": "two", "cert3": "three",
	}); err != nil {
		t.Fatal(err)
	}
	g.until(t, readyTime, "openct-control status | grep 'card present'")
	k.works(t, n)
	// the PKI applet of the CAC's general container
	out := g.sh(t, fmt.Sprintf("openct-tool -r %d apdu 00A4040007A0000000790100", n))
	if sw := out[strings.LastIndex(out, "\n")+1:]; len(sw) < 4 || (sw[len(sw)-4:] != "9000" && !strings.HasPrefix(sw, "61")) {
		t.Errorf("SELECT of the CAC's container:\n%s", out)
	}
	t.Log("\n" + g.sh(t, fmt.Sprintf("openct-control status; openct-tool -r %d atr", n)))

	pulled = true
	if err := g.machine.RemoveUSB("reader"); err != nil {
		t.Fatal(err)
	}
	k.gone(t, n)
}

// cardDatabase makes the certificates that libcacard makes a card of.
func cardDatabase(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	noise := filepath.Join(dir, "noise")
	if err := os.WriteFile(noise, []byte(strings.Repeat("noise", 100)), 0o600); err != nil {
		t.Fatal(err)
	}
	certutil := func(args ...string) {
		if out, err := exec.Command("certutil", append(args, "-d", "sql:"+dir)...).CombinedOutput(); err != nil {
			t.Fatalf("certutil (apt-get install libnss3-tools): %v\n%s", err, out)
		}
	}
	certutil("-N", "--empty-password")
	for _, name := range []string{"one", "two", "three"} {
		certutil("-S", "-s", "CN="+name, "-n", name, "-x", "-t", "CT,CT,CT", "-z", noise)
	}
	return dir
}

// throughBridge signs with OpenSC through pcscd, which an entry in its
// configuration leads to our reader. pcscd's own driver finds the interface
// taken.
func throughBridge(t *testing.T, g *guest, reader int) {
	// The package's example; the image has no documentation.
	g.sh(t, fmt.Sprintf("dpkg-deb --fsys-tarfile /run/e2e/debs/openct-pcsc_*.deb | tar -xO --wildcards '*/openct.reader.conf' |"+
		" sed 's/openct:0/openct:%d/' >/etc/reader.conf.d/openct && systemctl start pcscd.socket", reader))
	defer g.sh(t, "systemctl stop pcscd.socket pcscd.service; rm /etc/reader.conf.d/openct")
	g.until(t, readyTime, "opensc-tool -n 2>&1 | grep Personal")
	list := g.sh(t, "opensc-tool -l")
	if strings.Count(list, " Yes ") != 1 || !strings.Contains(list, "OpenCT") {
		t.Errorf("opensc-tool -l:\n%s", list)
	}
	g.signsRSA(t)
}

// testBesideLibccid prints what the same virtual reader takes, served by us and
// by pcscd with libccid: from the plug until a program has its first answer, an
// APDU, and how often the idle process wakes up. openct.conf asks for readers of
// the class, and a udev rule leaves theirs alone, which has the ids of a reader
// that libccid lists.
func testBesideLibccid(t *testing.T, g *guest) {
	const rounds = 50
	g.compile(t, "apdutime", "../../compat/test/bench.c", "-DHAVE_PCSC", "-I/usr/include/PCSC", "-lpcsclite")
	g.configure(t, "ccid = on;")
	const rules = "/etc/udev/rules.d/59-openct.rules"
	g.put(t, rules, 0o644, `ATTR{idVendor}=="20a0", ATTR{idProduct}=="4108", ENV{OPENCT_DRIVER}="none"`+"\n")
	g.sh(t, "udevadm control --reload")
	defer g.sh(t, "rm "+rules+" && udevadm control --reload")
	g.sh(t, "systemd-run --quiet --collect --unit=libccid pcscd --foreground")
	defer g.sh(t, "systemctl stop libccid")
	ours := g.plug(t, "ours", "--driver ccid:P4 --card echo")
	reader := ours.served(t)
	theirs := g.plug(t, "theirs", "--driver ccid:P4 --card echo --id 20a0:4108")
	name := g.until(t, readyTime, "opensc-tool -l | sed -n 's/^0 *Yes *//p' | grep .")

	sides := []struct {
		who   string
		k     *token
		bench string // apdutime's arguments for the reader
		pid   string // who serves it
		table []string
	}{
		{who: "openct", k: ours, bench: fmt.Sprint(reader)},
		{who: "pcscd and libccid: " + name, k: theirs, bench: "-p '" + name + "'"},
	}
	for i := range sides {
		s := &sides[i]
		answers := "/run/apdutime -n 1 " + s.bench
		g.until(t, readyTime, answers)
		s.k.ctl(t, "unplug")
		g.until(t, goneTime, "! "+answers+" 2>&1")
		ms := g.sh(t, fmt.Sprintf(`begin=$(date +%%s%%3N); %s ctl %s plug >/run/plug.log
until %s >/run/usable.log 2>&1; do [ $(date +%%s%%3N) -lt $((begin + 120000)) ] || { cat /run/usable.log; exit 1; }; done
echo $(($(date +%%s%%3N) - begin))`, vtoken, s.k.control(), answers))
		s.table = append([]string{"usable " + ms + " ms after the plug"},
			strings.Split(g.sh(t, fmt.Sprintf("/run/apdutime -n %d %s", rounds, s.bench)), "\n")...)
	}
	ours.plugged(t)
	sides[0].pid = g.sh(t, "systemctl show -P MainPID "+ours.unit())
	sides[1].pid = g.sh(t, "systemctl show -P MainPID libccid")
	wakeups := g.wakeups(t, sides[0].pid, sides[1].pid)
	var text strings.Builder
	for i, s := range sides {
		fmt.Fprintf(&text, "%s\n  %s\n  %d wakeups in 60 s without a client\n", s.who, strings.Join(s.table, "\n  "), wakeups[i])
	}
	t.Logf("the same reader, in this machine:\n%s", &text)
	theirs.ctl(t, "unplug")
	ours.ctl(t, "unplug")
	ours.gone(t, reader)
}
