// Package devname reads the ways in which devices and kinds of devices are
// written: a device as "openct-control attach" gets it from udev rules, systemd
// instance names and people (Parse), and a kind of device, usb:0529/0600, as it
// stands in rules and in openct.conf (ParseID).
package devname

import (
	"errors"
	"fmt"
	"io/fs"
	"path"
	"strconv"
	"strings"
	"unicode"

	"github.com/coreos/go-systemd/v22/unit"

	"openct/internal/usb"
)

// Target is one device to attach.
type Target struct {
	// Driver is the driver asked for by name; empty when the device's ids
	// decide.
	Driver string

	// ID is what the caller says the device is; zero when it did not say.
	ID ID

	// Type is how to reach the device: "usb", "serial", "pcmcia_block",
	// "remote", "virtual" ...
	Type string

	// Path is the device of that type: a node, or what a virtual token holds.
	// For USB it is /dev/bus/usb/BBB/DDD.
	Path string

	// Bus and Dev number a USB device, from 1; 0 otherwise.
	Bus, Dev int
}

// String is the device as openct.conf writes it: TYPE:PATH.
func (t Target) String() string { return t.Type + ":" + t.Path }

// ErrName: the text names no device in any accepted form.
var ErrName = errors.New("not a device name")

const forms = "accepted are 001/004, /dev/bus/usb/001/004, sys/devices/... of a USB device, " +
	"and DRIVER TYPE DEVICE such as usb:0529/0600/0100 usb /dev/bus/usb/001/004 or etoken64 virtual piv"

func nameError(name, why string) error {
	return fmt.Errorf("%w: %q %s; %s", ErrName, name, why, forms)
}

// Parse reads attach's operands: DRIVER, TYPE and DEVICE as three arguments, or
// one argument that holds them, or one that names a USB device by its node, by bus
// and device number or by its place in sysfs. One argument may also be escaped as
// an instance of a systemd unit is (%i); its unescaped form (%I) is told by the
// slashes or blanks it has and an escaped one never has.
//
// root is the file system's root, for looking into sysfs.
func Parse(args []string, root fs.FS) (Target, error) {
	switch len(args) {
	case 1:
		return parseOne(args[0], root)
	case 3:
		return parseThree(args[0], args[1], args[2])
	}
	return Target{}, nameError(strings.Join(args, " "), fmt.Sprintf("is %d words, not 1 or 3", len(args)))
}

func parseOne(name string, root fs.FS) (Target, error) {
	if !strings.ContainsAny(name, "/ ") {
		name = unit.UnitNameUnescape(name)
	}
	if words := strings.Fields(name); len(words) == 3 {
		return parseThree(words[0], words[1], words[2])
	}
	if strings.ContainsFunc(name, func(r rune) bool { return unicode.IsSpace(r) || unicode.IsControl(r) }) {
		return Target{}, nameError(name, "is not three words")
	}
	rooted := path.Join("/", name)
	if strings.HasPrefix(rooted, "/sys/") {
		return parseSysfs(rooted, root)
	}
	// A configured reader's device may come with its type.
	if bus, dev, ok := nodeNumbers(strings.TrimPrefix(name, "usb:")); ok {
		return USB(bus, dev)
	}
	if _, err := ParseID(name); err == nil && strings.Contains(name, ":") {
		return Target{}, nameError(name, "names a kind of device, not a device")
	}
	return Target{}, nameError(name, "has an unknown form")
}

