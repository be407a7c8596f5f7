package daemon

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"testing"
	"time"

	"openct/internal/config"
	"openct/internal/devname"
	"openct/internal/driver"
	"openct/internal/socket"
	"openct/internal/socket/sockettest"
	"openct/internal/status"
	"openct/internal/status/statustest"
	"openct/internal/usb"
	"openct/internal/usb/gousbdev"
	"openct/internal/vusb"
	"openct/internal/vusb/card"
	"openct/internal/vusb/token"
)

// patience bounds every wait of these tests; none of them needs it.
const patience = 30 * time.Second

// openers are openers that open a virtual device.
func openers(open func() (usb.Device, error)) map[string]Opener {
	o := func(devname.Target, *slog.Logger) (usb.Device, error) { return open() }
	return map[string]Opener{"virtual": o, "usb": o}
}

// served is a daemon under test, with a virtual eToken PRO 64k.
type served struct {
	t    *testing.T
	dir  string
	port *vusb.Port
	stop context.CancelFunc
	done chan error // what Run returned
}

// start runs a daemon on a fresh token and waits until it is ready.
func start(t *testing.T, dir string, c card.Card, change func(*Options)) *served {
	t.Helper()
	s := &served{t: t, dir: dir, port: vusb.Plug("virtual", token.NewEToken64(c)), done: make(chan error, 1)}
	ready := make(chan struct{})
	o := Options{
		Target: devname.Target{Driver: "etoken64", Type: "virtual", Path: "test"},
		Dir:    dir, Config: config.Default(), Log: slog.New(slog.DiscardHandler),
		Ready:   func() { close(ready) },
		Openers: openers(s.port.Open),
	}
	if change != nil {
		change(&o)
	}
	ctx, cancel := context.WithCancel(context.Background())
	s.stop = cancel
	go func() { s.done <- Run(ctx, o) }()
	select {
	case <-ready:
	case err := <-s.done:
		t.Fatalf("daemon ended at once: %v", err)
	case <-time.After(patience):
		t.Fatal("daemon does not get ready")
	}
	t.Cleanup(func() {
		cancel()
		s.wait()
	})
	return s
}

// wait waits for the daemon's end and checks that it was a good one.
func (s *served) wait() {
	s.t.Helper()
	select {
	case err, ok := <-s.done:
		if ok {
			close(s.done)
		}
		if err != nil {
			s.t.Errorf("daemon ended with %v", err)
		}
	case <-time.After(patience):
		s.t.Fatal("daemon does not end")
	}
}

func (s *served) client(reader int) *socket.Client {
	s.t.Helper()
	c, err := socket.DialReader(context.Background(), s.dir, reader)
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { c.Close() })
	return c
}

// initialised is a socket directory after openct-control init.
func initialised(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	statustest.Init(t, dir)
	return dir
}

