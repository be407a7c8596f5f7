//go:build vm

package vm

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// installAll installs every package under test.
func (g *guest) installAll(t testing.TB) {
	t.Helper()
	g.install(t)
	res := g.tryFor(t, 10*time.Minute, "dpkg-query -W -f '${db:Status-Status}' openct-pcsc 2>/dev/null | grep -qx installed || DEBIAN_FRONTEND=noninteractive dpkg -i /run/e2e/debs/libopenct*.deb /run/e2e/debs/openct-pcsc_*.deb")
	if res.Exit != 0 {
		t.Fatalf("dpkg -i:\n%s%s", res.Stdout, res.Stderr)
	}
	g.sh(t, "systemctl stop pcscd; systemctl start openct.service pcscd.socket")
}

// compile builds a C program against the packages' own headers and libraries
// and puts it in the guest, as /run/NAME.
func (g *guest) compile(t testing.TB, name, source string, flags ...string) {
	t.Helper()
	dir := t.TempDir()
	debs, err := filepath.Glob(filepath.Join(setting("OPENCT_E2E_DEBS", "../../build/deb"), "libopenct*.deb"))
	if err != nil || len(debs) == 0 {
		t.Fatalf("no libopenct packages (make deb): %v", err)
	}
	for _, deb := range debs {
		if out, err := exec.Command("dpkg-deb", "-x", deb, dir).CombinedOutput(); err != nil {
			t.Fatalf("dpkg-deb: %v\n%s", err, out)
		}
	}
	libs, err := filepath.Glob(filepath.Join(dir, "usr/lib/*/libopenct.so"))
	if err != nil || len(libs) != 1 {
		t.Fatalf("libopenct.so in the packages: %q %v", libs, err)
	}
	bin := filepath.Join(dir, name)
	args := append([]string{"-std=c11", "-D_GNU_SOURCE", "-O2", "-Wall", "-I" + dir + "/usr/include", "-o", bin, source,
		"-L" + filepath.Dir(libs[0]), "-lopenct"}, flags...)
	if out, err := exec.Command("cc", args...).CombinedOutput(); err != nil {
		t.Fatalf("cc: %v\n%s", err, out)
	}
	data, err := os.ReadFile(bin)
	if err != nil {
		t.Fatal(err)
	}
	g.put(t, "/run/"+name, 0o755, string(data))
}

// signScript makes a signature with pkcs11-tool and has openssl check it with
// the key of the card's certificate.
const (
	signScript = `set -e; cd $(mktemp -d); head -c 100 /dev/urandom >data
pkcs11-tool --read-object --type cert --id %s -o cert >log 2>&1 || { cat log; exit 1; }
openssl x509 -inform DER -in cert -pubkey -noout >public
%s
openssl dgst -sha256 -verify public -signature signature data`
	signRSA = `pkcs11-tool --login --pin 123456 --sign --id 01 -m SHA256-RSA-PKCS -i data -o signature 2>&1`
	signEC  = `openssl dgst -sha256 -binary data >digest
pkcs11-tool --login --pin 123456 --sign --id 02 -m ECDSA --signature-format openssl -i digest -o signature 2>&1`
)

func (g *guest) signsRSA(t testing.TB) {
	t.Helper()
	t.Log(g.sh(t, fmt.Sprintf(signScript, "01", signRSA)))
}

