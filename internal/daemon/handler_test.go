package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"openct/internal/atr"
	"openct/internal/driver"
	"openct/internal/ifd"
	"openct/internal/lock"
	"openct/internal/proto"
	"openct/internal/reader"
	"openct/internal/socket"
	"openct/internal/status"
	"openct/internal/usb"
	"openct/internal/vusb"
	"openct/internal/vusb/card"
	"openct/internal/vusb/token"
)

func TestCodes(t *testing.T) {
	tests := []struct {
		name string
		err  error
		want socket.Code
	}{
		{"nothing", nil, socket.Success},
		{"a code of its own", fmt.Errorf("PIN data: %w", socket.InvalidArg), socket.InvalidArg},
		{"unplugged in a transfer", fmt.Errorf("transmit: %w", usb.Wrap("control 40/06", "x", usb.ErrUnplugged)), socket.DeviceDisconnected},
		{"unplugged, and the session lost over it", errors.Join(proto.ErrResetRequired, usb.ErrUnplugged), socket.DeviceDisconnected},
		{"timeout, and the session lost over it", errors.Join(proto.ErrResetRequired, usb.ErrTimeout), socket.Timeout},
		{"stall", usb.Wrap("x", "y", usb.ErrStall), socket.CommError},
		{"session lost before", proto.ErrResetRequired, socket.CommError},
		{"never reset", reader.ErrNoProtocol, socket.Generic},
		{"never usable", fmt.Errorf("%w: %w", reader.ErrNoProtocol, ifd.ErrNotSupported), socket.Generic},
		{"no card", ifd.ErrNoCard, socket.NoCard},
		{"no keypad", ifd.ErrNotSupported, socket.NotSupported},
		{"locked", lock.ErrLocked, socket.Locked},
		{"too many locks", lock.ErrTooMany, socket.NoMemory},
		{"slow user", ifd.ErrUserTimeout, socket.UserTimeout},
		{"response too long", proto.ErrTooLong, socket.BufferTooSmall},
		{"APDU to a memory card", proto.ErrNoAPDUs, socket.NotSupported},
		{"beyond the end of a memory card", proto.ErrMemoryRange, socket.InvalidArg},
		{"memory card that cannot be written", proto.ErrWriteProtected, socket.Generic},
		{"memory card of no kind", errors.Join(ifd.ErrNoATR, proto.ErrNoMemoryCard), socket.NoATR},
		{"something unheard of", errors.New("?"), socket.Generic},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := codeOf(tt.err); got != tt.want {
				t.Errorf("%v: got %d, want %d", tt.err, got, tt.want)
			}
		})
	}
}

// echoHandler is the handler of a virtual eToken PRO 64k with an echo card.
func echoHandler(t testing.TB) *handler {
	t.Helper()
	dev, err := vusb.Plug("virtual", token.NewEToken64(card.NewEcho())).Open()
	if err != nil {
		t.Fatal(err)
	}
	e, _ := driver.ByName("etoken64")
	r, err := e.Open(dev, ifd.Options{})
	if err != nil {
		t.Fatal(err)
	}
	log := slog.New(slog.DiscardHandler)
	h := &handler{
		name: e.Reader, reader: reader.New(r, log, func(int, ifd.Status) {}), log: log, enforce: true,
		note: func(status.Event) {}, fault: func(error) {},
	}
	t.Cleanup(func() { h.reader.Close() })
	return h
}

