// Package uevent listens to what the kernel announces of devices that come and go
// (netlink(7), NETLINK_KOBJECT_UEVENT). It needs no udev, and asks nobody: a
// listener sleeps until there is something to tell.
package uevent

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// ErrOverflow says that events were lost: they came faster than they were read
// (netlink(7), ENOBUFS). What the machine has is to be looked at anew.
var ErrOverflow = errors.New("events of devices were lost")

// kernelGroup is the multicast group that the kernel's events go to
// (kobject_uevent_net_broadcast in lib/kobject_uevent.c). udev's own have another.
const kernelGroup = 1

// Listener receives events.
type Listener struct {
	socket  *os.File
	sender  func(from unix.Sockaddr, who *unix.Ucred) bool // says whether a message is the kernel's
	receive func(fd int, p, oob []byte, flags int) (n, oobn, recvflags int, from unix.Sockaddr, err error)
}

// Listen begins to listen. Any user may.
func Listen() (*Listener, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_KOBJECT_UEVENT)
	if err != nil {
		return nil, fmt.Errorf("listen to the kernel's events of devices: %w", os.NewSyscallError("socket", err))
	}
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: kernelGroup}); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("listen to the kernel's events of devices: %w", os.NewSyscallError("bind", err))
	}
	return listen(fd, fromKernel)
}

// listen takes a datagram socket over.
func listen(fd int, sender func(unix.Sockaddr, *unix.Ucred) bool) (*Listener, error) {
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_PASSCRED, 1); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("listen to the kernel's events of devices: %w", os.NewSyscallError("setsockopt", err))
	}
	return &Listener{socket: os.NewFile(uintptr(fd), "uevent"), sender: sender, receive: unix.Recvmsg}, nil
}

// fromKernel says whether the kernel has sent a message: other processes of root
// may send to the group, and any process may send to this socket alone. The kernel
// has port 0, and the credentials of no process (struct ucred of unix(7)).
func fromKernel(from unix.Sockaddr, who *unix.Ucred) bool {
	addr, ok := from.(*unix.SockaddrNetlink)
	return ok && addr.Pid == 0 && addr.Groups == 1<<(kernelGroup-1) && who != nil && who.Pid == 0 && who.Uid == 0
}

// Next waits for an event. What is not the kernel's, or is no event, is passed
// over. After ErrOverflow it can be called again; Close ends it with os.ErrClosed.
func (l *Listener) Next() (Event, error) {
	conn, err := l.socket.SyscallConn()
	if err != nil {
		return Event{}, os.ErrClosed
	}
	// One byte more than a message may have: what fills it is too long.
	buf := make([]byte, maxMessage+1)
	oob := make([]byte, unix.CmsgSpace(unix.SizeofUcred))
	for {
		var n, oobn, flags int
		var from unix.Sockaddr
		var failed error
		err := conn.Read(func(fd uintptr) bool {
			for {
				n, oobn, flags, from, failed = l.receive(int(fd), buf, oob, unix.MSG_DONTWAIT)
				if !errors.Is(failed, unix.EINTR) {
					return !errors.Is(failed, unix.EAGAIN)
				}
			}
		})
		switch {
		case err != nil:
			return Event{}, os.ErrClosed // by Close: there is no deadline
		case errors.Is(failed, unix.ENOBUFS):
			return Event{}, ErrOverflow
		case failed != nil:
			return Event{}, fmt.Errorf("read the kernel's events of devices: %w", os.NewSyscallError("recvmsg", failed))
		case flags&(unix.MSG_TRUNC|unix.MSG_CTRUNC) != 0 || !l.sender(from, credentials(oob[:oobn])):
			continue
		}
		if e, ok := parse(buf[:n]); ok {
			return e, nil
		}
	}
}

// credentials are the sender's, as the kernel vouches for them; nil without any.
func credentials(oob []byte) *unix.Ucred {
	messages, err := unix.ParseSocketControlMessage(oob)
	if err != nil || len(messages) != 1 {
		return nil
	}
	who, err := unix.ParseUnixCredentials(&messages[0])
	if err != nil {
		return nil
	}
	return who
}

// Close ends listening, and a Next that waits.
func (l *Listener) Close() error { return l.socket.Close() }
