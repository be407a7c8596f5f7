package main

import (
	"context"
	"errors"
	"sync"
	"time"

	"openct/internal/vusb"
)

// plugPatience bounds how long the kernel may take to enumerate the token; it
// needs half a second, and ten times that in an emulated machine.
const plugPatience = 30 * time.Second

// plugged is what the world is told about a plugged token.
type plugged struct {
	Driver  string `json:"driver"`
	Card    string `json:"card"`
	Port    int    `json:"port"` // of vhci_hcd
	BusID   string `json:"busid"`
	DevNode string `json:"devnode"`
}

// attachment is a token in the kernel.
type attachment interface {
	Detach() error
	Done() <-chan struct{}
}

// attachKernel is how a token gets there; the tests have their own.
func attachKernel(ctx context.Context, m vusb.Model) (attachment, plugged, error) {
	a, err := vusb.AttachVHCI(ctx, m)
	if err != nil {
		return nil, plugged{}, err
	}
	return a, plugged{Port: a.Port, BusID: a.BusID, DevNode: a.Node}, nil
}

var (
	errPlugged   = errors.New("the token is plugged in already")
	errUnplugged = errors.New("the token is not plugged in")
)

// token is one virtual token, in the kernel or out of it.
type token struct {
	options options
	model   vusb.Model
	attach  func(context.Context, vusb.Model) (attachment, plugged, error)
	plugged func(plugged) // called after each plug
	lost    func()        // called when it is out and nobody gave the order

	mu   sync.Mutex
	in   attachment // nil while it is out
	port *vusb.Port
	as   plugged
}

// state says how the token is plugged in; false when it is out.
func (t *token) state() (plugged, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.as, t.in != nil
}

// plug puts the token in. Each time is a port of its own, without the faults
// of the one before; card and token are the same.
func (t *token) plug(ctx context.Context) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.in != nil {
		return errPlugged
	}
	ctx, cancel := context.WithTimeout(ctx, plugPatience)
	defer cancel()
	port := vusb.Plug("vhci", t.model)
	in, as, err := t.attach(ctx, port)
	if err != nil {
		return err
	}
	as.Driver, as.Card = t.options.driver, t.options.card
	t.in, t.port, t.as = in, port, as
	t.plugged(as)
	go t.watch(in)
	return nil
}

// watch notices that the token is out for a reason other than an order: a
// fault that pulls it, or somebody at vhci_hcd. It ends when the token is out.
func (t *token) watch(in attachment) {
	<-in.Done()
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.in == in {
		t.in = nil
		t.port.Unplug()
		t.lost()
	}
}

// unplug pulls the token.
func (t *token) unplug() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.in == nil {
		return errUnplugged
	}
	in := t.in
	t.in = nil
	t.port.Unplug()
	return in.Detach()
}

// inject disturbs a transfer to come.
func (t *token) inject(f vusb.Fault) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.in == nil {
		return errUnplugged
	}
	t.port.Inject(f)
	return nil
}

// heal forgets the faults.
func (t *token) heal() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.in == nil {
		return errUnplugged
	}
	t.port.Heal()
	return nil
}

// serialModel is a model with a serial number.
type serialModel struct {
	vusb.Model
	serial string
}

func withSerial(m vusb.Model, serial string) vusb.Model {
	if serial == "" {
		return m
	}
	return serialModel{m, serial}
}

// Descriptors adds the serial number's string and points iSerialNumber at it
// (USB 2.0, table 9-8, offset 16).
func (m serialModel) Descriptors() vusb.Descriptors {
	d := m.Model.Descriptors()
	d.Strings = append(append([]string{}, d.Strings...), m.serial)
	d.Device = append([]byte{}, d.Device...)
	d.Device[16] = byte(len(d.Strings))
	return d
}
