package usbip

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"openct/internal/vusb"
)

// ErrNoVHCI says that the kernel has no virtual host controller.
var ErrNoVHCI = errors.New("no virtual USB host controller: load the kernel module vhci-hcd (modprobe vhci-hcd)")

// ErrNoPort says that every port of the virtual host controller is taken.
var ErrNoPort = errors.New("every port of the virtual USB host controller is in use")

// vhci is where the kernel's sysfs has what is needed here.
type vhci struct {
	platform string // a folder vhci_hcd.N for each controller
	devices  string // every USB device by its bus id
	nodes    string // usbfs
}

var kernelVHCI = vhci{
	platform: "/sys/devices/platform",
	devices:  "/sys/bus/usb/devices",
	nodes:    "/dev/bus/usb",
}

// control is the path of the attach, detach or a status file. The first
// controller has them for all; port numbers run through all controllers.
func (v vhci) control(name string) string {
	return filepath.Join(v.platform, "vhci_hcd.0", name)
}

// vhciDevID is the identity a remote USB/IP server would give the device, bus
// 1 device 2; the kernel only repeats it to us.
const vhciDevID = 1<<16 | 2

const (
	// hangUpGrace bounds how long Detach waits for the kernel to hang up.
	hangUpGrace = 5 * time.Second

	// hubGrace is how long the kernel's hub may take to notice that a device
	// is out. One that was just asking it for a descriptor waits 5 s for the
	// answer (USB_CTRL_GET_TIMEOUT, include/linux/usb.h).
	hubGrace = 15 * time.Second

	// hubNudge is when the hub is told to look again. Debian 12's loses a
	// pull in some hundred that come while it is busy with another port.
	hubNudge = 2 * time.Second

	// goneTick is how often is looked whether a device is out: sysfs tells
	// nobody when a folder goes.
	goneTick = 2 * time.Millisecond
)

// Attachment is a virtual device that this machine's kernel has plugged in.
type Attachment struct {
	Port    int    // of the virtual host controller
	BusID   string // name below /sys/bus/usb/devices: "3-1"
	Bus     int
	Address int
	Node    string // "/dev/bus/usb/003/002"

	vhci vhci
	stop context.CancelFunc
	done chan struct{} // closed when the device is out and nothing is under way
	err  error         // how the USB/IP session ended; valid after done
	left error         // nil when the kernel's device is gone; valid after done

	detach    sync.Once
	detachErr error
}

// Attach plugs m into this machine's kernel and returns when the kernel
// has enumerated and configured it: node and interfaces are there. ctx bounds
// that wait alone. It needs write access to vhci_hcd's sysfs files, that is,
// root. If m is a *Port, its unplug detaches the device.
func Attach(ctx context.Context, m vusb.Model) (*Attachment, error) {
	a, err := kernelVHCI.attach(ctx, m)
	if err != nil {
		return nil, fmt.Errorf("plug into vhci_hcd: %w", err)
	}
	return a, nil
}

func (v vhci) attach(ctx context.Context, m vusb.Model) (*Attachment, error) {
	ours, kernels, err := socketPair()
	if err != nil {
		return nil, err
	}
	defer kernels.Close() // the kernel keeps a reference of its own
	server, err := newServer(ours, m)
	if err != nil {
		ours.Close()
		return nil, err
	}
	port, err := v.takePort(ctx, kernels, m.Descriptors().Speed)
	if err != nil {
		ours.Close()
		return nil, err
	}

	serving, stop := context.WithCancel(context.Background())
	a := &Attachment{Port: port, vhci: v, stop: stop, done: make(chan struct{})}
	served := make(chan struct{})
	go func() {
		defer close(served)
		a.err = server.serve(serving)
	}()
	if p, ok := m.(*vusb.Port); ok {
		go func() {
			select {
			case <-p.Gone():
				a.Detach()
			case <-a.done:
			}
		}()
	}

	select {
	case <-server.std.configured:
		err = a.locate()
	case <-served:
		err = fmt.Errorf("the kernel let go of port %d: %w", port, errors.Join(a.err, net.ErrClosed))
	case <-ctx.Done():
		err = fmt.Errorf("the kernel did not configure the device: %w", ctx.Err())
	}
	go func() {
		defer close(a.done)
		<-served
		a.left = a.leave()
	}()
	if err != nil {
		return nil, errors.Join(err, a.Detach())
	}
	return a, nil
}

