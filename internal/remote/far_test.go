package remote

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"strings"
	"sync"
	"testing"
	"time"
	"unicode/utf8"

	"openct/internal/device"
	"openct/internal/ifd"
	"openct/internal/proto"
	"openct/internal/socket"
)

// patience bounds every wait of these tests; none of them needs it.
const patience = 30 * time.Second

// far is a far handler for a test: what it answers to which command.
type far struct {
	t       *testing.T
	answers map[socket.Command]answer
	closed  chan struct{} // at the end of the test
	ended   chan struct{} // an element for each connection that has ended

	mu   sync.Mutex
	seen []socket.Command // but for WATCH, in their order
}

// answer is what the far handler sends: the packet that it makes, or nothing.
type answer func(head socket.Header, payload []byte) []byte

// reply is a well-formed answer.
func reply(code socket.Code, payload string) answer {
	return func(h socket.Header, _ []byte) []byte {
		return packet(socket.Header{XID: h.XID, Error: code}, payload)
	}
}

func packet(h socket.Header, payload string) []byte {
	h.Count = uint16(len(payload))
	b := make([]byte, socket.HeaderSize)
	socket.PutHeader(b, h)
	return append(b, payload...)
}

// silent is a far handler that hangs.
func silent(socket.Header, []byte) []byte { return nil }

// closing is a connection that ends.
func closing(socket.Header, []byte) []byte { return []byte{} }

const good = "\x3B\x02\x14\x50"

// newFar is a far handler of a token, but for some answers.
func newFar(t *testing.T, change map[socket.Command]answer) *far {
	f := &far{t: t, closed: make(chan struct{}), ended: make(chan struct{}, 64), answers: map[socket.Command]answer{
		socket.CmdStatus:      reply(0, "\x00\x05Token\x01\x01\x00"),
		socket.CmdLimits:      reply(0, "\x06\x02\x01\x05\x07\x02\x01\x02"),
		socket.CmdReset:       reply(0, "\x03\x04"+good),
		socket.CmdRequest:     reply(0, "\x03\x04"+good),
		socket.CmdSetProtocol: reply(0, ""),
		socket.CmdTransact:    reply(0, "\x05\x02\x90\x00"),
		socket.CmdLock:        reply(0, "\x04\x01\x07"),
		socket.CmdUnlock:      reply(0, ""),
		socket.CmdEject:       reply(0, ""),
		socket.CmdOutput:      reply(0, ""),
		socket.CmdVerify:      reply(0, "\x05\x02\x63\xC2"),
		socket.CmdChangePIN:   reply(0, "\x05\x02\x90\x00"),
		socket.CmdMemoryRead:  reply(0, "\x86\x03abc"),
		socket.CmdMemoryWrite: reply(0, ""),
	}}
	f.answers[socket.CmdWatch] = func(h socket.Header, p []byte) []byte {
		if len(p) == 2 { // at once
			return reply(0, "\x08\x01\x01\x02\x01\x01")(h, p)
		}
		return nil // no news
	}
	for cmd, a := range change {
		f.answers[cmd] = a
	}
	t.Cleanup(func() { close(f.closed) })
	return f
}

func (f *far) dial(context.Context) (*socket.Client, error) {
	here, there := net.Pipe()
	go f.serve(there)
	f.t.Cleanup(func() { there.Close() })
	return socket.NewClient(here), nil
}

func (f *far) serve(nc net.Conn) {
	defer func() {
		nc.Close()
		select {
		case f.ended <- struct{}{}:
		default:
		}
	}()
	head := make([]byte, socket.HeaderSize)
	for {
		if _, err := io.ReadFull(nc, head); err != nil {
			return
		}
		h := socket.ParseHeader(head)
		payload := make([]byte, h.Count)
		if _, err := io.ReadFull(nc, payload); err != nil {
			return
		}
		cmd := socket.Command(payload[0])
		f.mu.Lock()
		if cmd != socket.CmdWatch {
			f.seen = append(f.seen, cmd)
		}
		a := f.answers[cmd]
		var out []byte
		if a != nil {
			out = a(h, payload)
		}
		f.mu.Unlock()
		switch {
		case out == nil:
		case len(out) == 0:
			return
		default:
			if _, err := nc.Write(out); err != nil {
				return
			}
		}
	}
}

