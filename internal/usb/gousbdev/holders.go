package gousbdev

import (
	"cmp"
	"slices"

	"openct/internal/machine"
	"openct/internal/usb"
)

// busy says who keeps an interface of the device with that sysfs directory and
// node.
func busy(m machine.Root, dir, node string, iface uint8) *usb.BusyError {
	switch driver := machine.InterfaceDriver(dir, iface); driver {
	case "", "usbfs":
		var holders []usb.Holder
		for _, p := range m.Processes() {
			if slices.Contains(p.Open(), node) {
				holders = append(holders, usb.Holder{PID: p.PID, Name: cmp.Or(p.Name, "unknown")})
			}
		}
		return &usb.BusyError{Holders: holders}
	default:
		return &usb.BusyError{Holders: []usb.Holder{{Name: driver}}}
	}
}
