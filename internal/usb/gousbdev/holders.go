package gousbdev

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"openct/internal/usb"
)

// system is where the kernel tells about devices and processes.
type system struct {
	sys, proc string
}

var thisMachine = system{sys: "/sys", proc: "/proc"}

// deviceDir is the sysfs directory of the device at bus and address, its
// links resolved; its base name is the port path. Empty if there is none.
func (s system) deviceDir(bus, address int) string {
	link := filepath.Join(s.sys, "dev/char", fmt.Sprintf("189:%d", (bus-1)*128+address-1))
	dir, err := filepath.EvalSymlinks(link)
	if err != nil {
		return ""
	}
	return dir
}

// attribute reads a one-line file of a sysfs directory.
func attribute(dir, name string) string {
	if dir == "" {
		return ""
	}
	b, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil {
		return ""
	}
	return strings.TrimRight(string(b), "\n")
}

// kernelDriver names the driver that is bound to an interface: "usbfs" when a
// process has claimed it, empty when it is free.
func (s system) kernelDriver(dir string, iface uint8) string {
	if dir == "" {
		return ""
	}
	// Interfaces are PORT:CONFIGURATION.INTERFACE, in decimal.
	dirs, _ := filepath.Glob(filepath.Join(dir, filepath.Base(dir)+":*."+strconv.Itoa(int(iface))))
	for _, d := range dirs {
		if link, err := os.Readlink(filepath.Join(d, "driver")); err == nil {
			return filepath.Base(link)
		}
	}
	return ""
}

// processes lists who else has the node open, as far as this process may see.
func (s system) processes(node string) []usb.Holder {
	var holders []usb.Holder
	fds, _ := filepath.Glob(filepath.Join(s.proc, "[0-9]*/fd/*"))
	last := 0
	for _, fd := range fds {
		if target, err := os.Readlink(fd); err != nil || target != node {
			continue
		}
		dir := filepath.Dir(filepath.Dir(fd))
		pid, err := strconv.Atoi(filepath.Base(dir))
		if err != nil || pid == last || pid == os.Getpid() {
			continue
		}
		last = pid
		name := attribute(dir, "comm")
		if name == "" {
			name = "unknown"
		}
		holders = append(holders, usb.Holder{PID: pid, Name: name})
	}
	return holders
}

// busy says who keeps an interface.
func (s system) busy(dir, node string, iface uint8) *usb.BusyError {
	switch driver := s.kernelDriver(dir, iface); driver {
	case "", "usbfs":
		return &usb.BusyError{Holders: s.processes(node)}
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

// isDenied reports a missing permission, for an error of a system call.
func isDenied(err error) bool { return errors.Is(err, fs.ErrPermission) }