// take returns the commands since it was called last.
func (f *far) take() []socket.Command {
	f.mu.Lock()
	defer f.mu.Unlock()
	seen := f.seen
	f.seen = nil
	return seen
}

// hasty are waits for far ends that do not answer.
var hasty = waits{answer: 50 * time.Millisecond, card: 50 * time.Millisecond}

var unhurried = waits{answer: patience, card: patience}

func (f *far) open(w waits) (ifd.Reader, error) {
	rd, err := open(context.Background(), "desk", f.dial, w, ifd.Options{Log: slog.New(slog.DiscardHandler)})
	if err == nil {
		f.t.Cleanup(func() { rd.Close() })
	}
	return rd, err
}

func TestOneQuestionForAnAPDU(t *testing.T) {
	ctx := context.Background()
	f := newFar(t, nil)
	rd, err := f.open(unhurried)
	if err != nil {
		t.Fatal(err)
	}
	if rd.Name() != "Token at desk" || len(rd.Slots()) != 1 {
		t.Errorf("%q, %d slots", rd.Name(), len(rd.Slots()))
	}
	f.take()
	slot := rd.Slots()[0]
	atr, err := slot.Reset(ctx)
	if err != nil || string(atr) != good {
		t.Fatalf("reset: % x, %v", atr, err)
	}
	e, err := slot.Protocol(ctx, proto.Default, nil)
	if err != nil {
		t.Fatal(err)
	}
	if got := f.take(); len(got) != 2 || got[0] != socket.CmdReset || got[1] != socket.CmdLimits {
		t.Errorf("a reset asks %v", got)
	}
	if got := proto.LimitsOf(e); got != (proto.Limits{Command: 261, Response: 258}) {
		t.Errorf("limits %+v", got)
	}
	resp, err := e.Transmit(ctx, []byte{0, 0xA4, 0, 0}, make([]byte, 0, 8))
	if err != nil || !bytes.Equal(resp, []byte{0x90, 0}) {
		t.Errorf("APDU: % x, %v", resp, err)
	}
	if got := f.take(); len(got) != 1 || got[0] != socket.CmdTransact {
		t.Errorf("an APDU asks %v", got)
	}
	if st, err := slot.(ifd.Presence).Status(ctx); err != nil || !st.Present {
		t.Errorf("status: %+v, %v", st, err)
	}
	if got := f.take(); len(got) != 0 {
		t.Errorf("a status that is known asks %v", got)
	}
}

// All that a reader can do reaches the far handler as it was asked for.
func TestCommandsArePassedOn(t *testing.T) {
	ctx := context.Background()
	tests := []struct {
		name string
		cmd  socket.Command
		args string // behind command and unit
		do   func(ifd.Reader, *slot) error
	}{
		{"verify", socket.CmdVerify, "\xC0\x00\x01\x05\xC1\x00\x03PIN\xC3\x00\x07\x81\x06\x00\x20\x00\x01\x08", func(_ ifd.Reader, s *slot) error {
			resp, err := s.Verify(ctx, ifd.PINRequest{Timeout: 5 * time.Second, Message: "PIN", Control: 0x81, Offset: 6, APDU: []byte{0, 0x20, 0, 1, 8}})
			if !bytes.Equal(resp, []byte{0x63, 0xC2}) {
				t.Errorf("response % x", resp)
			}
			return err
		}},
		{"modify", socket.CmdChangePIN, "\xC3\x00\x07\x01\x00\x06\x00\x24\x00\x01", func(_ ifd.Reader, s *slot) error {
			_, err := s.Modify(ctx, ifd.PINRequest{Control: 1, Offset: 0, APDU: []byte{6, 0, 0x24, 0, 1}})
			return err
		}},
		{"display", socket.CmdOutput, "\xC1\x00\x02hi", func(rd ifd.Reader, _ *slot) error { return rd.(ifd.Displayer).Display(ctx, "hi") }},
		{"eject", socket.CmdEject, "\xC0\x00\x01\x02", func(_ ifd.Reader, s *slot) error { return s.Eject(ctx, 2*time.Second, "") }},
		{"request", socket.CmdRequest, "\xC0\x00\x01\x02\xC1\x00\x01x", func(_ ifd.Reader, s *slot) error {
			_, err := s.Request(ctx, 2*time.Second, "x")
			return err
		}},
		{"protocol", socket.CmdSetProtocol, "\xC8\x00\x01\x01", func(_ ifd.Reader, s *slot) error {
			_, err := s.Protocol(ctx, proto.T1, nil)
			return err
		}},
		{"lock", socket.CmdLock, "\xC2\x00\x01\x01", func(_ ifd.Reader, s *slot) error { return s.Lock(ctx, true) }},
		{"unlock", socket.CmdUnlock, "\x44\x00\x01\x07", func(_ ifd.Reader, s *slot) error {
			if err := s.Lock(ctx, false); err != nil {
				return err
			}
			return s.Unlock(ctx, false)
		}},
		{"memory, read", socket.CmdMemoryRead, "\xC5\x00\x01\x20\xC7\x00\x01\x03", func(_ ifd.Reader, s *slot) error {
			buf := make([]byte, 3)
			n, err := (&engine{s: s}).Read(ctx, 32, buf)
			if n != 3 || string(buf) != "abc" {
				t.Errorf("read %q", buf[:n])
			}
			return err
		}},
		{"memory, written", socket.CmdMemoryWrite, "\xC5\x00\x01\x20\xC6\x00\x02xy", func(_ ifd.Reader, s *slot) error {
			return (&engine{s: s}).Write(ctx, 32, []byte("xy"))
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var got string
			f := newFar(t, nil)
			usual := f.answers[tt.cmd]
			f.answers[tt.cmd] = func(h socket.Header, p []byte) []byte {
				got = string(p[2:])
				return usual(h, p)
			}
			rd, err := f.open(unhurried)
			if err != nil {
				t.Fatal(err)
			}
			if err := tt.do(rd, rd.Slots()[0].(*slot)); err != nil {
				t.Error(err)
			}
			f.mu.Lock()
			defer f.mu.Unlock()
			if got != tt.args {
				t.Errorf("asked % x, want % x", got, tt.args)
			}
		})
	}
}