// Done is closed when the device is out: after Detach, or because somebody
// else detached it.
func (a *Attachment) Done() <-chan struct{} { return a.done }

// Detach pulls the device out of the kernel and returns when that is done. A
// second call does nothing.
func (a *Attachment) Detach() error {
	a.detach.Do(func() {
		select {
		case <-a.done: // somebody else did it; the port may have a new device
			return
		default:
		}
		err := writeFile(a.vhci.control("detach"), strconv.Itoa(a.Port))
		if err != nil {
			a.detachErr = fmt.Errorf("detach port %d: %w", a.Port, err)
			a.stop() // hanging up unplugs it as well
		}
		grace := time.AfterFunc(hangUpGrace, a.stop)
		<-a.done // the kernel hangs up
		grace.Stop()
		a.stop()
		a.detachErr = errors.Join(a.detachErr, a.left)
	})
	return a.detachErr
}

// leave waits until the kernel's hub has seen that the device is out, which is
// later than the port is free. A device of another address has taken the port
// since, and is none of ours; what was not in yet has no address.
func (a *Attachment) leave() error {
	dir := filepath.Join(a.vhci.devices, a.BusID)
	grace := time.NewTimer(hubGrace)
	defer grace.Stop()
	nudge := time.NewTimer(hubNudge)
	defer nudge.Stop()
	tick := time.NewTicker(goneTick)
	defer tick.Stop()
	for {
		if address, err := readInt(filepath.Join(dir, "devnum")); err != nil || address != a.Address {
			return nil
		}
		select {
		case <-tick.C:
		case <-nudge.C:
			// Its error says that the device has just left.
			writeFile(filepath.Join(dir, "remove"), "1")
		case <-grace.C:
			return fmt.Errorf("the kernel still has the device %s, which is out of port %d", a.BusID, a.Port)
		}
	}
}

// socketPair makes the connection between the server and the kernel.
func socketPair() (ours net.Conn, kernels *os.File, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("socketpair: %w", err)
	}
	kernels = os.NewFile(uintptr(fds[1]), "vhci socket")
	file := os.NewFile(uintptr(fds[0]), "usbip socket")
	defer file.Close() // FileConn has its own copy
	if ours, err = net.FileConn(file); err != nil {
		kernels.Close()
		return nil, nil, err
	}
	return ours, kernels, nil
}

// takePort hands the socket to the kernel on the first port that takes it. A
// port is waited for only if there is no other.
func (v vhci) takePort(ctx context.Context, socket *os.File, speed vusb.Speed) (int, error) {
	for {
		ports, err := v.ports()
		if err != nil {
			return 0, err
		}
		wait := false
		for _, p := range ports {
			if !p.free {
				continue
			}
			if v.leaving(p) {
				wait = true
				continue
			}
			// Fd would make the socket blocking, which is what the kernel wants.
			err := writeFile(v.control("attach"),
				fmt.Sprintf("%d %d %d %d", p.number, socket.Fd(), vhciDevID, speed))
			switch {
			case err == nil:
				return p.number, nil
			case !errors.Is(err, unix.EBUSY): // EBUSY: another process was faster
				return 0, err
			}
		}
		if !wait {
			return 0, ErrNoPort
		}
		select {
		case <-time.After(goneTick):
		case <-ctx.Done():
			return 0, fmt.Errorf("%w: the kernel has not yet taken out those that were pulled: %w", ErrNoPort, ctx.Err())
		}
	}
}

