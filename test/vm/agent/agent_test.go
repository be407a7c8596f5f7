package agent

import (
	"bufio"
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// pair connects a client with an agent on this machine.
func pair(t *testing.T) *Client {
	t.Helper()
	host, guest := net.Pipe()
	done := make(chan struct{})
	t.Cleanup(func() {
		host.Close()
		guest.Close()
		<-done
	})
	c := NewClient(host)
	go func() {
		defer close(done)
		Serve(guest, fakeUnits)
	}()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if err := c.Sync(ctx); err != nil {
		t.Fatal(err)
	}
	return c
}

func TestRun(t *testing.T) {
	c := pair(t)
	tests := []struct {
		name   string
		script string
		stdin  string
		want   Result
	}{
		{"output", "echo one; echo two >&2", "", Result{"one\n", "two\n", 0}},
		{"exit code", "exit 7", "", Result{"", "", 7}},
		{"signal", "kill -TERM $$", "", Result{"", "", 143}},
		{"stdin", "cat", "text", Result{"text", "", 0}},
		{"much output", "i=0; while [ $i -lt 2000 ]; do echo $i; i=$((i+1)); done | tail -n 1", "", Result{"1999\n", "", 0}},
		{"background", "sleep 60 & echo started; kill $!", "", Result{"started\n", "", 0}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := c.Run(context.Background(), tt.script, []byte(tt.stdin), 30*time.Second)
			if err != nil {
				t.Fatal(err)
			}
			if got != tt.want {
				t.Errorf("got %+v, want %+v", got, tt.want)
			}
		})
	}
}

// A script that hangs is killed with all it started, and the agent lives on.
func TestRunTimeout(t *testing.T) {
	c := pair(t)
	res, err := c.Run(context.Background(), "echo begun; sleep 300 | cat", nil, 200*time.Millisecond)
	if !errors.Is(err, ErrTimeout) {
		t.Fatalf("got %v, want ErrTimeout", err)
	}
	if res.Stdout != "begun\n" {
		t.Errorf("output before the kill is %q", res.Stdout)
	}
	if _, err := c.Run(context.Background(), "true", nil, 10*time.Second); err != nil {
		t.Errorf("after a kill: %v", err)
	}
}

// Garbage between messages, as a reboot leaves it, is passed over.
func TestGarbageBetweenMessages(t *testing.T) {
	host, guest := net.Pipe()
	defer host.Close()
	defer guest.Close()
	c := NewClient(host)
	go func() {
		guest.Write([]byte("{\"ID\":1,\"Std"))
		guest.Write([]byte("\x00\xff\n[]\n"))
		Serve(guest, fakeUnits)
	}()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if err := c.Sync(ctx); err != nil {
		t.Fatal(err)
	}
}

func TestPut(t *testing.T) {
	c := pair(t)
	path := filepath.Join(t.TempDir(), "new", "file")
	if err := c.Put(context.Background(), path, 0o751, []byte("data")); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(path)
	if err != nil || string(data) != "data" {
		t.Errorf("file holds %q, %v", data, err)
	}
	if st, err := os.Stat(path); err != nil || st.Mode().Perm() != 0o751 {
		t.Errorf("mode is %v, %v", st.Mode(), err)
	}
	err = c.Put(context.Background(), path+"/below", 0o644, nil)
	if err == nil || !strings.Contains(err.Error(), "guest agent") {
		t.Errorf("a file as a folder: got %v", err)
	}
}

// A request under way when the line is lost ends with an error.
func TestLineLost(t *testing.T) {
	host, guest := net.Pipe()
	c := NewClient(host)
	go func() {
		buf := make([]byte, 4096)
		guest.Read(buf)
		guest.Close()
	}()
	if _, err := c.Run(context.Background(), "true", nil, 10*time.Second); err == nil {
		t.Error("no error")
	}
	host.Close()
}

// fakeUnits has one unit, which is active; the others stay as they are.
func fakeUnits(ctx context.Context, unit string, states []string) (string, error) {
	switch {
	case unit == "":
		return "", errors.New("no unit")
	case unit == "a.service" && slices.Contains(states, "active"):
		return "active", nil
	}
	<-ctx.Done()
	return "activating", nil
}

func TestUnit(t *testing.T) {
	c := pair(t)
	tests := []struct {
		name, unit, want string
		timeout          time.Duration
		fails            bool
	}{
		{"reached", "a.service", "active", time.Minute, false},
		{"not in time", "b.service", "activating", 10 * time.Millisecond, false},
		{"systemd does not answer", "", "", time.Minute, true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := c.Unit(context.Background(), tt.unit, tt.timeout, "inactive", "active")
			if got != tt.want || (err != nil) != tt.fails {
				t.Errorf("got %q, %v", got, err)
			}
		})
	}
}

func TestLine(t *testing.T) {
	c := pair(t)
	path := filepath.Join(t.TempDir(), "socket")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() {
		conn, err := l.Accept()
		if err == nil {
			defer conn.Close()
			var line string
			if line, err = bufio.NewReader(conn).ReadString('\n'); err == nil {
				_, err = conn.Write([]byte("got " + line))
			}
		}
		served <- err
	}()
	answer, err := c.Line(context.Background(), path, "two words", 30*time.Second)
	if answer != "got two words" || err != nil {
		t.Errorf("got %q, %v", answer, err)
	}
	if err := <-served; err != nil {
		t.Error(err)
	}
	l.Close()
	if _, err := c.Line(context.Background(), path, "nobody there", 30*time.Second); err == nil {
		t.Error("no error from a socket that is gone")
	}
}
