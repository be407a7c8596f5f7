//go:build go1.25

package ccid

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"openct/internal/ifd"
	"openct/internal/serial"
	"openct/internal/serial/serialtest"
	"openct/internal/usb"
	"openct/internal/vusb/ccidreader"
)

// serialReader is a virtual CCID reader behind the serial framing.
type serialReader struct {
	model  *ccidreader.Reader
	echo   bool
	mangle func(answer []byte) []byte // what goes wrong on the line
	frames [][]byte                   // from the host
}

// frame wraps a message as the line wants it.
func frame(msg []byte) []byte {
	b := append([]byte{0x03, 0x06}, msg...)
	return append(b, xorOf(b))
}

// take gets what the host wrote and returns what the reader sends.
func (r *serialReader) take(b []byte) []byte {
	r.frames = append(r.frames, bytes.Clone(b))
	if len(b) < 13 || b[0] != 0x03 || b[1] != 0x06 || xorOf(b) != 0 {
		return []byte{0x03, 0x15, 0x16}
	}
	var out []byte
	if r.echo {
		out = bytes.Clone(b)
	}
	if err := r.model.Out(context.Background(), 0x02, b[2:len(b)-1]); err != nil {
		panic(err) // the model has this endpoint
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel() // whatever is not there now does not come
	if msg, err := r.model.In(ctx, 0x81, 1<<17); err == nil {
		out = append(out, frame(msg)...)
	}
	if r.mangle != nil {
		out = r.mangle(out)
	}
	return out
}

// line is a serial line with a reader at its end.
type line struct {
	r      *serialReader
	bytes  chan byte
	params serial.Params
	speeds []uint32
	rts    bool
	mute   func() bool // the reader does not understand this speed
	gone   chan struct{}
	closed bool
}

func newLine(r *serialReader) *line {
	return &line{r: r, bytes: make(chan byte, 1<<17), rts: true, gone: make(chan struct{})}
}

var _ serial.Line = (*line)(nil)

func (l *line) Name() string                               { return "/dev/ttyTEST" }
func (l *line) Gone() <-chan struct{}                      { return l.gone }
func (l *line) Break(context.Context, time.Duration) error { return serial.ErrUnsupported }
func (l *line) Flush(serial.Queue) error                   { return nil }
func (l *line) Lines() (serial.Inputs, error)              { return serial.Inputs{}, serial.ErrNoLines }

func (l *line) SetLines(dtr, rts bool) error {
	l.rts = rts
	return nil
}

func (l *line) Write(_ context.Context, b []byte) error {
	select {
	case <-l.gone:
		return usb.ErrUnplugged
	default:
	}
	if l.mute != nil && l.mute() {
		return nil
	}
	for _, c := range l.r.take(b) {
		l.bytes <- c
	}
	return nil
}

func (l *line) Read(ctx context.Context, buf []byte, timeout time.Duration) (int, error) {
	timer := time.NewTimer(timeout)
	defer timer.Stop()
	select {
	case b, ok := <-l.bytes:
		if !ok {
			return 0, usb.ErrClosed
		}
		buf[0] = b
		return 1, nil
	case <-l.gone:
		return 0, usb.ErrUnplugged
	case <-ctx.Done():
		return 0, ctx.Err()
	case <-timer.C:
		return 0, usb.ErrTimeout
	}
}

func (l *line) Set(p serial.Params) error {
	l.params = p
	l.speeds = append(l.speeds, p.Speed)
	return nil
}

func (l *line) Close() error {
	if !l.closed {
		l.closed = true
		close(l.bytes)
	}
	return nil
}

// modelNamed finds a serial model by name.
func modelNamed(t testing.TB, name string) serialModel {
	t.Helper()
	_, m, err := serialName("/dev/ttyS0:" + name)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// onLine opens the driver on a line with a card in the reader.
func onLine(t testing.TB, name string, chip *testCard, edit func(*serialReader)) (*bench, *line) {
	t.Helper()
	m := modelNamed(t, name)
	r := &serialReader{echo: name == "GemPCTwin", model: ccidreader.New(ccidreader.Profile{
		Features: uint32(m.features), Clock: m.clock, MaxRate: m.maxRate, IFSD: 254, Slots: m.slots, NoInterrupt: true,
	}, chip)}
	if edit != nil {
		edit(r)
	}
	l := newLine(r)
	b := &bench{t: t, model: r.model}
	reader, err := openSerial(l, m, b.options())
	if err != nil {
		t.Fatalf("open: %v", err)
	}
	b.reader = reader
	t.Cleanup(func() {
		if err := reader.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	})
	return b, l
}

// TestSerialModels: every model, with T=0 and T=1.
func TestSerialModels(t *testing.T) {
	for _, m := range serialModels {
		for i, a := range [][]byte{atrT0, atrT1} {
			t.Run(fmt.Sprintf("%s/T=%d", m.name, i), func(t *testing.T) {
				bubble(t, func(t *testing.T) {
					chip := &testCard{atr: a, answer: func([]byte) []byte { return counting(250) }}
					b, l := onLine(t, m.name, chip, nil)
					if n := len(b.reader.Slots()); n != m.slots {
						t.Fatalf("%d slots, want %d", n, m.slots)
					}
					b.transmit(b.engine(0), []byte{0x00, 0xB0, 0x00, 0x00, 0xFA}, counting(250))
					st, err := b.slot(0).(ifd.Presence).Status(context.Background())
					if err != nil || !st.Present {
						t.Errorf("status %+v, %v", st, err)
					}
					if got := l.params.String(); got != "115200 8N2" || l.rts {
						t.Errorf("line at %s, RTS %v", got, l.rts)
					}
					if _, ok := b.reader.(ifd.Notifier); ok {
						t.Error("Notifier")
					}
					b.clean()
				})
			})
		}
	}
}

// TestSerialGreeting: the frames of the opening sequence, byte by byte.
func TestSerialGreeting(t *testing.T) {
	bubble(t, func(t *testing.T) {
		_, l := onLine(t, "GemPCTwin", &testCard{atr: atrT0}, nil)
		want := []string{
			"03 06 6B 01 00 00 00 00 01 00 00 00 02 6C",
			"03 06 6B 03 00 00 00 00 02 00 00 00 01 01 01 6E",
		}
		for i, w := range want {
			if got := fmt.Sprintf("% X", l.r.frames[i]); got != w {
				t.Errorf("frame %d: %s, want %s", i, got, w)
			}
		}
	})
	// One frame, byte by byte.
	if got := fmt.Sprintf("% X", frame(getSlotStatus().append(nil, 0, 0))); got != "03 06 65 00 00 00 00 00 00 00 00 00 60" {
		t.Errorf("GetSlotStatus is %s", got)
	}
}

// TestSerialNoReader: nobody answers; the port is given back.
func TestSerialNoReader(t *testing.T) {
	bubble(t, func(t *testing.T) {
		l := newLine(&serialReader{model: ccidreader.New(ccidreader.Profile{Features: 0x00010230})})
		l.mute = func() bool { return true }
		b := &bench{t: t}
		_, err := openSerial(l, modelNamed(t, "GemPCTwin"), b.options())
		wantErr(t, "open", err, ifd.ErrIncompatible)
		if !l.closed {
			t.Error("the port stays open")
		}
	})
}

// TestSerialSlowStart: a reader that still listens at 9600 bit/s.
func TestSerialSlowStart(t *testing.T) {
	bubble(t, func(t *testing.T) {
		m := modelNamed(t, "GemCoreSIMPro2")
		r := &serialReader{model: ccidreader.New(ccidreader.Profile{Features: 0x00010230, Slots: 2}, &testCard{atr: atrT0})}
		l := newLine(r)
		fast := false
		l.mute = func() bool {
			if l.params.Speed == serialSlowSpeed && len(r.frames) == 2 {
				fast = true
			}
			return fast != (l.params.Speed == serialSpeed)
		}
		b := &bench{t: t, model: r.model}
		// It hears GetSlotStatus and the speed command at 9600, the rest at 115200.
		l.mute = func() bool { return (len(r.frames) < 2) != (l.params.Speed == serialSlowSpeed) }
		reader, err := openSerial(l, m, b.options())
		if err != nil {
			t.Fatal(err)
		}
		b.reader = reader
		b.transmit(b.engine(0), selectMF, okSW)
		if fmt.Sprint(l.speeds) != "[115200 9600 115200]" {
			t.Errorf("speeds %v", l.speeds)
		}
		if err := reader.Close(); err != nil {
			t.Error(err)
		}
	})
}

// TestSerialLine: what may happen between and within frames.
func TestSerialLine(t *testing.T) {
	once := func(f func([]byte) []byte) func([]byte) []byte {
		done := false
		return func(b []byte) []byte {
			if done {
				return b
			}
			done = true
			return f(b)
		}
	}
	prefix := func(p ...byte) func([]byte) []byte {
		return func(b []byte) []byte { return append(p, b...) }
	}
	for _, c := range []struct {
		name   string
		mangle func([]byte) []byte
		want   error
	}{
		{"card inserted before the answer", prefix(0x50, 0x03), nil},
		{"card removed before the answer", prefix(0x50, 0x02), nil},
		{"more time before the answer", prefix(0x80), nil},
		{"noise before the answer", prefix(0x00, 0x7F), nil},
		{"refused once", once(func([]byte) []byte { return []byte{0x03, 0x15, 0x16} }), nil},
		{"refused for ever", func([]byte) []byte { return []byte{0x03, 0x15, 0x16} }, ifd.ErrComm},
		{"echo only, after a card's movement", once(func(b []byte) []byte { return append([]byte{0x50, 0x03}, b[:len(b)/2]...) }), nil},
		{"wrong checksum", func(b []byte) []byte { b[len(b)-1] ^= 1; return b }, ifd.ErrComm},
		{"wrong control byte", func(b []byte) []byte { return []byte{0x03, 0x07} }, ifd.ErrComm},
		{"cut short", func(b []byte) []byte { return b[:len(b)-1] }, ifd.ErrComm},
		{"endless length", func(b []byte) []byte { return []byte{3, 6, 0x80, 0xFF, 0xFF, 0xFF, 0x7F, 0, 0, 0, 0, 0} }, ifd.ErrComm},
		{"silence", func([]byte) []byte { return nil }, usb.ErrTimeout},
		{"more time for ever", func([]byte) []byte { return bytes.Repeat([]byte{0x80}, 10) }, usb.ErrTimeout},
	} {
		t.Run(c.name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				b, l := onLine(t, "GemPCTwin", &testCard{atr: atrT0}, nil)
				e := b.engine(0)
				if c.name == "echo only, after a card's movement" {
					// Both halves are of one length: the echo of GetSlotStatus
					// and its answer.
					l.r.mangle = c.mangle
					st, err := b.slot(0).(ifd.Presence).Status(context.Background())
					if err != nil || !st.Present {
						t.Errorf("status %+v, %v", st, err)
					}
					return
				}
				l.r.mangle = c.mangle
				out, err := e.Transmit(context.Background(), selectMF, nil)
				l.r.mangle = nil
				if !errors.Is(err, c.want) || err == nil && !bytes.Equal(out, okSW) {
					t.Fatalf("Transmit: % X, %v; want %v", out, err, c.want)
				}
				b.transmit(b.engine(0), selectMF, okSW)
			})
		})
	}
}

