package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"openct/internal/vusb"
	"openct/internal/vusb/usbip"
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
	a, err := usbip.Attach(ctx, m)
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
	insert  func(in bool) error // the card, or takes it out
	plugged func(plugged)       // called after each plug
	lost    func()              // called when it is out and nobody gave the order

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

// looks is how a token presents itself to the bus, where it differs from its
// model.
type looks struct {
	vendor, product uint16 // 0 and 0: the model's
	serial          string // empty: none
}

// parseLooks reads the options --id, VENDOR:PRODUCT as lsusb prints it, and
// --serial.
func parseLooks(id, serial string) (looks, error) {
	l := looks{serial: serial}
	if id == "" {
		return l, nil
	}
	vendor, product, _ := strings.Cut(id, ":")
	v, verr := strconv.ParseUint(vendor, 16, 16)
	p, perr := strconv.ParseUint(product, 16, 16)
	if verr != nil || perr != nil {
		return l, fmt.Errorf("--id %s: want VENDOR:PRODUCT, two hexadecimal numbers as in 0529:0600", id)
	}
	l.vendor, l.product = uint16(v), uint16(p)
	return l, nil
}

// dressed is a model with other looks.
type dressed struct {
	vusb.Model
	looks
}

// Descriptors has idVendor and idProduct, and the serial number's string with
// iSerialNumber pointing at it (USB 2.0, table 9-8, offsets 8, 10 and 16).
func (m dressed) Descriptors() vusb.Descriptors {
	d := m.Model.Descriptors()
	d.Device = bytes.Clone(d.Device)
	if m.vendor != 0 || m.product != 0 {
		binary.LittleEndian.PutUint16(d.Device[8:], m.vendor)
		binary.LittleEndian.PutUint16(d.Device[10:], m.product)
	}
	if m.serial != "" {
		d.Strings = append(slices.Clone(d.Strings), m.serial)
		d.Device[16] = byte(len(d.Strings))
	}
	return d
}
