package monitor

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"openct/internal/machine"
	"openct/internal/status"
	"openct/internal/status/statustest"
	"openct/internal/uevent"
)

// kernel is where a test's events of devices come from.
type kernel struct {
	events chan any // uevent.Event, error
	done   chan struct{}
}

func (k kernel) Next() (uevent.Event, error) {
	select {
	case e := <-k.events:
		if err, ok := e.(error); ok {
			return uevent.Event{}, err
		}
		return e.(uevent.Event), nil
	case <-k.done:
		return uevent.Event{}, os.ErrClosed
	}
}

func (k kernel) Close() error {
	close(k.done)
	return nil
}

// world is a Run under test.
type world struct {
	t      *testing.T
	root   string
	dir    string
	kernel kernel
	events chan Event
	blind  chan error
	stop   func() error
}

// patience bounds every wait; none of them needs it.
const patience = 30 * time.Second

func run(t *testing.T, change func(*world)) *world {
	t.Helper()
	w := &world{
		t: t, root: t.TempDir(), dir: filepath.Join(t.TempDir(), "openct"),
		kernel: kernel{make(chan any), make(chan struct{})}, events: make(chan Event), blind: make(chan error, 10),
	}
	if change != nil {
		change(w)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() {
		done <- Run(ctx, Options{
			Dir: w.dir, Root: machine.Root(w.root), Devices: w.kernel,
			USB: func(d machine.Device) (string, string, bool) { return "etoken64", "usb:0529/0600", d.Vendor == 0x0529 },
			Lines: func() map[string]string {
				return map[string]string{"/dev/ttyUSB7": "phoenix"}
			},
			Emit: func(e Event) error {
				select {
				case w.events <- e:
				case <-ctx.Done():
				}
				return nil
			},
			Blind: func(err error) { w.blind <- err },
		})
	}()
	stopped := false
	w.stop = func() error {
		if stopped {
			return nil
		}
		stopped = true
		cancel()
		return <-done
	}
	t.Cleanup(func() {
		if err := w.stop(); err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	return w
}

// sees waits for events, in their order and no others.
func (w *world) sees(want ...Event) {
	w.t.Helper()
	for _, want := range want {
		select {
		case got := <-w.events:
			if got.Time.IsZero() {
				w.t.Errorf("%s has no time", got.Event)
			}
			if diff := cmp.Diff(want, got, cmpopts.IgnoreFields(Event{}, "Time"), cmpopts.IgnoreFields(Client{}, "User", "Program")); diff != "" {
				w.t.Fatalf("(-want +got):\n%s", diff)
			}
		case <-time.After(patience):
			w.t.Fatalf("never seen: %+v", want)
		}
	}
}

func (w *world) must(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

// usb makes a device in /sys.
func (w *world) usb(vendor string, address int) uevent.Event {
	w.t.Helper()
	dir := filepath.Join(w.root, "sys/devices/1-"+strconv.Itoa(address))
	for name, text := range map[string]string{
		"idVendor": vendor, "idProduct": "0600", "busnum": "1", "devnum": strconv.Itoa(address),
		"product": "eToken\x1b[2J", "manufacturer": "Aladdin", "descriptors": "",
	} {
		w.write(filepath.Join(dir, name), text)
	}
	for _, link := range []string{"sys/bus/usb/devices/1-" + strconv.Itoa(address), "sys/dev/char/189:" + strconv.Itoa(address-1)} {
		path := filepath.Join(w.root, link)
		w.must(os.MkdirAll(filepath.Dir(path), 0o755))
		w.must(os.Symlink(dir, path))
	}
	node := "bus/usb/001/00" + strconv.Itoa(address)
	w.write(filepath.Join(w.root, "dev", node), "")
	return uevent.Event{Action: "add", Subsystem: "usb", DevType: "usb_device", Node: node}
}

func (w *world) write(path, text string) {
	w.t.Helper()
	w.must(os.MkdirAll(filepath.Dir(path), 0o755))
	w.must(os.WriteFile(path, []byte(text), 0o644))
}

func removed(e uevent.Event) uevent.Event {
	e.Action = "remove"
	return e
}

// handler is this process as the handler of a device.
type handler struct {
	*status.Slot
	listener net.Listener
}

func (w *world) init() {
	w.t.Helper()
	w.must(os.MkdirAll(w.dir, 0o755))
	statustest.Init(w.t, w.dir)
}

func (w *world) serve(device string) handler {
	w.t.Helper()
	s := statustest.Serve(w.t, w.dir, status.Detail{Device: device, Driver: "etoken64"}, status.Info{Name: "token", Slots: 2})
	l, err := net.Listen("unix", filepath.Join(w.dir, strconv.Itoa(s.Index())))
	w.must(err)
	h := handler{s, l}
	w.t.Cleanup(h.end)
	return h
}

func (h handler) end() {
	h.listener.Close()
	h.Release()
}

func ptr[T any](v T) *T { return &v }

// at is an event of reader 0.
func at(kind Kind, change func(*Event)) Event {
	e := Event{Event: kind, Reader: ptr(0), Name: "token"}
	if change != nil {
		change(&e)
	}
	return e
}

// described is one with what is known of the device.
func described(kind Kind, device string) Event {
	return at(kind, func(e *Event) {
		e.Driver, e.Device, e.Handler = "etoken64", device, os.Getpid()
		if kind == Ready || kind == Present {
			e.Slots = []Slot{{0, false}, {1, false}}
		}
	})
}

func TestDevices(t *testing.T) {
	var mouse, old uevent.Event
	w := run(t, func(w *world) {
		mouse, old = w.usb("046d", 2), w.usb("0529", 3)
		w.init()
	})
	plugged := func(kind Kind, address string) Event {
		return Event{Event: kind, Name: "Aladdin eToken?[2J", Driver: "etoken64", ID: "usb:0529/0600", Device: "/dev/bus/usb/001/00" + address, Port: "1-" + address}
	}
	w.sees(plugged(Plugged, "3")) // it has no reader
	w.kernel.events <- mouse
	w.kernel.events <- old // known
	add := w.usb("0529", 4)
	w.kernel.events <- add
	w.sees(plugged(Plugged, "4"))
	w.kernel.events <- removed(mouse)
	w.kernel.events <- removed(old)
	w.sees(plugged(Unplugged, "3"))
	w.kernel.events <- uevent.Event{Action: "add", Subsystem: "usb", DevType: "usb_device", Node: "bus/usb/../../x"}
	w.kernel.events <- uevent.Event{Action: "add", Subsystem: "tty", Node: "ttyUSB0"}
	w.kernel.events <- uevent.Event{Action: "add", Subsystem: "tty", Node: "ttyUSB7"}
	w.sees(Event{Event: Plugged, Driver: "phoenix", Device: "/dev/ttyUSB7"})

	// Its reader; then it is pulled, which is told once.
	h := w.serve("/dev/bus/usb/001/004")
	w.sees(described(Ready, "/dev/bus/usb/001/004"))
	w.kernel.events <- removed(add)
	w.sees(described(Unplugged, "/dev/bus/usb/001/004"))
	w.kernel.events <- removed(add)

	// The handler may notice first.
	other := w.serve("/dev/bus/usb/001/005")
	reader1 := func(e Event) Event { e.Reader = ptr(1); return e }
	w.sees(reader1(described(Ready, "/dev/bus/usb/001/005")))
	h.end()
	other.end()
	w.sees(reader1(described(Unplugged, "/dev/bus/usb/001/005")))
	w.kernel.events <- uevent.Event{Action: "remove", Subsystem: "usb", DevType: "usb_device", Node: "bus/usb/001/005"}

	// Events were lost: one has come, one has left.
	w.must(os.RemoveAll(filepath.Join(w.root, "sys/bus/usb/devices/1-3")))
	w.must(os.RemoveAll(filepath.Join(w.root, "sys/bus/usb/devices/1-4")))
	w.usb("0529", 6)
	w.kernel.events <- uevent.ErrOverflow
	w.sees(Event{Event: Unplugged, Driver: "phoenix", Device: "/dev/ttyUSB7"}, plugged(Plugged, "6"))
}

func TestReaders(t *testing.T) {
	w := run(t, func(w *world) { w.usb("0529", 3) })
	<-w.events // the device, once the monitor has begun
	w.init()
	w.sees(Event{Event: Init})
	h := w.serve("")
	w.sees(described(Ready, ""))
	card := func(kind Kind, slot int) Event { return at(kind, func(e *Event) { e.Slot = &slot }) }
	w.must(h.SetCard(1, true, false))
	w.sees(card(CardIn, 1))
	w.must(h.SetCard(1, true, true)) // another one
	w.sees(card(CardOut, 1), card(CardIn, 1))
	w.must(h.SetCard(1, false, false))
	w.sees(card(CardOut, 1))

	first, second := status.Client{Connection: 1, PID: os.Getpid(), UID: 0}, status.Client{Connection: 2, PID: -5, UID: 77}
	d := status.Detail{Driver: "etoken64", Events: []status.Event{
		{Seq: 1, Event: status.Connected, Client: first},
		{Seq: 2, Event: status.Locked, Slot: 1, Exclusive: true, Client: first},
		{Seq: 3, Event: status.Conflict, Slot: 1, Exclusive: true, Client: second, Holder: first},
		{Seq: 4, Event: "of the future", Client: first},
		{Seq: 4, Event: status.Connected, Client: second}, // told twice
		{Seq: 9, Event: status.Failed, Error: "stall"},
	}}
	w.must(h.WriteDetail(d))
	one, two := &Client{PID: os.Getpid()}, &Client{PID: -5, UID: 77}
	slot1 := func(e *Event) { e.Slot, e.Exclusive, e.Client = ptr(1), ptr(true), one }
	w.sees(
		at(Connected, func(e *Event) { e.Client = one }),
		at(Locked, slot1),
		at(Conflict, func(e *Event) { slot1(e); e.Client, e.Holder = two, one }),
		at(Missed, func(e *Event) { e.Missed = 4 }),
		at(Failed, func(e *Event) { e.Error = "stall" }),
	)
	d.Events = append(d.Events, status.Event{Seq: 10, Event: status.Disconnected, Client: first})
	w.must(h.WriteDetail(d))
	w.sees(at(Disconnected, func(e *Event) { e.Client = one }))

	w.must(status.WriteFault(w.dir, status.Fault{Device: "/dev/x", Error: "broken"}))
	w.sees(at(Fault, func(e *Event) { e.Device, e.Error, e.Handler = "/dev/x", "broken", os.Getpid() }))
	h.end()
	w.sees(described(Stopped, ""))

	h = w.serve("")
	w.sees(described(Ready, ""))
	w.must(status.Retire(w.dir))
	w.sees(described(Stopped, ""), Event{Event: Shutdown})
	h.end()
	w.init()
	w.sees(Event{Event: Init})
}

// What was there before is told as it is now.
func TestBegin(t *testing.T) {
	c := status.Client{Connection: 7, PID: os.Getpid(), UID: 5}
	var h handler
	d := status.Detail{
		Driver: "etoken64", Connections: []status.Connection{{Client: c}},
		Locks:  []status.Lock{{Slot: 1, PID: os.Getpid(), UID: 5}},
		Events: []status.Event{{Seq: 70, Event: status.Connected, Client: c}},
	}
	w := run(t, func(w *world) {
		w.t = t
		w.init()
		w.must(status.WriteFault(w.dir, status.Fault{Error: "old", Time: time.Now().In(time.FixedZone("", 1234*60))}))
		h = w.serve("")
		w.must(h.SetCard(0, true, false))
		w.must(h.WriteDetail(d))
	})
	want := described(Present, "")
	want.Slots[0].Card = true
	want.Clients = []Client{{PID: os.Getpid(), UID: 5}}
	want.Locks = []Lock{{Slot: 1, Client: want.Clients[0]}}
	w.sees(want)
	d.Events = append(d.Events, status.Event{Seq: 71, Event: status.Disconnected, Client: c})
	w.must(h.WriteDetail(d))
	w.sees(at(Disconnected, func(e *Event) { e.Client = &want.Clients[0] }))
}

// A side file of nonsense costs what it would have told.
func TestHostileFiles(t *testing.T) {
	w := run(t, func(w *world) { w.usb("0529", 3); w.init() })
	<-w.events // the device, once the monitor has begun
	h := w.serve("")
	w.sees(described(Ready, ""))
	w.write(filepath.Join(w.dir, ".0.json"), "{")
	w.write(filepath.Join(w.dir, ".fault.json"), string(make([]byte, 1<<20)))
	w.must(h.SetCard(0, true, false))
	w.sees(at(CardIn, func(e *Event) { e.Slot = ptr(0) }))
	w.must(os.Remove(filepath.Join(w.dir, "status")))
	w.sees(at(Stopped, func(e *Event) { e.Handler = os.Getpid() }), Event{Event: Shutdown})
	w.must(os.Symlink("/etc/passwd", filepath.Join(w.dir, "status")))
	select {
	case err := <-w.blind:
		if !errors.Is(err, status.ErrNotRegular) {
			t.Errorf("blind: %v", err)
		}
	case <-time.After(patience):
		t.Error("nobody is told of a link in the status file's place")
	}
}

// Follow shows the readers whenever they are others than before.
func TestFollow(t *testing.T) {
	dir := t.TempDir()
	statustest.Init(t, dir)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	shown, done := make(chan bool), make(chan error, 1)
	go func() {
		done <- Follow(ctx, dir, nil, func() error {
			f, err := status.OpenReadOnly(dir)
			if err != nil {
				return err
			}
			defer f.Close()
			e, err := f.Entry(0)
			select {
			case shown <- e.InUse():
			case <-ctx.Done():
			}
			return err
		})
	}()
	sees := func(served bool) {
		t.Helper()
		for {
			select {
			case got := <-shown:
				if got == served {
					return
				} // a change may be shown more than once
			case err := <-done:
				t.Fatalf("ended: %v", err)
			case <-time.After(patience):
				t.Fatalf("never shown: served %v", served)
			}
		}
	}
	sees(false)
	s := statustest.Claim(t, dir, status.Detail{})
	sees(true)
	if err := s.Release(); err != nil {
		t.Fatal(err)
	}
	sees(false)
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}
