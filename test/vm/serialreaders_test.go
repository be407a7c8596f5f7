//go:build vm

package vm

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

// serialReader is a reader at a serial line, as it stands in openct.conf, and
// how openct-vtoken makes its virtual counterpart.
type serialReader struct {
	name, driver string // of the statement
	model        string
	keypad       bool // the PIN is typed on it
	memory       string
}

// serialReaders are the readers at a serial line that no other case has. Their
// bytes take no time: what they take is in the case "serial".
var serialReaders = []serialReader{
	{name: "kaan", driver: "kaan", model: "kaan:instant", keypad: true, memory: "sle4432"},
	{name: "b1", driver: "b1", model: "b1:instant", keypad: true, memory: "24c02"},
	{name: "gempc", driver: "gempc", model: "gempc:instant"},
	{name: "smartboard", driver: "smartboard", model: "smartboard:instant"},
	{name: "perto", driver: "pertosmart1030", model: "pertosmart1030:serial,instant"},
	{name: "smartmouse", driver: "smartmouse", model: "smartmouse:instant"},
}

func (r serialReader) unit() string { return "openct-reader@" + r.name + ".service" }

// plug plugs the reader's adapter in, which udev names by its serial number, and
// returns the reader's number.
func (r serialReader) plug(t *testing.T, g *guest, card string) (*token, int) {
	t.Helper()
	k := g.plug(t, r.name+"-"+card, fmt.Sprintf("--driver %s --card %s --serial %s", r.model, card, r.name))
	return k, g.readerAt(t, r.unit())
}

// testSerialReaders serves each of these readers by its unit. All stand in
// openct.conf from the begin.
func testSerialReaders(t *testing.T, g *guest) {
	g.installAll(t)
	g.compile(t, "ctapimem", "testdata/ctapimem.c", "-lopenctapi")
	g.compile(t, "ctsequence", "../../compat/test/ctsequence.c", "-lopenctapi")
	g.sh(t, "systemctl stop pcscd.socket pcscd.service")
	t.Cleanup(func() { g.sh(t, "systemctl start pcscd.socket") })
	var conf strings.Builder
	for _, r := range serialReaders {
		fmt.Fprintf(&conf, "reader %s { driver = %s; device = serial:/dev/serial/by-id/usb-FTDI_FT232_Serial_%[1]s-if00-port0; };\n", r.name, r.driver)
	}
	g.restartWith(t, conf.String()+"ccid = on;\n")

	for _, r := range serialReaders {
		t.Run(r.name, func(t *testing.T) {
			begin := time.Now()
			k, n := r.plug(t, g, "piv")
			k.works(t, n)
			pcscSigns(t, g, n, r.keypad)
			if r.keypad {
				t.Run("CT-API", func(t *testing.T) { ctapiKeypad(t, g, n) })
			}
			t.Run("card pulled", func(t *testing.T) { cardPulled(t, g, k, n) })
			t.Run("adapter pulled", func(t *testing.T) { adapterPulled(t, g, k, n, r.unit()) })
			g.sh(t, "systemctl stop vtoken-"+k.name)
			if r.memory != "" {
				t.Run("memory card", func(t *testing.T) { r.memoryCard(t, g) })
			}
			t.Logf("%.0f s", time.Since(begin).Seconds())
		})
	}
	// The case "tokens" signs with a cyberJack.
	for _, r := range []struct {
		name, model string
		pin         func(*testing.T, *guest, int)
	}{
		{"cyberjack", "cyberjack", ctapiKeypad},
		{"CCID reader with a keypad", "ccid:P11", func(t *testing.T, g *guest, n int) { pcscSigns(t, g, n, true) }},
	} {
		t.Run(r.name, func(t *testing.T) {
			k := g.plug(t, "keypad", "--driver "+r.model+" --card piv")
			n := k.served(t)
			r.pin(t, g, n)
			k.ctl(t, "unplug")
			k.gone(t, n)
		})
	}
}

