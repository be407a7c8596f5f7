package socket

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"openct/internal/hextest"
)

// patience is how long anything may take before a test is given up.
const patience = 30 * time.Second

// funcHandler is a Handler made of a function, which counts its clients.
type funcHandler struct {
	handle func(ctx context.Context, c *Conn, req *Request, reply *Reply) Code

	leaves func(*Conn) // called by Disconnect, if set

	mu   sync.Mutex
	here map[uint64]bool
	gone chan uint64 // IDs of the disconnected
}

func newHandler(handle func(context.Context, *Conn, *Request, *Reply) Code) *funcHandler {
	return &funcHandler{handle: handle, here: make(map[uint64]bool), gone: make(chan uint64, 20000)}
}

// parrot answers with the arguments' bytes, as they came.
func parrot(_ context.Context, _ *Conn, req *Request, reply *Reply) Code {
	reply.Raw(req.Raw)
	return Success
}

func (h *funcHandler) Connect(c *Conn) Session {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.here[c.ID] {
		panic("connected twice")
	}
	h.here[c.ID] = true
	return &funcSession{h, c}
}

// funcSession is a client of a funcHandler.
type funcSession struct {
	h *funcHandler
	c *Conn
}

func (s *funcSession) Disconnect() {
	if s.h.leaves != nil {
		s.h.leaves(s.c)
	}
	s.h.mu.Lock()
	defer s.h.mu.Unlock()
	if !s.h.here[s.c.ID] {
		panic("disconnected without being connected")
	}
	delete(s.h.here, s.c.ID)
	s.h.gone <- s.c.ID
}

func (s *funcSession) Handle(ctx context.Context, req *Request, reply *Reply) Code {
	return s.h.handle(ctx, s.c, req, reply)
}

// end stops a server without patience for its clients, and waits for them.
func end(t testing.TB, srv *Server) {
	t.Helper()
	now, cancel := context.WithCancel(context.Background())
	cancel()
	_ = srv.Wait(now)
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := srv.Wait(ctx); err != nil {
		t.Errorf("Wait: %v", err)
	}
}

// start serves h at a socket in a directory of its own until the test ends.
func start(t testing.TB, h Handler, opt Options) (*Server, string) {
	t.Helper()
	path := filepath.Join(shortDir(t), "0")
	l, err := Listen(path, ListenOptions{UID: -1, GID: -1})
	if err != nil {
		t.Fatal(err)
	}
	srv := NewServer(h, opt)
	served := make(chan error, 1)
	go func() { served <- srv.Serve(l) }()
	t.Cleanup(func() {
		end(t, srv)
		if err := <-served; !errors.Is(err, ErrServerClosed) {
			t.Errorf("Serve: %v", err)
		}
		if n := len(srv.Conns()); n != 0 {
			t.Errorf("%d connections left", n)
		}
		if _, err := os.Lstat(path); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("the socket is still there: %v", err)
		}
	})
	return srv, path
}

// shortDir is a directory whose path leaves room in a socket address.
func shortDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "ct")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

func dial(t testing.TB, path string) *net.UnixConn {
	t.Helper()
	nc, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { nc.Close() })
	if err := nc.SetDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	return nc
}

func packet(h Header, payload []byte) []byte {
	b := make([]byte, HeaderSize, HeaderSize+len(payload))
	h.Count = uint16(len(payload))
	PutHeader(b, h)
	return append(b, payload...)
}

func send(t testing.TB, nc net.Conn, b []byte) {
	t.Helper()
	if _, err := nc.Write(b); err != nil {
		t.Fatal(err)
	}
}

func receive(t testing.TB, nc net.Conn) (Header, []byte) {
	t.Helper()
	b := make([]byte, HeaderSize)
	if _, err := io.ReadFull(nc, b); err != nil {
		t.Fatalf("no reply: %v", err)
	}
	h := ParseHeader(b)
	payload := make([]byte, h.Count)
	if _, err := io.ReadFull(nc, payload); err != nil {
		t.Fatalf("half a reply: %v", err)
	}
	return h, payload
}

func expect(t testing.TB, nc net.Conn, want Header, payload []byte) {
	t.Helper()
	want.Count = uint16(len(payload))
	h, p := receive(t, nc)
	if h != want || !bytes.Equal(p, payload) {
		t.Fatalf("reply %+v %.32x, want %+v %.32x", h, p, want, payload)
	}
}