// Whatever a client sends, it gets a code that clients know, and the next
// client a card that works.
func FuzzHandle(f *testing.F) {
	f.Add(byte(socket.CmdTransact), byte(0), []byte{0xC4, 0, 5, 0, 0xEE, 0, 0, 0})
	f.Add(byte(socket.CmdTransactOld), byte(0), []byte{0, 0xEE, 0, 2})
	f.Add(byte(socket.CmdReset), byte(0), []byte{0xC0, 0, 1, 5, 0xC1, 0, 1, 'x'})
	f.Add(byte(socket.CmdLock), byte(0), []byte{0xC2, 0, 1, 1})
	f.Add(byte(socket.CmdSetProtocol), byte(0), []byte{0xC8, 0, 4, 0xFF, 0xFF, 0xFF, 0xFF})
	f.Add(byte(socket.CmdVerify), byte(0), []byte{0xC3, 0, 7, 1, 6, 0, 0x20, 0, 1, 8})
	f.Add(byte(socket.CmdMemoryRead), byte(0), []byte{0xC5, 0, 1, 0, 0xC7, 0, 2, 0xFF, 0xFF})
	f.Add(byte(socket.CmdStatus), byte(socket.UnitReader), []byte{})
	f.Fuzz(func(t *testing.T, cmd, unit byte, args []byte) {
		tlv, err := socket.ParseTLV(args)
		if err != nil && socket.Command(cmd) != socket.CmdTransactOld {
			return // the server refuses it
		}
		h := echoHandler(t)
		c := h.Connect(&socket.Conn{ID: 1})
		call := func(req *socket.Request) (socket.Code, int) {
			reply := &socket.Reply{Builder: socket.NewBuilder(make([]byte, 0, socket.MaxPayload), true)}
			code := c.Handle(context.Background(), req, reply)
			return code, reply.Len()
		}
		reset := &socket.Request{Cmd: socket.CmdReset}
		if code, _ := call(reset); code != socket.Success {
			t.Fatalf("reset: %v", code)
		}
		if code, _ := call(&socket.Request{Cmd: socket.Command(cmd), Unit: unit, Args: tlv, Raw: args}); code > 0 || code < socket.MissingArg {
			t.Fatalf("command %#x: code %d", cmd, code)
		}
		if code, n := call(reset); code != socket.Success || n == 0 {
			t.Fatalf("reset after command %#x: %v, %d bytes", cmd, code, n)
		}
	})
}

// The table and PROTOCOL.md name the same commands, with the same needs.
func TestCommandsAreDocumented(t *testing.T) {
	protocol, err := os.ReadFile("../socket/PROTOCOL.md")
	if err != nil {
		t.Fatal(err)
	}
	_, section, _ := strings.Cut(string(protocol), "\n## Commands\n")
	section, _, _ = strings.Cut(section, "\n## ")
	needs := map[string]target{"card": onCard, "card, stricter": onCardAlone}
	documented := map[socket.Command]bool{}
	for line := range strings.Lines(section) {
		cells := strings.Split(line, "|")
		if len(cells) < 7 {
			continue
		}
		code, err := strconv.ParseUint(strings.TrimSpace(cells[1]), 0, 8)
		if err != nil {
			continue // the table's head
		}
		name, needs := strings.TrimSpace(cells[2]), needs[strings.TrimSpace(cells[6])]
		cmd, ok := commands[socket.Command(code)]
		documented[socket.Command(code)] = true
		if !ok || cmd.run == nil || cmd.name != name {
			t.Errorf("%#02x is %s in PROTOCOL.md, %q in the table", code, name, cmd.name)
		}
		if cmd.on.card() != needs.card() || (cmd.on == onCardAlone) != (needs == onCardAlone) {
			t.Errorf("%s: PROTOCOL.md says %q", name, cells[6])
		}
	}
	for code, cmd := range commands {
		if !documented[code] {
			t.Errorf("%s is not in PROTOCOL.md", cmd.name)
		}
	}
}

// prompter is a reader with a keypad that notes how long it is told to wait.
type prompter struct{ told []time.Duration }

func (p *prompter) Slots() []ifd.Slot     { return []ifd.Slot{p} }
func (p *prompter) Name() string          { return "prompter" }
func (p *prompter) Gone() <-chan struct{} { return nil }
func (p *prompter) Close() error          { return nil }

func (p *prompter) Reset(context.Context) ([]byte, error) { return nil, nil }
func (p *prompter) Protocol(context.Context, proto.ID, *atr.ATR) (proto.Engine, error) {
	return nil, ifd.ErrNotSupported
}

func (p *prompter) Request(_ context.Context, timeout time.Duration, _ string) ([]byte, error) {
	p.told = append(p.told, timeout)
	return []byte{0x3B, 0x00}, nil
}

