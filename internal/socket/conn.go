package socket

import (
	"errors"
	"net"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Cred is who is at the other end, as the kernel noted it when the client
// connected (SO_PEERCRED).
type Cred struct {
	PID      int32
	UID, GID uint32
}

// unknownID stands for a user or group the kernel does not tell.
const unknownID = ^uint32(1) // -2, as in OpenCT

// PeerCred asks the kernel who is at the other end of a Unix socket.
func PeerCred(nc net.Conn) (Cred, error) {
	unknown := Cred{UID: unknownID, GID: unknownID}
	uc, ok := nc.(*net.UnixConn)
	if !ok {
		return unknown, errors.New("not a Unix socket")
	}
	raw, err := uc.SyscallConn()
	if err != nil {
		return unknown, err
	}
	var ucred *unix.Ucred
	var serr error
	if err := raw.Control(func(fd uintptr) {
		ucred, serr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	}); err != nil {
		return unknown, err
	}
	if serr != nil {
		return unknown, serr
	}
	return Cred{PID: ucred.Pid, UID: ucred.Uid, GID: ucred.Gid}, nil
}

// Conn is one client of a Server. Its goroutine runs its requests one after
// the other, in their order.
type Conn struct {
	Cred
	ID    uint64    // counts from 1, never used twice
	Since time.Time // when it connected

	srv     *Server
	nc      net.Conn
	raw     syscall.RawConn // of nc; nil if it is no Unix socket
	user    uint32          // as whom the limits count it (subordinateRange)
	session Session

	// The connection's goroutine alone uses these.
	in    [MaxPacket]byte
	out   [MaxPacket]byte
	fill  int  // bytes in in
	skip  int  // bytes still to come of a request that was too long
	more  bool // the client has sent more than the request that is being handled
	large bool // the client has used a large argument: all replies do
	req   Request
	reply Reply
	read  *quick
	write *quick

	// A request's reply is sent once, by the goroutine or by Server.Fail.
	mu       sync.Mutex
	state    connState
	head     Header        // of the reply that is due
	closing  bool          // no further request is handled
	waiting  bool          // the handler is in Wait
	patience time.Duration // with a client that does not read its reply
}

type connState byte

const (
	connIdle    connState = iota // waits for a request
	connHandles                  // a request is being handled, its reply is due
	connReplies                  // the goroutine sends the reply
)

func newConn(s *Server, nc net.Conn, cred Cred) *Conn {
	c := &Conn{Cred: cred, Since: time.Now(), srv: s, nc: nc, patience: s.opt.WriteTimeout}
	if uc, ok := nc.(*net.UnixConn); ok {
		c.raw, _ = uc.SyscallConn()
	}
	if c.raw != nil {
		c.read, c.write = newQuick(unix.SYS_READ, c.raw.Read), newQuick(unix.SYS_WRITE, c.raw.Write)
	}
	return c
}

// serve is the goroutine of the connection. It ends at the end of the
// client's bytes, at any error of the socket, or when the server closes.
func (c *Conn) serve(session Session) {
	c.session = session
	for {
		n, err := c.receive(c.in[c.fill:])
		c.fill += n
		if !c.process() || err != nil {
			return
		}
	}
}

func (c *Conn) receive(b []byte) (int, error) {
	if c.read == nil {
		return c.nc.Read(b)
	}
	return c.read.run(b)
}

// clear forgets all that passed through the connection: there may be a PIN.
func (c *Conn) clear() {
	clear(c.in[:])
	clear(c.out[:])
}

// process handles all complete requests in the buffer and keeps the rest. It
// returns false when the connection is over.
func (c *Conn) process() bool {
	buf := c.in[:c.fill]
	for {
		if c.skip > 0 {
			n := min(c.skip, len(buf))
			c.skip -= n
			buf = buf[n:]
		}
		if len(buf) < HeaderSize {
			break
		}
		head := ParseHeader(buf)
		count := int(head.Count)
		if count > MaxPayload {
			// The client learns at once that this is too long; what it
			// sends of it is thrown away, and the next request is found.
			buf = buf[HeaderSize:]
			c.skip = count
			if !c.begin(head) || !c.finish(BufferTooSmall, 0) {
				return false
			}
			continue
		}
		if len(buf) < HeaderSize+count {
			break
		}
		c.more = len(buf) > HeaderSize+count
		if !c.handle(head, buf[HeaderSize:HeaderSize+count]) {
			return false
		}
		buf = buf[HeaderSize+count:]
	}
	n := copy(c.in[:], buf)
	clear(c.in[n:c.fill]) // there may be a PIN
	c.fill = n
	return true
}

func (c *Conn) handle(head Header, payload []byte) bool {
	if !c.begin(head) {
		return false
	}
	code := parseRequest(payload, &c.req)
	if code == Success {
		c.large = c.large || c.req.Args.Large()
		c.reply.Builder = NewBuilder(c.out[:HeaderSize], c.large)
		code = c.session.Handle(c.srv.ctx, &c.req, &c.reply)
		switch {
		case code > 0: // would look like a length to libopenct
			code = Generic
		case code == Success && c.reply.Full():
			code = BufferTooSmall
		}
	}
	n := 0
	if code == Success {
		n = c.reply.Len()
	}
	return c.finish(code, n)
}

// begin notes the request whose reply is due, so that Fail can send it.
func (c *Conn) begin(head Header) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closing {
		return false
	}
	c.state = connHandles
	c.head = Header{XID: head.XID, Dest: head.Dest}
	return true
}