// expectEnd sees the server close the connection.
func expectEnd(t testing.TB, nc net.Conn) {
	t.Helper()
	n, err := nc.Read(make([]byte, 1))
	if n != 0 || !(errors.Is(err, io.EOF) || errors.Is(err, unix.ECONNRESET)) {
		t.Fatalf("read %d bytes, %v; want the end", n, err)
	}
}

// works sees that the server serves.
func works(t testing.TB, nc net.Conn) {
	t.Helper()
	send(t, nc, packet(Header{XID: 4711}, []byte{0x10, 0, 0x80, 1, 1}))
	expect(t, nc, Header{XID: 4711}, []byte{0x80, 1, 1})
}

func (h *funcHandler) waitGone(t testing.TB, n int) {
	t.Helper()
	for range n {
		select {
		case <-h.gone:
		case <-time.After(patience):
			t.Fatal("Disconnect is not called")
		}
	}
}

func TestReplies(t *testing.T) {
	h := newHandler(func(_ context.Context, _ *Conn, req *Request, reply *Reply) Code {
		switch req.Unit {
		case 1:
			reply.Text(TagReaderName, "x")
		case 2:
			reply.Text(TagReaderName, "lost")
			return NoCard
		case 3:
			return 17 // positive: a bug, and never on the wire
		case 4:
			reply.Bytes(TagCardResponse, make([]byte, MaxResponse+1))
		case 5:
			reply.Bytes(TagCardResponse, make([]byte, MaxResponse))
		case 6:
			reply.Bytes(TagATR, nil)
		}
		return Success
	})
	_, path := start(t, h, Options{})
	for _, tt := range []struct {
		name    string
		payload string
		code    Code
		want    []byte
	}{
		{"nothing at all", "", InvalidMsg, nil},
		{"command only", "10", InvalidMsg, nil},
		{"empty result", "1000", Success, nil},
		{"result", "1001", Success, hextest.Bytes(t, "000178")},
		{"large from now on", "1001c0000101", Success, hextest.Bytes(t, "40000178")},
		{"still large", "1001800101", Success, hextest.Bytes(t, "40000178")},
		{"malformed", "100180", InvalidMsg, nil},
		{"refused", "1002", NoCard, nil},
		{"refused with a positive code", "1003", Generic, nil},
		{"result that does not fit", "1004", BufferTooSmall, nil},
		{"longest result", "1005", Success, append(hextest.Bytes(t, "450ff1"), make([]byte, MaxResponse)...)},
		{"empty value", "1006", Success, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			nc := dial(t, path)
			if tt.name == "still large" {
				send(t, nc, packet(Header{}, hextest.Bytes(t, "1000c0000101")))
				expect(t, nc, Header{}, nil)
			}
			send(t, nc, packet(Header{XID: 7, Dest: 9, Error: -3}, hextest.Bytes(t, tt.payload)))
			expect(t, nc, Header{XID: 7, Dest: 9, Error: tt.code}, tt.want)
		})
	}
}

func TestMalformedDoesNotSwitchForms(t *testing.T) {
	h := newHandler(func(_ context.Context, _ *Conn, _ *Request, reply *Reply) Code {
		reply.Int(TagLock, 0)
		return Success
	})
	_, path := start(t, h, Options{})
	nc := dial(t, path)
	send(t, nc, packet(Header{XID: 1}, hextest.Bytes(t, "1000 c0000101 80")))
	expect(t, nc, Header{XID: 1, Error: InvalidMsg}, nil)
	send(t, nc, packet(Header{XID: 2}, hextest.Bytes(t, "1000")))
	expect(t, nc, Header{XID: 2}, hextest.Bytes(t, "040100"))
}

