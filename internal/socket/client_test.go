package socket

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"openct/internal/hextest"
)

// exchange is what a client must send, without header, and what it gets.
type exchange struct {
	want  string // hex of the payload
	reply string // hex of the payload; after "raw" of all; after "last" of all there will ever be
	code  Code
}

// scripted returns a client of a handler that follows a script and fails the
// test if it is not used up.
func scripted(t *testing.T, script ...exchange) *Client {
	t.Helper()
	a, b := net.Pipe()
	done := make(chan struct{})
	c := NewClient(a)
	t.Cleanup(func() {
		c.Close()
		<-done
	})
	go func() {
		defer close(done)
		defer b.Close()
		for i, x := range script {
			head := make([]byte, HeaderSize)
			if _, err := io.ReadFull(b, head); err != nil {
				t.Errorf("request %d of %d: %v", i+1, len(script), err)
				return
			}
			h := ParseHeader(head)
			req := make([]byte, h.Count)
			if _, err := io.ReadFull(b, req); err != nil {
				t.Errorf("request %d: %v", i+1, err)
				return
			}
			if h.XID != uint32(i+1) || h.Dest != 0 || h.Error != 0 {
				t.Errorf("request %d has header %+v", i+1, h)
			}
			if want := hextest.Bytes(t, x.want); !bytes.Equal(req, want) {
				t.Errorf("request %d is %x, want %x", i+1, req, want)
			}
			var out []byte
			last := false
			if raw, ok := strings.CutPrefix(x.reply, "raw"); ok {
				out = hextest.Bytes(t, raw)
			} else if raw, ok := strings.CutPrefix(x.reply, "last"); ok {
				out, last = hextest.Bytes(t, raw), true
			} else {
				out = packet(Header{XID: h.XID, Error: x.code}, hextest.Bytes(t, x.reply))
			}
			if _, err := b.Write(out); err != nil && !errors.Is(err, io.ErrClosedPipe) {
				t.Errorf("reply %d: %v", i+1, err)
			}
			if last {
				return
			}
		}
		if n, err := b.Read(make([]byte, 1)); n > 0 || err == nil {
			t.Errorf("a request too many")
		}
	}()
	return c
}

