package machine

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sort"
	"strconv"
	"strings"

	"openct/internal/usb"
)

// Device is one USB device, as the kernel shows it in /sys.
type Device struct {
	Name                string // directory below bus/usb/devices, the physical port: "1-2.3"
	Bus, Address        int
	Vendor, Product     uint16
	Manufacturer, Model string
	Serial              string
	Interfaces          []Interface
	Lent                bool // to another machine, by USB/IP

	raw []byte // device and configuration descriptors
}

// Descriptor is the device's own account, as if it had been opened.
func (d Device) Descriptor() (*usb.Descriptor, error) {
	desc, err := usb.ParseDescriptors(d.raw)
	if err != nil {
		return nil, usb.Wrap("read descriptors", d.Node(), err)
	}
	desc.Bus, desc.Address, desc.Port = d.Bus, d.Address, d.Name
	desc.Manufacturer, desc.ProductString, desc.Serial = d.Manufacturer, d.Model, d.Serial
	return desc, nil
}

// Interface is one interface of a device's active configuration.
type Interface struct {
	Number uint8
	Class  uint8
	Driver string // kernel driver bound to it, empty if none
}

// Node is the device's usbfs node.
func (d Device) Node() string { return usb.NodePath(d.Bus, d.Address) }

// classCCID is bInterfaceClass of smart card readers (USB CCID 1.1, 4.3).
const classCCID = 0x0B

// usbDevices has a directory for each USB device and each interface.
const usbDevices = "sys/bus/usb/devices"

// HasCCID reports whether an interface is of the smart card class.
func (d Device) HasCCID() bool {
	return slices.ContainsFunc(d.Interfaces, func(i Interface) bool { return i.Class == classCCID })
}

// USBDevices lists the devices that are plugged in, sorted by bus and address, so that readers are numbered the same at every boot. A machine
// without USB has none; that is no error.
func (r Root) USBDevices() ([]Device, error) {
	base := r.Path(usbDevices)
	entries, err := os.ReadDir(base)
	if os.IsNotExist(err) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list USB devices: %w", err)
	}
	var devices []Device
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), ".") || isInterface(e.Name()) {
			continue
		}
		if d, ok := read(base, e.Name()); ok {
			devices = append(devices, d)
		}
	}
	sort.Slice(devices, func(i, j int) bool {
		a, b := devices[i], devices[j]
		return a.Bus < b.Bus || a.Bus == b.Bus && a.Address < b.Address
	})
	return devices, nil
}

// isInterface says whether a name is an interface's, such as 1-2:1.0. Its directory is
// below its device's.
func isInterface(name string) bool { return strings.Contains(name, ":") }

// read takes one device directory; ok is false for one that is on its way in
// or out, and lacks something.
func read(base, name string) (d Device, ok bool) {
	dir := filepath.Join(base, name)
	vendor, ok1 := number(dir, "idVendor", 16, 16)
	product, ok2 := number(dir, "idProduct", 16, 16)
	bus, ok3 := number(dir, "busnum", 10, 16)
	address, ok4 := number(dir, "devnum", 10, 16)
	if !ok1 || !ok2 || !ok3 || !ok4 {
		return d, false
	}
	d = Device{
		Name: name, Bus: int(bus), Address: int(address), Vendor: uint16(vendor), Product: uint16(product),
		Manufacturer: Attribute(dir, "manufacturer"), Model: Attribute(dir, "product"), Serial: Attribute(dir, "serial"),
		Lent: boundDriver(dir) == usbipHost,
	}
	var err error
	if d.raw, err = os.ReadFile(filepath.Join(dir, "descriptors")); err != nil {
		return d, false
	}
	children, err := os.ReadDir(dir)
	if err != nil {
		return d, false
	}
	for _, c := range children {
		if !isInterface(c.Name()) {
			continue
		}
		child := filepath.Join(dir, c.Name())
		class, ok := number(child, "bInterfaceClass", 16, 8)
		if !ok {
			continue
		}
		n, _ := number(child, "bInterfaceNumber", 16, 8)
		i := Interface{Number: uint8(n), Class: uint8(class)}
		i.Driver = boundDriver(child)
		d.Interfaces = append(d.Interfaces, i)
	}
	return d, true
}

func number(dir, file string, base, bits int) (uint64, bool) {
	n, err := strconv.ParseUint(Attribute(dir, file), base, bits)
	return n, err == nil
}

// usbipHost is the kernel driver of a whole device that is lent to another machine
// (drivers/usb/usbip/stub_dev.c).
const usbipHost = "usbip-host"

// boundDriver names the kernel driver that is bound to the interface or the device
// of a directory; empty when it is free.
func boundDriver(dir string) string {
	link, err := os.Readlink(filepath.Join(dir, "driver"))
	if err != nil {
		return ""
	}
	return filepath.Base(link)
}

// USBDir is the directory of the device at bus and address, its links resolved;
// its base name is the physical port. It is empty if there is no such device.
func (r Root) USBDir(bus, address int) string {
	link := r.Path(fmt.Sprintf("sys/dev/char/%d:%d", usb.NodeMajor, usb.NodeMinor(bus, address)))
	dir, err := filepath.EvalSymlinks(link)
	if err != nil {
		return ""
	}
	return dir
}

// USBDevice is the device at bus and address.
func (r Root) USBDevice(bus, address int) (d Device, ok bool) {
	dir := r.USBDir(bus, address)
	if dir == "" {
		return d, false
	}
	return read(filepath.Dir(dir), filepath.Base(dir))
}

// InterfaceDriver names the kernel driver that is bound to an interface of the
// device with this directory: "usbfs" when a process has claimed it, empty when
// it is free.
func InterfaceDriver(dir string, number uint8) string {
	if dir == "" {
		return ""
	}
	// Interfaces are PORT:CONFIGURATION.INTERFACE, in decimal.
	interfaces, _ := filepath.Glob(filepath.Join(dir, filepath.Base(dir)+":*."+strconv.Itoa(int(number))))
	for _, i := range interfaces {
		if driver := boundDriver(i); driver != "" {
			return driver
		}
	}
	return ""
}
