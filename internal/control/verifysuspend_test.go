//go:build go1.25

package control

import (
	"bytes"
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"openct/internal/cli"
	"openct/internal/devname"
	"openct/internal/machine"
	"openct/internal/socket"
	"openct/internal/status"
	"openct/internal/status/statustest"
	"openct/internal/verify"
)

const rtc, powerState = "sys/class/rtc/rtc0/wakealarm", "sys/power/state"

func TestSuspendRefuses(t *testing.T) {
	usb := devname.Target{Type: "usb", Path: "/dev/bus/usb/001/004", Bus: 1, Dev: 4}
	for _, tt := range []struct {
		name   string
		target devname.Target
		uid    int
		files  map[string]string
		want   error
		word   string
	}{
		{"a virtual reader", devname.Target{Type: "virtual", Path: "piv"}, 0, map[string]string{powerState: "mem\n", rtc: ""}, errSuspendElsewhere, ""},
		{"a reader of another machine", devname.Target{Type: devname.TypeRemote, Path: "ssh://far/0"}, 0, map[string]string{powerState: "mem\n", rtc: ""}, errSuspendElsewhere, ""},
		{"another OpenCT's reader", devname.Target{Type: devname.TypeUnix, Path: "/run/x/0"}, 0, map[string]string{powerState: "mem\n", rtc: ""}, errSuspendElsewhere, ""},
		{"another user", usb, 1000, map[string]string{powerState: "mem\n", rtc: ""}, errSuspendRoot, ""},
		{"a kernel without suspend", usb, 0, map[string]string{rtc: ""}, errSuspendState, ""},
		{"a kernel that hibernates only", usb, 0, map[string]string{powerState: "disk\n", rtc: ""}, errSuspendState, ""},
		{"a word that contains mem", usb, 0, map[string]string{powerState: "memory\n", rtc: ""}, errSuspendState, ""},
		{"no clock", usb, 0, map[string]string{powerState: "freeze mem disk\n"}, errSuspendClock, ""},
		{"a clock that wakes nothing", usb, 0, map[string]string{powerState: "freeze mem disk\n", "sys/class/rtc/rtc0/time": "12:00:00\n"}, errSuspendClock, ""},
		{"an alarm of another program", usb, 0, map[string]string{powerState: "freeze mem disk\n", rtc: "1795000000\n"}, errSuspendAlarm, ""},
		{"all is there", usb, 0, map[string]string{powerState: "freeze mem disk\n", rtc: ""}, nil, "mem"},
		{"freeze alone", usb, 0, map[string]string{powerState: "freeze\n", rtc: ""}, nil, "freeze"},
		{"the second clock", usb, 0, map[string]string{powerState: "mem\n", "sys/class/rtc/rtc0/time": "", "sys/class/rtc/rtc1/wakealarm": ""}, nil, "mem"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			root := t.TempDir()
			for name, text := range tt.files {
				write(t, filepath.Join(root, name), text)
			}
			c := &Control{Root: machine.Root(root)}
			s, err := c.newSleeper(tt.target, tt.uid)
			if !errors.Is(err, tt.want) {
				t.Fatalf("error %v, want %v", err, tt.want)
			}
			var hint *cli.Hint
			if tt.want != nil && (!errors.As(err, &hint) || hint.Hint == "") {
				t.Errorf("it does not say what to do: %v", err)
			}
			if tt.want == nil && (s.word != tt.word || machine.Attribute(filepath.Dir(s.alarm), filepath.Base(s.alarm)) != "") {
				t.Errorf("%+v", s)
			}
		})
	}
}