func TestClientCommands(t *testing.T) {
	ctx := context.Background()
	bytesOf := func(b []byte, err error) (string, error) { return hex.EncodeToString(b), err }
	none := func(err error) (string, error) { return "", err }
	for _, tt := range []struct {
		name string
		x    exchange
		do   func(c *Client) (string, error)
		want string
	}{
		{"reader status", exchange{"0010", "0005546f6b656e 0104 00011112", 0}, func(c *Client) (string, error) {
			i, err := c.ReaderStatus(ctx)
			if i != (ReaderInfo{"Token", 2, true, true}) {
				t.Errorf("info %+v", i)
			}
			return i.Name, err
		}, "Token"},
		{"card status", exchange{"0003", "020103", 0}, func(c *Client) (string, error) {
			p, ch, err := c.CardStatus(ctx, 3)
			if !p || !ch {
				t.Errorf("present %t, changed %t", p, ch)
			}
			return "", err
		}, ""},
		{"limits", exchange{"2401", "06020105 07020102", 0}, func(c *Client) (string, error) {
			command, response, err := c.Limits(ctx, 1)
			return fmt.Sprint(command, response), err
		}, "261 258"},
		{"limits that no packet has room for", exchange{"2400", "0604ffffffff 07027530", 0}, func(c *Client) (string, error) {
			command, response, err := c.Limits(ctx, 0)
			return fmt.Sprint(command, response), err
		}, "4079 4081"},
		{"watch", exchange{"2501", "080103 020101", 0}, func(c *Client) (string, error) {
			news, err := c.Watch(ctx, 1, nil)
			return fmt.Sprint(news), err
		}, "{3 true}"},
		{"watch, knowing something", exchange{"2501 48000103", "080104 020102", 0}, func(c *Client) (string, error) {
			news, err := c.Watch(ctx, 1, &CardNews{Events: 3, Present: true})
			return fmt.Sprint(news), err
		}, "{4 false}"},
		{"lock shared", exchange{"0100c2000100", "44000100", 0}, func(c *Client) (string, error) {
			h, err := c.Lock(ctx, 0, false)
			return string(rune('0' + h)), err
		}, "0"},
		{"lock exclusive", exchange{"0102c2000101", "040107", 0}, func(c *Client) (string, error) {
			h, err := c.Lock(ctx, 2, true)
			return string(rune('0' + h)), err
		}, "7"},
		{"unlock", exchange{"020044 0002 0100", "", 0}, func(c *Client) (string, error) { return none(c.Unlock(ctx, 0, 256)) }, ""},
		{"reset", exchange{"1000", "03043b021450", 0}, func(c *Client) (string, error) { return bytesOf(c.Reset(ctx, 0)) }, "3b021450"},
		{"reset without ATR", exchange{"1000", "", 0}, func(c *Client) (string, error) { return bytesOf(c.Reset(ctx, 0)) }, ""},
		{"request", exchange{"1100 c0000105 c1000141", "430002 3b00", 0}, func(c *Client) (string, error) {
			return bytesOf(c.Request(ctx, 0, 4001*time.Millisecond, "A"))
		}, "3b00"},
		{"request without timeout", exchange{"1100", "0301 3b", 0}, func(c *Client) (string, error) {
			return bytesOf(c.Request(ctx, 0, 0, ""))
		}, "3b"},
		{"eject", exchange{"1201 c0000101", "", 0}, func(c *Client) (string, error) { return none(c.Eject(ctx, 1, time.Second, "")) }, ""},
		{"output", exchange{"1310 c100026869", "", 0}, func(c *Client) (string, error) { return none(c.Output(ctx, "hi")) }, ""},
		{"verify", exchange{"1400 c000011e c1000140 c3 0007 4106 0020008008", "4500029000", 0}, func(c *Client) (string, error) {
			return bytesOf(c.Verify(ctx, 0, PINRequest{Timeout: 30 * time.Second, Message: "@", ASCII: true, Length: 4, Offset: 5, APDU: []byte{0, 0x20, 0, 0x80, 8}}))
		}, "9000"},
		{"change PIN", exchange{"1500 c3 0003 0001 00", "", InvalidCmd}, func(c *Client) (string, error) {
			_, err := c.ChangePIN(ctx, 0, PINRequest{APDU: []byte{0}})
			if !errors.Is(err, InvalidCmd) {
				t.Errorf("ChangePIN: %v", err)
			}
			return "", nil
		}, ""},
		{"read memory", exchange{"1600 c5 0002 0100 c7 0001 10", "8603010203", 0}, func(c *Client) (string, error) {
			return bytesOf(c.ReadMemory(ctx, 0, 256, 16))
		}, "010203"},
		{"write memory", exchange{"1700 c5 0001 00 c6 0003 010203", "", 0}, func(c *Client) (string, error) {
			return none(c.WriteMemory(ctx, 0, 0, []byte{1, 2, 3}))
		}, ""},
		{"set protocol", exchange{"2200 c8 0004 ffffffff", "", 0}, func(c *Client) (string, error) {
			return none(c.SetProtocol(ctx, 0, ^uint32(0)))
		}, ""},
		{"transact", exchange{"2100 c4 0007 00a40000023f00", "4500029000", 0}, func(c *Client) (string, error) {
			return bytesOf(c.Transact(ctx, 0, hextest.Bytes(t, "00a40000023f00")))
		}, "9000"},
		{"transact old", exchange{"2000 00ee000000", "9000", 0}, func(c *Client) (string, error) {
			return bytesOf(c.TransactOld(ctx, 0, hextest.Bytes(t, "00ee000000")))
		}, "9000"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := tt.do(scripted(t, tt.x))
			if err != nil || got != tt.want {
				t.Errorf("%q, %v; want %q", got, err, tt.want)
			}
		})
	}
}

