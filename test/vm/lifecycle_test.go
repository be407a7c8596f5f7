//go:build vm

package vm

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"
)

func testPlug(t *testing.T, g *guest) {
	g.install(t)
	k := g.plug(t, "a", "")
	reader := k.served(t)
	k.works(t, reader)
	t.Log(k.readyAfterPlug(t))
	t.Run("systemctl status tells a person", func(t *testing.T) {
		out := g.sh(t, "systemctl status --no-pager "+k.unit())
		for _, want := range []string{"eToken PRO 64k", "reader 0", "card present"} {
			if !strings.Contains(out, want) {
				t.Errorf("no %q in\n%s", want, out)
			}
		}
	})
	k.ctl(t, "unplug")
	k.gone(t, reader)
	t.Log(k.inactiveAfterPull(t))
	t.Run("journal has a line per event", func(t *testing.T) {
		out := g.sh(t, "journalctl --boot --output=cat --unit="+k.unit()+" _COMM=openct-control _COMM=ifdhandler")
		if n := len(strings.Split(out, "\n")); n != 2 {
			t.Errorf("%d lines for a plug and a pull:\n%s", n, out)
		}
	})
	t.Run("journal finds it by its fields", func(t *testing.T) {
		for _, field := range []string{"DEVICE=" + k.node, "DRIVER=etoken64", "PORT=" + k.busid, "READER=0"} {
			match := fmt.Sprintf("OPENCT_%s _SYSTEMD_UNIT=%s", field, k.unit())
			if n := g.sh(t, "journalctl --boot --output=cat "+match+" | wc -l"); n != "2" {
				t.Errorf("%s lines have %s, want 2", n, match)
			}
		}
	})
}

// testPresentAtBoot boots with a token and a serial reader that are plugged before
// udev asks for devices. udev is slow about the token: openct.service comes to it
// first, and is to leave it to systemd all the same. The reader's node is there
// before udev gives it a group.
func testPresentAtBoot(t *testing.T, g *guest) {
	g.install(t)
	g.sh(t, "install /run/e2e/under-test/usr/sbin/openct-vtoken /root/vtoken")
	g.put(t, "/etc/systemd/system/boot-token.service", 0o644, `[Unit]
DefaultDependencies=no
Before=systemd-udevd.service systemd-udev-trigger.service sysinit.target

[Service]
ExecStartPre=/sbin/modprobe vhci-hcd
ExecStart=/root/vtoken plug --card echo --control /run/vtoken-boot
ExecStartPost=/bin/sh -c 'until grep -q 0600 /sys/bus/usb/devices/*/idProduct; do sleep 0.1; done'

[Install]
WantedBy=sysinit.target
`)
	g.put(t, "/etc/systemd/system/boot-reader.service", 0o644, `[Unit]
DefaultDependencies=no
After=boot-token.service
Before=systemd-udevd.service systemd-udev-trigger.service sysinit.target

[Service]
ExecStartPre=/sbin/modprobe ftdi_sio
ExecStart=/root/vtoken plug --driver phoenix --card sim --control /run/vtoken-boot-reader
ExecStartPost=/bin/sh -c 'until [ -c /dev/ttyUSB0 ]; do sleep 0.1; done'

[Install]
WantedBy=sysinit.target
`)
	g.restartWith(t, simReader)
	g.put(t, "/root/slow", 0o755, `#!/bin/sh
n=0
until [ "$(systemctl show -P ActiveState openct.service)" != inactive ] || [ $((n += 1)) = 300 ]; do sleep 0.1; done
sleep 3
`)
	g.put(t, "/etc/udev/rules.d/10-slow.rules", 0o644,
		`ACTION=="add", SUBSYSTEM=="usb", ENV{DEVTYPE}=="usb_device", ATTR{idVendor}=="0529", PROGRAM="/root/slow"`+"\n")
	g.sh(t, "systemctl daemon-reload && systemctl enable -q boot-token boot-reader")
	t.Cleanup(func() {
		g.try(t, "systemctl disable -q --now boot-token boot-reader; rm -f /etc/systemd/system/boot-*.service /root/vtoken /root/slow /etc/udev/rules.d/10-slow.rules;"+
			"systemctl daemon-reload; udevadm control --reload")
	})
	g.reboot(t)
	k := &token{g: g, name: "boot"}
	k.plugged(t)
	reader := k.served(t)
	k.works(t, reader)
	g.until(t, readyTime, "systemctl is-active openct.service")
	g.simWorks(t, g.readerAt(t, simUnit))
	if jobs := g.sh(t, "systemctl list-jobs --no-legend"); jobs != "" {
		t.Errorf("systemd waits:\n%s", jobs)
	}
	(&token{g: g, name: "boot-reader"}).ctl(t, "unplug")
	g.reaches(t, goneTime, simUnit, "inactive")
	inUnit(t, g, k.unit())
	k.ctl(t, "unplug")
	k.gone(t, reader)
}

