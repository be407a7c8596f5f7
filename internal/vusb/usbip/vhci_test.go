package usbip

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"openct/internal/vusb"
)

const vhciStatus = `hub port sta spd dev      sockfd local_busid
hs  0000 006 002 00010002 000007 3-1
hs  0001 004 000 00000000 000000 0-0
hs  0002 007 000 00000000 000000 0-0
ss  0008 004 000 00000000 000000 0-0
`

func TestParsePorts(t *testing.T) {
	tests := []struct {
		name, text string
		want       []vhciPort
	}{
		{"used, free, broken, super speed", vhciStatus, []vhciPort{
			{number: 0, controller: 2, hubPort: 1, busID: "3-1"},
			{number: 1, controller: 2, hubPort: 2, free: true, busID: "0-0"},
			{number: 2, controller: 2, hubPort: 3, busID: "0-0"},
		}},
		{"empty", "", nil},
		{"nonsense", "hs\nhs x 004 000 0 0 0-0\nhs 1 y 000 0 0 0-0\nhs -1 004 000 0 0 0-0\n", nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if diff := cmp.Diff(tt.want, parsePorts(2, tt.text), cmp.AllowUnexported(vhciPort{})); diff != "" {
				t.Errorf("ports (-want +got):\n%s", diff)
			}
		})
	}
}