func TestPieces(t *testing.T) {
	_, path := start(t, newHandler(parrot), Options{})
	var stream []byte
	const n = 50
	for i := range n {
		stream = append(stream, packet(Header{XID: uint32(i)}, append([]byte{byte(CmdTransactOld), 0}, make([]byte, 37*i)...))...)
	}
	for _, size := range []int{1, 5, 11, 12, 13, 4095, 4096, 4097, len(stream)} {
		nc := dial(t, path)
		go func() {
			for rest := stream; len(rest) > 0; {
				k := min(size, len(rest))
				if _, err := nc.Write(rest[:k]); err != nil {
					t.Errorf("pieces of %d: %v", size, err)
					return
				}
				rest = rest[k:]
			}
		}()
		for i := range n {
			expect(t, nc, Header{XID: uint32(i)}, make([]byte, 37*i))
		}
	}
}

func TestOversize(t *testing.T) {
	_, path := start(t, newHandler(parrot), Options{})
	for _, count := range []int{MaxPayload + 1, MaxPacket, 65535} {
		nc := dial(t, path)
		head := make([]byte, HeaderSize)
		PutHeader(head, Header{XID: 1, Dest: 2, Count: uint16(count)})
		send(t, nc, head)
		expect(t, nc, Header{XID: 1, Dest: 2, Error: BufferTooSmall}, nil) // before its bytes are there
		send(t, nc, append(make([]byte, count), packet(Header{XID: 2}, []byte{0x10, 0})...))
		expect(t, nc, Header{XID: 2}, nil)
		works(t, nc)
	}
	nc := dial(t, path)
	big := append([]byte{0x10, 0}, 0xff, 0x0f, 0xef)
	big = append(big, make([]byte, 0xfef)...)
	send(t, nc, packet(Header{XID: 3}, big)) // the largest that is taken
	expect(t, nc, Header{XID: 3}, big[2:])
}

func TestHalfRequestBlocksNobody(t *testing.T) {
	_, path := start(t, newHandler(parrot), Options{})
	for _, n := range []int{1, 6, HeaderSize, HeaderSize + 1} {
		slow := dial(t, path)
		whole := packet(Header{XID: 1}, []byte{0x10, 0, 0x80, 1, 1})
		send(t, slow, whole[:n])
		works(t, dial(t, path))
		send(t, slow, whole[n:])
		expect(t, slow, Header{XID: 1}, []byte{0x80, 1, 1})
	}
}

// TestNeverReading has a client that asks and asks and reads nothing.
func TestNeverReading(t *testing.T) {
	h := newHandler(parrot)
	_, path := start(t, h, Options{WriteTimeout: 50 * time.Millisecond})
	other := dial(t, path)
	works(t, other)
	deaf := dial(t, path)
	req := packet(Header{}, append([]byte{byte(CmdTransactOld), 0}, make([]byte, 4000)...))
	for {
		if _, err := deaf.Write(req); err != nil {
			if !errors.Is(err, unix.EPIPE) && !errors.Is(err, unix.ECONNRESET) {
				t.Fatalf("the server does not drop the client: %v", err)
			}
			break
		}
	}
	h.waitGone(t, 1)
	works(t, other)
}

func TestEarlyClose(t *testing.T) {
	entered := make(chan struct{})
	leave := make(chan struct{})
	h := newHandler(func(ctx context.Context, c *Conn, req *Request, reply *Reply) Code {
		if req.Unit == 9 {
			entered <- struct{}{}
			<-leave
		}
		return parrot(ctx, c, req, reply)
	})
	srv, path := start(t, h, Options{})
	other := dial(t, path)
	works(t, other)

	nc := dial(t, path)
	send(t, nc, packet(Header{}, []byte{0x10, 9, 0x80, 1, 1}))
	<-entered
	nc.Close()
	var asked *Conn
	for _, c := range srv.Conns() {
		if c.ID == 2 {
			asked = c
		}
	}
	if asked == nil || !asked.HungUp() {
		t.Error("the client has hung up, the connection does not say so")
	}
	works(t, other)
	close(leave)
	h.waitGone(t, 1)
	works(t, other)
}

func TestHalfClose(t *testing.T) {
	entered := make(chan *Conn)
	leave := make(chan struct{})
	_, path := start(t, newHandler(func(ctx context.Context, c *Conn, req *Request, reply *Reply) Code {
		entered <- c
		<-leave
		return parrot(ctx, c, req, reply)
	}), Options{})
	nc := dial(t, path)
	send(t, nc, append(packet(Header{XID: 1}, []byte{0x10, 0}), packet(Header{XID: 2}, []byte{0x10, 0})...))
	if err := nc.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if c := <-entered; c.HungUp() {
		t.Error("a client that can read is taken for gone")
	}
	leave <- struct{}{}
	expect(t, nc, Header{XID: 1}, nil)
	<-entered
	leave <- struct{}{}
	expect(t, nc, Header{XID: 2}, nil)
	expectEnd(t, nc)
}