func testUnplugDuringAPDU(t *testing.T, g *guest) {
	g.install(t)
	k := g.plug(t, "a", "")
	reader := k.served(t)
	k.ctl(t, "drop 5")
	res := g.tryFor(t, time.Minute, fmt.Sprintf("timeout 30 openct-tool -r %d mf", reader))
	if res.Exit == 0 || res.Exit == 124 {
		t.Errorf("client's exit code is %d, want a clean error:\n%s%s", res.Exit, res.Stdout, res.Stderr)
	}
	k.gone(t, reader)
}

// waiting starts n clients that wait for a card which does not answer.
func waiting(t *testing.T, g *guest, k *token, reader, n int) {
	t.Helper()
	// Its T=1 answers alone: a reset would give up after a second, and the
	// clients with it, before all of them are there.
	k.ctl(t, "hang times=-1 on=c86")
	for i := range n {
		g.sh(t, fmt.Sprintf("systemd-run --quiet --unit=client-%d -p RemainAfterExit=yes -p SuccessExitStatus=1 openct-tool -r %d mf", i, reader))
	}
	t.Cleanup(func() { g.try(t, "systemctl stop 'client-*'; systemctl reset-failed 'client-*'") })
	g.until(t, readyTime, fmt.Sprintf("test $(openct-control status --json | grep -c '\"clients\": %d') = 1", n))
}

func testUnplugWhileHung(t *testing.T, g *guest) {
	for _, n := range []int{1, 4} {
		t.Run(fmt.Sprintf("%d clients", n), func(t *testing.T) {
			g.install(t)
			k := g.plug(t, "hung", "")
			reader := k.served(t)
			waiting(t, g, k, reader, n)
			status := g.sh(t, "systemctl show -P StatusText "+k.unit())
			for _, want := range []string{fmt.Sprintf("%d client", n), "lock by pid"} {
				if !strings.Contains(status, want) {
					t.Errorf("systemctl status says %q, want %q in it", status, want)
				}
			}
			begin := g.sh(t, "cut -d' ' -f1 /proc/uptime")
			k.ctl(t, "unplug")
			k.gone(t, reader)
			for i := range n {
				g.until(t, goneTime, fmt.Sprintf("test $(systemctl show -P SubState client-%d) = exited", i))
				if code := g.sh(t, fmt.Sprintf("systemctl show -P ExecMainStatus client-%d", i)); code != "1" {
					t.Errorf("client %d ended with %s, want 1", i, code)
				}
			}
			t.Logf("pulled at %s, all over at %s", begin, g.sh(t, "cut -d' ' -f1 /proc/uptime"))
		})
	}
}

// testReplug pulls a token and plugs it into the same port before anybody can
// have reacted.
func testReplug(t *testing.T, g *guest) {
	g.install(t)
	k := g.plug(t, "a", "")
	reader := k.served(t)
	before, port := k.instance, k.busid
	// Both orders from one process: less than 50 ms lie between them.
	g.sh(t, fmt.Sprintf("%s ctl %s unplug && %[1]s ctl %[2]s plug", vtoken, k.control()))
	k.plugged(t)
	if k.busid != port {
		t.Errorf("port was %s, is %s", port, k.busid)
	}
	if k.instance == before {
		t.Errorf("device number did not change: %s", before)
	}
	again := k.served(t)
	k.works(t, again)
	(&token{g: g, instance: before}).inactive(t)
	k.ctl(t, "unplug")
	k.gone(t, again)
	_ = reader
}

