package socket

import (
	"context"
	"errors"
	"io"
	"iter"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestPerUserLimit(t *testing.T) {
	uids := make(chan uint32, 100)
	h := newHandler(parrot)
	_, path := start(t, h, Options{MaxPerUser: 3, Credentials: func(net.Conn) (Cred, error) {
		return Cred{UID: <-uids}, nil
	}})
	as := func(uid uint32) net.Conn {
		uids <- uid
		return dial(t, path)
	}
	var first net.Conn
	for i := range 3 {
		nc := as(1000)
		works(t, nc)
		if i == 0 {
			first = nc
		}
	}
	expectEnd(t, as(1000))
	works(t, as(1001))
	for range 10 {
		works(t, as(0)) // root
	}
	first.Close()
	h.waitGone(t, 1)
	for { // the count goes down after Disconnected returned
		nc := as(1000)
		if _, err := nc.Write(packet(Header{}, []byte{0x10, 0})); err == nil {
			if _, err := nc.Read(make([]byte, HeaderSize)); err == nil {
				break
			}
		}
		nc.Close()
	}
	expectEnd(t, as(1000))
}

func TestCredentials(t *testing.T) {
	got := make(chan *Conn, 1)
	_, path := start(t, newHandler(func(_ context.Context, c *Conn, _ *Request, _ *Reply) Code {
		got <- c
		return Success
	}), Options{})
	before := time.Now()
	nc := dial(t, path)
	send(t, nc, packet(Header{}, []byte{0x10, 0}))
	c := <-got
	want := Cred{PID: int32(os.Getpid()), UID: uint32(os.Getuid()), GID: uint32(os.Getgid())}
	if c.Cred != want || c.ID != 1 || c.Since.Before(before) || c.Since.After(time.Now()) {
		t.Errorf("%+v, ID %d, since %v; want %+v", c.Cred, c.ID, c.Since, want)
	}
	a, b := net.Pipe()
	defer a.Close()
	defer b.Close()
	if cred, err := PeerCred(a); err == nil || cred.UID != unknownID {
		t.Errorf("credentials of a pipe: %+v, %v", cred, err)
	}
}

func TestUnknownCredentialsAreServed(t *testing.T) {
	got := make(chan uint32, 1)
	_, path := start(t, newHandler(func(_ context.Context, c *Conn, _ *Request, _ *Reply) Code {
		got <- c.UID
		return Success
	}), Options{Credentials: func(net.Conn) (Cred, error) { return Cred{}, errors.New("no idea") }})
	send(t, dial(t, path), packet(Header{}, []byte{0x10, 0}))
	if uid := <-got; uid != 4294967294 {
		t.Errorf("uid %d, want OpenCT's -2", uid)
	}
}

// scarce is a listener that fails in a given way a few times first.
type scarce struct {
	net.Listener
	errs []error
}

func (s *scarce) Accept() (net.Conn, error) {
	if len(s.errs) > 0 {
		err := s.errs[0]
		s.errs = s.errs[1:]
		return nil, &net.OpError{Op: "accept", Err: os.NewSyscallError("accept4", err)}
	}
	return s.Listener.Accept()
}

func TestShortage(t *testing.T) {
	path := shortDir(t) + "/0"
	l, err := Listen(path, ListenOptions{UID: -1, GID: -1})
	if err != nil {
		t.Fatal(err)
	}
	sc := &scarce{l, []error{unix.EMFILE, unix.ENFILE, unix.ECONNABORTED, unix.ENOBUFS}}
	srv := NewServer(newHandler(parrot), Options{})
	served := make(chan error, 1)
	go func() { served <- srv.Serve(sc) }()
	works(t, dial(t, path))
	end(t, srv)
	if err := <-served; !errors.Is(err, ErrServerClosed) {
		t.Errorf("Serve: %v", err)
	}
	if len(sc.errs) != 0 {
		t.Errorf("not used up: %v", sc.errs)
	}
}

func TestListenerFailsForGood(t *testing.T) {
	l, err := Listen(shortDir(t)+"/0", ListenOptions{UID: -1, GID: -1})
	if err != nil {
		t.Fatal(err)
	}
	srv := NewServer(newHandler(parrot), Options{})
	defer end(t, srv)
	if err := srv.Serve(&scarce{l, []error{unix.EBADF}}); !errors.Is(err, unix.EBADF) {
		t.Errorf("Serve: %v", err)
	}
}

// crowd is a server whose clients say who they are.
type crowd struct {
	t    *testing.T
	h    *funcHandler
	path string
	uids chan uint32
}

func newCrowd(t *testing.T, opt Options) *crowd {
	c := &crowd{t: t, h: newHandler(parrot), uids: make(chan uint32, 1)}
	opt.Credentials = func(net.Conn) (Cred, error) { return Cred{UID: <-c.uids}, nil }
	_, c.path = start(t, c.h, opt)
	return c
}

// as connects as a user and tells whether he is served.
func (c *crowd) as(uid uint32) (nc net.Conn, served bool) {
	c.t.Helper()
	c.uids <- uid
	nc = dial(c.t, c.path)
	if _, err := nc.Write(packet(Header{XID: 1}, []byte{0x10, 0})); err != nil {
		return nc, false
	}
	n, err := io.ReadFull(nc, make([]byte, HeaderSize))
	if err != nil && n != 0 {
		c.t.Fatalf("half a reply: %v", err)
	}
	return nc, err == nil
}

// fill connects as one user after the other, until the first is turned away.
func (c *crowd) fill(uids iter.Seq[uint32]) (served int) {
	c.t.Helper()
	for uid := range uids {
		if _, ok := c.as(uid); !ok {
			break
		}
		served++
	}
	return served
}

func same(uid uint32) iter.Seq[uint32] {
	return func(yield func(uint32) bool) {
		for yield(uid) {
		}
	}
}

func from(uid uint32) iter.Seq[uint32] {
	return func(yield func(uint32) bool) {
		for ; yield(uid); uid++ {
		}
	}
}

// However many connections others hold, as however many users, root is served;
// and so is a user who has none, unless as many users as there is room for each
// have one.
func TestNobodyIsLockedOut(t *testing.T) {
	// A quarter of 40 is kept for newcomers.
	const limit, perUser = 40, 15
	subuid := filepath.Join(shortDir(t), "subuid")
	if err := os.WriteFile(subuid, []byte("mallory:100000:65536\nmallory:165536:65536\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name     string
		floods   []iter.Seq[uint32]
		served   []int
		newcomer bool
	}{
		{"one user", []iter.Seq[uint32]{same(1000)}, []int{perUser}, true},
		{"a few users", []iter.Seq[uint32]{same(1000), same(1001), same(1002)}, []int{perUser, perUser, 1}, true},
		{"subordinate users of one", []iter.Seq[uint32]{from(100000)}, []int{perUser}, true},
		{"a user and his subordinates", []iter.Seq[uint32]{same(1000), from(100000), from(165536)}, []int{perUser, perUser, 1}, true},
		{"subordinate users that no file lists", []iter.Seq[uint32]{from(600000)}, []int{limit - limit/newcomerShare}, true},
		{"as many people", []iter.Seq[uint32]{from(2000)}, []int{limit}, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := newCrowd(t, Options{MaxConns: limit, MaxPerUser: perUser, Subuid: subuid})
			for i, flood := range tt.floods {
				if n := c.fill(flood); n != tt.served[i] {
					t.Errorf("flood %d: %d connections, want %d", i, n, tt.served[i])
				}
			}
			if _, ok := c.as(5000); ok != tt.newcomer {
				t.Errorf("a user who has no connection is served: %t, want %t", ok, tt.newcomer)
			}
			for i := range rootReserve {
				if _, ok := c.as(0); !ok {
					t.Errorf("root's connection %d is refused", i+1)
				}
			}
		})
	}
}

func TestSubordinateRange(t *testing.T) {
	file := filepath.Join(shortDir(t), "subuid")
	content := "alice:100000:65536\n" +
		"1001:165536:65536\n" +
		"# not a line\n" +
		"bob:x:y\n" +
		"carol:300000\n" +
		"root:0:70000\n" +
		"all:4294967295:18446744073709551615\n"
	if err := os.WriteFile(file, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name      string
		uid, want uint32
	}{
		{"root", 0, 0},
		{"a person", 1000, 1000},
		{"first of a range", 100000, 100000},
		{"last of a range", 165535, 100000},
		{"the next range", 165536, 165536},
		{"behind all ranges", 231072, 231072},
		{"in a line that is broken", 300000, 300000},
		{"in a range that begins at root", 65536, 65536},
		{"the same, further on", 69999, 65536},
		{"unknown", unknownID, unknownID},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := subordinateRange(file, tt.uid); got != tt.want {
				t.Errorf("got %d, want %d", got, tt.want)
			}
		})
	}
	if got := subordinateRange(file+".none", 100000); got != 100000 {
		t.Errorf("without a file: %d", got)
	}
}