// A reader that asks for more time has the command, whatever has moved: a second one
// would be run as well.
func TestSerialAtWork(t *testing.T) {
	bubble(t, func(t *testing.T) {
		chip := &testCard{atr: atrT0}
		b, l := onLine(t, "GemPCTwin", chip, nil)
		e := b.engine(0)
		chip.seen, l.r.frames = nil, nil
		l.r.mangle = func(out []byte) []byte {
			echo := l.r.frames[0]
			answer := bytes.Clone(out[len(echo):])
			time.AfterFunc(5*time.Second, func() {
				for _, c := range answer {
					l.bytes <- c
				}
			})
			l.r.mangle = nil
			return append(append([]byte{0x50, 0x03}, echo...), 0x80)
		}
		if out, err := e.Transmit(context.Background(), selectMF, nil); err != nil || !bytes.Equal(out, okSW) {
			t.Errorf("% X, %v", out, err)
		}
		if len(l.r.frames) != 1 || len(chip.seen) != 1 {
			t.Errorf("%d commands, %d of which the card got; want one", len(l.r.frames), len(chip.seen))
		}
	})
}

// TestSerialPulled: the adapter is pulled while a command is under way.
func TestSerialPulled(t *testing.T) {
	bubble(t, func(t *testing.T) {
		b, l := onLine(t, "GemPCTwin", &testCard{atr: atrT0}, nil)
		e := b.engine(0)
		l.r.mangle = func([]byte) []byte { close(l.gone); return nil }
		_, err := e.Transmit(context.Background(), selectMF, nil)
		wantErr(t, "Transmit", err, usb.ErrUnplugged)
		<-b.reader.Gone()
		before := len(l.r.frames)
		_, err = b.slot(0).Reset(context.Background())
		wantErr(t, "Reset", err, usb.ErrUnplugged)
		if len(l.r.frames) != before {
			t.Error("something was sent to a line that is not there")
		}
	})
}