// testReset resets the token's port, as hubs and other programs do.
func testReset(t *testing.T, g *guest) {
	g.install(t)
	k := g.plug(t, "a", "")
	reader := k.served(t)
	k.works(t, reader)
	g.sh(t, "usbreset "+strings.TrimPrefix(strings.ReplaceAll(k.instance, "-", "/"), "/"))
	// Whoever serves it afterwards, the next program gets an answer.
	g.until(t, readyTime, fmt.Sprintf("openct-tool -r %d atr", reader))
	k.works(t, k.served(t))
	k.ctl(t, "unplug")
	k.gone(t, reader)
}

func testRestart(t *testing.T, g *guest) {
	g.install(t)
	a, b := g.plug(t, "a", ""), g.plug(t, "b", "")
	a.served(t)
	b.served(t)
	t.Run("restart", func(t *testing.T) {
		g.sh(t, "systemctl restart openct.service")
		ra, rb := a.served(t), b.served(t)
		a.works(t, ra)
		b.works(t, rb)
	})
	t.Run("stop, then start", func(t *testing.T) {
		g.sh(t, "systemctl stop openct.service")
		a.inactive(t)
		b.inactive(t)
		g.sh(t, "systemctl start openct.service")
		ra, rb := a.served(t), b.served(t)
		a.works(t, ra)
		b.works(t, rb)
	})
	a.ctl(t, "unplug")
	b.ctl(t, "unplug")
	a.inactive(t)
	b.inactive(t)
}

// testStop lets go of one token: it stays so until it is plugged again, or
// started.
func testStop(t *testing.T, g *guest) {
	g.install(t)
	k, other := g.plug(t, "a", ""), g.plug(t, "b", "")
	reader := k.served(t)
	other.served(t)
	g.sh(t, "systemctl stop "+k.unit())
	k.gone(t, reader)
	t.Run("nothing starts it again", func(t *testing.T) {
		// Neither an event of the device, which systemd would take as a
		// reason, nor a reload.
		for range 2 {
			g.sh(t, "udevadm trigger --action=change --subsystem-match=usb && udevadm settle && systemctl daemon-reload")
		}
		g.until(t, time.Minute, "! systemctl list-jobs --no-legend | grep .")
		if state := g.sh(t, "systemctl show -P ActiveState "+k.unit()); state != "inactive" {
			t.Errorf("the unit is %s", state)
		}
		other.works(t, other.served(t))
	})
	t.Run("start", func(t *testing.T) {
		g.sh(t, "systemctl start "+k.unit())
		k.works(t, k.served(t))
		g.sh(t, "systemctl stop "+k.unit())
	})
	t.Run("replug", func(t *testing.T) {
		k.ctl(t, "unplug")
		k.ctl(t, "plug")
		k.works(t, k.served(t))
	})
	k.ctl(t, "unplug")
	other.ctl(t, "unplug")
	k.inactive(t)
	other.inactive(t)
}

// testKill kills the daemon as a crash would.
func testKill(t *testing.T, g *guest) {
	g.install(t)
	k := g.plug(t, "a", "")
	reader := k.served(t)
	before := g.sh(t, "systemctl show -P MainPID "+k.unit())
	g.sh(t, "kill -KILL "+before)
	g.until(t, readyTime, fmt.Sprintf("systemctl is-active %s && test $(systemctl show -P MainPID %[1]s) != %s", k.unit(), before))
	again := k.served(t)
	if again != reader {
		t.Errorf("reader was %d, is %d", reader, again)
	}
	k.works(t, again)
	k.ctl(t, "unplug")
	k.gone(t, again)
}