func TestClientArguments(t *testing.T) {
	ctx := context.Background()
	for _, tt := range []struct {
		name string
		do   func(c *Client) error
		want Code
	}{
		{"no APDU", func(c *Client) error { _, err := c.Transact(ctx, 0, nil); return err }, InvalidArg},
		{"APDU too long", func(c *Client) error { _, err := c.Transact(ctx, 0, make([]byte, MaxAPDU+1)); return err }, BufferTooSmall},
		{"old APDU too long", func(c *Client) error { _, err := c.TransactOld(ctx, 0, make([]byte, MaxPayload-1)); return err }, BufferTooSmall},
		{"negative slot", func(c *Client) error { _, err := c.Reset(ctx, -1); return err }, InvalidSlot},
		{"slot too high", func(c *Client) error { _, err := c.Transact(ctx, 256, []byte{0}); return err }, InvalidSlot},
		{"nothing to write", func(c *Client) error { return c.WriteMemory(ctx, 0, 0, nil) }, InvalidArg},
		{"too much to write", func(c *Client) error { return c.WriteMemory(ctx, 0, 0, make([]byte, MaxPayload)) }, BufferTooSmall},
		{"nothing to read", func(c *Client) error { _, err := c.ReadMemory(ctx, 0, 0, 0); return err }, InvalidArg},
		{"PIN too long", func(c *Client) error {
			_, err := c.Verify(ctx, 0, PINRequest{Length: 16, APDU: []byte{0}})
			return err
		}, InvalidArg},
		{"no PIN command", func(c *Client) error { _, err := c.Verify(ctx, 0, PINRequest{}); return err }, InvalidArg},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := scripted(t, exchange{"1000", "", 0})
			if err := tt.do(c); !errors.Is(err, tt.want) {
				t.Errorf("%v, want %v", err, tt.want)
			}
			if _, err := c.Reset(ctx, 0); err != nil {
				t.Errorf("nothing was sent, yet the next call fails: %v", err)
			}
		})
	}
}

// TestClientHostile has handlers that lie. usable tells whether the
// connection is worth anything afterwards.
func TestClientHostile(t *testing.T) {
	const head = "01000000 00000000 0000 "
	for _, tt := range []struct {
		name   string
		x      exchange
		want   error
		usable bool
	}{
		{"refuses", exchange{reply: "", code: NoCard}, NoCard, true},
		{"refuses with a payload", exchange{reply: "45010000", code: Locked}, Locked, true},
		{"positive error", exchange{reply: "", code: 5}, ErrProtocol, true},
		{"no response in it", exchange{reply: ""}, ErrProtocol, true},
		{"another tag", exchange{reply: "030100"}, ErrProtocol, true},
		{"empty value", exchange{reply: "450000"}, ErrProtocol, true},
		{"length beyond the end", exchange{reply: "45ffff00"}, ErrProtocol, true},
		{"replies to no request", exchange{reply: "last 63000000 00000000 0000 0200 ffff 00000000 00000000 f9ff 0000 " + head + "0500 4500029000"}, ErrProtocol, false},
		{"packet too long", exchange{reply: "raw " + head + "f50f"}, ErrProtocol, false},
		{"half a header", exchange{reply: "last 0100"}, ErrNoReply, false},
		{"half a payload", exchange{reply: "last " + head + "0500 4500"}, ErrNoReply, false},
		{"no reply", exchange{reply: "last"}, ErrNoReply, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			tt.x.want = "2100 c4 0001 00"
			script := []exchange{tt.x}
			if tt.usable {
				script = append(script, exchange{"1000", "", 0})
			}
			c := scripted(t, script...)
			_, err := c.Transact(context.Background(), 0, []byte{0})
			if !errors.Is(err, tt.want) {
				t.Fatalf("%v, want %v", err, tt.want)
			}
			if err != nil && !strings.HasPrefix(err.Error(), "transact: ") {
				t.Errorf("%v does not say what failed", err)
			}
			_, err = c.Reset(context.Background(), 0)
			if tt.usable && err != nil {
				t.Errorf("next call: %v", err)
			}
			if !tt.usable && !errors.Is(err, NotConnected) {
				t.Errorf("next call: %v, want NotConnected", err)
			}
		})
	}
}

func TestClientWriteFails(t *testing.T) {
	a, b := net.Pipe()
	b.Close()
	c := NewClient(a)
	defer c.Close()
	for range 2 {
		if _, err := c.Reset(context.Background(), 0); !errors.Is(err, NotConnected) {
			t.Errorf("%v, want NotConnected", err)
		}
	}
	if _, err := Dial(context.Background(), "/nonexistent/0"); !errors.Is(err, NotConnected) {
		t.Errorf("Dial: %v, want NotConnected", err)
	}
	if _, err := DialReader(context.Background(), "/nonexistent", 3); !errors.Is(err, NotConnected) {
		t.Errorf("DialReader: %v, want NotConnected", err)
	}
}

