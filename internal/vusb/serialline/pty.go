package serialline

import (
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// ServePTY is a reader at the other end of a pseudo-terminal until that is
// closed. A pseudo-terminal has neither modem lines nor parity. A reset by a line
// shows in one way only: the host throws away both queues before it, which the
// packet mode (tty_ioctl(4)) tells. reset, unless it is nil, is called then and
// returns what the reader sends. mu is held while the reader works.
func ServePTY(pty *os.File, mu *sync.Mutex, r Reader, reset func() []Char) error {
	conn, err := pty.SyscallConn()
	if err != nil {
		return err
	}
	var failed error
	if err := conn.Control(func(fd uintptr) { failed = unix.IoctlSetPointerInt(int(fd), unix.TIOCPKT, 1) }); err != nil {
		return os.ErrClosed // nothing else can be wrong
	}
	if failed != nil {
		return failed
	}
	buf := make([]byte, 4096)
	for {
		n, err := pty.Read(buf)
		if err != nil {
			return err
		}
		if n == 0 {
			continue
		}
		var out []byte
		mu.Lock()
		if buf[0]&unix.TIOCPKT_FLUSHWRITE != 0 && reset != nil {
			out = appendBytes(out, reset())
		}
		if buf[0] == unix.TIOCPKT_DATA {
			for _, b := range buf[1:n] {
				out = appendBytes(out, r.Send(b))
			}
		}
		mu.Unlock()
		if _, err := pty.Write(out); err != nil {
			return err
		}
	}
}

func appendBytes(b []byte, chars []Char) []byte {
	for _, c := range chars {
		b = append(b, c.Byte)
	}
	return b
}