// A device is known by its port, as its node is another one after a resume.
func TestSamePlace(t *testing.T) {
	c := &Control{Root: machine.Root(devices(t))}
	usb := devname.Target{Type: "usb", Path: "/dev/bus/usb/001/004", Bus: 1, Dev: 4}
	unknown := devname.Target{Type: "usb", Path: "/dev/bus/usb/009/009", Bus: 9, Dev: 9}
	line := devname.Target{Type: "serial", Path: "/dev/ttyS0"}
	for _, tt := range []struct {
		name   string
		target devname.Target
		detail status.Detail
		want   bool
	}{
		{"the same node", usb, status.Detail{Device: "/dev/bus/usb/001/004", Port: "1-2"}, true},
		{"another node at the port", usb, status.Detail{Device: "/dev/bus/usb/001/009", Port: "1-2"}, true},
		{"another port", usb, status.Detail{Device: "/dev/bus/usb/001/004", Port: "1-3"}, false},
		{"a node without a port", unknown, status.Detail{Device: "/dev/bus/usb/009/009"}, true},
		{"another node without a port", unknown, status.Detail{Device: "/dev/bus/usb/009/010"}, false},
		{"the line", line, status.Detail{Device: "/dev/ttyS0"}, true},
		{"another line", line, status.Detail{Device: "/dev/ttyS1"}, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := c.samePlace(tt.target)(tt.detail); got != tt.want {
				t.Errorf("got %v", got)
			}
		})
	}
}

// power is a machine that can be suspended. It expects its calls in their order, and
// fails if some are left.
type power struct {
	t     *testing.T
	calls []call
}

// call is something that is done to the machine.
type call struct {
	what string
	then func() error // nil: it succeeds
}

func newPower(t *testing.T, calls ...call) *power {
	p := &power{t, calls}
	t.Cleanup(func() {
		if len(p.calls) > 0 {
			t.Errorf("%d calls are left, the first is %q", len(p.calls), p.calls[0].what)
		}
	})
	return p
}

func (p *power) take(what string) error {
	p.t.Helper()
	if len(p.calls) == 0 || p.calls[0].what != what {
		p.t.Errorf("unexpected: %q", what)
		return errors.ErrUnsupported
	}
	then := p.calls[0].then
	p.calls = p.calls[1:]
	if then == nil {
		return nil
	}
	return then()
}

func (p *power) write(file, text string) error { return p.take(text + " >" + file) }
func (p *power) run(ctx context.Context, name string, args ...string) error {
	if _, ok := ctx.Deadline(); !ok {
		p.t.Errorf("%s has no deadline", name)
	}
	return p.take(name + " " + strings.Join(args, " "))
}

// answers is what the user types.
func answers(t *testing.T, text string) *os.File {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close() })
	if _, err := w.WriteString(text); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return r
}

