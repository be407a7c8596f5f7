package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"openct/internal/socket"
	"openct/internal/usb"
	"openct/internal/vusb"
	"openct/internal/vusb/model"
	"openct/internal/vusb/usbip"
)

// fakeKernel takes tokens like the kernel does, one number after the other.
type fakeKernel struct {
	mu    sync.Mutex
	taken int
	cards []bool // what was said of the card
	port  *vusb.Port
	last  *fakeAttachment
	err   error
}

type fakeAttachment struct {
	once sync.Once
	done chan struct{}
}

func (a *fakeAttachment) Detach() error {
	a.once.Do(func() { close(a.done) })
	return nil
}
func (a *fakeAttachment) Done() <-chan struct{} { return a.done }

func (k *fakeKernel) attach(_ context.Context, m vusb.Model) (attachment, plugged, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.err != nil {
		return nil, plugged{}, k.err
	}
	k.taken++
	k.port = m.(*vusb.Port)
	k.last = &fakeAttachment{done: make(chan struct{})}
	return k.last, plugged{Port: 3, BusID: "1-4", DevNode: "/dev/bus/usb/001/00" + string(rune('1'+k.taken))}, nil
}

// controlled starts a token with its socket and returns what gives it orders.
func controlled(t *testing.T) (k *fakeKernel, tok *token, order func(string) (string, error)) {
	t.Helper()
	m, err := model.New("etoken64", "echo")
	if err != nil {
		t.Fatal(err)
	}
	k = &fakeKernel{}
	tok = &token{
		options: options{driver: "etoken64", card: "echo"},
		model:   m,
		attach:  k.attach,
		insert: func(in bool) error {
			k.cards = append(k.cards, in)
			return model.ErrFixed
		},
		plugged: func(plugged) {},
		lost:    func() {},
	}
	path := filepath.Join(t.TempDir(), "ctl")
	l, err := listen(path)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	served := make(chan error, 1)
	go func() { served <- serve(ctx, l, tok) }()
	t.Cleanup(func() {
		cancel()
		if err := <-served; err != nil {
			t.Errorf("serve: %v", err)
		}
	})
	return k, tok, func(line string) (string, error) { return call(path, line) }
}

func TestOrders(t *testing.T) {
	_, _, order := controlled(t)
	const first = `{"driver":"etoken64","card":"echo","port":3,"busid":"1-4","devnode":"/dev/bus/usb/001/002"}`
	for _, tt := range []struct {
		order, want, err string
	}{
		{"status", "unplugged", ""},
		{"stall", "", "the token is not plugged in"},
		{"heal", "", "the token is not plugged in"},
		{"unplug", "", "the token is not plugged in"},
		{"plug", first, ""},
		{"plug", "", "the token is plugged in already"},
		{"status", first, ""},
		{"stall 2 times=3", "ok", ""},
		{"heal", "ok", ""},
		{"remove", "", "this device's card cannot be taken out"},
		{"insert", "", "this device's card cannot be taken out"},
		{"jump", "", `unknown order "jump"`},
		{"", "", "the order is empty"},
		{"unplug", "ok", ""},
		{"status", "unplugged", ""},
		{"plug", strings.Replace(first, "002", "003", 1), ""},
	} {
		got, err := order(tt.order)
		if text := errText(err); got != tt.want || text != tt.err {
			t.Errorf("%q: got %q, %q; want %q, %q", tt.order, got, text, tt.want, tt.err)
		}
	}
}

