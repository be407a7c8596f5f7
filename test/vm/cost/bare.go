//go:build linux

package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"openct/internal/atr"
	"openct/internal/driver"
	"openct/internal/ifd"
	"openct/internal/proto"
	"openct/internal/socket"
	"openct/internal/usb"
	"openct/internal/usb/record"
	"openct/internal/usb/usbfs"
)

// device is a usb.Device without libusb.
type device struct {
	*usbfs.Node
	desc *usb.Descriptor
}

// Requests of usbfs nodes, linux/usbdevice_fs.h, with the directions of
// asm-generic/ioctl.h.
const (
	claimInterface   = 2<<30 | 4<<16 | 'U'<<8 | 15                         // USBDEVFS_CLAIMINTERFACE
	releaseInterface = 2<<30 | 4<<16 | 'U'<<8 | 16                         // USBDEVFS_RELEASEINTERFACE
	controlTransfer  = 3<<30 | unsafe.Sizeof(usbfsControl{})<<16 | 'U'<<8  // USBDEVFS_CONTROL, number 0
	bulkTransfer     = 3<<30 | unsafe.Sizeof(usbfsBulk{})<<16 | 'U'<<8 | 2 // USBDEVFS_BULK
)

// usbfsControl is struct usbdevfs_ctrltransfer.
type usbfsControl struct {
	setup   usb.Setup
	length  uint16
	timeout uint32
	data    unsafe.Pointer
}

// usbfsBulk is struct usbdevfs_bulktransfer.
type usbfsBulk struct {
	endpoint, length, timeout uint32
	data                      unsafe.Pointer
}

func (d device) Descriptor() *usb.Descriptor { return d.desc }

func (d device) Claim(iface, _ uint8) error { return d.forInterface(claimInterface, iface) }
func (d device) Release(iface uint8) error  { return d.forInterface(releaseInterface, iface) }

func (d device) forInterface(request uintptr, iface uint8) (err error) {
	number := uint32(iface)
	closed := d.Do(func(fd uintptr) { err = call(fd, request, unsafe.Pointer(&number)) })
	if closed != nil {
		return closed
	}
	return err
}

func call(fd, request uintptr, arg unsafe.Pointer) error {
	for {
		_, _, errno := unix.Syscall(unix.SYS_IOCTL, fd, request, uintptr(arg))
		switch errno {
		case 0:
			return nil
		case unix.EINTR:
		default:
			return errno
		}
	}
}

// request is a transfer that the kernel makes while the caller waits.
type request struct {
	number uintptr
	arg    unsafe.Pointer
	want   int // bytes that are transferred
}

// bare finds out the transfers of two APDUs (which bring T=1's sequence numbers
// back to where they were), and makes them again and again: for itself or, as a
// handler would, when one of clients sends an APDU.
func bare(node, name string, apdu []byte, sizes string, length, clients int, limit time.Duration) (result, error) {
	n, err := usbfs.Open(node)
	if err != nil {
		return result{}, err
	}
	desc, err := usb.ParseDescriptors(n.Descriptors)
	if err != nil {
		return result{}, err
	}
	entry, err := driver.Named(name)
	if err != nil {
		return result{}, err
	}
	rec := record.New(device{n, desc})
	r, err := entry.Open(rec, ifd.Options{Name: entry.Reader, Log: quiet})
	if err != nil {
		return result{}, err
	}
	defer r.Close()
	ctx := context.Background()
	slot := r.Slots()[0]
	raw, err := slot.Reset(ctx)
	if err != nil {
		return result{}, err
	}
	a, err := atr.Parse(raw)
	if err != nil {
		return result{}, err
	}
	engine, err := slot.Protocol(ctx, proto.Default, a)
	if err != nil {
		return result{}, err
	}
	var begin [3]int // of the third APDU's transfers, of the fourth's, their end
	for i := range 4 {
		if i >= 2 {
			begin[i-2] = len(rec.Ops())
		}
		if resp, err := engine.Transmit(ctx, apdu, nil); err != nil || len(resp) != length {
			return result{}, fmt.Errorf("%d bytes came, want %d: %w", len(resp), length, err)
		}
	}
	begin[2] = len(rec.Ops())
	turns := [2][]request{requests(rec.Ops()[begin[0]:begin[1]]), requests(rec.Ops()[begin[1]:begin[2]])}

	var out result
	closed := n.Do(func(fd uintptr) {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		turn := 0
		transact := func() error {
			turn = 1 - turn
			return transfer(fd, turns[1-turn])
		}
		if clients > 0 {
			out, err = serve(transact, sizes, length, clients, limit)
		} else {
			out, err = hurryAlone(transact, limit)
		}
	})
	if closed != nil || err != nil {
		return result{}, fmt.Errorf("the transfers again: %w, %w", closed, err)
	}
	out.Calls = float64(len(turns[0])+len(turns[1])) / 2
	return out, nil
}

