package daemon

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"path/filepath"
	"testing"
	"time"

	"openct/internal/atr"
	"openct/internal/ifd"
	"openct/internal/proto"
	"openct/internal/reader"
	"openct/internal/socket"
	"openct/internal/status"
)

// teller is a reader that tells of its card.
type teller struct{ events chan ifd.Event }

func (r *teller) Slots() []ifd.Slot        { return []ifd.Slot{r} }
func (r *teller) Name() string             { return "teller" }
func (r *teller) Gone() <-chan struct{}    { return nil }
func (r *teller) Events() <-chan ifd.Event { return r.events }
func (r *teller) Close() error             { close(r.events); return nil }

func (r *teller) Reset(context.Context) ([]byte, error)      { return []byte{0x3B, 0x00}, nil }
func (r *teller) Status(context.Context) (ifd.Status, error) { return ifd.Status{}, ifd.ErrBusy }
func (r *teller) Protocol(context.Context, proto.ID, *atr.ATR) (proto.Engine, error) {
	return nil, ifd.ErrNotSupported
}

// watched is a server for a teller, and its clients.
type watched struct {
	t      *testing.T
	teller *teller
	server *socket.Server
	path   string
}

func newWatched(t *testing.T) *watched {
	t.Helper()
	w := &watched{t: t, teller: &teller{make(chan ifd.Event)}, path: filepath.Join(t.TempDir(), "0")}
	log := slog.New(slog.DiscardHandler)
	h := &handler{
		name: "teller", reader: reader.New(w.teller, log, func(int, ifd.Status) {}), log: log,
		note: func(status.Event) {}, fault: func(error) {},
	}
	l, err := socket.Listen(w.path, socket.ListenOptions{UID: -1, GID: -1})
	if err != nil {
		t.Fatal(err)
	}
	w.server = socket.NewServer(h, socket.Options{})
	served := make(chan error, 1)
	go func() { served <- w.server.Serve(l) }()
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if err := w.server.Wait(ctx); err != nil {
			t.Errorf("clients are left: %v", err)
		}
		<-served
		h.reader.Close()
	})
	return w
}

func (w *watched) client() *socket.Client {
	w.t.Helper()
	c, err := socket.Dial(context.Background(), w.path)
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { c.Close() })
	return c
}

// tell has the reader tell of a card. What was told before is known then.
func (w *watched) tell(present bool) { w.teller.events <- ifd.Event{Present: present} }

// raw is a connection with a request on its way.
func (w *watched) raw(request ...byte) *net.UnixConn {
	w.t.Helper()
	nc, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: w.path, Net: "unix"})
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { nc.Close() })
	w.send(nc, request...)
	return nc
}

func (w *watched) send(nc net.Conn, request ...byte) {
	w.t.Helper()
	b := make([]byte, socket.HeaderSize, socket.HeaderSize+len(request))
	socket.PutHeader(b, socket.Header{XID: 1, Count: uint16(len(request))})
	if _, err := nc.Write(append(b, request...)); err != nil {
		w.t.Fatal(err)
	}
}

func (w *watched) receive(nc net.Conn) (socket.Header, string) {
	w.t.Helper()
	b := make([]byte, socket.HeaderSize)
	if err := nc.SetReadDeadline(time.Now().Add(patience)); err != nil {
		w.t.Fatal(err)
	}
	if _, err := io.ReadFull(nc, b); err != nil {
		w.t.Fatalf("no answer: %v", err)
	}
	h := socket.ParseHeader(b)
	payload := make([]byte, h.Count)
	if _, err := io.ReadFull(nc, payload); err != nil {
		w.t.Fatalf("half an answer: %v", err)
	}
	return h, string(payload)
}

var watchSince0 = []byte{byte(socket.CmdWatch), 0, byte(socket.TagCardEvents), 1, 0}

const (
	nothingNew = "\x08\x01\x00\x02\x01\x00"
	cardIsIn   = "\x08\x01\x01\x02\x01\x01"
)

