//go:build linux

package main

import (
	"context"
	"fmt"
	"runtime"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"openct/internal/atr"
	"openct/internal/driver"
	"openct/internal/ifd"
	"openct/internal/proto"
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

// bare finds out the transfers of two APDUs (which bring T=1's sequence numbers
// back to where they were), and makes them again and again.
func bare(node, name string, apdu []byte, length int, limit time.Duration) (result, error) {
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
	var first int
	for i := range 4 {
		if i == 2 {
			first = len(rec.Ops())
		}
		if resp, err := engine.Transmit(ctx, apdu, nil); err != nil || len(resp) != length {
			return result{}, fmt.Errorf("%d bytes came, want %d: %w", len(resp), length, err)
		}
	}

	type request struct {
		number uintptr
		arg    unsafe.Pointer
		want   int
	}
	var requests []request
	for _, op := range rec.Ops()[first:] {
		size, want := max(op.Len, len(op.W)), max(len(op.R), len(op.W))
		data := make([]byte, size+1)
		copy(data, op.W)
		switch op.Kind {
		case record.Control:
			requests = append(requests, request{controlTransfer,
				unsafe.Pointer(&usbfsControl{op.Setup, uint16(size), 1000, unsafe.Pointer(&data[0])}), want})
		case record.Bulk:
			requests = append(requests, request{bulkTransfer,
				unsafe.Pointer(&usbfsBulk{uint32(op.Endpoint), uint32(size), 1000, unsafe.Pointer(&data[0])}), want})
		}
	}
	var pairs int64
	var before, after unix.Rusage
	var took time.Duration
	closed := n.Do(func(fd uintptr) {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		unix.Getrusage(unix.RUSAGE_THREAD, &before)
		begin := time.Now()
		for ; took < limit && err == nil; pairs++ {
			for _, r := range requests {
				got, _, errno := unix.RawSyscall(unix.SYS_IOCTL, fd, r.number, uintptr(r.arg))
				if errno != 0 || int(got) != r.want {
					err = fmt.Errorf("%d bytes instead of %d, %w", got, r.want, errno)
					break
				}
			}
			took = time.Since(begin)
		}
		unix.Getrusage(unix.RUSAGE_THREAD, &after)
	})
	if closed != nil || err != nil {
		return result{}, fmt.Errorf("the transfers again: %w, %w", closed, err)
	}
	cpu := func(r unix.Rusage) float64 { return float64(r.Utime.Nano() + r.Stime.Nano()) }
	out := costs{cpu(after) - cpu(before), float64(after.Nvcsw - before.Nvcsw), float64(after.Nivcsw - before.Nivcsw)}.each(2*pairs, took)
	out.Calls = float64(len(requests)) / 2
	return out, nil
}