func TestFail(t *testing.T) {
	cause := make(chan error, 10)
	leave := make(chan struct{})
	entered := make(chan struct{})
	h := newHandler(func(ctx context.Context, c *Conn, req *Request, reply *Reply) Code {
		entered <- struct{}{}
		<-leave // a transfer that hangs
		<-ctx.Done()
		cause <- context.Cause(ctx)
		return Success
	})
	srv, path := start(t, h, Options{})
	idle := dial(t, path)
	half := dial(t, path)
	send(t, half, make([]byte, 5))
	var busy []net.Conn
	for i := range 5 {
		nc := dial(t, path)
		// the second request behind it is never begun
		send(t, nc, append(packet(Header{XID: uint32(i), Dest: 3}, []byte{0x10, 0}), packet(Header{XID: 99}, []byte{0x10, 0})...))
		<-entered
		busy = append(busy, nc)
	}
	srv.Fail(DeviceDisconnected)
	for i, nc := range busy {
		expect(t, nc, Header{XID: uint32(i), Dest: 3, Error: DeviceDisconnected}, nil)
		expectEnd(t, nc)
	}
	expectEnd(t, idle)
	expectEnd(t, half)
	if _, err := net.Dial("unix", path); err == nil {
		t.Error("a new client got in")
	}
	close(leave)
	for range busy {
		if err := <-cause; !errors.Is(err, DeviceDisconnected) {
			t.Errorf("cause of the context's end: %v", err)
		}
	}
	h.waitGone(t, len(busy)+2)
}

func TestWait(t *testing.T) {
	entered := make(chan *Conn)
	leave := make(chan struct{})
	h := newHandler(func(ctx context.Context, c *Conn, req *Request, reply *Reply) Code {
		entered <- c
		<-leave
		if ctx.Err() != nil {
			t.Error("the context ends before the reply")
		}
		reply.Bytes(TagCardResponse, make([]byte, 4000))
		return Success
	})
	srv, path := start(t, h, Options{})
	idle, busy := dial(t, path), dial(t, path)
	send(t, busy, append(packet(Header{XID: 1}, []byte{0x10, 0}), packet(Header{XID: 2}, []byte{0x10, 0})...))
	conn := <-entered
	waited := make(chan error, 1)
	go func() { waited <- srv.Wait(context.Background()) }()
	expectEnd(t, idle)
	told := func() bool { // or it would get to the second request
		conn.mu.Lock()
		defer conn.mu.Unlock()
		return conn.closing
	}
	for deadline := time.Now().Add(patience); !told(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the busy connection is not told to end")
		}
	}
	close(leave)
	if hd, p := receive(t, busy); hd.XID != 1 || hd.Error != Success || len(p) != 4003 {
		t.Errorf("reply %+v, %d bytes", hd, len(p))
	}
	expectEnd(t, busy)
	if err := <-waited; err != nil {
		t.Errorf("Wait: %v", err)
	}
	h.waitGone(t, 2)
	l, err := net.Listen("unix", filepath.Join(shortDir(t), "1"))
	if err != nil {
		t.Fatal(err)
	}
	if err := srv.Serve(l); !errors.Is(err, ErrServerClosed) {
		t.Errorf("Serve after Wait: %v", err)
	}
}

// A request that does not end keeps Wait as long as its context lasts; then
// everything is closed, and the request's context ends.
func TestWaitGivesUp(t *testing.T) {
	entered := make(chan struct{})
	h := newHandler(func(ctx context.Context, _ *Conn, _ *Request, _ *Reply) Code {
		close(entered)
		<-ctx.Done()
		return Success
	})
	srv, path := start(t, h, Options{})
	busy := dial(t, path)
	send(t, busy, packet(Header{XID: 1}, []byte{0x10, 0}))
	<-entered
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := srv.Wait(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("Wait: %v", err)
	}
	expectEnd(t, busy)
	h.waitGone(t, 1)
}