func entry(t *testing.T, dir string, n int) status.Entry {
	t.Helper()
	f, err := status.OpenReadOnly(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	e, err := f.Entry(n)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

// The conversations recorded with C OpenCT's handler, byte for byte but for the
// differences that are listed with their reasons.
func TestRecordedExchanges(t *testing.T) {
	users := sockettest.NewUsers()
	s := start(t, initialised(t), card.NewEcho(), func(o *Options) {
		o.Credentials = users.Credentials
		o.Config.LockWait = 0 // conflicts are what is tested, not patience
	})
	exceptions := append(sockettest.Exceptions(), ownExceptions()...)
	sockettest.Play(t, "testdata/exchanges.jsonl", users.Dialer(socket.ReaderPath(s.dir, 0)), exceptions)
}

// ownExceptions are the differences that are the reader's, not the protocol's.
func ownExceptions() []sockettest.Exception {
	return []sockettest.Exception{
		{Scenario: "fresh", Step: 8, Want: "0300000000000000ffff0000",
			Why: "SET_PROTOCOL before a reset: C OpenCT makes an engine for a card it has not seen; here the ATR decides what is offered"},
		{Scenario: "other-commands", Step: 16, Want: "07000000000000009aff0000",
			Why: "CHANGE_PIN: C OpenCT has no such command; here its argument is missing"},
		{Scenario: "protocol", Step: 10, Want: "0400000000000000fcff0000",
			Why: "T=0 on a card that offers T=1 alone: C OpenCT makes an engine that cannot work"},
		{Scenario: "protocol", Step: 26, Want: "0c000000000000000000070045000400019000",
			Why: "the driver's default: C OpenCT's is T=0 for every driver, here it is the ATR's first protocol"},
	}
}

func TestLife(t *testing.T) {
	s := start(t, initialised(t), card.NewEcho(), nil)
	e := entry(t, s.dir, 0)
	if e.Name != "Aladdin eToken PRO 64k" || e.Slots != 1 || !e.Present(0) || e.PID != os.Getpid() {
		t.Errorf("entry %+v", e)
	}
	c := s.client(0)
	ctx := context.Background()
	atr, err := c.Reset(ctx, 0)
	if err != nil || !bytes.Equal(atr, card.NewEcho().ATR()) {
		t.Errorf("ATR % x, %v", atr, err)
	}
	resp, err := c.Transact(ctx, 0, []byte{0x00, 0xEE, 0x00, 0x02})
	if err != nil || !bytes.Equal(resp, []byte{0x00, 0x01, 0x90, 0x00}) {
		t.Errorf("response % x, %v", resp, err)
	}
}

func TestEndLeavesNothing(t *testing.T) {
	for _, tt := range []struct {
		name string
		end  func(*served)
	}{
		{"unplugged", func(s *served) { s.port.Unplug() }},
		{"stopped", func(s *served) { s.stop() }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := start(t, initialised(t), card.NewEcho(), nil)
			s.client(0) // an idle one does not keep it
			tt.end(s)
			s.wait()
			if e := entry(t, s.dir, 0); e.InUse() || e.Name != "" || e.Slots != 0 || e.Present(0) {
				t.Errorf("entry is left: %+v", e)
			}
			if _, err := os.Stat(socket.ReaderPath(s.dir, 0)); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("socket is left: %v", err)
			}
			files, err := filepath.Glob(filepath.Join(s.dir, ".*.json"))
			if err != nil || len(files) > 0 {
				t.Errorf("side files are left: %v %v", files, err)
			}
		})
	}
}

// Four clients wait while a transfer hangs; the token is pulled, and each of
// them is told so at once.
func TestUnplugAnswersWhoWaits(t *testing.T) {
	s := start(t, initialised(t), card.NewEcho(), nil)
	ctx := context.Background()
	if _, err := s.client(0).Reset(ctx, 0); err != nil {
		t.Fatal(err)
	}
	s.port.Inject(vusb.Fault{On: vusb.Transfer{Control: true, Code: 0x86}, Hang: true})
	answers := make(chan error)
	for range 4 {
		c := s.client(0)
		if _, _, err := c.CardStatus(ctx, 0); err != nil { // the server knows it
			t.Fatal(err)
		}
		go func() {
			_, err := c.Transact(ctx, 0, []byte{0x00, 0xEE, 0x00, 0x02})
			answers <- err
		}()
	}
	s.port.Unplug()
	for range 4 {
		select {
		case err := <-answers:
			// EOF for one that was about to ask, otherwise the code.
			if err == nil {
				t.Error("an APDU to a pulled token succeeded")
			}
		case <-time.After(patience):
			t.Fatal("a client still waits")
		}
	}
	s.wait()
}

// taken is a device whose interface another process holds.
type taken struct{ usb.Device }

func (taken) Claim(number, alt uint8) error { return &usb.BusyError{} }

// stuck is a token whose transfer does not even end with the device.
type stuck struct {
	*token.EToken
	reached, release chan struct{}
}

func (s *stuck) Control(ctx context.Context, setup usb.Setup, out []byte, length int) ([]byte, error) {
	if setup.Request == 0x86 {
		close(s.reached)
		<-s.release
	}
	return s.EToken.Control(ctx, setup, out, length)
}

