//go:build vhci && cgo

// These tests plug virtual devices into the kernel they run on, through
// vhci_hcd, and open them as any real device. They need root and the module;
// test/vm/tiera boots a kernel for them.
package gousbdev_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"openct/internal/usb"
	"openct/internal/usb/gousbdev"
	"openct/internal/vusb"
	"openct/internal/vusb/usbip"
)

func TestIdentity(t *testing.T) {
	_, a := plug(t, standard())
	dev := open(t, a.Node)
	got := *dev.Descriptor()
	got.Interfaces = nil
	want := usb.Descriptor{
		Bus: a.Bus, Address: a.Address, Port: a.BusID,
		Vendor: 0x1209, Product: 0x0001, Release: 0x0100,
		Manufacturer: "OpenCT", ProductString: "Gadget", Serial: "0001",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("descriptor (-want +got):\n%s", diff)
	}
}

func TestControlPassesUntouched(t *testing.T) {
	_, dev := plugOpen(t, standard())
	must(t, dev.Claim(0, 0))
	for _, s := range []usb.Setup{
		{RequestType: usb.VendorDeviceIn, Request: 1, Value: 0x1234, Index: 0x5678},
		{RequestType: usb.VendorInterfaceIn, Request: 1, Value: 0xFFFF, Index: 0x9E00}, // the iKey's data in wIndex
		{RequestType: usb.VendorEndpointIn, Request: 1, Index: 0x00C5},
	} {
		buf := make([]byte, 300)
		n, err := dev.Control(t.Context(), s, buf, time.Second)
		must(t, err)
		want := []byte{s.RequestType, 1, byte(s.Value), byte(s.Value >> 8), byte(s.Index), byte(s.Index >> 8), 0x2C, 0x01}
		if diff := cmp.Diff(want, buf[:n]); diff != "" {
			t.Errorf("%+v (-want +got):\n%s", s, diff)
		}
	}
	out := usb.Setup{RequestType: usb.VendorInterfaceOut, Request: 1, Index: 0x0102}
	for _, data := range [][]byte{nil, {1, 2, 3}, make([]byte, 4096)} {
		n, err := dev.Control(t.Context(), out, data, time.Second)
		if must(t, err); n != len(data) {
			t.Errorf("%d of %d bytes went out", n, len(data))
		}
	}
	_, err := dev.Control(t.Context(), out, make([]byte, 4097), time.Second)
	wantErr(t, err, usb.ErrIO)
}

func TestErrors(t *testing.T) {
	g := standard()
	port, dev := plugOpen(t, g)
	must(t, dev.Claim(0, 0))
	_, err := dev.Control(t.Context(), usb.Setup{RequestType: usb.VendorDeviceIn, Request: 2}, make([]byte, 4), time.Second)
	wantErr(t, err, usb.ErrStall)
	for _, timeout := range []time.Duration{-1, 0, time.Microsecond, 30 * time.Millisecond} {
		_, err = dev.Control(t.Context(), usb.Setup{RequestType: usb.VendorDeviceIn, Request: 3}, make([]byte, 4), timeout)
		wantErr(t, err, usb.ErrTimeout)
	}

	_, err = dev.Bulk(t.Context(), 0x82, make([]byte, 64), time.Second) // nothing there: stalls, stays halted
	wantErr(t, err, usb.ErrStall)
	_, err = dev.Bulk(t.Context(), 0x02, []byte{1, 2, 3}, time.Second)
	must(t, err)
	_, err = dev.Bulk(t.Context(), 0x82, make([]byte, 64), time.Second)
	wantErr(t, err, usb.ErrStall)
	must(t, dev.ClearHalt(0x82))
	buf := make([]byte, 64)
	n, err := dev.Bulk(t.Context(), 0x82, buf, time.Second)
	if must(t, err); string(buf[:n]) != "\x01\x02\x03" {
		t.Errorf("echo % X", buf[:n])
	}
	g.Out(t.Context(), 2, make([]byte, 64))
	port.Inject(vusb.Fault{On: vusb.Transfer{Code: 0x82}, Hang: true})
	_, err = dev.Bulk(t.Context(), 0x82, buf, 30*time.Millisecond)
	wantErr(t, err, usb.ErrTimeout)

	_, err = dev.Bulk(t.Context(), 0x84, buf, time.Second)
	wantErr(t, err, usb.ErrIO)
	wantErr(t, dev.Claim(3, 0), usb.ErrNotFound)
	wantErr(t, dev.Claim(0, 0), usb.ErrBusy)
	must(t, dev.Release(0))
	_, err = dev.Bulk(t.Context(), 0x82, buf, time.Second)
	wantErr(t, err, usb.ErrIO)
	must(t, dev.Close())
	must(t, dev.Close())
	_, err = dev.Control(t.Context(), usb.Setup{RequestType: usb.VendorDeviceIn, Request: 1}, buf, time.Second)
	wantErr(t, err, usb.ErrClosed)
}

