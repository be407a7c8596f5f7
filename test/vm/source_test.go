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

// testFromSource does what users of C OpenCT's phoenix driver do: make install
// into /usr/local, their openct.conf, openct-control init, a reader.conf entry for
// pcscd. systemd does not help: the commands do not see that it runs.
func testFromSource(t *testing.T, g *guest) {
	dir := t.TempDir()
	files := filepath.Join(dir, "files.tar.gz")
	for _, args := range [][]string{
		{"make", "-C", "../..", "install", "DEPS=true", "DESTDIR=" + filepath.Join(dir, "root")},
		{"tar", "-C", filepath.Join(dir, "root"), "--owner=0", "--group=0", "-czf", files, "."},
	} {
		if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
			t.Fatalf("%v: %v\n%s", args, err, out)
		}
	}
	data, err := os.ReadFile(files)
	if err != nil {
		t.Fatal(err)
	}
	g.tryFor(t, 5*time.Minute, "dpkg-query -W openct >/dev/null 2>&1 && DEBIAN_FRONTEND=noninteractive apt-get -qq -y purge openct")
	g.put(t, "/root/files.tar.gz", 0o644, string(data))
	g.sh(t, "tar -C / -xzf /root/files.tar.gz && systemd-sysusers /usr/local/lib/sysusers.d/openct.conf") // scripts/make-users
	t.Cleanup(func() {
		g.sh(t, "tar -tzf /root/files.tar.gz | grep -v '/$' | (cd / && xargs rm -f) && rm -rf /root/files.tar.gz /run/openct; userdel openctd; groupdel scard")
	})

	const first, second = "reader phoenix { driver = phoenix; device = serial:/dev/ttyUSB0; };\n", "reader sim2 { driver = phoenix; device = serial:/dev/ttyUSB1; };\n"
	g.put(t, "/etc/openct.conf", 0o644, first)
	g.plug(t, "source", "--driver phoenix --card sim")
	g.until(t, readyTime, "[ -c /dev/ttyUSB0 ]")
	alone := func(command string) string {
		return g.sh(t, "unshare --mount sh -c 'mount -t tmpfs none /run/systemd && exec "+command+"'")
	}
	// handlers checks that none is root's.
	handlers := func(t *testing.T, n int) {
		t.Helper()
		if out := g.sh(t, "ps -eo user=,comm= | awk '$2 == \"ifdhandler\" {print $1}'"); out != strings.TrimSuffix(strings.Repeat("openctd\n", n), "\n") {
			t.Errorf("handlers:\n%s", out)
		}
	}
	alone("openct-control init")
	t.Cleanup(func() { g.sh(t, "openct-control shutdown") })
	g.simWorks(t, 0)
	handlers(t, 1)
	if dir := g.sh(t, "stat -c '%U:%G %a' /run/openct"); dir != "openctd:scard 750" {
		t.Errorf("/run/openct is %s", dir)
	}

	t.Run("two readers", func(t *testing.T) {
		g.plug(t, "source2", "--driver phoenix --card sim")
		g.until(t, readyTime, "[ -c /dev/ttyUSB1 ]")
		g.put(t, "/etc/openct.conf", 0o644, first+second)
		alone("openct-control init")
		handlers(t, 2)
		for n := range 2 {
			g.simWorks(t, n)
		}
		if out := g.sh(t, "openct-control status"); strings.Count(out, "Phoenix reader") != 2 {
			t.Errorf("status:\n%s", out)
		}
	})
	t.Run("pcscd", func(t *testing.T) { scanSIM(t, g, "/usr/local/lib/openct-ifd.so") })
	t.Run("unplugged", func(t *testing.T) {
		g.sh(t, fmt.Sprintf("%s ctl /run/vtoken-source unplug", vtoken))
		g.until(t, goneTime, "test -z \"$(openct-control status 2>/dev/null)\"")
	})
}