// fakeVHCI is a sysfs whose attach and detach files are FIFOs, so that the
// test plays the kernel behind them.
func fakeVHCI(t *testing.T) vhci {
	t.Helper()
	v := vhci{platform: t.TempDir(), devices: t.TempDir(), nodes: t.TempDir()}
	write(t, vhciStatus, v.control("status"))
	write(t, "", v.control("status.1"))
	for _, name := range []string{"attach", "detach"} {
		if err := unix.Mkfifo(v.control(name), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(t, "3\n", v.devices, "0-0", "busnum")
	write(t, "7\n", v.devices, "0-0", "devnum")
	write(t, "", v.nodes, "003", "007")
	return v
}

func write(t *testing.T, text string, path ...string) {
	t.Helper()
	p := filepath.Join(path...)
	if err := os.MkdirAll(filepath.Dir(p), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(p, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// kernel takes one attach and returns the host on the socket it was given.
func kernel(t *testing.T, v vhci, configure bool) <-chan *host {
	t.Helper()
	hosts := make(chan *host, 1)
	go func() {
		defer close(hosts)
		attach, err := os.Open(v.control("attach"))
		if err != nil {
			t.Error(err)
			return
		}
		defer attach.Close()
		line, _ := bufio.NewReader(attach).ReadString('\n')
		var port, fd, devid, speed int
		if _, err := fmt.Sscan(line, &port, &fd, &devid, &speed); err != nil || port != 1 || devid != 65538 || speed != 2 {
			t.Errorf("attach got %q", line)
			return
		}
		// The opener of the FIFO keeps fd open until its device is there.
		dup, err := unix.Dup(fd)
		if err != nil {
			t.Error(err)
			return
		}
		file := os.NewFile(uintptr(dup), "socket")
		defer file.Close()
		conn, err := net.FileConn(file)
		if err != nil {
			t.Error(err)
			return
		}
		h := &host{t: t, conn: conn}
		if configure {
			h.submit(0, 0, "00 09 01 00 00 00 00 00", nil)
			h.receive(false)
		}
		hosts <- h
	}()
	return hosts
}

// pulled is the hub that has seen that the device is out.
func pulled(t *testing.T, v vhci) {
	t.Helper()
	if err := os.RemoveAll(filepath.Join(v.devices, "0-0")); err != nil {
		t.Error(err)
	}
}

// takeDetach is the kernel that hangs up when it is told to.
func takeDetach(t *testing.T, v vhci, h *host) <-chan string {
	t.Helper()
	return hangUp(t, v, h, func() { pulled(t, v) })
}

// hangUp is takeDetach, but for what the hub does then.
func hangUp(t *testing.T, v vhci, h *host, hub func()) <-chan string {
	t.Helper()
	got := make(chan string, 1)
	go func() {
		line, err := os.ReadFile(v.control("detach"))
		if err != nil {
			t.Error(err)
		}
		h.conn.(*net.UnixConn).CloseWrite() // whoever else has the socket, this hangs up
		h.conn.Close()
		hub()
		got <- string(line)
	}()
	return got
}

func TestAttachAndDetach(t *testing.T) {
	v := fakeVHCI(t)
	hosts := kernel(t, v, true)
	a, err := v.attach(t.Context(), newEchoModel())
	if err != nil {
		t.Fatal(err)
	}
	h := <-hosts
	if a.Port != 1 || a.Node != filepath.Join(v.nodes, "003/007") {
		t.Errorf("port %d, node %s", a.Port, a.Node)
	}
	h.submit(0, 5, "C0 01 34 12 78 56 05 00", nil)
	if r := h.receive(true); r.Data != "3412785605" {
		t.Errorf("vendor request: %+v", r)
	}
	detached := takeDetach(t, v, h)
	if err := a.Detach(); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(filepath.Join(v.devices, a.BusID)); !os.IsNotExist(err) {
		t.Errorf("the kernel's device after Detach: %v", err)
	}
	if got := <-detached; got != "1" {
		t.Errorf("detach got %q", got)
	}
	<-a.Done()
	if err := a.Detach(); err != nil {
		t.Errorf("second Detach: %v", err)
	}
}

// The hub takes the device out when it is told to look again.
func TestDetachWaitsForTheHub(t *testing.T) {
	v := fakeVHCI(t)
	hosts := kernel(t, v, true)
	a, err := v.attach(t.Context(), newEchoModel())
	if err != nil {
		t.Fatal(err)
	}
	remove := filepath.Join(v.devices, a.BusID, "remove")
	if err := unix.Mkfifo(remove, 0o600); err != nil {
		t.Fatal(err)
	}
	hangUp(t, v, <-hosts, func() {
		if told, err := os.ReadFile(remove); err != nil || string(told) != "1" {
			t.Errorf("remove got %q, %v", told, err)
		}
		pulled(t, v)
	})
	if err := a.Detach(); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(filepath.Dir(remove)); !os.IsNotExist(err) {
		t.Errorf("the kernel's device after Detach: %v", err)
	}
}

func TestUnplugDetaches(t *testing.T) {
	v := fakeVHCI(t)
	hosts := kernel(t, v, true)
	port := vusb.Plug("virtual", newEchoModel())
	a, err := v.attach(t.Context(), port)
	if err != nil {
		t.Fatal(err)
	}
	detached := takeDetach(t, v, <-hosts)
	port.Unplug()
	<-a.Done()
	if got := <-detached; got != "1" {
		t.Errorf("detach got %q", got)
	}
}

func TestKernelHangsUp(t *testing.T) {
	v := fakeVHCI(t)
	hosts := kernel(t, v, true)
	a, err := v.attach(t.Context(), newEchoModel())
	if err != nil {
		t.Fatal(err)
	}
	(<-hosts).conn.Close()
	pulled(t, v)
	<-a.Done()
	// The port is not ours any more: nothing is written, or this would hang
	// in the FIFO.
	if err := a.Detach(); err != nil {
		t.Error(err)
	}
}

// The hub still has what was in the only free port.
func TestPortOfALeavingDevice(t *testing.T) {
	v := fakeVHCI(t)
	hub := filepath.Join(v.platform, "vhci_hcd.0", "usb3")
	write(t, "480\n", hub, "speed")
	write(t, "", hub, "3-2", "busnum")
	super := filepath.Join(v.platform, "vhci_hcd.0", "usb4")
	write(t, "5000\n", super, "speed")
	write(t, "", super, "4-2", "busnum")

	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := v.attach(ctx, newEchoModel()); !errors.Is(err, ErrNoPort) || !errors.Is(err, context.Canceled) {
		t.Errorf("not in time: got %v", err)
	}
	if err := os.RemoveAll(filepath.Join(hub, "3-2")); err != nil {
		t.Fatal(err)
	}
	hosts := kernel(t, v, true)
	a, err := v.attach(t.Context(), newEchoModel())
	if err != nil {
		t.Fatal(err)
	}
	takeDetach(t, v, <-hosts)
	if err := a.Detach(); err != nil {
		t.Error(err)
	}
}

func TestAttachErrors(t *testing.T) {
	if _, err := (vhci{platform: t.TempDir()}).attach(t.Context(), newEchoModel()); !errors.Is(err, ErrNoVHCI) {
		t.Errorf("no module: got %v", err)
	}
	full := vhci{platform: t.TempDir()}
	write(t, "hs  0000 006 002 00010002 000007 3-1\n", full.control("status"))
	if _, err := full.attach(t.Context(), newEchoModel()); !errors.Is(err, ErrNoPort) {
		t.Errorf("no port: got %v", err)
	}

	v := fakeVHCI(t)
	hosts := kernel(t, v, false)
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		h := <-hosts
		takeDetach(t, v, h)
		cancel()
	}()
	if _, err := v.attach(ctx, newEchoModel()); !errors.Is(err, context.Canceled) {
		t.Errorf("not configured: got %v", err)
	}
}