func TestInterruptEnds(t *testing.T) {
	g := standard()
	_, dev := plugOpen(t, g)
	must(t, dev.Claim(0, 0))
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	_, err := dev.Interrupt(ctx, 0x81, make([]byte, 8))
	wantErr(t, err, usb.ErrTimeout)
	<-g.began

	ctx, cancel = context.WithCancel(t.Context())
	go func() {
		<-g.began
		cancel()
	}()
	_, err = dev.Interrupt(ctx, 0x81, make([]byte, 8))
	wantErr(t, err, context.Canceled)

	go func() {
		<-g.began
		dev.Close()
	}()
	_, err = dev.Interrupt(t.Context(), 0x81, make([]byte, 8))
	wantErr(t, err, usb.ErrClosed)
}

func TestUnplug(t *testing.T) {
	for _, tt := range []struct {
		name string
		hang func(usb.Device) error // waits in a transfer; nil for an idle device
	}{
		{"idle", nil},
		{"control", func(d usb.Device) error {
			_, err := d.Control(t.Context(), usb.Setup{RequestType: usb.VendorDeviceIn, Request: 3}, make([]byte, 4), time.Minute)
			return err
		}},
		{"bulk", func(d usb.Device) error {
			_, err := d.Bulk(t.Context(), 0x82, make([]byte, 64), time.Minute)
			return err
		}},
		{"interrupt", func(d usb.Device) error {
			_, err := d.Interrupt(context.Background(), 0x81, make([]byte, 8))
			return err
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			g := standard()
			port, dev := plugOpen(t, g)
			must(t, dev.Claim(0, 0))
			failed := make(chan error, 1)
			if tt.hang != nil {
				if tt.name == "bulk" {
					port.Inject(vusb.Fault{On: vusb.Transfer{Code: 0x82}, Delay: time.Minute})
				}
				go func() { failed <- tt.hang(dev) }()
				if tt.name != "bulk" {
					<-g.began
				}
			}
			start := time.Now()
			port.Unplug()
			<-dev.Gone()
			gone := time.Since(start)
			if tt.hang != nil {
				wantErr(t, <-failed, usb.ErrUnplugged)
			}
			ended := time.Since(start)
			_, err := dev.Control(t.Context(), usb.Setup{RequestType: usb.VendorDeviceIn, Request: 1}, make([]byte, 4), time.Second)
			wantErr(t, err, usb.ErrUnplugged)
			wantErr(t, dev.Claim(0, 0), usb.ErrUnplugged)
			closing := time.Now()
			must(t, dev.Close())
			t.Logf("gone after %v, transfer over after %v, closed in %v", gone, ended, time.Since(closing))
		})
	}
}

func TestUnplugAsFault(t *testing.T) {
	port, dev := plugOpen(t, standard())
	port.Inject(vusb.Fault{Unplug: true})
	_, err := dev.Control(t.Context(), usb.Setup{RequestType: usb.VendorDeviceIn, Request: 1}, make([]byte, 4), 10*time.Second)
	wantErr(t, err, usb.ErrUnplugged)
}

// A transfer of any kind that hangs in the device ends with Close.
func TestCloseEndsTransfers(t *testing.T) {
	g := standard()
	port, dev := plugOpen(t, g)
	must(t, dev.Claim(0, 0))
	port.Inject(vusb.Fault{On: vusb.Transfer{Code: 0x82}, Delay: time.Minute})
	failed := make(chan error, 3)
	go func() {
		_, err := dev.Control(t.Context(), usb.Setup{RequestType: usb.VendorDeviceIn, Request: 3}, make([]byte, 4), time.Minute)
		failed <- err
	}()
	go func() {
		_, err := dev.Interrupt(context.Background(), 0x81, make([]byte, 8))
		failed <- err
	}()
	<-g.began
	<-g.began
	go func() {
		_, err := dev.Bulk(t.Context(), 0x82, make([]byte, 64), time.Minute)
		failed <- err
	}()
	start := time.Now()
	must(t, dev.Close())
	t.Logf("Close came back after %v", time.Since(start))
	for range 3 {
		wantErr(t, <-failed, usb.ErrClosed)
	}
}

