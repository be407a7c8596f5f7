//go:build cgo

package gousbdev

import (
	"errors"
	"log/slog"
	"path/filepath"

	dev "openct/internal/device"
	"openct/internal/machine"
	"openct/internal/usb"
	"openct/internal/usb/usbfs"
)

// Open opens exactly the device whose usbfs node is path, such as
// /dev/bus/usb/001/004. Its errors wrap ErrNotNode, usb.ErrNotFound,
// usb.ErrAccess, usb.ErrUnplugged, usb.ErrDescriptor or ErrNoUSB. Nothing is
// claimed and no kernel driver is touched until Claim.
func Open(path string, log *slog.Logger) (usb.Device, error) {
	redirectLog(log)
	node, err := usbfs.Open(path)
	if err != nil {
		return nil, dev.ExplainAccess(err, path)
	}
	d, err := open(path, node, log)
	if err != nil {
		if node.Check() {
			err = usb.ErrUnplugged
		}
		return nil, usb.Wrap("open", path, errors.Join(err, node.Close()))
	}
	return d, nil
}

func open(path string, node *usbfs.Node, log *slog.Logger) (*device, error) {
	desc, err := usb.ParseDescriptors(node.Descriptors)
	if err != nil {
		return nil, err
	}
	d := &device{
		path:   path,
		dir:    machine.Here.USBDir(node.Bus, node.Address),
		log:    log.With("device", path),
		node:   node,
		desc:   desc,
		claims: make(map[uint8]*claim),
		ending: make(chan struct{}),
	}
	if err := node.Do(func(fd uintptr) { d.dev, err = openWithLibusb(fd) }); err != nil {
		return nil, err
	}
	if err != nil {
		return nil, err
	}
	desc.Bus, desc.Address = node.Bus, node.Address
	if d.dir != "" {
		desc.Port = filepath.Base(d.dir)
	}
	// The kernel has read the strings already; asking the device again could
	// only stall it.
	desc.Manufacturer = machine.Attribute(d.dir, "manufacturer")
	desc.ProductString = machine.Attribute(d.dir, "product")
	desc.Serial = machine.Attribute(d.dir, "serial")
	return d, nil
}
