// Package notify tells systemd the state of the handler: ready, what it does, stopping,
// and alive when the unit asks for a watchdog (sd_notify(3)). In a handler that was
// started by hand every call does nothing.
//
// Call it from the handler's main process only: with NotifyAccess=main, the default
// for Type=notify, messages of a child are dropped.
package notify

import (
	"context"
	"log/slog"
	"os"
	"strings"
	"sync"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/coreos/go-systemd/v22/daemon"
)

// Notifier sends messages to the service manager. Nil and the zero Notifier have
// nobody to tell. It is safe for concurrent use.
type Notifier struct {
	log      *slog.Logger
	watchdog time.Duration // a ping must come within; 0: nobody waits for one
	unit     string
}

// FromEnv looks at what the service manager put into the environment. A watchdog
// setting that cannot be read is reported to log and ignored.
func FromEnv(log *slog.Logger) *Notifier {
	n := &Notifier{log: log}
	if !Supervised() {
		return n
	}
	var err error
	if n.watchdog, err = daemon.SdWatchdogEnabled(false); err != nil {
		log.Warn("no watchdog", "error", err)
	}
	if cgroup, err := os.ReadFile("/proc/self/cgroup"); err == nil {
		n.unit = UnitOf(string(cgroup))
	}
	return n
}

// Supervised says whether a service manager waits for messages, that is, whether
// this process is a unit of Type=notify and must stay in the foreground.
func Supervised() bool { return os.Getenv("NOTIFY_SOCKET") != "" }

// Unit is the systemd unit the process runs in, such as
// openct-handler@001-004.service; empty when it runs in none.
func (n *Notifier) Unit() string {
	if n == nil {
		return ""
	}
	return n.unit
}

// UnitOf finds the unit in the content of /proc/PID/cgroup: the last component of
// a path that is a service, be it in the one hierarchy or in systemd's own.
func UnitOf(cgroup string) string {
	for line := range strings.Lines(cgroup) {
		fields := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(fields) != 3 || (fields[1] != "" && fields[1] != "name=systemd") {
			continue
		}
		parts := strings.Split(fields[2], "/")
		for i := len(parts) - 1; i >= 0; i-- {
			if strings.HasSuffix(parts[i], ".service") {
				return parts[i]
			}
		}
	}
	return ""
}

// Ready says that clients can be served from now on, and what systemctl status
// shows.
func (n *Notifier) Ready(status string) { n.send(daemon.SdNotifyReady + statusLine(status)) }

// Stopping says that the handler ends, and why.
func (n *Notifier) Stopping(status string) { n.send(daemon.SdNotifyStopping + statusLine(status)) }

// Status changes what systemctl status shows: one line for people.
func (n *Notifier) Status(status string) { n.send(statusLine(status)[1:]) }

// maxStatus is how many bytes of a status text are told. systemd ignores messages of
// more than 4096 bytes, and logs a warning for each (NOTIFY_BUFFER_MAX in
// src/core/manager.c).
const maxStatus = 2048

// statusLine is the assignment for a status text, on a line of its own. A message is lines
// of assignments, so nothing a device calls itself may start another line.
func statusLine(status string) string {
	status = strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return ' '
		}
		return r
	}, status)
	if n := maxStatus; len(status) > n {
		for !utf8.RuneStart(status[n]) {
			n--
		}
		status = status[:n] + "..."
	}
	return "\nSTATUS=" + status
}

func (n *Notifier) send(message string) {
	if n == nil || n.log == nil {
		return
	}
	if _, err := daemon.SdNotify(false, message); err != nil {
		n.log.Warn("cannot notify systemd", "error", err)
	}
}

// Watchdog pings the service manager twice per watchdog interval as long as probe
// succeeds. probe must do what a client's request does first (take the device's
// lock), so that a transfer that is stuck keeps the ping away and the handler is
// restarted. It has half an interval for that; its ctx then ends.
//
// Where the unit asks for no watchdog, nothing runs. The returned function ends
// the pings; it returns when no probe is running any more.
func (n *Notifier) Watchdog(probe func(ctx context.Context) error) (stop func()) {
	if n == nil || n.watchdog <= 0 {
		return func() {}
	}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Add(1)
	go func() {
		defer wg.Done()
		n.watch(ctx, n.watchdog/2, probe)
	}()
	return func() { cancel(); wg.Wait() }
}

func (n *Notifier) watch(ctx context.Context, interval time.Duration, probe func(ctx context.Context) error) {
	tick := time.NewTicker(interval)
	defer tick.Stop()
	for {
		limited, cancel := context.WithTimeout(ctx, interval)
		err := probe(limited)
		cancel()
		switch {
		case ctx.Err() != nil:
			return
		case err != nil:
			n.log.Warn("device does not answer; the watchdog is not notified", "error", err)
		default:
			n.send(daemon.SdNotifyWatchdog)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}