// A client whose request is stuck in the device is told -17, and need not wait
// for the transfer to end.
func TestUnplugAnswersAStuckRequest(t *testing.T) {
	token := &stuck{token.NewEToken64(card.NewEcho()), make(chan struct{}), make(chan struct{})}
	port := vusb.Plug("virtual", token)
	s := start(t, initialised(t), card.NewEcho(), func(o *Options) {
		o.Openers = openers(port.Open)
	})
	ctx := context.Background()
	c := s.client(0)
	if _, err := c.Reset(ctx, 0); err != nil {
		t.Fatal(err)
	}
	answer := make(chan error, 1)
	go func() {
		_, err := c.Transact(ctx, 0, []byte{0x00, 0xEE, 0x00, 0x02})
		answer <- err
	}()
	<-token.reached
	port.Unplug()
	select {
	case err := <-answer:
		if !errors.Is(err, socket.DeviceDisconnected) {
			t.Errorf("got %v, want %v", err, socket.DeviceDisconnected)
		}
	case <-time.After(patience):
		t.Error("the client still waits")
	}
	close(token.release)
	s.wait()
}

func TestSecondAttachOfADevice(t *testing.T) {
	dir := initialised(t)
	usbTarget := func(o *Options) {
		o.Target = devname.Target{Driver: "etoken64", Type: "usb", Path: "/dev/bus/usb/001/004"}
	}
	start(t, dir, card.NewEcho(), usbTarget)
	o := Options{Dir: dir, Config: config.Default(), Log: slog.New(slog.DiscardHandler)}
	usbTarget(&o)
	o.Openers = openers(func() (usb.Device, error) {
		dev, err := vusb.Plug("second", token.NewEToken64(card.NewEcho())).Open()
		return taken{dev}, err
	})
	err := Run(context.Background(), o)
	var served *status.ServedError
	if !errors.As(err, &served) || served.Reader != 0 {
		t.Errorf("got %v, want a ServedError for reader 0", err)
	}
	if e := entry(t, dir, 1); e.PID != 0 {
		t.Errorf("entry 1 was taken: %+v", e)
	}
}

func TestSixteenReadersAndOneMore(t *testing.T) {
	dir := initialised(t)
	for range status.Entries {
		start(t, dir, card.NewEcho(), nil)
	}
	o := Options{Dir: dir, Config: config.Default(), Log: slog.New(slog.DiscardHandler),
		Target: devname.Target{Driver: "etoken64", Type: "virtual", Path: "echo"}}
	o.Openers = openers(vusb.Plug("one more", token.NewEToken64(card.NewEcho())).Open)
	if err := Run(context.Background(), o); !errors.Is(err, status.ErrNoFreeSlot) {
		t.Errorf("got %v, want %v", err, status.ErrNoFreeSlot)
	}
}

// tellingDevice has a place and a serial number.
type tellingDevice struct{ usb.Device }

func (d tellingDevice) Descriptor() *usb.Descriptor {
	desc := *d.Device.Descriptor()
	desc.Port, desc.Serial = "3-1.2", "0451"
	return &desc
}

func TestRecordsSayWhichToken(t *testing.T) {
	var log bytes.Buffer
	s := start(t, initialised(t), card.NewEcho(), func(o *Options) {
		o.Log = slog.New(slog.NewTextHandler(&log, nil))
		open := o.Openers["virtual"]
		o.Openers = openers(func() (usb.Device, error) {
			dev, err := open(o.Target, o.Log)
			return tellingDevice{dev}, err
		})
	})
	s.port.Unplug()
	s.wait()
	for _, want := range []string{"reader is ready", "unplugged"} {
		if line := `msg="?` + want + `"? device=test driver=etoken64 port=3-1\.2 serial=0451 .*reader=0`; !regexp.MustCompile(line).Match(log.Bytes()) {
			t.Errorf("no %s in\n%s", line, &log)
		}
	}
}

func TestWaitsForInit(t *testing.T) {
	dir := t.TempDir()
	inited := make(chan error, 1)
	go func() { inited <- status.Init(dir, status.Options{UID: -1, GID: -1}) }()
	s := start(t, dir, card.NewEcho(), nil)
	if err := <-inited; err != nil {
		t.Fatal(err)
	}
	s.client(0)
}

