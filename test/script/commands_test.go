package script

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"golang.org/x/sys/unix"

	"openct/internal/serial/serialtest"
	"openct/internal/socket"
	"openct/internal/status"
	"openct/internal/vusb/card"
	"openct/internal/vusb/kaan"
	"openct/internal/vusb/phoenix"
	"openct/internal/vusb/serialline"
	"openct/internal/vusb/towitoko"
)

// world is what one script has started.
type world struct {
	dir string // of status file and sockets

	notify *net.UnixConn
	served []io.Closer
	client *socket.Client
}

type worldKey struct{}

var commands = map[string]func(ts *testscript.TestScript, neg bool, args []string){
	"handlers":      command(1, func(w *world, args []string) error { return w.handlers(args[0]) }),
	"signal":        command(2, func(w *world, args []string) error { return w.signal(args[0], args[1]) }),
	"listen-notify": command(1, func(w *world, args []string) error { return w.listenNotify(args[0]) }),
	"serve":         command(1, func(w *world, args []string) error { return w.serve(args[0]) }),
	"serial":        serialReader,
	"client":        command(1, func(w *world, args []string) error { return w.lock(args[0]) }),
	"leave":         command(0, func(w *world, _ []string) error { return w.client.Close() }),
	"shown":         shown,
	"notified":      command(1, func(w *world, args []string) error { return w.notified(args[0]) }),
}

func command(n int, f func(w *world, args []string) error) func(*testscript.TestScript, bool, []string) {
	return func(ts *testscript.TestScript, neg bool, args []string) {
		if neg || len(args) != n {
			ts.Fatalf("takes %d arguments, and cannot be negated", n)
		}
		ts.Check(f(ts.Value(worldKey{}).(*world), args))
	}
}

// names are what a handler is called: that of its command, until it has its own.
var names = []string{"ifdhandler\n", "openct-control\n", "openct\n", "openct-watch\n"}

// processes are the handlers that serve a directory. What tells them from
// others is their environment, which stays readable until they end.
func processes(dir string) ([]int, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, err
	}
	var pids []int
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		comm, _ := os.ReadFile(filepath.Join("/proc", e.Name(), "comm"))
		environ, err := os.ReadFile(filepath.Join("/proc", e.Name(), "environ"))
		if err != nil || !slices.Contains(names, string(comm)) {
			continue // gone, or another user's
		}
		if bytes.Contains(append([]byte{0}, environ...), []byte("\x00OPENCT_SOCKETDIR="+dir+"\x00")) {
			pids = append(pids, pid)
		}
	}
	return pids, nil
}

// handlers waits until there are want handlers.
func (w *world) handlers(want string) error {
	n, err := strconv.Atoi(want)
	if err != nil {
		return err
	}
	ctx, cancel := deadline()
	defer cancel()
	for {
		pids, err := processes(w.dir)
		if err != nil || len(pids) == n {
			return err
		}
		if len(pids) > n {
			err = anyEnds(ctx, pids)
		} else {
			// One that was started in the background has its name and its environment
			// a moment later (execve), and nothing tells when.
			time.Sleep(time.Millisecond)
			err = ctx.Err()
		}
		if err != nil {
			return fmt.Errorf("%d handlers (%v), not %d: %w", len(pids), pids, n, err)
		}
	}
}

