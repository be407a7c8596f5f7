package socket

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// ErrPathTooLong says that a path does not fit a Unix socket address.
var ErrPathTooLong = errors.New("path is too long for a socket")

const (
	// maxSocketPath is what sun_path holds besides its final NUL (unix(7)).
	maxSocketPath = 107
	// backlog is how many clients may wait to be accepted while all
	// connections are in use. OpenCT had 5.
	backlog = 128
)

// ListenOptions says who may connect to a socket. Only the owner and root can
// chown; -1 leaves an id as it is.
type ListenOptions struct {
	Mode     fs.FileMode // permission bits; 0 means 0666: access is the directory's affair
	UID, GID int
}

// Listener is the socket of one reader.
type Listener struct {
	*net.UnixListener
	path     string
	dev, ino uint64
}

// Listen makes the socket at path, in place of whatever file an earlier
// handler left there. Nobody can connect before it has its mode and owner,
// and at no time is there a socket that others than these can connect to.
func Listen(path string, opt ListenOptions) (*Listener, error) {
	l, err := listen(path, opt)
	if err != nil {
		return nil, fmt.Errorf("listening on %s: %w", path, err)
	}
	return l, nil
}

func listen(path string, opt ListenOptions) (_ *Listener, err error) {
	if len(path) > maxSocketPath {
		return nil, fmt.Errorf("%w: %d bytes, at most %d", ErrPathTooLong, len(path), maxSocketPath)
	}
	if opt.Mode == 0 {
		opt.Mode = 0o666
	}
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	f := os.NewFile(uintptr(fd), path)
	defer f.Close() // the listener has a duplicate

	// Bound under another name first: the right file appears all at once.
	// The mode set on the descriptor is the one bind starts from.
	if err := unix.Fchmod(fd, 0o600); err != nil {
		return nil, os.NewSyscallError("fchmod", err)
	}
	dirName, name := filepath.Split(path)
	if dirName == "" {
		dirName = "."
	}
	tmp := filepath.Join(dirName, fmt.Sprintf(".%s.%d", name, os.Getpid()))
	if err := os.Remove(tmp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	if err := bind(fd, tmp); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			os.Remove(tmp)
		}
	}()
	if opt.UID != -1 || opt.GID != -1 {
		if err := os.Lchown(tmp, opt.UID, opt.GID); err != nil {
			return nil, err
		}
	}
	if err := os.Chmod(tmp, opt.Mode.Perm()); err != nil {
		return nil, err
	}
	if err := unix.Listen(fd, backlog); err != nil {
		return nil, os.NewSyscallError("listen", err)
	}
	var st unix.Stat_t
	if err := unix.Lstat(tmp, &st); err != nil {
		return nil, os.NewSyscallError("lstat", err)
	}
	nl, err := net.FileListener(f)
	if err != nil {
		return nil, err
	}
	ul, ok := nl.(*net.UnixListener)
	if !ok {
		nl.Close()
		return nil, fmt.Errorf("not a Unix socket: %T", nl)
	}
	if err := os.Rename(tmp, path); err != nil {
		ul.Close()
		return nil, err
	}
	return &Listener{UnixListener: ul, path: path, dev: uint64(st.Dev), ino: st.Ino}, nil
}

// bind binds fd to path, which may be longer than an address can hold: then
// it goes by way of its directory's descriptor.
func bind(fd int, path string) error {
	addr := path
	if len(addr) > maxSocketPath {
		dir, err := unix.Open(filepath.Dir(path), unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if err != nil {
			return os.NewSyscallError("open", err)
		}
		defer unix.Close(dir)
		addr = fmt.Sprintf("/proc/self/fd/%d/%s", dir, filepath.Base(path))
	}
	return os.NewSyscallError("bind", unix.Bind(fd, &unix.SockaddrUnix{Name: addr}))
}

// Path is where the socket is.
func (l *Listener) Path() string { return l.path }

// Close removes the socket file, if it is still this listener's, and stops
// listening. Connections stay.
func (l *Listener) Close() error {
	var st unix.Stat_t
	if unix.Lstat(l.path, &st) == nil && uint64(st.Dev) == l.dev && st.Ino == l.ino {
		os.Remove(l.path)
	}
	return l.UnixListener.Close()
}
