//go:build vm

package vm

import (
	"fmt"
	"strings"
	"testing"
)

// chip is the unit of the reader in openct.conf.
const chip = "openct-reader@chip.service"

// testMemoryCards serves a Towitoko reader that openct.conf names, at a
// USB-serial adapter of the kernel's, with memory cards in it.
func testMemoryCards(t *testing.T, g *guest) {
	g.installAll(t)
	g.compile(t, "ctapimem", "testdata/ctapimem.c", "-lopenctapi")
	g.sh(t, "cp -a /etc/openct.conf /run/openct.conf.before; "+
		"printf 'reader chip {\\n\\tdriver = towitoko;\\n\\tdevice = serial:/dev/ttyUSB0;\\n};\\n' >>/etc/openct.conf; systemctl daemon-reload")
	t.Cleanup(func() { g.try(t, "mv /run/openct.conf.before /etc/openct.conf; systemctl daemon-reload") })
	for _, c := range []struct {
		name, card, kind, atr string
		size                  int
		first                 []byte
		psc                   bool
	}{
		{"24C16", "24c16", "Memory card, I2C", "ATR of 0 bytes", 2048, []byte{0x01, 0x08, 0x0F, 0x16}, false},
		{"SLE 4442", "sle4442", "Memory card, 2-wire", "ATR of 4 bytes", 256, []byte{0xA2, 0x13, 0x10, 0x91}, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			contents := make([]byte, c.size)
			for i := range contents {
				contents[i] = byte(7*i + 1)
			}
			copy(contents, c.first)
			k := g.plug(t, "chip", "--driver towitoko --card "+c.card)
			g.until(t, readyTime, "[ -c /dev/ttyUSB0 ] && systemctl is-active "+chip)
			n := g.until(t, readyTime, "openct-control status | awk '/Towitoko/ {print $1}' | grep .")
			if out := g.sh(t, "openct-tool -r "+n+" atr"); !strings.Contains(out, c.kind) {
				t.Errorf("openct-tool atr:\n%s", out)
			}
			out := g.sh(t, fmt.Sprintf("openct-tool -r %s read 0 2048", n))
			if !strings.Contains(out, fmt.Sprintf("Read %d bytes", c.size)) {
				t.Errorf("openct-tool read:\n%s", out)
			}
			if got := dumped(out); got != fmt.Sprintf("%x", contents) {
				t.Errorf("openct-tool read: %s", got)
			}
			write := fmt.Sprintf("openct-tool -r %s write 0x40 48656c6c6f", n)
			if c.psc {
				if res := g.try(t, write); res.Exit == 0 {
					t.Errorf("a card is written without its PSC:\n%s", res.Stdout)
				}
				write = "echo ffffff | " + strings.Replace(write, "write", "--psc write", 1)
			}
			g.sh(t, write)
			if out := g.sh(t, fmt.Sprintf("openct-tool -r %s read 0x40 5", n)); !strings.Contains(out, "Hello") {
				t.Errorf("what was written:\n%s", out)
			}
			copy(contents[0x40:], "Hello")
			if out, want := g.sh(t, "/run/ctapimem "+n), fmt.Sprintf("%s\n%x", c.atr, contents[:256]); strings.TrimSpace(out) != want {
				t.Errorf("a CT-API program:\n%s\nwant\n%s", out, want)
			}
			k.ctl(t, "unplug")
			g.reaches(t, goneTime, chip, "inactive")
		})
	}
}

// dumped are the bytes that openct-tool prints, 16 to a line behind an address.
func dumped(out string) string {
	var b strings.Builder
	for _, line := range strings.Split(out, "\n") {
		if len(line) >= 53 && line[4] == ':' {
			b.WriteString(strings.ReplaceAll(line[5:53], " ", ""))
		}
	}
	return b.String()
}