// pcscSigns signs with OpenSC through pcscd and the bundle. At a keypad OpenSC
// has the PIN typed (PC/SC part 10, VERIFY_PIN_DIRECT).
func pcscSigns(t *testing.T, g *guest, reader int, keypad bool) {
	t.Helper()
	sign := signRSA
	if keypad {
		sign = strings.Replace(signRSA, "--pin 123456 ", "", 1)
	}
	// The package's example; the image has no documentation.
	t.Log(g.sh(t, fmt.Sprintf(`[ -e /run/reader.conf ] || dpkg-deb --fsys-tarfile /run/e2e/debs/openct-pcsc_*.deb | tar -xO --wildcards '*/openct.reader.conf' >/run/reader.conf
sed 's/openct:0/openct:%d/' /run/reader.conf >/etc/reader.conf.d/openct && systemctl start pcscd.socket
trap 'systemctl stop pcscd.socket pcscd.service; rm /etc/reader.conf.d/openct' EXIT
( %s )`, reader, fmt.Sprintf(signScript, "01", sign))))
}

// ctapiKeypad does what a CT-API program does with display and keypad: OUTPUT,
// PERFORM VERIFICATION.
func ctapiKeypad(t *testing.T, g *guest, reader int) {
	out := g.sh(t, fmt.Sprintf("/run/ctsequence %d 1:2012010100 0:00a4040005a000000308 1:201740000450024869 1:2018010011520f01060020008008ffffffffffffffff 1:20150100", reader))
	lines := strings.Split(out, "\n")
	if len(lines) != 7 || !strings.HasSuffix(lines[1], "9000") || !strings.HasPrefix(lines[1], "3b") ||
		!strings.HasSuffix(lines[2], "9000") || strings.Join(lines[3:], " ") != "9000 9000 9000 close 0" {
		t.Errorf("CT-API:\n%s", out)
	}
}

// inTheMiddle runs commands of a client, in whose middle something happens, and
// wants one clear error.
func inTheMiddle(t *testing.T, g *guest, reader int) {
	t.Helper()
	res := g.tryFor(t, time.Minute, fmt.Sprintf("timeout 50 openct-tool -r %d apdu %s", reader, strings.Repeat("00a4040005a000000308 ", 60)))
	if lines := strings.Split(strings.TrimSpace(res.Stderr), "\n"); res.Exit == 0 || res.Exit == 124 || len(lines) != 1 || lines[0] == "" {
		t.Errorf("client's exit code is %d, want one clear error:\n%s%s", res.Exit, res.Stdout, res.Stderr)
	}
	t.Log(strings.TrimSpace(res.Stderr))
}

func cardPulled(t *testing.T, g *guest, k *token, reader int) {
	k.ctl(t, "remove 20 on=e02")
	inTheMiddle(t, g, reader)
	if res := g.try(t, fmt.Sprintf("openct-tool -r %d atr", reader)); res.Exit == 0 {
		t.Errorf("without a card:\n%s", res.Stdout)
	}
	k.ctl(t, "heal")
	k.ctl(t, "insert")
	g.until(t, readyTime, fmt.Sprintf("openct-tool -r %d atr | grep 'ATR: 3b'", reader))
}

func adapterPulled(t *testing.T, g *guest, k *token, reader int, unit string) {
	k.ctl(t, "drop 20 on=e02")
	inTheMiddle(t, g, reader)
	g.reaches(t, goneTime, unit, "inactive")
	if out := g.sh(t, "openct-control status 2>/dev/null"); out != "" {
		t.Errorf("an entry is left:\n%s", out)
	}
}

// memoryCard has an old CT-API program read a memory card, and openct-tool write
// to it.
func (r serialReader) memoryCard(t *testing.T, g *guest) {
	k, n := r.plug(t, g, r.memory)
	before := g.sh(t, fmt.Sprintf("/run/ctapimem %d", n))
	g.sh(t, fmt.Sprintf("openct-tool -r %d write 0x40 48656c6c6f", n))
	if out := g.sh(t, fmt.Sprintf("openct-tool -r %d read 0x40 5", n)); !strings.Contains(out, "Hello") {
		t.Errorf("what was written:\n%s", out)
	}
	atr, was, _ := strings.Cut(before, "\n")
	want := was[:2*0x40] + "48656c6c6f" + was[2*0x45:]
	if out := g.sh(t, fmt.Sprintf("/run/ctapimem %d", n)); out != atr+"\n"+want {
		t.Errorf("a CT-API program:\n%s\nwant\n%s\n%s", out, atr, want)
	}
	k.ctl(t, "unplug")
	g.reaches(t, goneTime, r.unit(), "inactive")
	g.sh(t, "systemctl stop vtoken-"+k.name)
}