// testMany plugs sixteen tokens at once, one of which is broken.
func testMany(t *testing.T, g *guest) {
	g.install(t)
	// udev is held until all are in, and one refuses every transfer.
	g.sh(t, "udevadm control --stop-exec-queue")
	t.Cleanup(func() { g.try(t, "udevadm control --start-exec-queue") })
	bad := g.plug(t, "bad", "")
	bad.ctl(t, "stall 1 times=-1")
	var good []*token
	for i := range 15 {
		good = append(good, g.plug(t, fmt.Sprint(i), ""))
	}
	g.sh(t, "udevadm control --start-exec-queue")

	numbers := make(map[int]bool)
	for _, k := range good {
		n := k.served(t)
		numbers[n] = true
		k.works(t, n)
	}
	if len(numbers) != len(good) {
		t.Errorf("%d tokens have %d numbers", len(good), len(numbers))
	}
	g.reaches(t, readyTime, bad.unit(), "failed")

	last := g.plug(t, "last", "")
	last.works(t, last.served(t))
	t.Log("sixteen side by side: " + g.sh(t, cost+" all -seconds 4"))
	good = append(good, last)

	t.Run("and one too many", func(t *testing.T) {
		more := g.plug(t, "more", "")
		g.reaches(t, readyTime, more.unit(), "failed")
		_, findings, _ := doctor(t, g, "")
		if !tells(findings, "room", "all 16 reader numbers are in use") {
			t.Errorf("doctor finds %+v", findings)
		}
		good = append(good, more)
	})
	g.sh(t, "systemctl stop 'vtoken-*'")
	for _, k := range append(good, bad) {
		k.inactive(t)
	}
}

// plugs is how often the tokens, and then a reader, are plugged where that is
// repeated. OPENCT_E2E_PLUGS=200 takes four minutes.
func plugs(t *testing.T) int {
	t.Helper()
	n, err := strconv.Atoi(setting("OPENCT_E2E_PLUGS", "40"))
	if err != nil || n < 4 {
		t.Fatalf("OPENCT_E2E_PLUGS: %d, %v", n, err)
	}
	return n
}

// testCycles plugs and pulls tokens again and again, four side by side.
func testCycles(t *testing.T, g *guest) {
	const tokens = 4
	cycles := plugs(t) / tokens
	g.install(t)
	var all []*token
	for i := range tokens {
		k := g.plug(t, fmt.Sprintf("cycle-%d", i), "")
		k.served(t)
		k.ctl(t, "unplug")
		k.inactive(t)
		all = append(all, k)
	}
	count := `echo processes $(pgrep -c 'openct|ifdhandler') \
units $(systemctl list-units --all --plain --no-legend 'openct*' | wc -l) \
sockets $(grep -c /run/openct /proc/net/unix) files $(ls -A /run/openct | wc -l) \
usbfs $(ls -l /proc/[0-9]*/fd 2>/dev/null | grep -c bus/usb)`
	before := g.sh(t, count)
	failed := make(chan error)
	for _, k := range all {
		go func() {
			for i := range cycles {
				if err := k.cycle(); err != nil {
					failed <- fmt.Errorf("%s, plug %d of %d: %w", k.name, i+1, cycles, err)
					return
				}
			}
			failed <- nil
		}()
	}
	for range all {
		if err := <-failed; err != nil {
			t.Error(err)
		}
	}
	g.until(t, time.Minute, fmt.Sprintf("now=$(%s); echo \"$now, before: %s\"; test \"$now\" = '%[2]s'", count, before))
	t.Logf("%d plugs; left as before: %s", tokens*cycles, before)
}

// cycle plugs a token, waits until it is served, and pulls it.
func (k *token) cycle() error {
	reaches := func(limit time.Duration, want string) error {
		state, err := k.g.client.Unit(context.Background(), k.unit(), limit, want, "failed")
		if err == nil && state != want {
			err = fmt.Errorf("%s is %s, want %s", k.unit(), state, want)
		}
		return err
	}
	err := k.order("plug")
	if err == nil {
		err = reaches(readyTime, "active")
	}
	if err == nil {
		err = k.order("unplug")
	}
	if err == nil {
		err = reaches(goneTime, "inactive")
	}
	return err
}
