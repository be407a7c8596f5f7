//go:build vm

package vm

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

// The system of testNoSystemd: BusyBox's init and mdev, OpenRC for the services.
// A token is plugged before these.
const (
	busyboxInit = "/usr/local/lib/e2e/init"

	inittab = `::sysinit:/usr/local/lib/e2e/rcS
::sysinit:/sbin/openrc sysinit
::once:/sbin/openrc default
::respawn:/usr/local/lib/e2e/agent
`
	rcS = `#!/bin/sh
PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
export PATH
mount -t tmpfs -o mode=755 run /run
mkdir -p /run/lock /dev/pts /dev/shm
mount -t devpts devpts /dev/pts
: >/var/log/messages
busybox syslogd
busybox mdev -d
modprobe vhci-hcd
setsid openct-vtoken plug --card echo --control /run/vtoken-boot </dev/null >/run/vtoken-boot.log 2>&1 &
until grep -q 0600 /sys/bus/usb/devices/*/idProduct; do sleep 0.1; done
`
	agentScript = `#!/bin/sh
mkdir -p /run/e2e && tar -xf /dev/vdb -C /run/e2e && exec /run/e2e/guest agent
`
	mdevConf = `(null|zero|full|random|urandom|tty|ptmx) 0:0 0666
.* 0:0 0660
`
	// Debian's OpenRC leaves this to another package.
	localmount = `#!/sbin/openrc-run
start() { :; }
`
	examples = "/usr/local/share/doc/openct/examples"
)