// A far end that is not what it should be is no reader.
func TestFarEndsThatAreRefused(t *testing.T) {
	tests := []struct {
		name   string
		change map[socket.Command]answer
		want   string
	}{
		{"hangs", map[socket.Command]answer{socket.CmdStatus: silent}, "does not answer within"},
		{"hangs later", map[socket.Command]answer{socket.CmdLimits: silent}, "does not answer within"},
		{"hangs when watched", map[socket.Command]answer{socket.CmdWatch: silent}, "does not answer within"},
		{"closes", map[socket.Command]answer{socket.CmdStatus: closing}, "closed the connection"},
		{"has no slot", map[socket.Command]answer{socket.CmdStatus: reply(0, "\x00\x01T")}, "no slot"},
		{"announces too much", map[socket.Command]answer{socket.CmdStatus: func(h socket.Header, _ []byte) []byte {
			b := packet(socket.Header{XID: h.XID}, "")
			b[10], b[11] = 0xFF, 0xFF
			return b
		}}, "malformed"},
		{"sends garbage", map[socket.Command]answer{socket.CmdStatus: reply(0, "\x00\xFFT")}, "malformed"},
		{"has positive errors", map[socket.Command]answer{socket.CmdStatus: reply(5, "")}, "malformed"},
		{"refuses", map[socket.Command]answer{socket.CmdStatus: reply(socket.Generic, "")}, "Generic error"},
		{"watches without telling", map[socket.Command]answer{socket.CmdWatch: reply(0, "")}, "malformed"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := newFar(t, tt.change).open(hasty)
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want %q", err, tt.want)
			}
		})
	}
}

