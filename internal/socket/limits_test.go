package socket

import (
	"context"
	"errors"
	"math/rand/v2"
	"net"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestPerUserLimit(t *testing.T) {
	uids := make(chan uint32, 100)
	h := newHandler(parrot)
	_, path := start(t, h, Options{MaxPerUID: 3, Credentials: func(net.Conn) (Cred, error) {
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

func TestAllow(t *testing.T) {
	uids := make(chan uint32, 2)
	_, path := start(t, newHandler(parrot), Options{
		Credentials: func(net.Conn) (Cred, error) { return Cred{UID: <-uids}, nil },
		Allow:       func(c Cred) bool { return c.UID == 5 },
	})
	uids <- 4
	expectEnd(t, dial(t, path))
	uids <- 5
	works(t, dial(t, path))
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
	if cred, err := PeerCred(a); err == nil || cred.UID != UnknownID {
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

// TestTenThousand has more clients than any limit: those there are served
// on, the others wait or are told to try again, and when all are gone a new
// one is served.
func TestTenThousand(t *testing.T) {
	_, path := start(t, newHandler(parrot), Options{Credentials: func(net.Conn) (Cred, error) { return Cred{}, nil }})
	first := dial(t, path)
	works(t, first)

	want := 10000
	var lim unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &lim); err != nil {
		t.Fatal(err)
	}
	if spare := uint64(2*DefaultMaxConns + 100); lim.Cur < uint64(want)+spare {
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
	connected := 0
	for range want {
		fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		fds = append(fds, fd)
		switch err := unix.Connect(fd, &unix.SockaddrUnix{Name: path}); {
		case err == nil:
			connected++
		case errors.Is(err, unix.EAGAIN):
		default:
			t.Fatalf("client %d: %v", len(fds), err)
		}
	}
	if most := DefaultMaxConns + backlog + 2; connected == 0 || connected > most {
		t.Errorf("%d of %d connected, at most %d should", connected, want, most)
	}
	works(t, first)

	// One more waits until the others are gone.
	type dialled struct {
		c   *Client
		err error
	}
	late := make(chan dialled)
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	go func() {
		c, err := Dial(ctx, path)
		late <- dialled{c, err}
	}()
	closeAll()
	d := <-late
	if d.err != nil {
		t.Fatal(d.err)
	}
	defer d.c.Close()
	if _, err := d.c.Reset(ctx, 0); err != nil {
		t.Errorf("the late client: %v", err)
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