func (p *prompter) Eject(_ context.Context, timeout time.Duration, _ string) error {
	p.told = append(p.told, timeout)
	return nil
}

func (p *prompter) Verify(_ context.Context, r ifd.PINRequest) ([]byte, error) {
	p.told = append(p.told, r.Timeout)
	return []byte{0x90, 0x00}, nil
}

func (p *prompter) Modify(ctx context.Context, r ifd.PINRequest) ([]byte, error) {
	return p.Verify(ctx, r)
}

// No number that a client sends makes a reader wait longer than a reader can be
// told to.
func TestTimeoutsAreCapped(t *testing.T) {
	for _, tt := range []struct {
		name    string
		seconds uint32
		want    time.Duration
	}{
		{"none", 0, 0},
		{"one second", 1, time.Second},
		{"the longest", 255, 255 * time.Second},
		{"one more", 256, 255 * time.Second},
		{"136 years", 0xFFFFFFFF, 255 * time.Second},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p := &prompter{}
			log := slog.New(slog.DiscardHandler)
			h := &handler{reader: reader.New(p, log, func(int, ifd.Status) {}), log: log, note: func(status.Event) {}, fault: func(error) {}}
			defer h.reader.Close()
			c := h.Connect(&socket.Conn{ID: 1})
			var want []time.Duration
			for _, cmd := range []socket.Command{socket.CmdReset, socket.CmdRequest, socket.CmdEject, socket.CmdVerify, socket.CmdChangePIN} {
				args := socket.NewBuilder(make([]byte, 0, socket.MaxPayload), true)
				args.Int(socket.TagTimeout, tt.seconds)
				args.Text(socket.TagMessage, "x")
				args.Bytes(socket.TagPINData, []byte{1, 6, 0, 0x20, 0, 1})
				tlv, err := socket.ParseTLV(args.Built())
				if err != nil {
					t.Fatal(err)
				}
				reply := &socket.Reply{Builder: socket.NewBuilder(make([]byte, 0, socket.MaxPayload), true)}
				if code := c.Handle(context.Background(), &socket.Request{Cmd: cmd, Args: tlv}, reply); code != socket.Success {
					t.Fatalf("%s: %v", commands[cmd].name, code)
				}
				want = append(want, tt.want)
			}
			if !slices.Equal(p.told, want) {
				t.Errorf("the reader was told %v, want %v", p.told, want)
			}
		})
	}
}

// failing is a slot whose engine fails after a part of the response has come.
type failing struct{ prompter }

func (f *failing) Slots() []ifd.Slot                     { return []ifd.Slot{f} }
func (f *failing) ID() proto.ID                          { return proto.T1 }
func (f *failing) Reset(context.Context) ([]byte, error) { return []byte{0x3B, 0x02, 0x14, 0x50}, nil }
func (f *failing) Protocol(context.Context, proto.ID, *atr.ATR) (proto.Engine, error) {
	return f, nil
}

func (f *failing) Transmit(_ context.Context, _, resp []byte) ([]byte, error) {
	_ = append(resp[:0], "a secret"...)
	return nil, ifd.ErrComm
}

// What came of a response before a failure is not kept either.
func TestHalfResponsesAreCleared(t *testing.T) {
	log := slog.New(slog.DiscardHandler)
	h := &handler{reader: reader.New(&failing{}, log, func(int, ifd.Status) {}), log: log, note: func(status.Event) {}, fault: func(error) {}}
	defer h.reader.Close()
	c := h.Connect(&socket.Conn{ID: 1}).(*client)
	reply := &socket.Reply{Builder: socket.NewBuilder(make([]byte, 0, socket.MaxPayload), true)}
	if code := c.Handle(context.Background(), &socket.Request{Cmd: socket.CmdReset}, reply); code != socket.Success {
		t.Fatal(code)
	}
	if code := c.Handle(context.Background(), &socket.Request{Cmd: socket.CmdTransactOld, Raw: someAPDU}, reply); code != socket.CommError {
		t.Fatalf("got %v, want %v", code, socket.CommError)
	}
	if text := string(c.response[:8]); text != string(make([]byte, 8)) {
		t.Errorf("left: %q", text)
	}
}
