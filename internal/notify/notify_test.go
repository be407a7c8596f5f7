package notify

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// manager is the socket a service manager listens on.
type manager struct{ *net.UnixConn }

func newManager(t *testing.T) manager {
	t.Helper()
	path := filepath.Join(t.TempDir(), "notify")
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	if err := conn.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	t.Setenv("NOTIFY_SOCKET", path)
	return manager{conn}
}

func (m manager) expect(t *testing.T, want string) {
	t.Helper()
	b := make([]byte, 4096)
	n, err := m.Read(b)
	if err != nil {
		t.Fatalf("waiting for %q: %v", want, err)
	}
	if got := string(b[:n]); got != want {
		t.Fatalf("got %q, want %q", got, want)
	}
}

// nothing checks that no message is waiting.
func (m manager) nothing(t *testing.T) {
	t.Helper()
	if err := m.SetReadDeadline(time.Now().Add(time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 4096)
	if n, err := m.Read(b); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatalf("got %q, %v, want no message", b[:n], err)
	}
}

var quiet = slog.New(slog.DiscardHandler)

func TestMessages(t *testing.T) {
	m := newManager(t)
	n := FromEnv(quiet)
	n.Ready("Aladdin eToken PRO 64k, reader 0, card present")
	m.expect(t, "READY=1\nSTATUS=Aladdin eToken PRO 64k, reader 0, card present")
	n.Status("2 clients")
	m.expect(t, "STATUS=2 clients")
	n.Status("Evil\nMAINPID=1\r\x00\x1b[2J")
	m.expect(t, "STATUS=Evil MAINPID=1   [2J")
	n.Status(strings.Repeat("x", maxStatus-1) + "\u00e4" + strings.Repeat("y", 1<<20))
	m.expect(t, "STATUS="+strings.Repeat("x", maxStatus-1)+"...")
	n.Stopping("unplugged")
	m.expect(t, "STOPPING=1\nSTATUS=unplugged")
	m.nothing(t)
}

func TestNobodyToTell(t *testing.T) {
	t.Setenv("NOTIFY_SOCKET", "")
	t.Setenv("WATCHDOG_USEC", "1000")
	if Supervised() {
		t.Error("supervised without a socket")
	}
	for name, n := range map[string]*Notifier{"no manager": FromEnv(quiet), "zero": {}, "nil": nil} {
		t.Run(name, func(t *testing.T) {
			n.Ready("x")
			n.Status("y")
			n.Stopping("z")
			n.Watchdog(func(context.Context) error { t.Error("probed"); return nil })()
			if n.Unit() != "" {
				t.Errorf("unit %q", n.Unit())
			}
		})
	}
}

func TestManagerIsGone(t *testing.T) {
	m := newManager(t)
	var log strings.Builder
	n := FromEnv(slog.New(slog.NewTextHandler(&log, nil)))
	m.Close()
	n.Ready("x")
	if !strings.Contains(log.String(), "cannot notify systemd") {
		t.Errorf("log: %q", log.String())
	}
}

func TestWatchdog(t *testing.T) {
	const usec = 20_000
	set := func(t *testing.T, usec string, pid int) *Notifier {
		t.Setenv("WATCHDOG_USEC", usec)
		t.Setenv("WATCHDOG_PID", strconv.Itoa(pid))
		return FromEnv(quiet)
	}
	t.Run("pings", func(t *testing.T) {
		m := newManager(t)
		var probes atomic.Int32
		stop := set(t, strconv.Itoa(usec), os.Getpid()).Watchdog(func(context.Context) error {
			probes.Add(1)
			return nil
		})
		for range 3 {
			m.expect(t, "WATCHDOG=1")
		}
		stop()
		if probes.Load() < 3 {
			t.Errorf("%d probes for 3 pings", probes.Load())
		}
	})
	t.Run("not for a device that is stuck", func(t *testing.T) {
		m := newManager(t)
		probed := make(chan struct{})
		var late atomic.Int32
		stop := set(t, strconv.Itoa(usec), os.Getpid()).Watchdog(func(ctx context.Context) error {
			<-ctx.Done() // bounded: ends without our doing
			if late.Add(1) == 3 {
				close(probed)
			}
			return ctx.Err()
		})
		<-probed
		stop()
		m.nothing(t)
	})
	t.Run("again after it came loose", func(t *testing.T) {
		m := newManager(t)
		var stuck atomic.Bool
		stuck.Store(true)
		stop := set(t, strconv.Itoa(usec), os.Getpid()).Watchdog(func(context.Context) error {
			if stuck.Swap(false) {
				return errors.New("stuck")
			}
			return nil
		})
		m.expect(t, "WATCHDOG=1")
		stop()
	})
	idle := []struct {
		name, usec string
		pid        int
	}{
		{"not asked", "", os.Getpid()},
		{"asked of another process", strconv.Itoa(usec), 1},
		{"not a number", "soon", os.Getpid()},
		{"negative", "-5", os.Getpid()},
	}
	for _, tt := range idle {
		t.Run(tt.name, func(t *testing.T) {
			m := newManager(t)
			n := set(t, tt.usec, tt.pid)
			n.Watchdog(func(context.Context) error { t.Error("probed"); return nil })()
			m.nothing(t)
		})
	}
}

func TestUnit(t *testing.T) {
	tests := []struct {
		name, cgroup, want string
	}{
		{"unified", "0::/system.slice/system-openct\\x2dhandler.slice/openct-handler@001-004.service\n", "openct-handler@001-004.service"},
		{"delegated below", "0::/system.slice/openct-handler@001-004.service/sub\n", "openct-handler@001-004.service"},
		{"hybrid", "12:pids:/x.service\n1:name=systemd:/system.slice/a.service\n0::/\n", "a.service"},
		{"shell", "0::/user.slice/user-1000.slice/session-1.scope\n", ""},
		{"container", "0::/\n", ""},
		{"garbage", "x\n:\n::\n", ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := UnitOf(tt.cgroup); got != tt.want {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
}