// parseThree is the form of C OpenCT's openct-control and ifdhandler. DRIVER is a device id if it
// starts with TYPE there; here if it has a colon, which no driver's name has, so
// that a driver called like its type and an empty TYPE are not misread.
func parseThree(driver, typ, device string) (Target, error) {
	t := Target{Type: typ, Path: device}
	switch {
	case driver == "":
		return t, nameError(driver, "is an empty DRIVER")
	case typ == "" || strings.ContainsAny(typ, ":/"):
		return t, nameError(typ, "is not a device type")
	case device == "" || strings.ContainsRune(device, 0):
		return t, nameError(device, "is not a device path")
	}
	if typ == "usb" {
		var err error
		if t, err = usbNode(device); err != nil {
			return t, err
		}
	}
	if (typ == TypeRemote || typ == TypeUnix) != (driver == farDriver) {
		return Target{}, fmt.Errorf("%w: driver %s and device type %s do not go together: driver %s is for the types %s and %s, and those are for it",
			ErrName, printable(driver), printable(typ), farDriver, TypeRemote, TypeUnix)
	}
	switch typ {
	case TypeRemote:
		if _, err := ParseRemote(device); err != nil {
			return Target{}, err
		}
	case TypeUnix:
		if err := ParseSocket(device); err != nil {
			return Target{}, err
		}
	}
	if !strings.Contains(driver, ":") {
		t.Driver = driver
		return t, nil
	}
	id, err := ParseID(driver)
	if err == nil && (id.Bus == "usb") != (typ == "usb") {
		err = fmt.Errorf("%w %s: it is not for a device of type %s", ErrID, driver, printable(typ))
	}
	if err != nil {
		return Target{}, err
	}
	t.ID = id
	return t, nil
}

// ParseDevice reads a configured reader's device, TYPE:DEVICE. Only the first
// colon separates: names of devices may contain more (serial:/dev/serial/by-path/pci-0000:00:14.0).
func ParseDevice(driver, device string) (Target, error) {
	typ, rest, ok := strings.Cut(device, ":")
	if !ok {
		return Target{}, fmt.Errorf("%w: %q is not TYPE:DEVICE, such as serial:/dev/ttyS0", ErrName, device)
	}
	return parseThree(driver, typ, rest)
}

// maxDev is the highest address on a USB bus (USB 2.0, 9.4.6).
const maxDev = 127

func usbNode(node string) (Target, error) {
	bus, dev, ok := nodeNumbers(node)
	if !ok {
		return Target{}, nameError(node, "is not a USB device's node")
	}
	return USB(bus, dev)
}

// nodeNumbers are the bus and the device of a node's name: 001/004, with the
// directory of usbfs today or in /proc before it, if any.
func nodeNumbers(node string) (bus, dev int, ok bool) {
	for _, dir := range []string{"dev/bus/usb/", "proc/bus/usb/"} {
		if rest, found := strings.CutPrefix(strings.TrimPrefix(node, "/"), dir); found {
			node = rest
			break
		}
	}
	first, second, found := strings.Cut(node, "/")
	bus, ok1 := digits(first, 4)
	dev, ok2 := digits(second, 3)
	return bus, dev, found && ok1 && ok2
}

// digits reads a number of 1 to most decimal digits and nothing else.
func digits(s string, most int) (int, bool) {
	if len(s) > most || strings.ContainsFunc(s, func(r rune) bool { return r < '0' || r > '9' }) {
		return 0, false
	}
	n, err := strconv.Atoi(s)
	return n, err == nil
}

// USB is the target for a device by its numbers.
func USB(bus, dev int) (Target, error) {
	if bus < 1 || bus > 9999 || dev < 1 || dev > maxDev {
		return Target{}, nameError(fmt.Sprintf("%03d/%03d", bus, dev), "is not a bus from 001 and a device from 001 to 127")
	}
	return Target{Type: "usb", Path: usb.NodePath(bus, dev), Bus: bus, Dev: dev}, nil
}

// parseSysfs finds the device at a place in sysfs, or the one whose interface
// (1-2:1.0) is there.
func parseSysfs(name string, root fs.FS) (Target, error) {
	dir := strings.TrimPrefix(name, "/")
	if _, err := fs.Stat(root, path.Join(dir, "busnum")); errors.Is(err, fs.ErrNotExist) && strings.Contains(path.Base(dir), ":") {
		dir = path.Dir(dir)
	}
	var numbers [2]int
	for i, file := range []string{"busnum", "devnum"} {
		b, err := fs.ReadFile(root, path.Join(dir, file))
		if err != nil {
			return Target{}, fmt.Errorf("%s is not a USB device in sysfs: %w", name, err)
		}
		n, err := strconv.ParseUint(strings.TrimSpace(string(b)), 10, 16)
		if err != nil {
			return Target{}, fmt.Errorf("%s is not a USB device in sysfs: %s: %w", name, file, err)
		}
		numbers[i] = int(n)
	}
	return USB(numbers[0], numbers[1])
}
