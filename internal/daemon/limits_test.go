package daemon

import (
	"context"
	"log/slog"
	"strings"
	"testing"

	"openct/internal/driver"
	"openct/internal/ifd"
	"openct/internal/reader"
	"openct/internal/socket"
	"openct/internal/status"
	"openct/internal/vusb"
	"openct/internal/vusb/model"
)

// What LIMITS tells of a reader, its driver and the card's protocol is what they
// carry: the longest APDU passes, and where only short ones do, an extended one
// does not.
func TestLimitsAreWhatIsCarried(t *testing.T) {
	const short = 4 + 1 + 255 + 1
	tests := []struct {
		name   string
		model  string
		atr    bool // the card has the ATR that the model wants
		unset  int  // MAX_COMMAND before the first reset
		reset  int  // and after it
		answer int  // MAX_RESPONSE after it
	}{
		{"T=1 in control requests", "etoken64", true, socket.MaxAPDU, socket.MaxAPDU, socket.MaxResponse},
		{"T=1 or T=0, byte by byte", "eutron", true, socket.MaxAPDU, socket.MaxAPDU, socket.MaxResponse},
		{"T=0 in bulk transfers", "ePass3000", true, socket.MaxAPDU, short, socket.MaxResponse},
		{"driver that takes T=0 apart", "egate", true, short, short, 258},
		{"driver that translates", "rutoken", true, short, short, 258},
		{"CCID, TPDU", "ccid:P1", false, socket.MaxAPDU, socket.MaxAPDU, socket.MaxResponse},
		{"CCID, short APDU", "ccid:P3", false, short, short, 258},
		{"CCID, extended APDU in parts", "ccid:P4", false, socket.MaxAPDU, socket.MaxAPDU, socket.MaxResponse},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c := openModel(t, tt.model)
			limits := func(when string, command, response int) {
				t.Helper()
				tlv, code := call(t, c, &socket.Request{Cmd: socket.CmdLimits})
				gotCommand, _ := tlv.Int(socket.TagMaxCommand)
				gotResponse, _ := tlv.Int(socket.TagMaxResponse)
				if code != socket.Success || int(gotCommand) != command || response != 0 && int(gotResponse) != response {
					t.Errorf("%s: got %d and %d (code %d), want %d and %d", when, gotCommand, gotResponse, code, command, response)
				}
			}
			limits("before a reset", tt.unset, 0)
			if _, code := call(t, c, &socket.Request{Cmd: socket.CmdReset}); code != socket.Success {
				t.Fatalf("reset: %v", code)
			}
			limits("after a reset", tt.reset, tt.answer)
			if code := transact(t, c, longest(tt.reset)); code != socket.Success {
				t.Errorf("an APDU of %d bytes: %v", tt.reset, code)
			}
			if tt.reset == short {
				if code := transact(t, c, longest(short+8)); code == socket.Success {
					t.Errorf("an APDU of %d bytes passes", short+8)
				}
			}
			if _, code := call(t, c, &socket.Request{Cmd: socket.CmdEject}); code != socket.Success {
				t.Fatalf("eject: %v", code)
			}
			limits("powered down, with the same card", tt.reset, tt.answer)
		})
	}
}

func TestLimitsOfNoSuchSlot(t *testing.T) {
	c := openModel(t, "etoken64")
	if _, code := call(t, c, &socket.Request{Cmd: socket.CmdLimits, Unit: 1}); code != socket.InvalidSlot {
		t.Errorf("got %v, want %v", code, socket.InvalidSlot)
	}
}

// openModel is a client of a handler for a driver's virtual device, with a card
// that answers each APDU with 9000.
func openModel(t *testing.T, name string) socket.Session {
	t.Helper()
	m, err := model.New(name, "echo")
	if err != nil {
		t.Fatal(err)
	}
	dev, err := vusb.Plug("virtual", m).Open()
	if err != nil {
		t.Fatal(err)
	}
	driverName, _, _ := strings.Cut(name, ":")
	e, ok := driver.ByName(driverName)
	if !ok {
		t.Fatalf("no driver %s", driverName)
	}
	log := slog.New(slog.DiscardHandler)
	r, err := e.Open(dev, ifd.Options{Log: log})
	if err != nil {
		t.Fatal(err)
	}
	h := &handler{
		name: e.Reader, reader: reader.New(r, log, func(int, ifd.Status) {}), log: log, enforce: true,
		note: func(status.Event) {}, fault: func(err error) { t.Log(err) },
	}
	t.Cleanup(func() { h.reader.Close() })
	return h.Connect(&socket.Conn{ID: 1})
}

func call(t *testing.T, c socket.Session, req *socket.Request) (socket.TLV, socket.Code) {
	t.Helper()
	reply := &socket.Reply{Builder: socket.NewBuilder(make([]byte, 0, socket.MaxPayload), true)}
	code := c.Handle(context.Background(), req, reply)
	tlv, err := socket.ParseTLV(reply.Built())
	if err != nil {
		t.Fatal(err)
	}
	return tlv, code
}

func transact(t *testing.T, c socket.Session, apdu []byte) socket.Code {
	t.Helper()
	b := socket.NewBuilder(make([]byte, 0, socket.MaxPayload), true)
	b.Bytes(socket.TagCardRequest, apdu)
	args, err := socket.ParseTLV(b.Built())
	if err != nil {
		t.Fatal(err)
	}
	_, code := call(t, c, &socket.Request{Cmd: socket.CmdTransact, Args: args})
	return code
}

// longest is a case 4 command of n bytes, short if it can be.
func longest(n int) []byte {
	apdu := make([]byte, n)
	apdu[1] = 0xDA // PUT DATA; P1 and P2 ask the card for no data
	if n <= 4+1+255+1 {
		apdu[4] = byte(n - 6)
		return apdu
	}
	data := n - 4 - 3 - 2
	apdu[5], apdu[6] = byte(data>>8), byte(data)
	return apdu
}
