package monitor

import (
	"os"
	"strings"

	"openct/internal/devname"
	"openct/internal/machine"
	"openct/internal/printable"
	"openct/internal/uevent"
)

// device is one that OpenCT would serve, as an event without a kind.
type device = Event

// usbDevice describes one; ok is false for one that is not OpenCT's.
func (m *monitor) usbDevice(d machine.Device) (device, bool) {
	driver, id, ok := m.USB(d)
	if !ok {
		return device{}, false
	}
	name := printable.Line(strings.TrimSpace(d.Manufacturer + " " + d.Model))
	return device{Name: name, Driver: driver, ID: id, Device: d.Node(), Port: d.Name, Serial: printable.Line(d.Serial)}, true
}

// scan tells what has been plugged in, and what has left, since the last look at all
// devices. At the beginning, devices with a reader are not told of a second time.
func (m *monitor) scan() {
	there := map[string]device{}
	devices, err := m.Root.USBDevices()
	if err != nil {
		m.Blind(err)
	}
	for _, d := range devices {
		if found, ok := m.usbDevice(d); ok {
			there[found.Device] = found
		}
	}
	for node, driver := range m.Lines() {
		if m.Root.Exists(node) {
			there[node] = device{Driver: driver, Device: node}
		}
	}
	for node := range m.devices {
		if _, ok := there[node]; !ok {
			m.left(node)
		}
	}
	for _, d := range there {
		m.came(d)
	}
}

// plug takes an event of the kernel.
func (m *monitor) plug(e uevent.Event) {
	if e.Node == "" {
		return
	}
	node := "/dev/" + e.Node
	switch {
	case e.Action == "remove":
		m.left(node)
	case e.Action != "add":
	case e.Subsystem == "usb" && e.DevType == "usb_device":
		t, err := devname.Parse([]string{node}, os.DirFS(m.Root.Path("/")))
		if err != nil {
			return
		}
		d, ok := m.Root.USBDevice(t.Bus, t.Dev)
		if !ok {
			return // it has left already
		}
		if found, ok := m.usbDevice(d); ok {
			m.came(found)
		}
	default:
		if driver, ok := m.Lines()[node]; ok {
			m.came(device{Driver: driver, Device: node})
		}
	}
}

func (m *monitor) came(d device) {
	if _, known := m.devices[d.Device]; known {
		return
	}
	m.devices[d.Device] = d
	if n, _ := m.at(d.Device); n >= 0 {
		return // its reader has been told of
	}
	d.Event = Plugged
	m.emit(d)
}

func (m *monitor) left(node string) {
	d, known := m.devices[node]
	n, f := m.at(node)
	if f != nil && f.unplugged || f == nil && !known {
		return
	}
	m.forget(node)
	d.Event, d.Device = Unplugged, node
	if f != nil {
		f.unplugged = true
		d = f.describe(f.event(n, Unplugged))
	}
	m.emit(d)
}

func (m *monitor) forget(node string) { delete(m.devices, node) }

// at is the reader at a device; -1 when there is none.
func (m *monitor) at(node string) (int, *followed) {
	for n, f := range m.readers {
		if f != nil && f.detail.Device == node {
			return n, f
		}
	}
	return -1, nil
}