// TestClientGivesUp ends a call's context while the handler works; the late
// reply must not be taken for the next call's.
func TestClientGivesUp(t *testing.T) {
	entered := make(chan struct{})
	leave := make(chan struct{})
	_, path := start(t, newHandler(func(_ context.Context, _ *Conn, req *Request, reply *Reply) Code {
		if req.Unit == 1 {
			entered <- struct{}{}
			<-leave
		}
		reply.Bytes(TagATR, bytes.Repeat([]byte{req.Unit}, 33))
		return Success
	}), Options{})
	c, err := Dial(context.Background(), path)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	why := errors.New("user is impatient")
	ctx, cancel := context.WithCancelCause(context.Background())
	go func() {
		<-entered
		cancel(why)
	}()
	if _, err := c.Reset(ctx, 1); !errors.Is(err, why) {
		t.Errorf("%v, want the context's cause", err)
	}
	if _, err := c.Reset(ctx, 2); !errors.Is(err, why) {
		t.Errorf("with a context that has ended: %v", err)
	}
	close(leave)
	for range 3 {
		atr, err := c.Reset(context.Background(), 3)
		if err != nil || len(atr) != 33 || atr[0] != 3 {
			t.Errorf("ATR %x, %v: not this call's", atr, err)
		}
	}
	short, cancelShort := context.WithDeadline(context.Background(), time.Unix(1, 0))
	defer cancelShort()
	if _, err := c.Reset(short, 3); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("deadline: %v", err)
	}
	if _, err := c.Reset(context.Background(), 3); err != nil {
		t.Errorf("after a deadline: %v", err)
	}
}

// Replies to no request are no replies: a handler that sends them would keep the
// client busy for as long as it likes.
func TestRepliesToNoRequest(t *testing.T) {
	here, there := net.Pipe()
	c := NewClient(here)
	defer c.Close()
	defer there.Close()
	answer := func(xids ...uint32) {
		req := make([]byte, HeaderSize+requestOverhead)
		if _, err := io.ReadFull(there, req); err != nil {
			return
		}
		for _, xid := range xids {
			if _, err := there.Write(packet(Header{XID: xid}, []byte{byte(TagATR), 1, byte(xid)})); err != nil {
				return
			}
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	go func() { answer(); cancel() }()
	if _, err := c.Reset(ctx, 0); !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	go answer(1, 2) // the first one's is late
	if atr, err := c.Reset(context.Background(), 0); err != nil || !bytes.Equal(atr, []byte{2}) {
		t.Fatalf("after a late reply: % x, %v", atr, err)
	}
	bounded, stop := context.WithTimeout(context.Background(), 10*time.Second)
	defer stop()
	go answer(1, 3)
	if atr, err := c.Reset(bounded, 0); !errors.Is(err, ErrProtocol) {
		t.Errorf("a reply that was had already: % x, %v", atr, err)
	}
	if _, err := c.Reset(bounded, 0); !errors.Is(err, NotConnected) {
		t.Errorf("after that: %v", err)
	}
}

func TestClientSkipsXIDZero(t *testing.T) {
	_, path := start(t, newHandler(parrot), Options{})
	c, err := Dial(context.Background(), path)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.xid = ^uint32(0)
	if _, err := c.Reset(context.Background(), 0); err != nil || c.xid != 1 {
		t.Errorf("xid %d, %v", c.xid, err)
	}
}

func TestClientsShareAConnection(t *testing.T) {
	_, path := start(t, newHandler(func(_ context.Context, _ *Conn, req *Request, reply *Reply) Code {
		apdu, _ := req.Args.Bytes(TagCardRequest)
		reply.Bytes(TagCardResponse, apdu)
		return Success
	}), Options{})
	c, err := Dial(context.Background(), path)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	done := make(chan error)
	const n = 8
	for i := range n {
		go func() {
			for j := range 100 {
				apdu := bytes.Repeat([]byte{byte(i)}, 1+i*j)
				if resp, err := c.Transact(context.Background(), 0, apdu); err != nil || !bytes.Equal(resp, apdu) {
					done <- errors.Join(err, errors.New("not this call's response"))
					return
				}
			}
			done <- nil
		}()
	}
	for range n {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
}