func errText(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

func TestPlugFails(t *testing.T) {
	k, _, order := controlled(t)
	k.err = errors.Join(usbip.ErrNoPort, errors.New("more"))
	if _, err := order("plug"); err == nil || !strings.Contains(err.Error(), "in use; more") {
		t.Errorf("got %v", err)
	}
	if got, err := order("status"); got != "unplugged" || err != nil {
		t.Errorf("got %q, %v", got, err)
	}
}

// A fault reaches the transfers of the plugged token and of no later one.
func TestFaultsHitTransfers(t *testing.T) {
	k, _, order := controlled(t)
	mustOrder := func(line string) {
		t.Helper()
		if _, err := order(line); err != nil {
			t.Fatal(err)
		}
	}
	reset := func() error {
		dev, err := k.port.Open()
		if err != nil {
			t.Fatal(err)
		}
		defer dev.Close()
		_, err = dev.Control(t.Context(), usb.Setup{RequestType: usb.VendorDeviceOut, Request: 1}, nil, time.Second)
		return err
	}
	mustOrder("plug")
	mustOrder("stall 2 on=c01")
	for i, want := range []error{nil, usb.ErrStall, nil} {
		if err := reset(); !errors.Is(err, want) {
			t.Errorf("reset %d: got %v, want %v", i, err, want)
		}
	}
	mustOrder("remove 2 on=c01")
	for i, want := range []int{0, 1, 1} {
		if err := reset(); err != nil || len(k.cards) != want {
			t.Errorf("reset %d: %v, card taken out %d times, want %d", i, err, len(k.cards), want)
		}
	}
	mustOrder("stall times=-1")
	mustOrder("unplug")
	mustOrder("plug")
	if err := reset(); err != nil {
		t.Errorf("a fault outlived the unplug: %v", err)
	}
}

func TestLostToken(t *testing.T) {
	k, tok, order := controlled(t)
	lost := make(chan struct{})
	tok.lost = func() { close(lost) }
	if _, err := order("plug"); err != nil {
		t.Fatal(err)
	}
	k.last.Detach() // somebody writes to vhci_hcd's detach
	<-lost
	if got, err := order("status"); got != "unplugged" || err != nil {
		t.Errorf("got %q, %v", got, err)
	}
	if _, err := order("plug"); err != nil {
		t.Errorf("plug again: %v", err)
	}
}

func TestParseFault(t *testing.T) {
	for _, tt := range []struct {
		order string
		want  vusb.Fault
		err   string
	}{
		{"stall", vusb.Fault{Stall: true}, ""},
		{"stall 3", vusb.Fault{Stall: true, Skip: 2}, ""},
		{"hang times=-1", vusb.Fault{Hang: true, Times: -1}, ""},
		{"drop 1 on=c86", vusb.Fault{Unplug: true, On: vusb.Transfer{Control: true, Code: 0x86}}, ""},
		{"delay 250 2 on=e82", vusb.Fault{Delay: 250 * time.Millisecond, Skip: 1, On: vusb.Transfer{Code: 0x82}}, ""},
		{"remove 2 on=e02", vusb.Fault{Skip: 1, On: vusb.Transfer{Code: 0x02}}, ""},
		{"short 4", vusb.Fault{}, ""},
		{"garbage 12 times=2", vusb.Fault{Times: 2}, ""},
		{"delay", vusb.Fault{}, "delay needs a number"},
		{"stall x", vusb.Fault{}, `stall: "x" is not a number`},
		{"stall -1", vusb.Fault{}, `stall: "-1" is not a number`},
		{"stall 0", vusb.Fault{}, "stall: transfers count from 1"},
		{"stall 1 2", vusb.Fault{}, "stall: too many numbers"},
		{"stall times=0", vusb.Fault{}, "times=0: want a count, or -1"},
		{"stall on=86", vusb.Fault{}, "on=86: want c and a bRequest"},
		{"stall on=", vusb.Fault{}, "on=: want c and a bRequest"},
		{"stall often=1", vusb.Fault{}, `unknown setting "often=1"`},
		{"plug 2", vusb.Fault{}, `unknown order "plug"`},
	} {
		t.Run(tt.order, func(t *testing.T) {
			got, err := parseFault(strings.Fields(tt.order))
			if tt.err != "" {
				if err == nil || !strings.Contains(err.Error(), tt.err) {
					t.Errorf("got %v, want %q", err, tt.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.want, got, cmpopts.IgnoreFields(vusb.Fault{}, "Mangle")); diff != "" {
				t.Errorf("fault (-want +got):\n%s", diff)
			}
			mangles := strings.HasPrefix(tt.order, "short") || strings.HasPrefix(tt.order, "garbage")
			if mangles != (got.Mangle != nil) {
				t.Errorf("mangles: %v", got.Mangle != nil)
			}
		})
	}
}

func TestLooks(t *testing.T) {
	m, err := model.New("etoken64", "echo")
	if err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name, id, serial string
		vendor, product  uint16
		fails            bool
	}{
		{name: "as the model", vendor: 0x0529, product: 0x0600},
		{name: "serial number", serial: "0042", vendor: 0x0529, product: 0x0600},
		{name: "other ids", id: "20a0:4108", vendor: 0x20A0, product: 0x4108},
		{name: "both", id: "0529:514", serial: "1", vendor: 0x0529, product: 0x0514},
		{name: "one number", id: "0529", fails: true},
		{name: "too large", id: "10000:1", fails: true},
		{name: "no number", id: "usb:0529", fails: true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			as, err := parseLooks(tt.id, tt.serial)
			if tt.fails || err != nil {
				if (err != nil) != tt.fails {
					t.Errorf("error %v, want one: %v", err, tt.fails)
				}
				return
			}
			dev, err := vusb.Plug("test", dressed{m, as}).Open()
			if err != nil {
				t.Fatal(err)
			}
			got := dev.Descriptor()
			if got.Vendor != tt.vendor || got.Product != tt.product || got.Serial != tt.serial || got.Manufacturer != "AKS" {
				t.Errorf("got %+v", got)
			}
		})
	}
	if d := m.Descriptors().Device; d[16] != 0 || d[8] != 0x29 {
		t.Error("the model itself was changed")
	}
}

func TestListen(t *testing.T) {
	path := filepath.Join(t.TempDir(), "ctl")
	first, err := listen(path)
	if err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("socket: %v, %v", info.Mode(), err)
	}
	if _, err := listen(path); err == nil {
		t.Error("took a socket that is served")
	}
	first.(*socket.Listener).UnixListener.Close() // as if it was killed
	second, err := listen(path)
	if err != nil {
		t.Fatalf("a socket left behind: %v", err)
	}
	second.Close()
	if err := os.WriteFile(path, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := listen(path); err == nil {
		t.Error("took the place of a file")
	}
	if b, err := os.ReadFile(path); err != nil || string(b) != "precious" {
		t.Errorf("the file is %q now, %v", b, err)
	}
}

func TestCommandLine(t *testing.T) {
	for _, tt := range []struct {
		name   string
		args   []string
		status int
		out    string // prefix
		err    string
	}{
		{"help", []string{"-h"}, 0, "usage: openct-vtoken plug", ""},
		{"version", []string{"-v"}, 0, "OpenCT ", ""},
		{"nothing", nil, 1, "", "usage:"},
		{"unknown driver", []string{"plug", "--driver", "nope"}, 1, "", "openct-vtoken: no virtual device for driver \"nope\""},
		{"unknown card", []string{"plug", "--card", "nope"}, 1, "", "openct-vtoken: no virtual card is called \"nope\""},
		{"nobody there", []string{"ctl", filepath.Join(t.TempDir(), "none"), "status"}, 1, "", "openct-vtoken: dial unix"},
		{"ctl without an order", []string{"ctl", "sock"}, 1, "", "usage:"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var out, errs bytes.Buffer
			status := run(tt.args, &out, &errs)
			if status != tt.status || !strings.HasPrefix(out.String(), tt.out) || !strings.HasPrefix(errs.String(), tt.err) {
				t.Errorf("status %d, out %q, err %q", status, out.String(), errs.String())
			}
		})
	}
}

func TestJSONLine(t *testing.T) {
	b, err := json.Marshal(plugged{Driver: "etoken64", Card: "piv", BusID: "1-1", DevNode: "/dev/bus/usb/001/002"})
	const want = `{"driver":"etoken64","card":"piv","port":0,"busid":"1-1","devnode":"/dev/bus/usb/001/002"}`
	if err != nil || string(b) != want || !strings.Contains(usage, want) {
		t.Errorf("got %s; the usage text shows another one", b)
	}
}