// Transfers on all endpoints at a time, while one waits for ever.
func TestSideBySide(t *testing.T) {
	g := standard()
	_, dev := plugOpen(t, g)
	must(t, dev.Claim(0, 0))
	ctx, cancel := context.WithCancel(t.Context())
	waiting := make(chan error, 1)
	go func() {
		_, err := dev.Interrupt(ctx, 0x81, make([]byte, 8))
		waiting <- err
	}()
	<-g.began
	var wg sync.WaitGroup
	for range 4 {
		wg.Add(1)
		go func() {
			defer wg.Done()
			buf := make([]byte, 8)
			for i := range 50 {
				n, err := dev.Control(t.Context(), usb.Setup{RequestType: usb.VendorDeviceIn, Request: 1, Value: uint16(i)}, buf, 10*time.Second)
				if err != nil || n != 8 || buf[2] != byte(i) {
					t.Errorf("control %d: % X, %v", i, buf[:n], err)
				}
			}
		}()
	}
	for i := range 50 {
		_, err := dev.Bulk(t.Context(), 0x02, []byte{byte(i), 1, 2}, 10*time.Second)
		must(t, err)
		buf := make([]byte, 64)
		n, err := dev.Bulk(t.Context(), 0x82, buf, 10*time.Second)
		if must(t, err); n != 3 || buf[0] != byte(i) {
			t.Errorf("echo %d: % X", i, buf[:n])
		}
	}
	wg.Wait()
	cancel()
	wantErr(t, <-waiting, context.Canceled)
}

// Transfers that usbfs takes in pieces, and empty ones.
func TestBulkSizes(t *testing.T) {
	_, dev := plugOpen(t, standard())
	must(t, dev.Claim(0, 0))
	for _, size := range []int{0, 1, 64, 16384, 40000, 49152} {
		data := make([]byte, size)
		for i := range data {
			data[i] = byte(i / 7)
		}
		n, err := dev.Bulk(t.Context(), 0x02, data, 10*time.Second)
		if must(t, err); n != size {
			t.Errorf("%d of %d bytes went out", n, size)
		}
		back := make([]byte, size)
		n, err = dev.Bulk(t.Context(), 0x82, back, 10*time.Second)
		if must(t, err); n != size || !bytes.Equal(back, data) {
			t.Errorf("%d of %d bytes came back, or others", n, size)
		}
	}
}

func TestInterfaceNumbers(t *testing.T) {
	config := append(ifaceDesc(1, 0, false), ifaceDesc(1, 1, true)...)
	_, dev := plugOpen(t, newGadget(0x1209, 0x0002, config...))
	wantErr(t, dev.Claim(0, 0), usb.ErrNotFound)
	must(t, dev.Claim(1, 1))
	_, err := dev.Bulk(t.Context(), 0x02, []byte{9}, time.Second)
	must(t, err)
	buf := make([]byte, 64)
	if n, err := dev.Bulk(t.Context(), 0x82, buf, time.Second); err != nil || n != 1 || buf[0] != 9 {
		t.Errorf("got % X, %v", buf[:n], err)
	}
}

// gousb panics on interleaved duplicates of an alternate setting.
func TestHostileDeviceElsewhere(t *testing.T) {
	config := append(ifaceDesc(0, 0, false), ifaceDesc(1, 0, false)...)
	config = append(append(config, ifaceDesc(0, 0, false)...), ifaceDesc(1, 0, false)...)
	_, bad := plug(t, newGadget(0x1209, 0x0666, config...))
	_, good := plug(t, standard())
	dev, err := gousbdev.Open(bad.Node, quiet)
	if err == nil {
		err = dev.Close()
	}
	t.Logf("the hostile device itself: %v", err)
	must(t, open(t, good.Node).Claim(0, 0))
}

func TestReset(t *testing.T) {
	g := standard()
	_, a := plug(t, g)
	g.mu.Lock()
	before := g.resets
	g.mu.Unlock()
	f, err := os.OpenFile(a.Node, os.O_RDWR, 0)
	must(t, err)
	defer f.Close()
	const usbdevfsReset = 'U'<<8 | 20 // _IO('U', 20), linux/usbdevice_fs.h
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), usbdevfsReset, 0); errno != 0 {
		t.Fatal(errno)
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.resets <= before {
		t.Errorf("%d resets before and %d after", before, g.resets)
	}
}

// The test binary is also the process that holds an interface.
func TestMain(m *testing.M) {
	if node := os.Getenv("OPENCT_TEST_HOLD"); node != "" {
		dev, err := gousbdev.Open(node, quiet)
		if err == nil {
			err = dev.Claim(0, 0)
		}
		fmt.Println(err)
		io.Copy(io.Discard, os.Stdin)
		return
	}
	os.Exit(m.Run())
}

