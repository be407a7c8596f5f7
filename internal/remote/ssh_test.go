package remote

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"openct/internal/devname"
	"openct/internal/ifd"
	"openct/internal/socket"
)

const playsSSH = "OPENCT_TEST_PLAYS_SSH"

func TestMain(m *testing.M) {
	if os.Getenv(playsSSH) != "" {
		os.Exit(ssh(os.Args[1:]))
	}
	os.Exit(m.Run())
}

// ssh plays ssh(1) with a far machine whose name says how that is.
func ssh(args []string) int {
	forward := args[slices.Index(args, "-L")+1]
	local, far, _ := strings.Cut(forward, ":")
	switch host := args[len(args)-1]; host {
	case "denied":
		fmt.Fprint(os.Stderr, "Welcome.\r\nalice@denied: Permission denied (publickey).\r\n")
		return 255
	case "stranger":
		fmt.Fprint(os.Stderr, "No ED25519 host key is known for stranger and you have requested strict checking.\r\nHost key verification failed.\r\n")
		return 255
	case "mute":
		return 255
	case "terminal":
		fmt.Fprint(os.Stderr, "\x1b[2Jssh: out\x07\r\n")
		return 255
	}
	l, err := net.Listen("unix", local)
	if err != nil {
		return 255
	}
	for {
		nc, err := l.Accept()
		if err != nil {
			return 255
		}
		there, err := net.Dial("unix", far)
		if err != nil {
			fmt.Fprint(os.Stderr, "channel 1: open failed: connect failed: open failed\r\n")
			nc.Close()
			continue
		}
		// A far end that closes ends the process, as a machine does that is gone.
		go func() { _, _ = io.Copy(there, nc); there.Close() }()
		go func() {
			_, _ = io.Copy(nc, bufio.NewReader(there))
			fmt.Fprint(os.Stderr, "Timeout, server far not responding.\r\n")
			os.Exit(255)
		}()
	}
}

// fakeSSH puts a program into PATH that plays ssh.
func fakeSSH(t *testing.T) {
	t.Helper()
	dir := t.TempDir()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	script := fmt.Sprintf("#!/bin/sh\n%s=1 exec '%s' \"$@\"\n", playsSSH, self)
	if err := os.WriteFile(filepath.Join(dir, "ssh"), []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	t.Setenv("TMPDIR", t.TempDir())
}

func quiet() ifd.Options { return ifd.Options{Log: slog.New(slog.DiscardHandler)} }

func newMachine(t *testing.T, host, far string) *machine {
	m := &machine{to: devname.Remote{User: "alice", Host: host, Socket: far}, o: quiet()}
	t.Cleanup(func() { m.Close() })
	return m
}

// nothingLeft sees that neither process nor socket is left.
func nothingLeft(t *testing.T) {
	t.Helper()
	left, err := os.ReadDir(os.TempDir())
	if err != nil || len(left) > 0 {
		t.Errorf("left: %v, %v", left, err)
	}
}

func TestSSHSaysWhy(t *testing.T) {
	tests := []struct {
		name, host string
		want       []string
	}{
		{"no key there", "denied", []string{"alice@denied: ssh: alice@denied: Permission denied (publickey).; put the public key of " + SSHDir}},
		{"host key not known", "stranger", []string{"ssh: Host key verification failed.; compare the key that ssh-keyscan stranger prints", SSHDir + "/known_hosts"}},
		{"nothing said", "mute", []string{"ssh has ended: exit status 255"}},
		{"said to a terminal", "terminal", []string{"ssh: ?[2Jssh: out?"}},
		{"no reader there", "empty", []string{"channel 1: open failed: connect failed: open failed; look there whether openct-control status lists the reader"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			fakeSSH(t)
			m := newMachine(t, tt.host, "/nowhere/0")
			_, err := m.Connect(context.Background())
			if err == nil {
				t.Fatal("connected")
			}
			for _, want := range tt.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("got %v, want %q", err, want)
				}
			}
			if err := m.Close(); err != nil {
				t.Error(err)
			}
			nothingLeft(t)
		})
	}
}

func TestNoSSH(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	_, err := newMachine(t, "desk", "/run/openct/0").Connect(context.Background())
	if !errors.Is(err, errNoSSH) {
		t.Errorf("got %v", err)
	}
}

// One ssh carries all connections, stays while the far reader is not there, and is
// started again when it has ended.
func TestSSH(t *testing.T) {
	fakeSSH(t)
	dir := t.TempDir()
	path := filepath.Join(dir, "0")
	m := newMachine(t, "desk", path)
	if _, err := m.Connect(context.Background()); err == nil || m.run == nil {
		t.Fatalf("ssh does not stay: %v", err)
	}
	first := m.run
	f := newFar(t, nil)
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	conns := make(chan net.Conn, 10)
	go func() {
		for {
			nc, err := l.Accept()
			if err != nil {
				return
			}
			conns <- nc
			go f.serve(nc)
		}
	}()
	rd, err := m.Connect(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	if m.run != first {
		t.Error("another ssh was started")
	}
	if rd.Name() != "Token at desk" {
		t.Errorf("name %q", rd.Name())
	}
	if _, err := rd.Slots()[0].Reset(context.Background()); err != nil {
		t.Error(err)
	}
	(<-conns).Close()
	<-rd.Gone()
	<-first.done
	rd.Close()
	again, err := m.Connect(context.Background())
	if err != nil {
		t.Fatalf("after the end of ssh: %v", err)
	}
	again.Close()
	if err := m.Close(); err != nil {
		t.Error(err)
	}
	nothingLeft(t)
}

func TestArgs(t *testing.T) {
	to := devname.Remote{User: "alice", Host: "desk", Port: 2222, Socket: "/run/openct/0"}
	got := args(to, "/tmp/x/s")
	if tail := strings.Join(got[len(got)-8:], " "); tail != "-L /tmp/x/s:/run/openct/0 -p 2222 -l alice -- desk" {
		t.Errorf("ends with %s", tail)
	}
	if !slices.Contains(got, "BatchMode=yes") || !slices.Contains(got, "ExitOnForwardFailure=yes") {
		t.Errorf("got %q", got)
	}
}

func TestFilesOfSSH(t *testing.T) {
	dir := t.TempDir()
	if got := files(filepath.Join(dir, "none")); got != nil {
		t.Errorf("without a folder: %q", got)
	}
	want := []string{"-o", "UserKnownHostsFile=" + dir + "/known_hosts"}
	if got := files(dir); !slices.Equal(got, want) {
		t.Errorf("empty folder: %q", got)
	}
	for _, name := range []string{"config", "id_ed25519", "id_ed25519.pub"} {
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want = append(want, "-F", dir+"/config", "-i", dir+"/id_ed25519")
	if got := files(dir); !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestUnix(t *testing.T) {
	path := filepath.Join(t.TempDir(), "0")
	way, err := Unix(path, quiet())
	if err != nil {
		t.Fatal(err)
	}
	_, err = way.Connect(context.Background())
	var code socket.Code
	if err == nil || !strings.Contains(err.Error(), path) || errors.As(err, &code) {
		t.Errorf("got %v (code %d)", err, code)
	}
	if _, err := Unix("run/0", quiet()); !errors.Is(err, devname.ErrName) {
		t.Errorf("relative path: %v", err)
	}
	if _, err := SSH("ssh://-oX/0", quiet()); !errors.Is(err, devname.ErrName) {
		t.Errorf("option for a host: %v", err)
	}
}