// anyEnds waits until one of the processes has ended, and takes it off the
// process table if it is an orphan.
func anyEnds(ctx context.Context, pids []int) error {
	var fds []unix.PollFd
	for _, pid := range pids {
		fd, err := unix.PidfdOpen(pid, 0)
		if errors.Is(err, unix.ESRCH) {
			return nil
		}
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		fds = append(fds, unix.PollFd{Fd: int32(fd), Events: unix.POLLIN})
	}
	for {
		n, err := unix.Poll(fds, 100)
		if err != nil && !errors.Is(err, unix.EINTR) {
			return err
		}
		if n > 0 {
			break
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
	for i, pid := range pids {
		// A detached handler leads its session. Others are waited for by
		// whoever started them.
		if sid, err := unix.Getsid(pid); fds[i].Revents != 0 && err == nil && sid == pid {
			_, _ = unix.Wait4(pid, nil, unix.WNOHANG, nil)
		}
	}
	return nil
}

// signal sends reader n's handler a signal that ends it.
func (w *world) signal(name, reader string) error {
	n, err := strconv.Atoi(reader)
	if err != nil {
		return err
	}
	f, err := status.OpenReadOnly(w.dir)
	if err != nil {
		return err
	}
	defer f.Close()
	e, err := f.Entry(n)
	if err != nil {
		return err
	}
	if !e.InUse() {
		return fmt.Errorf("there is no reader %d", n)
	}
	if err := unix.Kill(e.PID, unix.SignalNum("SIG"+name)); err != nil {
		return err
	}
	ctx, cancel := deadline()
	defer cancel()
	return anyEnds(ctx, []int{e.PID})
}

// listenNotify listens as systemd does. Scripts give the path to services in
// NOTIFY_SOCKET.
func (w *world) listenNotify(path string) error {
	l, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		return err
	}
	w.notify = l
	return nil
}

// serve makes this process one that serves a device, as far as the status file
// tells.
func (w *world) serve(device string) error {
	f, err := status.Open(w.dir)
	if err != nil {
		return err
	}
	slot, err := status.Claim(f, status.Detail{Device: device})
	if err != nil {
		f.Close()
		return err
	}
	w.served = append(w.served, closer(func() error { return errors.Join(slot.Release(), f.Close()) }))
	return slot.Publish(status.Info{Name: "served elsewhere", Slots: 1})
}

// lock connects to a reader and locks the card in its first slot.
func (w *world) lock(reader string) error {
	n, err := strconv.Atoi(reader)
	if err != nil {
		return err
	}
	ctx, cancel := deadline()
	defer cancel()
	if w.client, err = socket.DialReader(ctx, w.dir, n); err != nil {
		return err
	}
	_, err = w.client.Lock(ctx, 0, true)
	return err
}

// shown waits for a line of a file to which a program in the background writes.
func shown(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("takes a file and an expression, and cannot be negated")
	}
	re, err := regexp.Compile("(?m)" + args[1])
	ts.Check(err)
	for end := time.Now().Add(patience); ; time.Sleep(time.Millisecond) {
		b, err := os.ReadFile(ts.MkAbs(args[0]))
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			ts.Fatalf("%v", err)
		}
		if re.Match(b) {
			return
		}
		if time.Now().After(end) {
			ts.Fatalf("no line of %s matches %q:\n%s", args[0], args[1], b)
		}
	}
}

// onLine are the readers that a script can have at a pseudo-terminal, and what a reset
// by the line does to each.
var onLine = map[string]func(card.Card) (serialline.Reader, func() []serialline.Char){
	"phoenix": func(c card.Card) (serialline.Reader, func() []serialline.Char) {
		r := phoenix.New(c)
		r.AnyLine = true
		return r, r.Reset
	},
	"towitoko": func(c card.Card) (serialline.Reader, func() []serialline.Char) {
		return towitoko.New(towitoko.External, c), nil
	},
	"kaan": func(c card.Card) (serialline.Reader, func() []serialline.Char) {
		r := kaan.New(c)
		r.AnyLine = true
		return r, nil
	},
}

// serialReader serves a reader with a card at a pseudo-terminal, and puts its path into a
// variable.
func serialReader(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 3 || onLine[args[1]] == nil {
		ts.Fatalf("takes a variable, a driver and a card, and cannot be negated")
	}
	c, err := card.New(args[2], nil)
	ts.Check(err)
	r, reset := onLine[args[1]](c)
	peer, path, err := serialtest.OpenPty()
	ts.Check(err)
	ts.Setenv(args[0], path)
	mu, ended := new(sync.Mutex), make(chan struct{})
	go func() {
		defer close(ended)
		// EIO: nobody has the other end open, and nothing tells when somebody has.
		for errors.Is(serialline.ServePTY(peer, mu, r, reset), unix.EIO) {
			time.Sleep(time.Millisecond)
		}
	}()
	w := ts.Value(worldKey{}).(*world)
	w.served = append(w.served, closer(func() error {
		err := peer.Close()
		<-ended
		return err
	}))
}

type closer func() error

func (c closer) Close() error { return c() }

func (w *world) notified(pattern string) error {
	re, err := regexp.Compile("(?m)" + pattern)
	if err != nil {
		return err
	}
	ctx, cancel := deadline()
	defer cancel()
	end, _ := ctx.Deadline()
	if err := w.notify.SetReadDeadline(end); err != nil {
		return err
	}
	var seen []string
	for {
		b := make([]byte, 4096)
		n, err := w.notify.Read(b)
		if err != nil {
			return fmt.Errorf("waited for %q, got %q: %w", pattern, seen, err)
		}
		if re.Match(b[:n]) {
			return nil
		}
		seen = append(seen, string(b[:n]))
	}
}

// end kills what the script has left running.
func (w *world) end() error {
	if w.notify != nil {
		w.notify.Close()
	}
	for _, s := range w.served {
		if err := s.Close(); err != nil {
			return err
		}
	}
	pids, err := processes(w.dir)
	if err != nil {
		return err
	}
	for _, pid := range pids {
		if err := unix.Kill(pid, unix.SIGKILL); err != nil && !errors.Is(err, unix.ESRCH) {
			return err
		}
	}
	return w.handlers("0")
}