func TestBusyNamesTheProcess(t *testing.T) {
	_, a := plug(t, standard())
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "OPENCT_TEST_HOLD="+a.Node)
	stdin, err := cmd.StdinPipe()
	must(t, err)
	stdout, err := cmd.StdoutPipe()
	must(t, err)
	must(t, cmd.Start())
	defer cmd.Wait()
	defer stdin.Close()
	line := make([]byte, 64)
	n, _ := stdout.Read(line)
	if got := strings.TrimSpace(string(line[:n])); got != "<nil>" {
		t.Fatalf("holder: %s", got)
	}

	dev := open(t, a.Node)
	err = dev.Claim(0, 0)
	var busy *usb.BusyError
	if !errors.As(err, &busy) || len(busy.Holders) != 1 || busy.Holders[0].PID != cmd.Process.Pid || busy.Holders[0].Name == "" {
		t.Errorf("got %v", err)
	}
	t.Log(err)
}

func driverOf(t *testing.T, a *usbip.Attachment) string {
	t.Helper()
	target, err := os.Readlink(filepath.Join("/sys/bus/usb/devices", a.BusID, a.BusID+":1.0", "driver"))
	if err != nil {
		return ""
	}
	return filepath.Base(target)
}

func TestKernelDriverIsGivenBack(t *testing.T) {
	_, a := plug(t, newGadget(0x0403, 0x6001, ifaceDesc(0, 0, true)...))
	if got := driverOf(t, a); got != "ftdi_sio" {
		t.Fatalf("the kernel bound %q", got)
	}
	for _, end := range []func(usb.Device) error{
		func(d usb.Device) error { return d.Release(0) },
		usb.Device.Close,
	} {
		dev := open(t, a.Node)
		if got := driverOf(t, a); got != "ftdi_sio" {
			t.Errorf("opening it changed the driver to %q", got)
		}
		must(t, dev.Claim(0, 0))
		if got := driverOf(t, a); got != "usbfs" {
			t.Errorf("claimed, the driver is %q", got)
		}
		must(t, end(dev))
		if got := driverOf(t, a); got != "ftdi_sio" {
			t.Errorf("given back, the driver is %q", got)
		}
	}
}

func count(t *testing.T, dir string) int {
	t.Helper()
	list, err := os.ReadDir(dir)
	must(t, err)
	return len(list)
}

func TestCyclesLeakNothing(t *testing.T) {
	cycle := func() {
		g := standard()
		port := vusb.Plug("vhci", g)
		a, err := usbip.Attach(t.Context(), port)
		must(t, err)
		dev, err := gousbdev.Open(a.Node, quiet)
		must(t, err)
		must(t, dev.Claim(0, 0))
		port.Unplug()
		<-dev.Gone()
		must(t, dev.Close())
		<-a.Done()
	}
	for range 5 {
		cycle()
	}
	files, threads := count(t, "/proc/self/fd"), count(t, "/proc/self/task")
	start := time.Now()
	const n = 30
	for range n {
		cycle()
	}
	files2, threads2 := count(t, "/proc/self/fd"), count(t, "/proc/self/task")
	t.Logf("%d cycles in %v; files %d to %d, threads %d to %d", n, time.Since(start), files, files2, threads, threads2)
	if files2 > files || threads2 > threads+5 {
		t.Error("something leaks")
	}
}

// Ten wakeups a second is what gousb's event loop makes when left alone, 100
// here; the measuring and the Go runtime make up to 40.
func TestIdleDeviceSleeps(t *testing.T) {
	_, dev := plugOpen(t, standard())
	must(t, dev.Claim(0, 0))
	switches := func() (sum int) {
		tasks, err := filepath.Glob("/proc/self/task/*/status")
		must(t, err)
		for _, task := range tasks {
			text, err := os.ReadFile(task)
			must(t, err)
			_, rest, _ := strings.Cut(string(text), "\nvoluntary_ctxt_switches:")
			var n int
			fmt.Sscan(rest, &n)
			sum += n
		}
		return sum
	}
	before := switches()
	<-time.After(10 * time.Second)
	n := switches() - before
	t.Logf("%d context switches in 10 s, with those of the measuring", n)
	if n > 60 {
		t.Error("the idle device does not sleep")
	}
}

// More than one virtual host controller has ports for, all at the same moment.
func TestManyDevices(t *testing.T) {
	const n = 20
	attached := make(chan *usbip.Attachment, n)
	for range n {
		go func() {
			a, err := usbip.Attach(t.Context(), standard())
			if err != nil {
				t.Error(err)
			}
			attached <- a
		}()
	}
	nodes := make(map[string]bool)
	for range n {
		a := <-attached
		if a == nil {
			continue
		}
		defer a.Detach()
		dev := open(t, a.Node)
		if got := dev.Descriptor().Port; got != a.BusID {
			t.Errorf("%s is at %s, want %s", a.Node, got, a.BusID)
		}
		must(t, dev.Claim(0, 0))
		nodes[a.Node] = true
	}
	if len(nodes) != n {
		t.Errorf("%d devices have %d nodes", n, len(nodes))
	}
}