func TestSuspend(t *testing.T) {
	fails := func() error { return errors.New("device or resource busy") }
	setAlarm, clearAlarm := call{what: "+15 >alarm"}, call{what: "0 >alarm"}
	old := status.Detail{Device: "/dev/bus/usb/001/004", Port: "1-2", Unit: "openct-handler@001-004.service"}
	again := status.Detail{Device: "/dev/bus/usb/001/005", Port: "1-2", Unit: "openct-handler@001-005.service"}
	lost := status.Detail{Device: "/dev/bus/usb/001/006", Port: "1-3"}
	atr, other := []byte{0x3B, 0x00}, []byte{0x3B, 0x01, 0x41}
	busy := errors.New("reader is busy")

	for _, tt := range []struct {
		name    string
		systemd bool
		answer  string
		calls   []call
		detail  status.Detail                       // after the resume
		after   func(n int) (atr []byte, err error) // the try after the resume, from 1
		before  error
		want    string // the verdict
		says    string
	}{
		{name: "the token stays", answer: "y\n", calls: []call{setAlarm, {what: "mem >state"}, clearAlarm}, detail: old,
			want: "ok     suspend             a client gets the ATR 0 ms after the resume; same node, same handler, same unit"},
		{name: "systemd, and the token is plugged in anew", systemd: true, answer: "yes\n",
			calls: []call{setAlarm, {what: "systemctl start systemd-suspend.service"}, clearAlarm}, detail: again,
			after: func(n int) ([]byte, error) {
				if n <= 50 {
					return nil, busy
				}
				return atr, nil
			},
			want: "ok     suspend             a client gets the ATR 1000 ms after the resume; another node, same handler, another unit"},
		{name: "it takes long", answer: "y\n", calls: []call{setAlarm, {what: "mem >state"}, clearAlarm}, detail: old,
			after: func(n int) ([]byte, error) {
				if n <= 600 {
					return nil, busy
				}
				return atr, nil
			},
			want: "odd    suspend             slow: a client gets the ATR 12000 ms after the resume; same node, same handler, same unit"},
		{name: "another card", answer: "y\n", calls: []call{setAlarm, {what: "mem >state"}, clearAlarm}, detail: old,
			after: func(int) ([]byte, error) { return other, nil },
			want:  "odd    suspend             the ATR is not the one before the suspend; a client gets the ATR 0 ms after the resume; same node, same handler, same unit"},
		{name: "the card is lost", answer: "y\n", calls: []call{setAlarm, {what: "mem >state"}, clearAlarm}, detail: old,
			after: func(int) ([]byte, error) { return nil, nil },
			want:  "odd    suspend             the ATR is not the one before the suspend; a client gets an answer 0 ms after the resume; same node, same handler, same unit"},
		{name: "the token does not come back", answer: "y\n", calls: []call{setAlarm, {what: "mem >state"}, clearAlarm}, detail: lost,
			want: "wrong  suspend             no client gets an answer within 1m0s after the resume", says: "note: context deadline exceeded: no handler serves the device"},
		{name: "the token does not answer", answer: "y\n", calls: []call{setAlarm, {what: "mem >state"}, clearAlarm}, detail: old,
			after: func(int) ([]byte, error) { return nil, busy },
			want:  "wrong  suspend             no client gets an answer within 1m0s after the resume", says: "reader 0: reader is busy"},
		{name: "no answer of the reader before", before: busy,
			want: "odd    suspend             not done: no client gets an answer before it", says: "reader is busy"},
		{name: "the user says no", answer: "n\n", want: "odd    suspend             not done: the user did not agree", says: "Suspend it? [y/N]"},
		{name: "the user says something else", answer: "yesterday\n", want: "odd    suspend             not done: the user did not agree"},
		{name: "nobody answers", answer: "", want: "odd    suspend             not done: the user did not agree"},
		{name: "the alarm cannot be set", answer: "y\n", calls: []call{{"+15 >alarm", fails}},
			want: "odd    suspend             not done: the machine was not suspended", says: "set the alarm: device or resource busy"},
		{name: "the kernel refuses", answer: "y\n", calls: []call{setAlarm, {"mem >state", fails}, clearAlarm},
			want: "odd    suspend             not done: the machine was not suspended", says: "device or resource busy"},
		{name: "systemd refuses", systemd: true, answer: "y\n", calls: []call{setAlarm, {"systemctl start systemd-suspend.service", fails}, clearAlarm},
			want: "odd    suspend             not done: the machine was not suspended", says: "device or resource busy"},
		{name: "the alarm cannot be cleared", answer: "y\n", calls: []call{setAlarm, {what: "mem >state"}, {"0 >alarm", fails}}, detail: old,
			want: "ok     suspend             a client gets the ATR 0 ms after the resume; same node, same handler, same unit",
			says: "clear the alarm: device or resource busy"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c, slot, out := suspended(t, old)
				c.In = answers(t, tt.answer)
				tries := 0
				resumed := false
				calls := append([]call(nil), tt.calls...)
				for i, what := range calls {
					if what.then == nil && (what.what == "mem >state" || strings.HasPrefix(what.what, "systemctl")) {
						calls[i].then = func() error {
							resumed = true
							return slot.WriteDetail(tt.detail)
						}
					}
				}
				p := newPower(t, calls...)
				s := &sleeper{state: "state", word: "mem", alarm: "alarm", systemd: tt.systemd, write: p.write, run: p.run,
					is: func(d status.Detail) bool { return d.Port == "1-2" },
					atr: func(ctx context.Context, dir string, reader int) ([]byte, error) {
						if dir != c.Dir || reader != 0 {
							t.Errorf("asks reader %d of %s", reader, dir)
						}
						if !resumed {
							return atr, tt.before
						}
						tries++
						if tt.after == nil {
							return atr, nil
						}
						return tt.after(tries)
					}}
				var r verify.Report
				c.suspend(t.Context(), s, &r)
				if len(r.Checks) != 1 || r.Checks[0].String() != tt.want {
					t.Errorf("got %v\nwant %q", r.Checks, tt.want)
				}
				if !strings.Contains(out.String(), tt.want+"\n") || !strings.Contains(out.String(), tt.says) {
					t.Errorf("said %q, want %q", out, tt.says)
				}
			})
		})
	}
}

