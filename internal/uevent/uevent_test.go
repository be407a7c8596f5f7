package uevent

import (
	"errors"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// message is one of the kernel, as Linux 6.1 sends it.
func message(lines ...string) []byte { return []byte(strings.Join(lines, "\x00") + "\x00") }

const path = "/devices/platform/vhci_hcd.0/usb3/3-1"

var token = message("add@"+path, "ACTION=add", "DEVPATH="+path, "SUBSYSTEM=usb", "MAJOR=189", "MINOR=257",
	"DEVNAME=bus/usb/003/002", "DEVTYPE=usb_device", "PRODUCT=529/600/100", "TYPE=255/0/0", "BUSNUM=003", "DEVNUM=002", "SEQNUM=1713")

var isToken = Event{Action: "add", Path: path, Subsystem: "usb", DevType: "usb_device", Node: "bus/usb/003/002"}

func TestParse(t *testing.T) {
	tests := []struct {
		name string
		msg  []byte
		want Event
		ok   bool
	}{
		{"a token", token, isToken, true},
		{"a serial line", message("add@/devices/x/tty/ttyUSB0", "ACTION=add", "DEVPATH=/devices/x/tty/ttyUSB0", "SUBSYSTEM=tty", "MAJOR=188", "MINOR=0", "DEVNAME=ttyUSB0", "SEQNUM=9"),
			Event{Action: "add", Path: "/devices/x/tty/ttyUSB0", Subsystem: "tty", Node: "ttyUSB0"}, true},
		{"an interface, without a node", message("bind@/d", "ACTION=bind", "DEVPATH=/d", "SUBSYSTEM=usb", "DEVTYPE=usb_interface"),
			Event{Action: "bind", Path: "/d", Subsystem: "usb", DevType: "usb_interface"}, true},
		{"empty", nil, Event{}, false},
		{"only a zero byte", []byte{0}, Event{}, false},
		{"not ended", token[:len(token)-1], Event{}, false},
		{"no action", message("@/d", "SUBSYSTEM=usb"), Event{}, false},
		{"no path", message("add@", "SUBSYSTEM=usb"), Event{}, false},
		{"a path that leads elsewhere", message("add@../d", "SUBSYSTEM=usb"), Event{}, false},
		{"no subsystem", message("add@/d", "ACTION=add", "DEVPATH=/d"), Event{}, false},
		{"no property", message("add@/d"), Event{}, false},
		{"a line that is no property", message("add@/d", "SUBSYSTEM=usb", "x"), Event{}, false},
		{"two actions", message("add@/d", "ACTION=remove", "SUBSYSTEM=usb"), Event{}, false},
		{"two paths", message("add@/d", "DEVPATH=/e", "SUBSYSTEM=usb"), Event{}, false},
		{"udev's", append([]byte("libudev\x00\xfe\xed\xca\xfe"), token...), Event{}, false},
		{"too long", message("add@/d", "SUBSYSTEM=usb", "X="+strings.Repeat("x", maxMessage)), Event{}, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, ok := parse(tt.msg)
			if ok != tt.ok {
				t.Fatalf("an event: %v, want %v", ok, tt.ok)
			}
			if diff := cmp.Diff(tt.want, got); ok && diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
		})
	}
}

func FuzzParse(f *testing.F) {
	f.Add(token)
	f.Add(message("add@/d", "SUBSYSTEM=tty", "DEVNAME=ttyUSB0"))
	f.Add([]byte("libudev\x00"))
	f.Fuzz(func(t *testing.T, msg []byte) {
		e, ok := parse(msg)
		if !ok {
			return
		}
		if e.Action == "" || e.Subsystem == "" || !strings.HasPrefix(e.Path, "/") {
			t.Errorf("%+v", e)
		}
		for _, s := range []string{e.Action, e.Path, e.Subsystem, e.DevType, e.Node} {
			if strings.Contains(s, "\x00") {
				t.Errorf("a zero byte in %q", s)
			}
		}
	})
}