func TestSerialNames(t *testing.T) {
	for _, c := range []struct {
		name, in, path, model string
		bad                   bool
	}{
		{name: "plain", in: "/dev/ttyS0", path: "/dev/ttyS0", model: "GemPCTwin"},
		{name: "with a model", in: "/dev/ttyUSB1:GemPCPinPad", path: "/dev/ttyUSB1", model: "GemPCPinPad"},
		{name: "unknown model", in: "/dev/ttyS0:Towitoko", bad: true},
		{name: "empty model", in: "/dev/ttyS0:", bad: true},
	} {
		t.Run(c.name, func(t *testing.T) {
			path, m, err := serialName(c.in)
			if (err != nil) != c.bad || !c.bad && (path != c.path || m.name != c.model) {
				t.Errorf("%q, %q, %v", path, m.name, err)
			}
		})
	}
}

// control runs f on a file's descriptor and leaves the file to Go's poller.
func control(t testing.TB, file *os.File, f func(fd int) error) {
	t.Helper()
	c, err := file.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var failed error
	if err := c.Control(func(fd uintptr) { failed = f(int(fd)) }); err != nil || failed != nil {
		t.Fatal(err, failed)
	}
}

// TestSerialPTY: the real terminal code, from open to hang-up.
func TestSerialPTY(t *testing.T) {
	master, slave := serialtest.Pty(t)
	r := &serialReader{echo: true, model: ccidreader.New(ccidreader.Profile{Features: 0x00010230, IFSD: 254}, &testCard{atr: atrT1})}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		var have []byte
		buf := make([]byte, 512)
		for {
			n, err := master.Read(buf)
			if err != nil {
				return
			}
			have = append(have, buf[:n]...)
			for len(have) >= 12 && int64(len(have)) >= messageLength(have[2:])+3 {
				n := messageLength(have[2:]) + 3
				if _, err := master.Write(r.take(have[:n])); err != nil {
					return
				}
				have = have[n:]
			}
		}
	}()
	b := &bench{t: t, model: r.model}
	reader, err := OpenSerial(slave, b.options())
	if err != nil {
		t.Fatal(err)
	}
	b.reader = reader
	if got := reader.Name(); got != "CCID Compatible" {
		t.Errorf("its name is %q", got)
	}
	var tio *unix.Termios
	control(t, master, func(fd int) (err error) {
		tio, err = unix.IoctlGetTermios(fd, unix.TCGETS2)
		return err
	})
	if tio.Ospeed != 115200 || tio.Cflag&unix.CSIZE != unix.CS8 || tio.Cflag&unix.CSTOPB == 0 ||
		tio.Cflag&unix.CRTSCTS != 0 || tio.Lflag != 0 {
		t.Errorf("terminal %+v", tio)
	}
	e := b.engine(0)
	b.transmit(e, selectMF, okSW)
	if err := master.Close(); err != nil {
		t.Fatal(err)
	}
	<-ended
	_, err = e.Transmit(context.Background(), selectMF, nil)
	wantErr(t, "Transmit after the hang-up", err, usb.ErrUnplugged)
	if err := reader.Close(); err != nil {
		t.Errorf("Close: %v", err)
	}
	if _, err := OpenSerial("/dev/tty-that-is-not-there", b.options()); !errors.Is(err, usb.ErrNotFound) {
		t.Errorf("no such port: %v", err)
	}
}

