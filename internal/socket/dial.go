package socket

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"time"

	"golang.org/x/sys/unix"
)

// Dial connects to the handler's socket at path. If so many clients wait that
// the handler's queue is full, it tries until ctx ends.
func Dial(ctx context.Context, path string) (*Client, error) { return dialAddr(ctx, path, path) }

// DialReader is Dial for reader n, whose socket is in dir. The caller may be root and
// the directory another user's, see File.
func DialReader(ctx context.Context, dir string, n int) (*Client, error) {
	file, err := OpenFile(dir, n)
	if err != nil {
		return nil, opError("connect", fmt.Errorf("%w: %w", NotConnected, err))
	}
	defer file.Close()
	return dialAddr(ctx, ReaderPath(dir, n), file.Addr())
}

// dialAddr connects to the socket at addr, which people know by its path.
func dialAddr(ctx context.Context, path, addr string) (*Client, error) {
	if len(addr) > maxSocketPath {
		return nil, opError("connect", fmt.Errorf("%w: %s", ErrPathTooLong, path))
	}
	for delay := minDialDelay; ; delay = min(2*delay, maxDialDelay) {
		nc, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: addr, Net: "unix"})
		if err == nil {
			return NewClient(nc), nil
		}
		var failed *net.OpError
		if errors.As(err, &failed) {
			failed.Addr = &net.UnixAddr{Name: path, Net: "unix"}
		}
		// Go's sockets do not block: connect(2) fails with EAGAIN when the
		// queue is full.
		if errors.Is(err, unix.EAGAIN) {
			select {
			case <-time.After(delay):
				continue
			case <-ctx.Done():
				err = fmt.Errorf("%w: %w", context.Cause(ctx), err)
			}
		}
		return nil, opError("connect", fmt.Errorf("%w: %w", NotConnected, err))
	}
}

const (
	minDialDelay = 5 * time.Millisecond // while the queue is full, doubling
	maxDialDelay = 250 * time.Millisecond
)

// ErrNotSocket: something else than a socket has the name of a reader's socket.
var ErrNotSocket = errors.New("not a socket")

// File is the file of a reader's socket. Its directory belongs to the handlers'
// user, who can exchange any name in it at any moment, and put a symbolic link to
// another program's socket there. So the name is looked up once, no link is
// followed, and a connection to Addr leads to the file that was found.
type File struct{ fd int }

// OpenFile finds the socket of reader n in dir.
func OpenFile(dir string, n int) (*File, error) {
	path := ReaderPath(dir, n)
	fail := func(err error) (*File, error) { return nil, &fs.PathError{Op: "open", Path: path, Err: err} }
	fd, err := unix.Open(path, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return fail(err)
	}
	var st unix.Stat_t
	err = unix.Fstat(fd, &st)
	if typ := st.Mode & unix.S_IFMT; err == nil && typ == unix.S_IFLNK {
		err = fmt.Errorf("%w, but a symbolic link, which is not followed", ErrNotSocket)
	} else if err == nil && typ != unix.S_IFSOCK {
		err = ErrNotSocket
	}
	if err != nil {
		unix.Close(fd)
		return fail(err)
	}
	return &File{fd}, nil
}

// Addr is a name of the socket as long as f is open: the link in /proc leads to the
// same inode, wherever its name is now (open(2), O_PATH).
func (f *File) Addr() string { return fmt.Sprintf("/proc/self/fd/%d", f.fd) }

// Close ends the use of Addr. Connections stay.
func (f *File) Close() error { return unix.Close(f.fd) }