// TestTenThousand has more clients than any limit: those there are served
// on, the others are turned away, and when all are gone a new one is served.
func TestTenThousand(t *testing.T) {
	srv, path := start(t, newHandler(parrot), Options{Credentials: func(net.Conn) (Cred, error) { return Cred{}, nil }})
	first := dial(t, path)
	works(t, first)

	want := 10000
	var lim unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &lim); err != nil {
		t.Fatal(err)
	}
	if spare := uint64(2*defaultMaxConns + 100); lim.Cur < uint64(want)+spare {
		want = int(lim.Cur - min(lim.Cur, spare))
	}
	var fds []int
	closeAll := func() {
		for _, fd := range fds {
			unix.Close(fd)
		}
		fds = nil
	}
	defer closeAll()
	most := 0
	for range want {
		fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		fds = append(fds, fd)
		for end := time.Now().Add(patience); ; runtime.Gosched() {
			err := unix.Connect(fd, &unix.SockaddrUnix{Name: path})
			if err == nil {
				break
			}
			if !errors.Is(err, unix.EAGAIN) || time.Now().After(end) {
				t.Fatalf("client %d: %v", len(fds), err)
			}
		}
		most = max(most, len(srv.Conns()))
	}
	if limit := defaultMaxConns + rootReserve; most != limit {
		t.Errorf("%d connections at once, want %d", most, limit)
	}
	works(t, first)

	closeAll()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	for { // until the server has seen the others leave
		c, err := Dial(ctx, path)
		if err != nil {
			t.Fatal(err)
		}
		_, err = c.Reset(ctx, 0)
		c.Close()
		if err == nil {
			break
		}
		if !errors.Is(err, ErrNoReply) && !errors.Is(err, NotConnected) {
			t.Fatalf("the late client: %v", err)
		}
	}
	works(t, first)
}

// TestGarbage throws random bytes at a server from many sides.
func TestGarbage(t *testing.T) {
	h := newHandler(parrot)
	_, path := start(t, h, Options{})
	const n = 50
	for i := range n {
		go func() {
			rng := rand.New(rand.NewPCG(uint64(i), 1))
			nc, err := net.Dial("unix", path)
			if err != nil {
				t.Error(err)
				return
			}
			defer nc.Close()
			junk := make([]byte, 1+rng.IntN(200000))
			for j := range junk {
				junk[j] = byte(rng.Uint32())
			}
			if err := nc.SetWriteDeadline(time.Now().Add(200 * time.Millisecond)); err != nil {
				t.Error(err)
			}
			_, _ = nc.Write(junk) // the server may be stuck in its replies
		}()
	}
	h.waitGone(t, n)
	works(t, dial(t, path))
}
