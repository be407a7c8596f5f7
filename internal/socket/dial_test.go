package socket

import (
	"context"
	"errors"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// The owner of the directory cannot have another user, who may be root, connect to
// another program's socket.
func TestDialReaderFollowsNoLink(t *testing.T) {
	dir, elsewhere := shortDir(t), filepath.Join(shortDir(t), "other")
	reader := mustListen(t, filepath.Join(dir, "0"), ListenOptions{UID: -1, GID: -1})
	other := mustListen(t, elsewhere, ListenOptions{UID: -1, GID: -1})
	stale := mustListen(t, filepath.Join(dir, "5"), ListenOptions{UID: -1, GID: -1})
	stale.UnixListener.SetUnlinkOnClose(false)
	stale.UnixListener.Close()
	err := errors.Join(
		os.Symlink(elsewhere, filepath.Join(dir, "1")),
		os.Symlink("0", filepath.Join(dir, "2")),
		os.WriteFile(filepath.Join(dir, "3"), nil, 0o600),
	)
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name string
		n    int
		want error
		says string
	}{
		{"socket", 0, nil, ""},
		{"link to another program's", 1, ErrNotSocket, "/1: not a socket, but a symbolic link"},
		{"link to a reader's", 2, ErrNotSocket, "/2: not a socket, but a symbolic link"},
		{"file", 3, ErrNotSocket, "/3: not a socket"},
		{"nothing", 4, fs.ErrNotExist, "/4: no such file"},
		{"socket that nobody listens on", 5, unix.ECONNREFUSED, "dial unix " + dir + "/5: connect: connection refused"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c, err := DialReader(context.Background(), dir, tt.n)
			if err == nil {
				c.Close()
			} else if !errors.Is(err, NotConnected) || !strings.Contains(err.Error(), tt.says) {
				t.Errorf("error %v, want %v that says %q", err, NotConnected, tt.says)
			}
			if !errors.Is(err, tt.want) {
				t.Errorf("error %v, want %v", err, tt.want)
			}
		})
	}
	if got := waiting(t, reader.UnixListener); got != 1 {
		t.Errorf("%d connections to the reader's socket, want 1", got)
	}
	if got := waiting(t, other.UnixListener); got != 0 {
		t.Errorf("%d connections to another program's socket", got)
	}
}

// waiting counts the clients that have connected to a socket.
func waiting(t *testing.T, l *net.UnixListener) int {
	t.Helper()
	raw, err := l.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	err = raw.Control(func(fd uintptr) {
		for {
			nc, _, err := unix.Accept4(int(fd), unix.SOCK_CLOEXEC)
			if err != nil {
				return
			}
			unix.Close(nc)
			n++
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// What is put in the socket's place after it was found is not connected to.
func TestFileStaysTheSame(t *testing.T) {
	dir, elsewhere := shortDir(t), filepath.Join(shortDir(t), "other")
	reader := mustListen(t, filepath.Join(dir, "0"), ListenOptions{UID: -1, GID: -1})
	other := mustListen(t, elsewhere, ListenOptions{UID: -1, GID: -1})
	f, err := OpenFile(dir, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	path := reader.Path()
	if err := errors.Join(os.Remove(path), os.Symlink(elsewhere, path)); err != nil {
		t.Fatal(err)
	}
	dial(t, f.Addr())
	if got := waiting(t, reader.UnixListener); got != 1 {
		t.Errorf("%d connections to the socket that was found, want 1", got)
	}
	if got := waiting(t, other.UnixListener); got != 0 {
		t.Errorf("%d connections to another program's socket", got)
	}
}