// TestSerialCardRemovedWhileReaderWaits: the reader reports the removal between
// its messages and never answers the command.
func TestSerialCardRemovedWhileReaderWaits(t *testing.T) {
	for _, c := range []struct {
		model string
		slot  int
		news  byte // of slots 0 to 3
	}{{"GemPCTwin", 0, 0b10}, {"GemCorePOSPro", 0, 0b11_10}, {"GemCoreSIMPro", 1, 0b10_01}} {
		for _, command := range []byte{msgXfrBlock, msgIccPowerOn} {
			t.Run(fmt.Sprintf("%s/%02X", c.model, command), func(t *testing.T) {
				bubble(t, func(t *testing.T) {
					b, l := onLine(t, c.model, &testCard{atr: atrT0}, nil)
					b.model.Insert(c.slot, &testCard{atr: atrT0})
					e := b.engine(c.slot)
					b.model.Inject(ccidreader.Fault{On: command, Lose: true, Times: -1})
					began := time.Now()
					removal := time.AfterFunc(time.Second, func() {
						b.model.Remove(c.slot)
						l.bytes <- serialCard
						l.bytes <- c.news
					})
					defer removal.Stop()
					var err error
					if command == msgXfrBlock {
						_, err = e.Transmit(context.Background(), selectMF, nil)
					} else {
						_, err = b.slot(c.slot).Reset(context.Background())
					}
					wantErr(t, "command", err, ifd.ErrNoCard)
					if d := time.Since(began) - time.Second; d > removalGrace {
						t.Errorf("ended %v after the removal", d)
					}
					b.model.Heal()
					b.model.Insert(c.slot, &testCard{atr: atrT0})
					b.transmit(b.engine(c.slot), selectMF, okSW)
				})
			})
		}
	}
}
