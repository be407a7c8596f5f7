package vusb

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
)

// ErrNoVHCI says that the kernel has no virtual host controller.
var ErrNoVHCI = errors.New("no virtual USB host controller: load the kernel module vhci-hcd (modprobe vhci-hcd)")

// ErrNoPort says that every port of the virtual host controller is taken.
var ErrNoPort = errors.New("every port of the virtual USB host controller is in use")

// vhci is where the kernel's sysfs has what is needed here.
type vhci struct {
	// control has vhci_hcd's attach, detach and status files. There is one
	// such directory however many controllers the module makes; port numbers
	// run through all of them.
	control string
	devices string // every USB device by its bus id
	nodes   string // usbfs
}

var kernelVHCI = vhci{
	control: "/sys/devices/platform/vhci_hcd.0",
	devices: "/sys/bus/usb/devices",
	nodes:   "/dev/bus/usb",
}

// vhciDevID is the identity a remote USB/IP server would give the device, bus
// 1 device 2; the kernel only repeats it to us.
const vhciDevID = 1<<16 | 2

// detachGrace bounds how long Detach waits for the kernel.
const detachGrace = 5 * time.Second

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

	detach    sync.Once
	detachErr error
}

// AttachVHCI plugs m into this machine's kernel and returns when the kernel
// has enumerated and configured it: node and interfaces are there. ctx bounds
// that wait alone. It needs write access to vhci_hcd's sysfs files, that is,
// root. If m is a *Port, its unplug detaches the device.
func AttachVHCI(ctx context.Context, m Model) (*Attachment, error) {
	a, err := kernelVHCI.attach(ctx, m)
	if err != nil {
		return nil, fmt.Errorf("plug into vhci_hcd: %w", err)
	}
	return a, nil
}

func (v vhci) attach(ctx context.Context, m Model) (*Attachment, error) {
	ours, kernels, err := socketPair()
	if err != nil {
		return nil, err
	}
	defer kernels.Close() // the kernel keeps a reference of its own
	server, err := newUSBIPServer(ours, m)
	if err != nil {
		ours.Close()
		return nil, err
	}
	port, err := v.takePort(kernels, m.Descriptors().Speed)
	if err != nil {
		ours.Close()
		return nil, err
	}

	serving, stop := context.WithCancel(context.Background())
	a := &Attachment{Port: port, vhci: v, stop: stop, done: make(chan struct{})}
	go func() {
		defer close(a.done)
		a.err = server.serve(serving)
	}()
	if p, ok := m.(*Port); ok {
		context.AfterFunc(p.gone, func() { a.Detach() })
	}

	select {
	case <-server.std.configured:
		err = a.locate()
	case <-a.done:
		err = fmt.Errorf("the kernel let go of port %d: %w", port, errors.Join(a.err, net.ErrClosed))
	case <-ctx.Done():
		err = fmt.Errorf("the kernel did not configure the device: %w", ctx.Err())
	}
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
		err := writeFile(filepath.Join(a.vhci.control, "detach"), strconv.Itoa(a.Port))
		if err != nil {
			a.detachErr = fmt.Errorf("detach port %d: %w", a.Port, err)
			a.stop() // hanging up unplugs it as well
		}
		grace := time.AfterFunc(detachGrace, a.stop)
		<-a.done // the kernel hangs up
		grace.Stop()
		a.stop()
	})
	return a.detachErr
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

// takePort hands the socket to the kernel on the first port that takes it.
func (v vhci) takePort(socket *os.File, speed Speed) (int, error) {
	ports, err := v.ports()
	if err != nil {
		return 0, err
	}
	for _, p := range ports {
		if !p.free {
			continue
		}
		// Fd would make the socket blocking, which is what the kernel wants.
		err := writeFile(filepath.Join(v.control, "attach"),
			fmt.Sprintf("%d %d %d %d", p.number, socket.Fd(), vhciDevID, speed))
		switch {
		case err == nil:
			return p.number, nil
		case !errors.Is(err, unix.EBUSY): // EBUSY: another process was faster
			return 0, err
		}
	}
	return 0, ErrNoPort
}

// vhciPort is a line of a status file that is for devices of up to high speed.
type vhciPort struct {
	number int
	free   bool
	busID  string // of the device in it
}

// ports reads status, status.1 and so on, one for each controller.
func (v vhci) ports() ([]vhciPort, error) {
	var ports []vhciPort
	for i := 0; ; i++ {
		name := "status"
		if i > 0 {
			name += "." + strconv.Itoa(i)
		}
		text, err := os.ReadFile(filepath.Join(v.control, name))
		switch {
		case err == nil:
			ports = append(ports, parsePorts(string(text))...)
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
// and leaves out what is not one of a high-speed hub.
func parsePorts(text string) []vhciPort {
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
		ports = append(ports, vhciPort{number: number, free: state == portFree, busID: f[6]})
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