func TestFromKernel(t *testing.T) {
	tests := []struct {
		name string
		from unix.Sockaddr
		who  *unix.Ucred
		want bool
	}{
		{"the kernel", &unix.SockaddrNetlink{Groups: 1}, &unix.Ucred{}, true},
		{"a process, with another port", &unix.SockaddrNetlink{Pid: 77, Groups: 1}, &unix.Ucred{}, false},
		{"to this socket alone", &unix.SockaddrNetlink{}, &unix.Ucred{}, false},
		{"udev's group", &unix.SockaddrNetlink{Groups: 2}, &unix.Ucred{}, false},
		{"a process of root", &unix.SockaddrNetlink{Groups: 1}, &unix.Ucred{Pid: 77}, false},
		{"a user", &unix.SockaddrNetlink{Groups: 1}, &unix.Ucred{Uid: 1000}, false},
		{"without credentials", &unix.SockaddrNetlink{Groups: 1}, nil, false},
		{"no netlink", &unix.SockaddrUnix{}, &unix.Ucred{}, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := fromKernel(tt.from, tt.who); got != tt.want {
				t.Errorf("got %v, want %v", got, tt.want)
			}
		})
	}
}

// pair is a listener, and the other end of its socket.
func pair(t *testing.T, sender func(unix.Sockaddr, *unix.Ucred) bool) (*Listener, int) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	l, err := listen(fds[0], sender)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		l.Close()
		unix.Close(fds[1])
	})
	return l, fds[1]
}

func TestNext(t *testing.T) {
	var asked []unix.Ucred
	l, kernel := pair(t, func(_ unix.Sockaddr, who *unix.Ucred) bool {
		if who == nil {
			t.Error("a message without credentials")
			return false
		}
		asked = append(asked, *who)
		return len(asked) != 1 // the first is a stranger's
	})
	for _, msg := range [][]byte{
		message("add@/strange", "SUBSYSTEM=usb"),
		[]byte("nonsense"),
		message("add@/long", "SUBSYSTEM=usb", "X="+strings.Repeat("x", 2*maxMessage)),
		token,
	} {
		if err := unix.Send(kernel, msg, 0); err != nil {
			t.Fatal(err)
		}
	}
	got, err := l.Next()
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(isToken, got); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
	us := unix.Ucred{Pid: int32(os.Getpid()), Uid: uint32(os.Getuid()), Gid: uint32(os.Getgid())}
	if diff := cmp.Diff([]unix.Ucred{us, us, us}, asked); diff != "" {
		t.Errorf("asked about (-want +got)\n%s", diff)
	}
}

// After events were lost, those that come are told.
func TestOverflow(t *testing.T) {
	l, kernel := pair(t, func(unix.Sockaddr, *unix.Ucred) bool { return true })
	fails := []error{unix.ENOBUFS, unix.EINTR, unix.EIO}
	l.receive = func(fd int, p, oob []byte, flags int) (int, int, int, unix.Sockaddr, error) {
		if len(fails) > 0 {
			err := fails[0]
			fails = fails[1:]
			return -1, 0, 0, nil, err
		}
		return unix.Recvmsg(fd, p, oob, flags)
	}
	if _, err := l.Next(); !errors.Is(err, ErrOverflow) {
		t.Errorf("got %v, want %v", err, ErrOverflow)
	}
	if _, err := l.Next(); !errors.Is(err, unix.EIO) {
		t.Errorf("got %v, want %v", err, unix.EIO)
	}
	if err := unix.Send(kernel, token, 0); err != nil {
		t.Fatal(err)
	}
	if got, err := l.Next(); err != nil || got != isToken {
		t.Errorf("got %+v, %v", got, err)
	}
}

// Close ends a Next that waits.
func TestClose(t *testing.T) {
	l, _ := pair(t, func(unix.Sockaddr, *unix.Ucred) bool { return true })
	ended := make(chan error)
	go func() {
		_, err := l.Next()
		ended <- err
	}()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-ended; !errors.Is(err, os.ErrClosed) {
		t.Errorf("got %v, want %v", err, os.ErrClosed)
	}
}

// The kernel lets any user listen; what a process sends to that socket is no event.
func TestListen(t *testing.T) {
	l, err := Listen()
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	conn, err := l.socket.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var to unix.Sockaddr
	if err := conn.Control(func(fd uintptr) { to, err = unix.Getsockname(int(fd)) }); err != nil || to == nil {
		t.Fatal(err)
	}
	if groups := to.(*unix.SockaddrNetlink).Groups; groups != kernelGroup {
		t.Errorf("listens to groups %#x", groups)
	}
}
