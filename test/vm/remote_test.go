//go:build vm

package vm

import (
	"fmt"
	"strings"
	"testing"
)

// farMachine makes a network of its own for an sshd, at the other end of a pair of
// Ethernet devices, and what openct(7) says about keys and users of both ends.
const farMachine = `set -e
mkdir -p /run/systemd/network /run/sshd
printf '[NetDev]\nName=near0\nKind=veth\n[Peer]\nName=far0\n' >/run/systemd/network/60-e2e.netdev
systemctl unmask --quiet systemd-networkd.service systemd-networkd.socket
systemctl start systemd-networkd
for i in $(seq 50); do [ -e /sys/class/net/far0 ] && break; sleep 0.2; done
systemd-run --quiet --unit=far-net -p Type=exec -p PrivateNetwork=yes sleep infinity
pid=$(systemctl show -P MainPID far-net)
busybox ip link set far0 netns $pid
nsenter -t $pid -n busybox ip addr add 10.9.0.2/24 dev far0
nsenter -t $pid -n busybox ip link set far0 up
busybox ip addr add 10.9.0.1/24 dev near0
busybox ip link set near0 up
useradd --system --create-home --home-dir /var/lib/tokens --shell /usr/sbin/nologin --groups scard --password '*' tokens
install -d -m 0700 -o tokens /var/lib/tokens/.ssh
install -d -m 0750 -g openctd /etc/openct/ssh
ssh-keygen -q -t ed25519 -N '' -f /etc/openct/ssh/id_ed25519
ssh-keygen -A >/dev/null
echo "restrict,port-forwarding $(cat /etc/openct/ssh/id_ed25519.pub)" >/var/lib/tokens/.ssh/authorized_keys
printf 'Match User tokens\n    AllowStreamLocalForwarding local\n    AllowTcpForwarding local\n    PermitTTY no\n    ForceCommand /bin/false\n' >/etc/ssh/sshd_config.d/tokens.conf
systemd-run --quiet --unit=far-sshd -p Type=exec nsenter -t $pid -n /usr/sbin/sshd -D -o ListenAddress=10.9.0.2 -o PidFile=/run/far-sshd.pid
for i in $(seq 50); do ssh-keyscan 10.9.0.2 2>/dev/null >/etc/openct/ssh/known_hosts || :; [ -s /etc/openct/ssh/known_hosts ] && break; sleep 0.2; done
chgrp openctd /etc/openct/ssh/*; chmod 0640 /etc/openct/ssh/id_ed25519`

// The user's processes have ended before the user goes: userdel refuses otherwise.
const noFarMachine = `systemctl stop far-sshd far-net systemd-networkd.socket systemd-networkd; busybox ip link del near0
systemctl mask --quiet systemd-networkd.service systemd-networkd.socket
for i in $(seq 100); do pkill -u tokens || break; sleep 0.1; done; userdel --remove tokens
rm -rf /etc/openct/ssh /run/systemd/network/60-e2e.netdev /etc/ssh/sshd_config.d/tokens.conf; rmdir /etc/openct
! getent passwd tokens`

const farDeskUnit = "openct-reader@desk.service"

// farDeskNumber prints the number of the reader that the unit serves.
const farDeskNumber = `openct-control status | awk '/ at 10/ {print $1}' | grep .`

