package socket

import (
	"io"
	"unsafe"

	"golang.org/x/sys/unix"
)

// quick is one read(2) or write(2) on a connection, which never waits in the
// kernel. Go's scheduler is not told of the call: telling would wake the
// scheduler's own thread for every packet, and cost more than the call.
type quick struct {
	number uintptr // SYS_READ: waits in the poller for bytes; SYS_WRITE: does not wait
	b      []byte
	n      int
	err    error

	wait func(func(uintptr) bool) error // the connection's syscall.RawConn: Read, Write
	try  func(fd uintptr) bool          // once
}

func newQuick(number uintptr, wait func(func(uintptr) bool) error) *quick {
	q := &quick{number: number, wait: wait}
	q.try = q.once
	return q
}

// run moves bytes from or into b.
func (q *quick) run(b []byte) (int, error) {
	q.b = b
	if err := q.wait(q.try); err != nil {
		return 0, err
	}
	return q.n, q.err
}

func (q *quick) once(fd uintptr) bool {
	for {
		n, _, errno := unix.RawSyscall(q.number, fd, uintptr(unsafe.Pointer(unsafe.SliceData(q.b))), uintptr(len(q.b)))
		q.n, q.err = int(n), nil
		switch {
		case errno == unix.EINTR:
			continue
		case errno != 0:
			q.n = 0
			if errno != unix.EAGAIN {
				q.err = errno
			}
		case n == 0 && q.number == unix.SYS_READ && len(q.b) > 0:
			q.err = io.EOF
		}
		return q.number == unix.SYS_WRITE || errno != unix.EAGAIN
	}
}
