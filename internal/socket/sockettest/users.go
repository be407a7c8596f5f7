package sockettest

import (
	"fmt"
	"net"
	"os"
	"runtime"

	"golang.org/x/sys/unix"

	"openct/internal/socket"
)

// Users lets a test play clients of several users without being root: it
// announces each connection's uid before it connects, and the server, which
// accepts in the same order, asks it instead of the kernel. Set Credentials
// in the server's options and connect through a Dialer alone.
type Users struct {
	pending chan uint32
}

// NewUsers is for one socket.
func NewUsers() *Users {
	return &Users{pending: make(chan uint32, 1024)}
}

// Dialer connects to the socket at path.
func (u *Users) Dialer(path string) Dialer {
	return func(_ string, uid int) (net.Conn, error) {
		if uid == OwnUser {
			uid = os.Getuid()
		}
		u.pending <- uint32(uid)
		return net.Dial("unix", path)
	}
}

// Credentials is what socket.Options want.
func (u *Users) Credentials(nc net.Conn) (socket.Cred, error) {
	cred, err := socket.PeerCred(nc)
	cred.UID = <-u.pending
	return cred, err
}

// DialAs connects to path as the user with this uid, for tests that run as
// root. The directories on the way must let that user pass.
func DialAs(path string, uid int) (net.Conn, error) {
	if uid == OwnUser || uid == os.Getuid() {
		return net.Dial("unix", path)
	}
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("socket: %w", err)
	}
	f := os.NewFile(uintptr(fd), path)
	defer f.Close()

	// The user is one thread's, for the moment of connecting. A thread that
	// cannot go back ends with its goroutine.
	result := make(chan error)
	go func() {
		runtime.LockOSThread()
		if err := setThreadUID(uid); err != nil {
			result <- fmt.Errorf("becoming user %d: %w", uid, err)
			return
		}
		err := unix.Connect(fd, &unix.SockaddrUnix{Name: path})
		if setThreadUID(os.Getuid()) == nil {
			runtime.UnlockOSThread()
		}
		result <- err
	}()
	if err := <-result; err != nil {
		return nil, fmt.Errorf("connecting as user %d: %w", uid, err)
	}
	return net.FileConn(f)
}

// setThreadUID changes the effective user of the calling thread alone.
func setThreadUID(uid int) error {
	const keep = ^uintptr(0)
	if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, keep, uintptr(uid), keep); errno != 0 {
		return errno
	}
	return nil
}