// testRemote serves a token by the OpenCT of another machine: its sshd is in another
// network namespace, and the token's handler is this machine's.
func testRemote(t *testing.T, g *guest) {
	g.installAll(t)
	k := g.plug(t, "far", "--driver etoken64 --card piv")
	far := k.served(t)
	g.sh(t, farMachine)
	t.Cleanup(func() { g.sh(t, noFarMachine) })
	g.restartWith(t, fmt.Sprintf("reader desk { driver = openct; device = remote:ssh://tokens@10.9.0.2/%d; };\n", far))
	k.served(t)
	desk := func(t *testing.T) string {
		t.Helper()
		return g.until(t, readyTime, farDeskNumber)
	}
	away := func(t *testing.T) {
		t.Helper()
		g.until(t, goneTime, "! "+farDeskNumber)
	}
	near := desk(t)

	t.Run("as openctd, with the network and nothing else", func(t *testing.T) {
		if who := g.sh(t, "ps -eo user=,comm= | awk '$2 == \"ssh\" {print $1}'"); who != "openctd" {
			t.Errorf("ssh runs as %q", who)
		}
		status := g.sh(t, "systemctl show -P StatusText "+farDeskUnit)
		if !strings.Contains(status, "eToken PRO 64k at 10.9.0.2, reader "+near) {
			t.Errorf("systemctl status says %q", status)
		}
		out := g.sh(t, fmt.Sprintf("openct-tool -r %s atr; openct-tool -r %d atr", near, far))
		if strings.Count(out, "ATR: 3b 84 81 31 fe 45 56 50 49 56 96") != 2 {
			t.Errorf("both ends:\n%s", out)
		}
	})

	t.Run("a signature through OpenSC", func(t *testing.T) {
		g.put(t, "/run/opensc.conf", 0o644, "app default { ignored_readers = \"Aladdin\"; }\n")
		g.put(t, "/etc/reader.conf.d/openct-e2e", 0o644, "FRIENDLYNAME \"desk\"\nDEVICENAME openct:"+near+"\nLIBPATH "+
			g.sh(t, "ls /usr/lib/*/openct-ifd.so")+"\nCHANNELID 0\n")
		defer g.try(t, "rm -f /etc/reader.conf.d/openct-e2e; systemctl try-restart pcscd.service")
		g.sh(t, "systemctl restart pcscd.service")
		g.until(t, readyTime, "OPENSC_CONF=/run/opensc.conf opensc-tool -n 2>&1 | grep Personal")
		t.Log(g.sh(t, "export OPENSC_CONF=/run/opensc.conf\n"+fmt.Sprintf(signScript, "01", signRSA)))
	})

	t.Run("10 clients here and 2 there, with locks", func(t *testing.T) {
		// openct-tool locks the card for as long as it works.
		out := g.sh(t, fmt.Sprintf(`client() { for i in 1 2 3; do for try in $(seq 200); do
	out=$(openct-tool -r $1 mf 2>&1) && { echo done; break; }
	case $out in *locked*) ;; *) echo "$out";; esac
done; done; }
for c in 1 2 3 4 5 6 7 8 9 10; do client %s & done
for c in 1 2; do client %d & done
wait`, near, far))
		if n := strings.Count(out, "done"); n != 36 || strings.Count(out, "\n") != 35 {
			t.Errorf("%d of 36 commands done:\n%s", n, out)
		}
	})

	t.Run("time", func(t *testing.T) {
		apdus := strings.Repeat(" 00a4040000", 100)
		for _, r := range []string{fmt.Sprint(far), near} {
			t.Logf("reader %s, 100 APDUs: %s", r, g.sh(t, "bash -c 'TIMEFORMAT=%R; time openct-tool -r "+r+" apdu"+apdus+" >/dev/null' 2>&1")+" s")
		}
	})

	t.Run("pulled there, and plugged in again", func(t *testing.T) {
		k.ctl(t, "unplug")
		k.inactive(t)
		away(t)
		if state := g.sh(t, "systemctl show -P ActiveState "+farDeskUnit); state != "active" {
			t.Errorf("the unit is %s", state)
		}
		g.until(t, readyTime, "systemctl show -P StatusText "+farDeskUnit+" | grep 'open failed'")
		k.ctl(t, "plug")
		k.served(t)
		desk(t)
	})

	t.Run("the line is cut", func(t *testing.T) {
		g.sh(t, "busybox ip link set near0 down")
		away(t)
		g.sh(t, "busybox ip link set near0 up")
		desk(t)
	})

	t.Run("the line is cut during an APDU", func(t *testing.T) {
		n := desk(t)
		g.sh(t, "systemd-run --quiet --unit=e2e-client -p RemainAfterExit=yes -p SuccessExitStatus=1 sh -c 'while openct-tool -r "+n+" mf; do :; done; exit 1'")
		defer g.try(t, "systemctl stop e2e-client; systemctl reset-failed e2e-client")
		g.until(t, readyTime, "journalctl -u e2e-client | grep -c . | grep -v '^[0-4]$'")
		begin := g.sh(t, "cut -d' ' -f1 /proc/uptime; busybox ip link set near0 down")
		g.until(t, goneTime, "test $(systemctl show -P SubState e2e-client) = exited")
		t.Logf("cut at %s, client ended at %s", begin, g.sh(t, "cut -d' ' -f1 /proc/uptime"))
		away(t)
		g.sh(t, "busybox ip link set near0 up")
		g.until(t, readyTime, "openct-tool -r $("+farDeskNumber+") mf")
	})

	t.Run("stopped", func(t *testing.T) {
		g.sh(t, "systemctl stop "+farDeskUnit)
		if left := g.sh(t, "pgrep -x ssh; ls -d /tmp/openct-* 2>/dev/null; :"); left != "" {
			t.Errorf("left: %s", left)
		}
		if failed := g.sh(t, "systemctl --failed --plain --no-legend"); failed != "" {
			t.Errorf("failed units:\n%s", failed)
		}
	})
}
