package socket

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"testing"
	"time"
)

// FuzzServer sends any bytes to a server. For every complete request there
// must be one reply, in order, with its transaction number and destination;
// nothing else may come, and the connection must last until the client ends it.
func FuzzServer(f *testing.F) {
	var all []byte
	for _, p := range recorded(f, "request") {
		f.Add(p)
		all = append(all, p...)
	}
	f.Add(all)
	f.Add(append(packet(Header{XID: 1}, []byte{0x20, 0}), 0xff))
	oversize := make([]byte, HeaderSize, HeaderSize+5000)
	PutHeader(oversize, Header{XID: 2, Count: 5000})
	f.Add(append(append(oversize, make([]byte, 5000)...), packet(Header{XID: 3}, []byte{0x10, 0})...))

	f.Fuzz(func(t *testing.T, stream []byte) {
		h := newHandler(func(_ context.Context, _ *Conn, req *Request, reply *Reply) Code {
			if req.Unit == 7 {
				return Locked
			}
			reply.Raw(req.Raw)
			if v, ok := req.Args.Bytes(TagCardRequest); ok {
				reply.Bytes(TagCardResponse, v)
			}
			return Success
		})
		srv := NewServer(h, Options{})
		defer end(t, srv)
		client, nc := unixPair(t)
		defer client.Close()
		c := srv.admit(nc)
		if c == nil {
			t.Fatal("not admitted")
		}
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			srv.run(c)
		}()
		go func() {
			_, _ = client.Write(stream)
			_ = client.CloseWrite()
		}()
		got, err := io.ReadAll(client)
		if err != nil {
			t.Fatal(err)
		}
		<-ended
		for rest := stream; len(rest) >= HeaderSize; {
			head := ParseHeader(rest)
			count := int(head.Count)
			rest = rest[HeaderSize:]
			if count <= MaxPayload && len(rest) < count {
				break // not complete
			}
			if len(got) < HeaderSize {
				t.Fatalf("no reply to %+v", head)
			}
			reply := ParseHeader(got)
			if len(got) < HeaderSize+int(reply.Count) {
				t.Fatalf("half a reply to %+v", head)
			}
			got = got[HeaderSize+int(reply.Count):]
			switch {
			case reply.XID != head.XID || reply.Dest != head.Dest:
				t.Fatalf("reply %+v to request %+v", reply, head)
			case reply.Error > 0 || reply.Error != Success && reply.Count != 0:
				t.Fatalf("reply %+v", reply)
			case count > MaxPayload && reply.Error != BufferTooSmall:
				t.Fatalf("reply %+v to a request of %d bytes", reply, count)
			}
			rest = rest[min(count, len(rest)):]
		}
		if len(got) > 0 {
			t.Fatalf("%d bytes nobody asked for", len(got))
		}
	})
}

// unixPair is two ends of a Unix socket.
func unixPair(t testing.TB) (a, b *net.UnixConn) {
	t.Helper()
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: shortDir(t) + "/p", Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if a, err = net.DialUnix("unix", nil, l.Addr().(*net.UnixAddr)); err != nil {
		t.Fatal(err)
	}
	if b, err = l.AcceptUnix(); err != nil {
		t.Fatal(err)
	}
	return a, b
}

// FuzzClient has a handler that sends any bytes, whatever it is asked.
func FuzzClient(f *testing.F) {
	for _, p := range recorded(f, "answer") {
		f.Add(p, byte(0))
	}
	f.Add(packet(Header{XID: 1}, []byte{0x45, 0, 2, 0x90, 0}), byte(1))
	f.Add(append(packet(Header{XID: 9}, []byte{1}), packet(Header{XID: 1}, []byte{3, 1, 0x3b})...), byte(2))
	f.Fuzz(func(t *testing.T, stream []byte, which byte) {
		a, b := net.Pipe()
		c := NewClient(a)
		defer c.Close()
		go func() { _, _ = io.Copy(io.Discard, b) }()
		go func() {
			_, _ = b.Write(stream)
			b.Close()
		}()
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		for i := range 5 {
			err := anyCall(ctx, c, int(which)+i)
			var code Code
			if err != nil && !errors.As(err, &code) && !errors.Is(err, ErrProtocol) && !errors.Is(err, ErrNoReply) {
				t.Fatalf("error of an unknown kind: %v", err)
			}
			if errors.Is(err, context.DeadlineExceeded) {
				t.Fatal("the client waits for a handler that is gone")
			}
		}
	})
}

func anyCall(ctx context.Context, c *Client, which int) error {
	var err error
	switch which % 8 {
	case 0:
		_, err = c.ReaderStatus(ctx)
	case 1:
		var resp []byte
		if resp, err = c.Transact(ctx, 0, []byte{0, 0, 0, 0}); err == nil && (len(resp) == 0 || len(resp) > MaxResponse) {
			err = errors.New("impossible response")
		}
	case 2:
		_, err = c.Reset(ctx, 0)
	case 3:
		_, err = c.Lock(ctx, 0, true)
	case 4:
		_, _, err = c.CardStatus(ctx, 0)
	case 5:
		var data []byte
		if data, err = c.ReadMemory(ctx, 0, 0, 3); len(data) > 3 {
			err = errors.New("more data than asked for")
		}
	case 6:
		_, err = c.Request(ctx, 0, time.Second, "x")
	case 7:
		err = c.SetProtocol(ctx, 0, 1)
	}
	return err
}

// BenchmarkRoundTrip is one APDU over a Unix socket with a handler that does
// nothing, in one process: two switches of goroutines and four system calls.
func BenchmarkRoundTrip(b *testing.B) {
	for _, bm := range []struct {
		name string
		n    int
	}{{"5 bytes", 5}, {"255 bytes", 255}} {
		b.Run(bm.name, func(b *testing.B) {
			resp := bytes.Repeat([]byte{0x90}, bm.n)
			_, path := start(b, newHandler(func(_ context.Context, _ *Conn, req *Request, reply *Reply) Code {
				if _, ok := req.Args.Bytes(TagCardRequest); !ok {
					return MissingArg
				}
				reply.Bytes(TagCardResponse, resp)
				return Success
			}), Options{})
			ctx := context.Background()
			c, err := Dial(ctx, path)
			if err != nil {
				b.Fatal(err)
			}
			defer c.Close()
			apdu := make([]byte, bm.n)
			b.ReportAllocs()
			for b.Loop() {
				if _, err := c.Transact(ctx, 0, apdu); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkServe is the server's share alone: requests from a buffer, replies
// to nowhere.
func BenchmarkServe(b *testing.B) {
	srv := NewServer(newHandler(parrot), Options{})
	defer end(b, srv)
	a, nc := net.Pipe()
	defer a.Close()
	c := &Conn{srv: srv, nc: &sink{nc}}
	c.session = &funcSession{newHandler(parrot), c}
	req := packet(Header{XID: 1}, []byte{0x21, 0, 0xc4, 0, 5, 0, 0xee, 0, 0, 0})
	b.ReportAllocs()
	for b.Loop() {
		c.fill = copy(c.in[:], req)
		if !c.process() {
			b.Fatal("connection is over")
		}
	}
}

type sink struct{ net.Conn }

func (*sink) Write(b []byte) (int, error)      { return len(b), nil }
func (*sink) SetWriteDeadline(time.Time) error { return nil }