// testNoSystemd boots the machine's disk with BusyBox's init. OpenCT is there as
// "make install" has put it over an installation of C OpenCT in /usr/local, whose
// openct.conf, users, reader.conf and directory it goes on with.
func testNoSystemd(t *testing.T, g *guest) {
	g.sh(t, `set -e
DEBIAN_FRONTEND=noninteractive apt-get -qq -y purge 'openct*' 'libopenct*' >/dev/null 2>&1 || :
getent group usb >/dev/null || groupadd --system usb
getent passwd openctd >/dev/null || useradd --system --no-create-home openctd
tar -xf /run/e2e/local/local.tar -C /
systemd-sysusers /usr/local/lib/sysusers.d/openct.conf
ldconfig
grep -q 'program = /usr/local/sbin/ifdhandler' /usr/local/etc/openct.conf && test -e /usr/local/etc/openct.conf.new
mkdir -p /usr/local/lib/e2e && ln -sf /bin/busybox `+busyboxInit+`
mkdir -p /etc/conf.d
install -m 755 `+examples+`/openrc/openct.initd /etc/init.d/openct
install -m 644 `+examples+`/openrc/openct.confd /etc/conf.d/openct`)
	for file, text := range map[string]string{
		"/etc/inittab": inittab, "/usr/local/lib/e2e/rcS": rcS, "/usr/local/lib/e2e/agent": agentScript, "/etc/mdev.conf": mdevConf,
		"/etc/init.d/localmount": localmount, "/etc/reader.conf.d/openct": readerConf("/usr/local/lib/openct-ifd.so"),
	} {
		mode := uint32(0o644)
		if strings.HasPrefix(text, "#!") {
			mode = 0o755
		}
		g.put(t, file, mode, text)
	}
	g.sh(t, "rm -f /etc/runlevels/*/*; rc-update add openct default >/dev/null")
	// No case follows that needs systemd: the machine stays as it is.
	g.config.Append = strings.TrimSpace(g.config.Append + " init=" + busyboxInit)
	begin := time.Now()
	g.reboot(t)
	fmt.Printf("e2e: without systemd: up in %.0f s\n", time.Since(begin).Seconds())
	if init := g.sh(t, "readlink /proc/1/exe; ls -d /run/systemd/system 2>/dev/null || :"); init != "/usr/bin/busybox" {
		t.Fatalf("process 1: %s", init)
	}

	k := &token{g: g, name: "boot"}
	k.plugged(t)
	reader := k.servedHere(t)
	t.Run("present at boot", func(t *testing.T) { k.works(t, reader) })
	t.Run("who runs", func(t *testing.T) {
		for script, want := range map[string]string{
			"stat -c %U /proc/$(pgrep -x ifdhandler)":                "openctd",
			"stat -c %U /proc/$(pgrep -x openct-watch)":              "root",
			"stat -c '%U:%G %a' /run/openct":                         "openctd:scard 750",
			"ls -d /var/run/openct":                                  "/var/run/openct",
			"cat /sys/bus/usb/devices/" + k.busid + "/power/persist": "0",
			"stat -c %U " + k.node:                                   "openctd",
		} {
			if got := g.sh(t, script); got != want {
				t.Errorf("%s: %q, want %q", script, got, want)
			}
		}
	})
	t.Run("pull and plug", func(t *testing.T) {
		k.ctl(t, "unplug")
		k.goneHere(t, reader)
		k.ctl(t, "plug")
		reader = k.servedHere(t)
		k.works(t, reader)
	})
	t.Run("replug at once", func(t *testing.T) {
		k.ctl(t, "unplug")
		k.ctl(t, "plug")
		reader = k.servedHere(t)
		k.works(t, reader)
	})
	t.Run("idle", func(t *testing.T) {
		count := "cat /proc/$(pgrep -x openct-watch)/task/*/status | awk '/ctxt_switches/ {n += $2} END {print n}'"
		g.until(t, time.Minute, "before=$("+count+"); sleep 5; test $before = $("+count+")")
	})
	t.Run("doctor", func(t *testing.T) {
		out := g.try(t, "openct-control doctor").Stdout
		if !strings.Contains(out, "starts a handler for each device that is plugged in; systemd does not run here") {
			t.Errorf("doctor:\n%s", out)
		}
	})
	second := g.plugHere(t, "second", "--card piv")
	n := second.servedHere(t)
	t.Run("two tokens", func(t *testing.T) {
		second.works(t, n)
		k.works(t, reader)
	})
	t.Run("a program of C OpenCT's library", func(t *testing.T) {
		g.compile(t, "clientlib", "testdata/clientlib.c")
		t.Log(g.sh(t, fmt.Sprintf("ldd /run/clientlib | grep -q '/usr/local/lib/libopenct.so.1 ' && /run/clientlib %d", n)))
	})
	t.Run("pcscd", func(t *testing.T) {
		g.sh(t, "pcscd")
		defer g.sh(t, "pkill -x pcscd")
		out := g.until(t, readyTime, "opensc-tool -l | grep OpenCT")
		if atr := g.sh(t, "opensc-tool -r 0 -a 2>/dev/null"); !strings.HasPrefix(atr, "3b:") {
			t.Errorf("ATR %q of\n%s", atr, out)
		}
	})
	t.Run("restart", func(t *testing.T) {
		before := g.sh(t, "pgrep -x openct-watch")
		g.sh(t, "rc-service openct restart")
		k.works(t, k.servedHere(t))
		second.works(t, second.servedHere(t))
		if after := g.sh(t, "pgrep -x openct-watch"); after == before || strings.Contains(after, "\n") {
			t.Errorf("openct-watch was process %s, is %s", before, after)
		}
	})
	second.ctl(t, "unplug")
	t.Run("stop", func(t *testing.T) {
		g.sh(t, "rc-service openct stop")
		g.stopped(t)
	})
	t.Run("runit", func(t *testing.T) {
		g.sh(t, "mkdir /run/sv && cp -r "+examples+"/runit/openct /run/sv/ && { setsid runsv /run/sv/openct </dev/null >/run/runsv.log 2>&1 & }")
		k.works(t, k.servedHere(t))
		k.ctl(t, "unplug")
		k.ctl(t, "plug")
		k.works(t, k.servedHere(t))
		g.sh(t, "sv -w 30 exit /run/sv/openct")
		g.stopped(t)
	})
	t.Run("mdev", func(t *testing.T) {
		g.sh(t, `set -e
sed -i 's/^hotplug = yes/hotplug = no/' /usr/local/etc/openct.conf
cat `+examples+`/mdev/openct.mdev /etc/mdev.conf >/etc/mdev.new && mv /etc/mdev.new /etc/mdev.conf
pkill -f "^busybox mdev"; busybox mdev -d
rc-service openct start`)
		k.ctl(t, "unplug")
		k.ctl(t, "plug")
		reader := k.servedHere(t)
		k.works(t, reader)
		got := g.sh(t, "stat -c '%U:%G %a' "+k.node+"; stat -c %U /proc/$(pgrep -x ifdhandler); pgrep -x openct-watch || :")
		if want := "root:openctd 660\nopenctd"; got != want {
			t.Errorf("node, handler's user and openct-watch: %q, want %q", got, want)
		}
		g.sh(t, "rc-service openct stop")
		g.stopped(t)
	})
}

// plugHere is plug without systemd.
func (g *guest) plugHere(t testing.TB, name, options string) *token {
	t.Helper()
	k := &token{g: g, name: name}
	g.sh(t, fmt.Sprintf("setsid openct-vtoken plug --control %s %s </dev/null >/run/vtoken-%s.log 2>&1 &", k.control(), options, name))
	k.plugged(t)
	return k
}

// servedHere is served without systemd.
func (k *token) servedHere(t testing.TB) int {
	t.Helper()
	k.g.until(t, readyTime, "openct-control status --json | grep -F '"+k.node+"'")
	return k.reader(t)
}

// goneHere is gone without systemd.
func (k *token) goneHere(t testing.TB, reader int) {
	t.Helper()
	k.g.until(t, goneTime, fmt.Sprintf(`left=$(ls -A /run/openct | grep -E '^\.?%d(\.json)?$'; openct-control status | grep -E '^ +%[1]d '); [ -z "$left" ] || { echo "$left"; false; }`, reader))
}

// stopped waits until OpenCT has left nothing behind.
func (g *guest) stopped(t testing.TB) {
	t.Helper()
	g.until(t, goneTime, `left=$(pgrep -x "ifdhandler|openct-watch|openct-control"; ls -A /run/openct | grep -E '^(\.?[0-9]+|status$)'); [ -z "$left" ] || { echo "$left"; false; }`)
}