func TestStartFailures(t *testing.T) {
	for _, tt := range []struct {
		name   string
		target devname.Target
		want   error
	}{
		{"unknown driver", devname.Target{Driver: "nosuchdriver", Type: "virtual", Path: "echo"}, driver.ErrUnknownDriver},
		{"a driver without readers on USB", devname.Target{Driver: "phoenix", Type: "usb", Path: "/dev/bus/usb/001/001"}, errUnknownType},
		{"unknown type", devname.Target{Driver: "etoken64", Type: "foo", Path: "/dev/null"}, errUnknownType},
		{"no such node", devname.Target{Driver: "etoken64", Type: "usb", Path: "/dev/bus/usb/099/099"}, usb.ErrNotFound},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := initialised(t)
			err := Run(context.Background(), Options{
				Target: tt.target, Dir: dir, Config: config.Default(), Log: slog.New(slog.DiscardHandler),
				Openers: map[string]Opener{"usb": func(t devname.Target, log *slog.Logger) (usb.Device, error) { return gousbdev.Open(t.Path, log) }},
			})
			if !errors.Is(err, tt.want) {
				t.Errorf("got %v, want %v", err, tt.want)
			}
			if e := entry(t, dir, 0); e.PID != 0 {
				t.Errorf("entry is left: %+v", e)
			}
		})
	}
}

// A token that cannot be reset is a failure of the start, and leaves nothing.
func TestTokenThatDoesNotWork(t *testing.T) {
	dir := initialised(t)
	port := vusb.Plug("virtual", token.NewEToken64(card.NewEcho()))
	port.Inject(vusb.Fault{On: vusb.Transfer{Control: true, Code: 0x81}, Stall: true, Times: -1})
	err := Run(context.Background(), Options{
		Target: devname.Target{Driver: "etoken64", Type: "virtual", Path: "bad"},
		Dir:    dir, Config: config.Default(), Log: slog.New(slog.DiscardHandler),
		Openers: openers(port.Open),
	})
	if !errors.Is(err, usb.ErrStall) {
		t.Errorf("got %v, want %v", err, usb.ErrStall)
	}
	if e := entry(t, dir, 0); e.PID != 0 {
		t.Errorf("entry is left: %+v", e)
	}
	fault, ferr := status.ReadFault(dir)
	if ferr != nil || fault.Error != err.Error() || fault.Device != "bad" || fault.Driver != "etoken64" {
		t.Errorf("what is left of the error: %+v, %v", fault, ferr)
	}
}

// A token that does not answer its first reset gets a second one.
func TestTokenThatNeedsASecondReset(t *testing.T) {
	port := vusb.Plug("virtual", token.NewEToken64(card.NewEcho()))
	port.Inject(vusb.Fault{On: vusb.Transfer{Control: true, Code: 0x81}, Stall: true, Times: 1})
	s := start(t, initialised(t), nil, func(o *Options) { o.Openers = openers(port.Open) })
	if _, err := s.client(0).Reset(context.Background(), 0); err != nil {
		t.Errorf("reset: %v", err)
	}
}

// init may put another status file in place between the start and the claim:
// the daemon takes the new one.
func TestStatusFileReplacedMeanwhile(t *testing.T) {
	dir := initialised(t)
	s := start(t, dir, card.NewEcho(), func(o *Options) {
		open := o.Openers["virtual"]
		o.Openers = openers(func() (usb.Device, error) {
			if err := os.Remove(filepath.Join(dir, "status")); err != nil {
				t.Error(err)
			}
			if err := status.Init(dir, status.Options{UID: -1, GID: -1}); err != nil {
				t.Error(err)
			}
			return open(o.Target, o.Log)
		})
	})
	if e := entry(t, dir, 0); e.Name == "" {
		t.Errorf("not in the new file: %+v", e)
	}
	s.client(0)
	s.port.Unplug()
	s.wait()
	if e := entry(t, dir, 0); e.InUse() {
		t.Errorf("entry is left in the new file: %+v", e)
	}
}