// requests are the kernel's requests for recorded transfers.
func requests(ops []record.IO) (all []request) {
	for _, op := range ops {
		size, want := max(op.Len, len(op.W)), max(len(op.R), len(op.W))
		data := make([]byte, size+1)
		copy(data, op.W)
		switch op.Kind {
		case record.Control:
			all = append(all, request{controlTransfer,
				unsafe.Pointer(&usbfsControl{op.Setup, uint16(size), 1000, unsafe.Pointer(&data[0])}), want})
		case record.Bulk:
			all = append(all, request{bulkTransfer,
				unsafe.Pointer(&usbfsBulk{uint32(op.Endpoint), uint32(size), 1000, unsafe.Pointer(&data[0])}), want})
		}
	}
	return all
}

func transfer(fd uintptr, all []request) error {
	for _, r := range all {
		got, _, errno := unix.RawSyscall(unix.SYS_IOCTL, fd, r.number, uintptr(r.arg))
		if errno != 0 || int(got) != r.want {
			return fmt.Errorf("%d bytes instead of %d, %w", got, r.want, errno)
		}
	}
	return nil
}

// hurryAlone transacts until the time is over.
func hurryAlone(transact func() error, limit time.Duration) (result, error) {
	var n int64
	var took time.Duration
	before := threadCosts()
	for begin := time.Now(); took < limit; n++ {
		if err := transact(); err != nil {
			return result{}, err
		}
		took = time.Since(begin)
	}
	return threadCosts().since(before).each(n, took), nil
}

// serve is the least that a handler with one thread can do: it waits until a client
// has sent something, reads it, transacts, and sends a reply that was made before.
// The clients are those of "cost load", in a process of their own.
func serve(transact func() error, sizes string, length, clients int, limit time.Duration) (result, error) {
	reply := make([]byte, socket.HeaderSize, socket.MaxPacket)
	b := socket.NewBuilder(reply, false)
	b.Bytes(socket.TagCardResponse, make([]byte, length))
	reply = b.Built()

	self := exec.Command("/proc/self/exe", "clients", "-clients", strconv.Itoa(clients), "-apdu", sizes, "-seconds", fmt.Sprint(limit.Seconds()))
	self.Stderr = os.Stderr
	var polled []unix.PollFd
	for range clients {
		pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return result{}, err
		}
		defer unix.Close(pair[0])
		polled = append(polled, unix.PollFd{Fd: int32(pair[0]), Events: unix.POLLIN})
		self.ExtraFiles = append(self.ExtraFiles, os.NewFile(uintptr(pair[1]), "client"))
	}
	answer, err := self.StdoutPipe()
	if err != nil {
		return result{}, err
	}
	if err := self.Start(); err != nil {
		return result{}, err
	}
	defer self.Process.Kill()
	for _, f := range self.ExtraFiles {
		f.Close()
	}

	before := threadCosts()
	packet := make([]byte, socket.MaxPacket)
	for left := clients; left > 0; {
		if _, err := unix.Poll(polled, 10_000); err != nil && err != unix.EINTR {
			return result{}, err
		}
		for i := range polled {
			p := &polled[i]
			if p.Revents == 0 {
				continue
			}
			n, err := unix.Read(int(p.Fd), packet)
			if n <= 0 || err != nil {
				p.Fd = -1 // poll passes it over
				left--
				continue
			}
			if err := transact(); err != nil {
				return result{}, err
			}
			h := socket.ParseHeader(packet)
			socket.PutHeader(reply, socket.Header{XID: h.XID, Dest: h.Dest, Count: uint16(len(reply) - socket.HeaderSize)})
			if _, err := unix.Write(int(p.Fd), reply); err != nil {
				return result{}, err
			}
		}
	}
	used := threadCosts().since(before)
	var sent result
	if err := json.NewDecoder(answer).Decode(&sent); err != nil {
		return result{}, fmt.Errorf("clients: %w, %w", err, self.Wait())
	}
	r := used.each(sent.APDUs, time.Second)
	r.PerSecond = sent.PerSecond
	return r, self.Wait()
}

// inherited has clients whose connections are open already, from descriptor 3 on.
func inherited(apdu []byte, length, clients int, limit time.Duration) (result, error) {
	var all []*socket.Client
	for i := range clients {
		f := os.NewFile(uintptr(3+i), "connection")
		nc, err := net.FileConn(f)
		f.Close()
		if err != nil {
			return result{}, err
		}
		defer nc.Close()
		all = append(all, socket.NewClient(nc))
	}
	n, took, err := hurry(all, apdu, length, limit)
	return costs{}.each(n, took), err
}

// threadCosts are those of this thread.
func threadCosts() costs {
	var r unix.Rusage
	_ = unix.Getrusage(unix.RUSAGE_THREAD, &r)
	return costs{float64(r.Utime.Nano() + r.Stime.Nano()), float64(r.Nvcsw), float64(r.Nivcsw)}
}