// finish sends the reply of the request begun: n bytes of payload are in out,
// behind the header. It returns false if the connection is over.
func (c *Conn) finish(code Code, n int) bool {
	c.mu.Lock()
	if c.state != connHandles { // Fail has answered
		c.mu.Unlock()
		return false
	}
	c.state = connReplies
	head := c.head
	c.mu.Unlock()

	head.Error, head.Count = code, uint16(n)
	PutHeader(c.out[:], head)
	err := c.send(c.out[:HeaderSize+n])
	clear(c.out[:max(HeaderSize+n, len(c.reply.Built()))]) // there may be a secret

	c.mu.Lock()
	defer c.mu.Unlock()
	c.state = connIdle
	return err == nil && !c.closing
}

// send sends all of b or fails; a client that does not read costs its own
// connection only. What the socket's buffer takes at once needs no deadline.
func (c *Conn) send(b []byte) error {
	n := 0
	if c.write != nil {
		var err error
		if n, err = c.write.run(b); err != nil || n == len(b) {
			return err
		}
	}
	c.mu.Lock()
	err := c.nc.SetWriteDeadline(time.Now().Add(c.patience))
	c.mu.Unlock()
	if err == nil {
		_, err = c.nc.Write(b[n:])
	}
	if err == nil {
		err = c.nc.SetWriteDeadline(time.Time{})
	}
	return err
}

// fail answers the request being handled, if there is one, and closes. A
// reply that is on its way gets there if the client reads it.
func (c *Conn) fail(code Code) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closing = true
	deadline := time.Now().Add(failTimeout)
	switch c.state {
	case connReplies:
		c.patience = failTimeout
		_ = c.nc.SetWriteDeadline(deadline) // then the goroutine closes
		return
	case connHandles:
		c.state = connIdle
		var b [HeaderSize]byte
		head := c.head
		head.Error = code
		PutHeader(b[:], head)
		if c.nc.SetWriteDeadline(deadline) == nil {
			_, _ = c.nc.Write(b[:])
		}
	}
	c.nc.Close()
}

// drain lets the request being handled finish; without one it closes.
func (c *Conn) drain() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closing = true
	if c.state == connIdle {
		c.nc.Close()
	}
	if c.waiting {
		_ = c.nc.SetReadDeadline(longAgo)
	}
}

// HungUp tells whether the client has closed its end altogether. Closing only
// the sending side does not count: the client may still read.
func (c *Conn) HungUp() bool {
	if c.raw == nil {
		return false
	}
	gone := false
	if err := c.raw.Control(func(fd uintptr) {
		p := []unix.PollFd{{Fd: int32(fd)}}
		if n, err := unix.Poll(p, 0); err == nil && n > 0 {
			gone = p[0].Revents&(unix.POLLHUP|unix.POLLERR) != 0
		}
	}); err != nil {
		return true // closed on our side already
	}
	return gone
}
