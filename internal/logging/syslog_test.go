package logging

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// patience bounds how long a test waits for a message.
const patience = 10 * time.Second

// listenSyslog is a syslogd at a socket of datagrams.
func listenSyslog(t *testing.T, path string) *net.UnixConn {
	t.Helper()
	l, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	l.SetReadDeadline(time.Now().Add(patience))
	return l
}

// message reads one message and returns its priority, its tag and its text.
func message(t *testing.T, r io.Reader) string {
	t.Helper()
	b := make([]byte, 1024)
	n, err := r.Read(b)
	if err != nil {
		t.Fatal(err)
	}
	pri, rest, _ := strings.Cut(string(b[:n]), ">")
	if len(rest) < len(time.Stamp) {
		t.Fatalf("message %q is too short", b[:n])
	}
	if _, err := time.Parse(time.Stamp, rest[:len(time.Stamp)]); err != nil {
		t.Errorf("message %q: %v", b[:n], err)
	}
	return pri + ">" + rest[len(time.Stamp):]
}

func TestSyslog(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	syslogd := listenSyslog(t, path)
	s, err := newSyslog(path, "test")
	if err != nil {
		t.Fatal(err)
	}
	l := slog.New(newHandler(s, slog.LevelDebug, time.Now))
	l.Error("a", "error", errors.New("b"))
	l.Warn("c")
	l.Info("d")
	l.Debug("e")
	var got []string
	for range 4 {
		got = append(got, message(t, syslogd))
	}
	// daemon.warning, daemon.info, daemon.debug
	want := []string{"<28> test[PID]: a: b\n", "<28> test[PID]: c\n", "<30> test[PID]: d\n", "<31> test[PID]: e\n"}
	for i := range want {
		want[i] = strings.ReplaceAll(want[i], "PID", fmt.Sprint(os.Getpid()))
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("messages (-want +got):\n%s", diff)
	}
}

func TestSyslogRestarted(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	first := listenSyslog(t, path)
	s, err := newSyslog(path, "test")
	if err != nil {
		t.Fatal(err)
	}
	first.Close()
	os.Remove(path)
	if err := s.write(entry{text: "lost"}); !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), path) {
		t.Errorf("without syslogd: %v", err)
	}
	second := listenSyslog(t, path)
	if err := s.write(entry{text: "found"}); err != nil {
		t.Fatal(err)
	}
	if got := message(t, second); !strings.HasSuffix(got, ": found\n") {
		t.Errorf("second syslogd got %q", got)
	}
}

func TestSyslogStream(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	l.SetDeadline(time.Now().Add(patience))
	s, err := newSyslog(path, "test")
	if err != nil {
		t.Fatal(err)
	}
	syslogd, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer syslogd.Close()
	syslogd.SetReadDeadline(time.Now().Add(patience))
	for _, text := range []string{"a", "b"} {
		if err := s.write(entry{text: text}); err != nil {
			t.Fatal(err)
		}
	}
	r := bufio.NewReader(syslogd)
	for _, text := range []string{"a", "b"} {
		line, err := r.ReadString('\n')
		if err != nil || !strings.HasSuffix(line, ": "+text+"\n") {
			t.Errorf("got %q, %v", line, err)
		}
	}
}

func TestNoSyslog(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	if _, err := newSyslog(path, "test"); !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), path) {
		t.Errorf("got %v", err)
	}
}
