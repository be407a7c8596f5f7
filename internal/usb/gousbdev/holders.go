package gousbdev

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"os/user"
	"slices"
	"strconv"
	"syscall"

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

// explainAccess adds to a denied access what would allow it.
func explainAccess(err error, node string) error {
	if !errors.Is(err, usb.ErrAccess) {
		return err
	}
	info, serr := os.Stat(node)
	if serr != nil {
		return err
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return err
	}
	group := strconv.Itoa(int(st.Gid))
	if g, gerr := user.LookupGroupId(group); gerr == nil {
		group = g.Name
	}
	perm := info.Mode().Perm()
	switch {
	case os.Geteuid() == 0:
		return fmt.Errorf("%w even for root: a device filter (DeviceAllow= of the unit, a container) forbids it", err)
	case perm&0o060 != 0o060:
		return fmt.Errorf("%w: the node has mode %04o; a udev rule must give its group %s access", err, perm, group)
	default:
		return fmt.Errorf("%w: the node has group %s and mode %04o; run as a member of that group", err, group, perm)
	}
}