// suspended is a Control for a directory with a reader in it.
func suspended(t *testing.T, d status.Detail) (*Control, *status.Slot, *bytes.Buffer) {
	t.Helper()
	dir := t.TempDir()
	statustest.Init(t, dir)
	slot := statustest.Serve(t, dir, d, status.Info{Name: "Token", Slots: 1})
	var out bytes.Buffer
	return &Control{Dir: dir, Out: &out, Err: &out}, slot, &out
}

// Nothing is done where nobody can be asked, or the user ends the checks.
func TestConfirm(t *testing.T) {
	var out bytes.Buffer
	c := &Control{Err: &out}
	if err := c.confirm(t.Context(), "? "); !errors.Is(err, errSuspendAnswer) || out.Len() > 0 {
		t.Errorf("without a terminal: %v, said %q", err, &out)
	}
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	defer w.Close()
	c.In = r
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := c.confirm(ctx, "? "); !errors.Is(err, errSuspendAnswer) || !errors.Is(err, context.Canceled) {
		t.Errorf("interrupted: %v", err)
	}
	if _, err := w.WriteString(" Yes \n"); err != nil {
		t.Fatal(err)
	}
	if err := c.confirm(t.Context(), "? "); err != nil {
		t.Errorf("yes: %v", err)
	}
}

// cardServer answers to what a client asks of the reader in whose place it is.
type cardServer struct{ present, fails bool }

func (s cardServer) Connect(*socket.Conn) socket.Session { return s }
func (s cardServer) Disconnect()                         {}
func (s cardServer) Handle(_ context.Context, req *socket.Request, reply *socket.Reply) socket.Code {
	switch {
	case s.fails:
		return socket.DeviceDisconnected
	case req.Cmd == socket.CmdStatus && s.present:
		reply.Int(socket.TagCardStatus, socket.StatusPresent)
	case req.Cmd == socket.CmdStatus:
		reply.Int(socket.TagCardStatus, 0)
	case req.Cmd == socket.CmdReset && s.present:
		reply.Bytes(socket.TagATR, []byte{0x3B, 0x00})
	default:
		return socket.NoCard
	}
	return socket.Success
}

func TestClientATR(t *testing.T) {
	for _, tt := range []struct {
		name   string
		server cardServer
		want   string
		err    error
	}{
		{"a card", cardServer{present: true}, "\x3B\x00", nil},
		{"no card", cardServer{}, "", nil},
		{"a token that has left", cardServer{fails: true}, "", socket.DeviceDisconnected},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			l, err := net.Listen("unix", socket.ReaderPath(dir, 3))
			if err != nil {
				t.Fatal(err)
			}
			srv := socket.NewServer(tt.server, socket.Options{})
			ended := make(chan error, 1)
			go func() { ended <- srv.Serve(l) }()
			ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
			defer cancel()
			atr, err := clientATR(ctx, dir, 3)
			if string(atr) != tt.want || !errors.Is(err, tt.err) {
				t.Errorf("% X, error %v", atr, err)
			}
			srv.Fail(socket.DeviceDisconnected)
			if err := srv.Wait(ctx); err != nil {
				t.Error(err)
			}
			<-ended
			if _, err := clientATR(ctx, dir, 3); err == nil {
				t.Error("no handler, and no error")
			}
		})
	}
}

// The handlers' user cannot have root talk to another program.
func TestClientATRFollowsNoLink(t *testing.T) {
	dir := t.TempDir()
	l, err := net.Listen("unix", filepath.Join(dir, "other"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if err := os.Symlink("other", socket.ReaderPath(dir, 3)); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	if _, err := clientATR(ctx, dir, 3); !errors.Is(err, socket.ErrNotSocket) {
		t.Errorf("got %v, want %v", err, socket.ErrNotSocket)
	}
}