// testPCSC has the programs of the distribution use a token through pcscd and
// the bundle.
func testPCSC(t *testing.T, g *guest) {
	g.installAll(t)
	k := g.plug(t, "pcsc", "--driver etoken64 --card piv")
	reader := k.served(t)

	t.Run("opensc-tool", func(t *testing.T) {
		g.until(t, readyTime, "opensc-tool -l | grep eToken")
		list := g.sh(t, "opensc-tool -l")
		if n := strings.Count(list, "Aladdin eToken PRO 64 00 00"); n != 1 || strings.Count(list, "\n") != 2 {
			t.Errorf("opensc-tool -l shows not one reader of the right name:\n%s", list)
		}
		if atr := g.sh(t, "opensc-tool -a 2>/dev/null"); atr != "3b:84:81:31:fe:45:56:50:49:56:96" {
			t.Errorf("opensc-tool -a: %s", atr)
		}
		if name := g.sh(t, "opensc-tool -n 2>/dev/null"); name != "Personal Identity Verification Card" {
			t.Errorf("opensc-tool -n: %s", name)
		}
	})
	t.Run("pcsc_scan", func(t *testing.T) {
		out := g.sh(t, "timeout 20 pcsc_scan -r")
		if !strings.Contains(out, "0: Aladdin eToken PRO 64 00 00") {
			t.Errorf("pcsc_scan:\n%s", out)
		}
	})
	t.Run("RSA signature", func(t *testing.T) { g.signsRSA(t) })
	t.Run("EC signature", func(t *testing.T) { t.Log(g.sh(t, fmt.Sprintf(signScript, "02", signEC))) })
	t.Run("gpg --card-status", func(t *testing.T) {
		// It has no OpenPGP application: scdaemon must get as far as to
		// find that out.
		out := g.try(t, `export GNUPGHOME=$(mktemp -d); printf 'disable-ccid\nlog-file %s/log\ndebug-level guru\n' $GNUPGHOME >$GNUPGHOME/scdaemon.conf
timeout 60 gpg --card-status; cat $GNUPGHOME/log; gpgconf --kill all; rm -rf $GNUPGHOME`).Stdout
		for _, want := range []string{"Aladdin eToken PRO 64", "sw=6A82"} {
			if !strings.Contains(out, want) {
				t.Errorf("scdaemon's log has no %q:\n%s", want, out)
			}
		}
		if !t.Failed() {
			t.Log("scdaemon found the card, and that it is no OpenPGP card")
		}
	})
	t.Run("ssh with PKCS11Provider", func(t *testing.T) {
		g.put(t, "/run/askpass", 0o755, "#!/bin/sh\necho 123456\n")
		out := g.sh(t, `set -e; mkdir -p /run/sshd /root/.ssh; chmod 700 /root/.ssh
p=$(ls /usr/lib/*/opensc-pkcs11.so | head -n 1)
ssh-keygen -D $p >/root/.ssh/authorized_keys; ssh-keygen -A >/dev/null
/usr/sbin/sshd -p 2222 -o ListenAddress=127.0.0.1 -o PidFile=/run/sshd-e2e.pid
trap 'kill $(cat /run/sshd-e2e.pid)' EXIT
SSH_ASKPASS=/run/askpass SSH_ASKPASS_REQUIRE=force timeout 100 ssh -p 2222 -o PKCS11Provider=$p -o PasswordAuthentication=no \
	-o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null root@127.0.0.1 echo logged in 2>&1`)
		if !strings.HasSuffix(out, "logged in") {
			t.Errorf("ssh:\n%s", out)
		}
	})
	t.Run("libopenct", func(t *testing.T) {
		g.sh(t, "systemctl stop pcscd.socket pcscd")
		defer g.sh(t, "systemctl start pcscd.socket")
		g.compile(t, "clientlib", "testdata/clientlib.c")
		t.Log(g.sh(t, fmt.Sprintf("/run/clientlib %d", reader)))
	})
	t.Run("locks", func(t *testing.T) {
		g.sh(t, fmt.Sprintf("systemd-run --quiet --collect --unit=holder -p StandardOutput=file:/run/holder.out /run/clientlib %d 1000", reader))
		g.until(t, readyTime, "grep locked /run/holder.out")
		if res := g.try(t, "timeout 60 opensc-tool -s 00A40000 2>&1"); res.Exit == 0 || res.Exit == 124 {
			t.Errorf("a PC/SC program with the card locked by another: exit code %d\n%s", res.Exit, res.Stdout)
		}
		g.sh(t, "systemctl stop holder")
		g.until(t, readyTime, "opensc-tool -n 2>&1 | grep Personal")

		// A PC/SC program that sits on the card.
		g.compile(t, "pcschold", "testdata/pcschold.c", "-I/usr/include/PCSC", "-lpcsclite")
		g.sh(t, `systemd-run --quiet --collect --unit=sitter -p StandardOutput=file:/run/sitter.out /run/pcschold "Aladdin eToken PRO 64 00 00" 1000`)
		g.until(t, readyTime, "grep holding /run/sitter.out")
		res := g.try(t, fmt.Sprintf("timeout 60 openct-tool -r %d mf 2>&1", reader))
		if res.Exit == 0 || res.Exit == 124 {
			t.Errorf("openct-tool with the card locked by pcscd: exit code %d\n%s", res.Exit, res.Stdout)
		}
		t.Logf("openct-tool meanwhile: %s", strings.TrimSpace(res.Stdout))
		g.sh(t, "systemctl kill -s KILL pcscd.service")
		g.until(t, 10*time.Second, fmt.Sprintf("openct-tool -r %d mf", reader))
		g.sh(t, "systemctl stop sitter; systemctl reset-failed pcscd.service; systemctl restart pcscd.socket")
		g.until(t, readyTime, "opensc-tool -n 2>&1 | grep Personal")
	})
	t.Run("pcscd as user pcscd", func(t *testing.T) {
		// As pcscd 2.4 and later run. The unit's drop-in lets it in. Without
		// polkit, to which the user is nobody where the package runs as root.
		g.sh(t, `set -e; systemctl stop pcscd.socket pcscd.service
getent passwd pcscd >/dev/null || { useradd --system --no-create-home pcscd; touch /run/pcscd.made; }
mkdir -p /run/systemd/system/pcscd.service.d
printf '[Service]\nUser=pcscd\nExecStartPre=+/bin/chown pcscd /run/pcscd\nEnvironmentFile=/run/pcscd.args\n' >/run/systemd/system/pcscd.service.d/user.conf
echo "PCSCD_ARGS=$(pcscd --help | grep -o -- --disable-polkit)" >/run/pcscd.args
systemctl daemon-reload; systemctl start pcscd.socket`)
		defer g.sh(t, `systemctl stop pcscd.socket pcscd.service; rm -r /run/systemd/system/pcscd.service.d; systemctl daemon-reload
[ ! -e /run/pcscd.made ] || { userdel pcscd; rm /run/pcscd.made; }; systemctl start pcscd.socket`)
		g.until(t, readyTime, "opensc-tool -n 2>&1 | grep Personal")
		if user := g.sh(t, "stat -c %U /proc/$(systemctl show -P MainPID pcscd)"); user != "pcscd" {
			t.Errorf("pcscd runs as %s", user)
		}
		g.signsRSA(t)
	})
	t.Run("unplug in the middle", func(t *testing.T) {
		// Under OpenSC's own tools. (pkcs11-tool 0.23 is of no use here: it
		// crashes when its card goes, under any reader driver.)
		k.ctl(t, "drop 100")
		res := g.tryFor(t, 2*time.Minute, "timeout 90 sh -c 'while :; do opensc-tool -s 00A404000BA000000308000010000100 || exit $?; done' 2>&1")
		if res.Exit == 0 || res.Exit >= 124 {
			t.Errorf("the program ends with %d:\n%s", res.Exit, res.Stdout)
		}
		lines := strings.Split(strings.TrimSpace(res.Stdout), "\n")
		t.Logf("its exit code %d, its last line: %s", res.Exit, lines[len(lines)-1])
		k.gone(t, reader)
		k.ctl(t, "plug")
		reader = k.served(t)
		g.until(t, readyTime, "opensc-tool -n 2>&1 | grep Personal")
		g.signsRSA(t)
	})
	t.Run("handlers that come and go under pcscd", func(t *testing.T) {
		pcscd := g.sh(t, "systemctl show -P MainPID pcscd")
		for _, what := range []string{"systemctl kill --signal=KILL " + k.unit(), "systemctl restart openct.service"} {
			g.sh(t, what)
			g.until(t, readyTime, "opensc-tool -n 2>&1 | grep Personal")
		}
		reader = k.served(t)
		if now := g.sh(t, "systemctl show -P MainPID pcscd"); now != pcscd {
			t.Errorf("pcscd was %s, is %s", pcscd, now)
		}
	})
	t.Run("a handler that starts later than pcscd", func(t *testing.T) {
		g.sh(t, "systemctl stop "+k.unit()+" pcscd.service && systemctl start pcscd.service")
		if list := g.sh(t, "opensc-tool -l"); !strings.Contains(list, "No              Aladdin eToken PRO 64 00 00") {
			t.Errorf("nobody serves the token, and opensc-tool -l says\n%s", list)
		}
		g.sh(t, "systemctl start "+k.unit())
		g.until(t, readyTime, "opensc-tool -n 2>&1 | grep Personal")
		reader = k.served(t)
	})
	t.Run("two tokens", func(t *testing.T) {
		second := g.plug(t, "pcsc2", "--driver etoken64 --card piv")
		n := second.served(t)
		g.until(t, readyTime, "test $(opensc-tool -l | grep -c 'eToken PRO 64 0[01] 00') = 2")
		t.Log("\n" + g.sh(t, "opensc-tool -l"))
		second.ctl(t, "unplug")
		second.gone(t, n)
		g.until(t, readyTime, "test $(opensc-tool -l | grep -c eToken) = 1")
	})
	k.ctl(t, "unplug")
	k.gone(t, reader)

	t.Run("time of an APDU", func(t *testing.T) {
		k := g.plug(t, "bench", "--driver etoken64 --card echo")
		n := k.served(t)
		g.compile(t, "apdutime", "../../compat/test/bench.c", "-DHAVE_PCSC", "-I/usr/include/PCSC", "-lpcsclite")
		g.until(t, readyTime, "opensc-tool -l | grep eToken")
		// pcscd has just read the ATR, and lets go of the card after a while.
		t.Log("\n" + g.until(t, readyTime, fmt.Sprintf("/run/apdutime -n 10 %d", n)))
		k.ctl(t, "unplug")
		k.gone(t, n)
	})
}