// What clients get when the far end misbehaves under a command, and whether that
// is the end of the reader.
func TestFarFaults(t *testing.T) {
	other := func(h socket.Header, _ []byte) []byte {
		return packet(socket.Header{XID: h.XID + 1}, "\x05\x02\x90\x00")
	}
	tests := []struct {
		name   string
		answer answer
		want   error
		gone   bool
	}{
		{"no answer", silent, device.ErrUnplugged, true},
		{"answer to another question", other, device.ErrUnplugged, true},
		{"vanishes", closing, device.ErrUnplugged, true},
		{"half an answer, and vanishes", func(h socket.Header, _ []byte) []byte {
			return packet(socket.Header{XID: h.XID}, "\x05\x02\x90\x00")[:14]
		}, device.ErrUnplugged, true},
		{"unplugged there", reply(socket.DeviceDisconnected, ""), device.ErrUnplugged, true},
		{"more than a packet holds", func(h socket.Header, _ []byte) []byte {
			b := packet(socket.Header{XID: h.XID}, "")
			b[10], b[11] = 0xFF, 0xFF
			return b
		}, device.ErrUnplugged, true},
		{"no response in it", reply(0, ""), device.ErrUnplugged, true},
		{"no status word", reply(0, "\x05\x01\x90"), ifd.ErrComm, false},
		{"no card", reply(socket.NoCard, ""), ifd.ErrNoCard, false},
		{"locked", reply(socket.Locked, ""), socket.Locked, false},
		{"card does not answer", reply(socket.Timeout, ""), socket.Timeout, false},
		{"older than the command", reply(socket.InvalidCmd, ""), ifd.ErrNotSupported, false},
		{"says that it is not connected", reply(socket.NotConnected, ""), device.ErrUnplugged, true},
		{"slot that it has told of is not there", reply(socket.InvalidSlot, ""), ifd.ErrComm, false},
		{"code that nobody knows", reply(-77, ""), ifd.ErrComm, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			w := unhurried
			w.card = 100 * time.Millisecond // two of them do not answer
			rd, err := newFar(t, map[socket.Command]answer{socket.CmdTransact: tt.answer}).open(w)
			if err != nil {
				t.Fatal(err)
			}
			e := &engine{s: rd.Slots()[0].(*slot)}
			resp, err := e.Transmit(context.Background(), []byte{0, 0xA4, 0, 0}, nil)
			if !errors.Is(err, tt.want) || resp != nil {
				t.Errorf("% x, %v; want %v", resp, err, tt.want)
			}
			var code socket.Code
			if errors.As(err, &code) && (code == socket.NotConnected || !errors.Is(tt.want, code)) {
				t.Errorf("clients would see %d", code)
			}
			select {
			case <-rd.Gone():
				if !tt.gone {
					t.Error("the reader has left")
				}
			default:
				if tt.gone {
					t.Error("the reader is still there")
				}
			}
		})
	}
}

// News of a far end that tells of nothing, or of the impossible, over and over do
// not keep this machine busy.
func TestTooMuchNews(t *testing.T) {
	n := byte(0)
	f := newFar(t, map[socket.Command]answer{socket.CmdWatch: func(h socket.Header, p []byte) []byte {
		n++
		return reply(0, string([]byte{8, 1, n, 2, 1, n & 1}))(h, p)
	}})
	rd, err := f.open(unhurried)
	if err != nil {
		t.Fatal(err)
	}
	begun := time.Now()
	for range 4 {
		<-rd.(ifd.Notifier).Events()
	}
	if d := time.Since(begun); d < 3*newsPause {
		t.Errorf("4 changes of a card within %v", d)
	}
}

// A card that was exchanged while the news were on their way went and came.
func TestExchangedCard(t *testing.T) {
	n := 0
	f := newFar(t, map[socket.Command]answer{socket.CmdWatch: func(h socket.Header, p []byte) []byte {
		switch n++; n {
		case 1:
			return reply(0, "\x08\x01\x01\x02\x01\x01")(h, p)
		case 2:
			return reply(0, "\x08\x01\x03\x02\x01\x01")(h, p)
		}
		return nil
	}})
	rd, err := f.open(unhurried)
	if err != nil {
		t.Fatal(err)
	}
	events := rd.(ifd.Notifier).Events()
	if a, b := <-events, <-events; a.Present || !b.Present {
		t.Errorf("%+v, then %+v", a, b)
	}
}

// A far OpenCT in C, or before 0.8, knows neither WATCH nor LIMITS.
func TestOldFarEnd(t *testing.T) {
	f := newFar(t, map[socket.Command]answer{
		socket.CmdWatch:  reply(socket.InvalidCmd, ""),
		socket.CmdLimits: reply(socket.InvalidCmd, ""),
		socket.CmdStatus: func(h socket.Header, p []byte) []byte {
			if p[1] == socket.UnitReader {
				return reply(0, "\x00\x05Token\x01\x02\x00\x01")(h, p)
			}
			return reply(0, "\x02\x01\x03")(h, p)
		},
	})
	rd, err := f.open(unhurried)
	if err != nil {
		t.Fatal(err)
	}
	if _, ok := rd.(ifd.Notifier); ok {
		t.Error("it cannot tell of cards")
	}
	if len(rd.Slots()) != 2 {
		t.Fatalf("%d slots", len(rd.Slots()))
	}
	if st, err := rd.Slots()[1].(ifd.Presence).Status(context.Background()); err != nil || st != (ifd.Status{Present: true, Changed: true}) {
		t.Errorf("status %+v, %v", st, err)
	}
	if got := proto.LimitsOf(rd.Slots()[0]); got != proto.ShortAPDU {
		t.Errorf("limits %+v", got)
	}
}

