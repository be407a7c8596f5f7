package socket

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// A request may hold a PIN, and a response something as secret: nothing of
// either stays in the connection's buffers once the reply is sent, whatever the
// result, nor when the client leaves in the middle of a request.
func TestBuffersAreCleared(t *testing.T) {
	secret := bytes.Repeat([]byte("1234"), 500)
	request := append([]byte{byte(CmdTransactOld), 0}, secret...)
	for _, tt := range []struct {
		name   string
		sent   []byte
		handle func(req *Request, reply *Reply) Code
		rest   int // bytes of a request that is not complete
	}{
		{"answered", packet(Header{XID: 1}, request), func(req *Request, reply *Reply) Code { reply.Raw(req.Raw); return Success }, 0},
		{"refused", packet(Header{XID: 1}, request), func(req *Request, reply *Reply) Code { reply.Raw(req.Raw); return CommError }, 0},
		{"malformed", packet(Header{XID: 1}, append([]byte{byte(CmdVerify), 0}, secret...)), nil, 0},
		{"too long a reply", packet(Header{XID: 1}, request), func(req *Request, reply *Reply) Code {
			reply.Raw(req.Raw)
			reply.Raw(req.Raw)
			reply.Raw(req.Raw)
			return Success
		}, 0},
		{"and half of the next", append(packet(Header{XID: 1}, request), packet(Header{XID: 2}, request)[:100]...), func(req *Request, reply *Reply) Code { reply.Raw(req.Raw); return Success }, 100},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var conn *Conn
			h := newHandler(func(_ context.Context, _ *Conn, req *Request, reply *Reply) Code { return tt.handle(req, reply) })
			h.leaves = func(c *Conn) {
				conn = c
				if i := bytes.IndexFunc(c.in[tt.rest:], notZero); i >= 0 || c.fill != tt.rest {
					t.Errorf("request left at byte %d of the buffer, %d bytes in it", tt.rest+i, c.fill)
				}
				if i := bytes.IndexFunc(c.out[:], notZero); i >= 0 {
					t.Errorf("reply left at byte %d of the buffer", i)
				}
			}
			client, ended := serveOne(t, h)
			send(t, client, tt.sent)
			receive(t, client)
			if err := client.CloseWrite(); err != nil {
				t.Fatal(err)
			}
			<-ended
			if bytes.ContainsFunc(conn.in[:], notZero) || bytes.ContainsFunc(conn.out[:], notZero) {
				t.Error("something is left after the end")
			}
		})
	}
}

func notZero(r rune) bool { return r != 0 }

// serveOne runs one connection; ended is closed when it is over.
func serveOne(t *testing.T, h Handler) (client *net.UnixConn, ended chan struct{}) {
	t.Helper()
	srv := NewServer(h, Options{})
	t.Cleanup(func() { end(t, srv) })
	client, nc := unixPair(t)
	t.Cleanup(func() { client.Close() })
	c := srv.admit(nc)
	if c == nil {
		t.Fatal("not admitted")
	}
	ended = make(chan struct{})
	go func() {
		defer close(ended)
		srv.run(c)
	}()
	return client, ended
}

// A client that sees the end of its connection has no locks any more.
func TestDisconnectComesBeforeTheEnd(t *testing.T) {
	h := newHandler(parrot)
	clients := make(chan *net.UnixConn, 1)
	h.leaves = func(*Conn) {
		raw, err := (<-clients).SyscallConn()
		if err != nil {
			t.Error(err)
			return
		}
		err = raw.Control(func(fd uintptr) {
			p := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
			if n, err := unix.Poll(p, 0); n != 0 || err != nil {
				t.Errorf("the client sees something before Disconnect returns: events %#x, %v", p[0].Revents, err)
			}
		})
		if err != nil {
			t.Error(err)
		}
	}
	client, ended := serveOne(t, h)
	clients <- client
	if err := client.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	<-ended
	expectEnd(t, client)
}

// deaf is a connection whose client does not read until it is told to.
type deaf struct {
	net.Conn
	writes chan []byte   // one element for each Write that has begun
	read   chan struct{} // closed: the client reads

	mu        sync.Mutex
	deadlines []time.Time
	closed    chan struct{}
	once      sync.Once
}

func newDeaf() *deaf {
	return &deaf{writes: make(chan []byte, 1), read: make(chan struct{}), closed: make(chan struct{})}
}

func (d *deaf) Read(b []byte) (int, error) {
	select {
	case <-d.writes:
		return 0, io.EOF
	default:
		return copy(b, packet(Header{XID: 1}, []byte{0x10, 0})), nil
	}
}

func (d *deaf) Write(b []byte) (int, error) {
	d.writes <- bytes.Clone(b)
	select {
	case <-d.read:
		d.writes <- nil // the next Read is the last
		return len(b), nil
	case <-d.closed:
		return 0, net.ErrClosed
	}
}

func (d *deaf) SetWriteDeadline(t time.Time) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.deadlines = append(d.deadlines, t)
	return nil
}

func (d *deaf) Close() error {
	d.once.Do(func() { close(d.closed) })
	return nil
}

// A reply that is on its way when the reader fails gets to its client, if that
// reads it in time.
func TestFailLetsAReplyPass(t *testing.T) {
	srv := NewServer(newHandler(parrot), Options{})
	nc := newDeaf()
	c := srv.admit(nc)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		srv.run(c)
	}()
	<-nc.writes
	before := time.Now()
	srv.Fail(DeviceDisconnected)
	select {
	case <-nc.closed:
		t.Fatal("the connection is closed under the reply")
	default:
	}
	nc.mu.Lock()
	if last := nc.deadlines[len(nc.deadlines)-1]; last.After(time.Now().Add(failTimeout)) || last.Before(before) {
		t.Errorf("the client may take until %v, %v from now", last, time.Until(last))
	}
	nc.mu.Unlock()
	close(nc.read)
	<-ended
	if ctx := context.Background(); srv.Wait(ctx) != nil {
		t.Error("the connection is not over")
	}
}

// A client that reads its reply late, but in time, has all its time for the next.
func TestLateReaderIsForgiven(t *testing.T) {
	srv := NewServer(newHandler(parrot), Options{})
	nc := newDeaf()
	c := srv.admit(nc)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		srv.run(c)
	}()
	<-nc.writes
	close(nc.read)
	<-ended
	end(t, srv)
	if n := len(nc.deadlines); n != 2 || nc.deadlines[0].IsZero() || !nc.deadlines[1].IsZero() {
		t.Errorf("deadlines %v, want one and its end", nc.deadlines)
	}
}

// What the socket's buffer takes in part is sent to the end.
func TestReplyInPieces(t *testing.T) {
	h := newHandler(func(_ context.Context, _ *Conn, _ *Request, reply *Reply) Code {
		reply.Raw(bytes.Repeat([]byte{0x5A}, MaxPayload))
		return Success
	})
	client, ended := serveOne(t, h)
	const n = 500 // more than a socket's buffer takes
	go func() {
		for i := range n {
			if _, err := client.Write(packet(Header{XID: uint32(i)}, []byte{0x10, 0})); err != nil {
				t.Error(err)
				return
			}
		}
		if err := client.CloseWrite(); err != nil {
			t.Error(err)
		}
	}()
	for i := range n {
		expect(t, client, Header{XID: uint32(i)}, bytes.Repeat([]byte{0x5A}, MaxPayload))
	}
	<-ended
	if _, err := client.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Errorf("after the last reply: %v", err)
	}
}