// leaving reports whether the hub still has the device that was in a free
// port. One that looks the same and came now would be taken for that: Linux
// compares the descriptors, finds nothing to do and never configures it
// (drivers/usb/core/hub.c, hub_port_connect_change).
func (v vhci) leaving(p vhciPort) bool {
	hubs, _ := filepath.Glob(filepath.Join(v.platform, fmt.Sprintf("vhci_hcd.%d", p.controller), "usb*"))
	for _, hub := range hubs {
		// One hub is for super speed, and has ports of the same numbers.
		speed, err := readInt(filepath.Join(hub, "speed"))
		bus := strings.TrimPrefix(filepath.Base(hub), "usb")
		if _, missing := os.Stat(filepath.Join(hub, fmt.Sprintf("%s-%d", bus, p.hubPort))); err == nil && speed <= 480 && missing == nil {
			return true
		}
	}
	return false
}

// vhciPort is a line of a status file that is for devices of up to high speed.
type vhciPort struct {
	number     int
	controller int // N of vhci_hcd.N
	hubPort    int // of that controller's hub, from 1
	free       bool
	busID      string // of the device in it
}

// ports reads status, status.1 and so on, one for each controller.
func (v vhci) ports() ([]vhciPort, error) {
	var ports []vhciPort
	for i := 0; ; i++ {
		name := "status"
		if i > 0 {
			name += "." + strconv.Itoa(i)
		}
		text, err := os.ReadFile(v.control(name))
		switch {
		case err == nil:
			ports = append(ports, parsePorts(i, string(text))...)
		case !errors.Is(err, fs.ErrNotExist):
			return nil, err
		case i == 0:
			return nil, ErrNoVHCI
		default:
			return ports, nil
		}
	}
}

// portFree is the state of a port without a device (Linux,
// drivers/usb/usbip/usbip_common.h, VDEV_ST_NULL).
const portFree = 4

// parsePorts reads lines such as
//
//	hub port sta spd dev      sockfd local_busid
//	hs  0000 006 002 00010002 000007 3-1
//
// and leaves out what is not one of a high-speed hub. Those come first.
func parsePorts(controller int, text string) []vhciPort {
	var ports []vhciPort
	for line := range strings.Lines(text) {
		f := strings.Fields(line)
		if len(f) < 7 || f[0] != "hs" {
			continue
		}
		number, err1 := strconv.Atoi(f[1])
		state, err2 := strconv.Atoi(f[2])
		if err1 != nil || err2 != nil || number < 0 {
			continue
		}
		ports = append(ports, vhciPort{
			number:     number,
			controller: controller,
			hubPort:    len(ports) + 1,
			free:       state == portFree,
			busID:      f[6],
		})
	}
	return ports
}

// locate finds what the kernel made of the device.
func (a *Attachment) locate() error {
	ports, err := a.vhci.ports()
	if err != nil {
		return err
	}
	for _, p := range ports {
		if p.number == a.Port {
			a.BusID = p.busID
		}
	}
	dir := filepath.Join(a.vhci.devices, a.BusID)
	if a.Bus, err = readInt(filepath.Join(dir, "busnum")); err != nil {
		return err
	}
	if a.Address, err = readInt(filepath.Join(dir, "devnum")); err != nil {
		return err
	}
	a.Node = filepath.Join(a.vhci.nodes, fmt.Sprintf("%03d/%03d", a.Bus, a.Address))
	// The kernel is still at it: it has just sent SET_CONFIGURATION. Opening
	// the node waits until the interfaces are there and have their drivers.
	f, err := os.Open(a.Node)
	if err != nil {
		return err
	}
	return f.Close()
}

func readInt(path string) (int, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return 0, err
	}
	n, err := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil {
		return 0, fmt.Errorf("%s: %w", path, err)
	}
	return n, nil
}

// writeFile writes a sysfs file in one call, without creating one.
func writeFile(path, text string) error {
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(text)
	return errors.Join(err, f.Close())
}
