//go:build cgo

package gousbdev

// #include <libusb.h>
import "C"

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"

	"github.com/google/gousb"
	"golang.org/x/sys/unix"

	"openct/internal/usb"
	"openct/internal/usb/watch"
)

// Open opens exactly the device whose usbfs node is path, such as
// /dev/bus/usb/001/004. Its errors wrap ErrNotNode, usb.ErrNotFound,
// usb.ErrAccess, usb.ErrUnplugged, usb.ErrDescriptor or ErrNoUSB. Nothing is
// claimed and no kernel driver is touched until Claim.
func Open(path string, log *slog.Logger) (usb.Device, error) {
	redirectLog(log)
	d, err := open(path, log)
	if err != nil {
		var named *usb.Error // the watch has named operation and device
		if err = explainAccess(err, path); errors.As(err, &named) && named.Device == path {
			return nil, err
		}
		return nil, usb.Wrap("open", path, err)
	}
	return d, nil
}

func open(path string, log *slog.Logger) (_ *device, err error) {
	w, err := watch.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			w.Close()
		}
	}()
	desc, err := usb.ParseDescriptors(w.Descriptors)
	if err != nil {
		return nil, err
	}
	if err := writable(path); err != nil {
		return nil, err
	}
	ctx, err := newContext(w.Bus, w.Address)
	if err != nil {
		return nil, err
	}
	dev, err := ctx.openDevice(w.Bus, w.Address)
	if w.Check() {
		err = usb.ErrUnplugged
	} else if err == nil {
		err = sameDevice(desc, dev.Desc)
	}
	if err != nil {
		if dev != nil {
			dev.Close()
		}
		return nil, errors.Join(err, ctx.close())
	}

	handle, err := cPointer(dev, "handle")
	if err != nil {
		return nil, errors.Join(err, dev.Close(), ctx.close())
	}

	desc.Bus, desc.Address = w.Bus, w.Address
	dir := thisMachine.deviceDir(w.Bus, w.Address)
	if dir != "" {
		desc.Port = filepath.Base(dir)
	}
	// The kernel has read the strings already; asking the device again could
	// only stall it.
	desc.Manufacturer = attribute(dir, "manufacturer")
	desc.ProductString = attribute(dir, "product")
	desc.Serial = attribute(dir, "serial")

	d := &device{
		path:      path,
		dir:       dir,
		log:       log.With("device", path),
		watch:     w,
		desc:      desc,
		ctx:       ctx,
		dev:       dev,
		handle:    (*C.libusb_device_handle)(handle),
		claims:    make(map[uint8]*claim),
		transfers: make(map[*transfer]struct{}),
	}
	d.alive, d.end = context.WithCancel(context.Background())
	return d, nil
}

// writable tells at once, and more clearly than libusb, that transfers will
// not be allowed.
func writable(path string) error {
	fd, err := unix.Open(path, unix.O_RDWR|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	switch {
	case err == nil:
		return unix.Close(fd)
	case isDenied(err):
		return usb.ErrAccess
	case errors.Is(err, unix.ENODEV), errors.Is(err, unix.ENOENT):
		return usb.ErrUnplugged
	}
	return fmt.Errorf("%w: %w", usb.ErrIO, err)
}

// openDevice opens the device at bus and address; odd descriptors, on which
// gousb panics, are usb.ErrDescriptor.
func (ctx *usbContext) openDevice(bus, address int) (dev *gousb.Device, err error) {
	defer recovered(&err, usb.ErrDescriptor)
	devs, err := ctx.gousb.OpenDevices(func(d *gousb.DeviceDesc) bool {
		return d.Bus == bus && d.Address == address
	})
	switch {
	case len(devs) == 1:
		return devs[0], nil
	case len(devs) > 1: // cannot be: bus and address are unique
		for _, d := range devs {
			d.Close()
		}
		return nil, fmt.Errorf("%w: libusb lists it twice", usb.ErrIO)
	case err != nil:
		return nil, mapError(err, false)
	}
	return nil, fmt.Errorf("%w in libusb's list", usb.ErrNotFound)
}

// sameDevice compares what the node said with what libusb believes: between
// the two looks another device may have come to the same address.
func sameDevice(node *usb.Descriptor, lib *gousb.DeviceDesc) error {
	if uint16(lib.Vendor) != node.Vendor || uint16(lib.Product) != node.Product || uint16(lib.Device) != node.Release {
		return fmt.Errorf("%w: another device, %s:%s, is now at this address", usb.ErrUnplugged, lib.Vendor, lib.Product)
	}
	return nil
}
