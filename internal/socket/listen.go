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
	// firstMode is the mode a socket is bound with.
	firstMode = 0o600
)

// ListenOptions says who may connect to a socket. Only the owner and root can
// chown; -1 leaves an id as it is.
type ListenOptions struct {
	Mode     fs.FileMode // permission bits; 0 means 0666: access is the directory's affair
	UID, GID int

	bound func(path string) // for tests: called when the socket has a name
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
//
// The directory may belong to somebody with fewer rights than the caller, who
// can exchange any name in it at any moment. So mode and owner are given to the
// inode that bind has made, through a descriptor of it, and never to a name.
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
	if err := unix.Fchmod(fd, firstMode); err != nil {
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
	if opt.bound != nil {
		opt.bound(tmp)
	}
	st, err := own(tmp, opt)
	if err != nil {
		return nil, err
	}
	if err := unix.Listen(fd, backlog); err != nil {
		return nil, os.NewSyscallError("listen", err)
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

// errNotOurs says that the name just bound leads to something else.
var errNotOurs = errors.New("the socket was replaced by another file")

// own gives the socket that was just bound at path its owner and mode. It looks
// at the file once, without following a link, and acts on what it has seen.
func own(path string, opt ListenOptions) (*unix.Stat_t, error) {
	fd, err := unix.Open(path, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("open", err)
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return nil, os.NewSyscallError("fstat", err)
	}
	// Made a moment ago, by us, and not a second name of an older socket.
	if st.Mode&unix.S_IFMT != unix.S_IFSOCK || int(st.Uid) != unix.Geteuid() || st.Nlink != 1 || st.Mode&0o7777&^firstMode != 0 {
		return nil, errNotOurs
	}
	if opt.UID != -1 || opt.GID != -1 {
		if err := unix.Fchownat(fd, "", opt.UID, opt.GID, unix.AT_EMPTY_PATH); err != nil {
			return nil, os.NewSyscallError("fchownat", err)
		}
	}
	// fchmod takes no descriptor of this sort; the link in /proc leads to the
	// same inode, wherever its name is now (open(2), O_PATH).
	if err := unix.Chmod(fmt.Sprintf("/proc/self/fd/%d", fd), uint32(opt.Mode.Perm())); err != nil {
		return nil, os.NewSyscallError("chmod", err)
	}
	return &st, nil
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