func TestEscapeIsThisMachinesToAllow(t *testing.T) {
	rd, err := newFar(t, nil).open(unhurried)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := rd.Slots()[0].Protocol(context.Background(), proto.Escape, nil); !errors.Is(err, ifd.ErrNotSupported) {
		t.Error(err)
	}
}

func TestName(t *testing.T) {
	long := strings.Repeat("ä", 100)
	tests := []struct{ name, far, at, want string }{
		{"both fit", "Token", "desk", "Token at desk"},
		{"escape sequence", "\x1b[2JTok\nen", "desk", "?[2JTok en at desk"},
		{"long name", long, "desk", strings.Repeat("ä", 27) + " at desk"},
		{"long both", long, long, strings.Repeat("ä", 16) + " at " + strings.Repeat("ä", 13)},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got := name(tt.far, tt.at)
			if got != tt.want || len(got) > maxName || !utf8.ValidString(got) {
				t.Errorf("got %q (%d bytes), want %q", got, len(got), tt.want)
			}
		})
	}
}

// Whatever a far end sends, on any connection, nothing that comes out is longer
// than it may be, and all comes to an end.
func FuzzFar(f *testing.F) {
	ok := func(xid uint32, payload string) string { return string(packet(socket.Header{XID: xid}, payload)) }
	start := ok(1, "\x00\x05Token\x01\x01\x00") + ok(2, "\x06\x02\x01\x05\x07\x02\x01\x02")
	f.Add([]byte(start+ok(3, "\x03\x04"+good)+ok(4, "\x06\x02\x01\x05\x07\x02\x01\x02")+ok(5, "\x05\x02\x90\x00")+ok(6, "\x86\x03abc")), []byte(ok(1, "\x08\x01\x01\x02\x01\x01")+ok(2, "\x08\x01\x02\x02\x01\x00")))
	f.Add([]byte(ok(1, "\x00\x01T\x01\x12\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x11\x12")), []byte{})
	f.Add([]byte(start), []byte(packet(socket.Header{XID: 1, Error: socket.InvalidCmd}, "")))
	f.Fuzz(func(t *testing.T, commands, news []byte) {
		ctx := context.Background()
		streams := [][]byte{commands, news}
		dial := func(context.Context) (*socket.Client, error) {
			here, there := net.Pipe()
			var stream []byte
			if len(streams) > 0 {
				stream, streams = streams[0], streams[1:]
			}
			go func() { _, _ = io.Copy(io.Discard, there) }()
			go func() {
				_, _ = there.Write(stream)
				there.Close()
			}()
			return socket.NewClient(here), nil
		}
		rd, err := open(ctx, "desk", dial, unhurried, ifd.Options{Log: slog.New(slog.DiscardHandler)})
		if err != nil {
			return
		}
		if n := len(rd.Slots()); n < 1 || n > maxSlots || len(rd.Name()) > maxName || !utf8.ValidString(rd.Name()) {
			t.Errorf("%q, %d slots", rd.Name(), n)
		}
		s := rd.Slots()[0]
		_, _ = s.(ifd.Presence).Status(ctx)
		_, _ = s.Reset(ctx)
		if e, err := s.Protocol(ctx, proto.Default, nil); err == nil {
			if l := proto.LimitsOf(e); l.Command < 4 || l.Command > socket.MaxAPDU || l.Response < 2 || l.Response > socket.MaxResponse {
				t.Errorf("limits %+v", l)
			}
			resp, err := e.Transmit(ctx, []byte{0, 0xA4, 0, 0}, make([]byte, 0, 2))
			if err == nil && (len(resp) < 2 || len(resp) > socket.MaxResponse) {
				t.Errorf("response of %d bytes", len(resp))
			}
			buf := make([]byte, 3)
			if n, err := e.(proto.MemoryEngine).Read(ctx, 0, buf); err == nil && (n < 1 || n > 3) {
				t.Errorf("read %d bytes", n)
			}
		}
		if err := rd.Close(); err != nil {
			t.Error(err)
		}
	})
}