func TestWatchTellsWhatTheClientDoesNotKnow(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	w := newWatched(t)
	c, other := w.client(), w.client()
	first, err := c.Watch(ctx, 0, nil)
	if err != nil || first != (socket.CardNews{}) {
		t.Fatalf("at first: %+v, %v", first, err)
	}
	type answer struct {
		news socket.CardNews
		err  error
	}
	answered := make(chan answer, 1)
	go func() {
		news, err := c.Watch(ctx, 0, &first)
		answered <- answer{news, err}
	}()
	// Others are served while it waits.
	if _, _, err := other.CardStatus(ctx, 0); err != nil {
		t.Error(err)
	}
	w.tell(true)
	inserted := <-answered
	if inserted != (answer{socket.CardNews{Events: 1, Present: true}, nil}) {
		t.Fatalf("card put in: %+v", inserted)
	}
	// What happened while nobody watched is told at once.
	w.tell(false)
	w.tell(true)
	w.tell(true)
	if news, err := c.Watch(ctx, 0, &inserted.news); err != nil || !news.Present || news.Events < 2 {
		t.Errorf("card exchanged: %+v, %v", news, err)
	}
	// It takes nothing from STATUS.
	if present, changed, err := other.CardStatus(ctx, 0); err != nil || !present || !changed {
		t.Errorf("STATUS: present %t, changed %t, %v", present, changed, err)
	}
	if _, err := c.Watch(ctx, 1, nil); !errors.Is(err, socket.InvalidSlot) {
		t.Errorf("slot 1: %v", err)
	}
}

// A WATCH that waits keeps nothing from ending.
func TestWatchEnds(t *testing.T) {
	tests := []struct {
		name string
		end  func(*watched, *net.UnixConn)
		code socket.Code
		want string
		next string // the second answer
	}{
		{"news", func(w *watched, _ *net.UnixConn) { w.tell(true) }, socket.Success, cardIsIn, ""},
		{"another request", func(w *watched, nc *net.UnixConn) { w.send(nc, byte(socket.CmdStatus), 0) }, socket.Success, nothingNew, "\x02\x01\x00"},
		{"no more requests", func(_ *watched, nc *net.UnixConn) { nc.CloseWrite() }, socket.Success, nothingNew, ""},
		{"handler told to stop", func(w *watched, _ *net.UnixConn) {
			if err := w.server.Wait(context.Background()); err != nil {
				t.Error(err)
			}
		}, socket.Success, nothingNew, ""},
		{"reader unplugged", func(w *watched, _ *net.UnixConn) { w.server.Fail(socket.DeviceDisconnected) }, socket.DeviceDisconnected, "", ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			w := newWatched(t)
			nc := w.raw(watchSince0...)
			w.begun()
			tt.end(w, nc)
			head, got := w.receive(nc)
			if head.Error != tt.code || got != tt.want {
				t.Errorf("got %d % x, want %d % x", head.Error, got, tt.code, tt.want)
			}
			if tt.next != "" {
				if head, got := w.receive(nc); head.Error != socket.Success || got != tt.next {
					t.Errorf("next: got %d % x, want % x", head.Error, got, tt.next)
				}
			}
		})
	}
	t.Run("client that closes", func(t *testing.T) {
		w := newWatched(t)
		nc := w.raw(watchSince0...)
		w.begun()
		nc.Close()
		for deadline := time.Now().Add(patience); len(w.server.Conns()) > 0; {
			if time.Now().After(deadline) {
				t.Fatal("the connection is never given back")
			}
			time.Sleep(time.Millisecond)
		}
	})
}

// begun waits until the one client's WATCH waits for news.
func (w *watched) begun() {
	w.t.Helper()
	for deadline := time.Now().Add(patience); ; time.Sleep(time.Millisecond) {
		conns := w.server.Conns()
		if len(conns) == 1 && conns[0].Waiting() {
			return
		}
		if time.Now().After(deadline) {
			w.t.Fatal("nobody waits")
		}
	}
}
