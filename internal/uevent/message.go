package uevent

import (
	"bytes"
	"strings"
)

// Event is what the kernel tells about one device.
type Event struct {
	Action    string // add, remove, change, bind ...
	Path      string // of the device below /sys: /devices/pci0000:00/.../1-2
	Subsystem string // usb, tty ...
	DevType   string // usb_device, usb_interface; empty where the subsystem has no types
	Node      string // below /dev: bus/usb/001/004, ttyUSB0; empty where there is none
}

// maxMessage bounds a message: its first line, and an environment that the
// kernel limits to 2048 bytes (UEVENT_BUFFER_SIZE in include/linux/kobject.h).
// What does not fit is not the kernel's.
const maxMessage = 8192

// parse reads a message: ACTION@DEVPATH, and then NAME=VALUE for each property,
// each ended by a zero byte (kobject_uevent_net_broadcast in lib/kobject_uevent.c).
// udev's own messages, which begin with "libudev", are none of these.
func parse(msg []byte) (Event, bool) {
	if len(msg) == 0 || len(msg) > maxMessage || msg[len(msg)-1] != 0 {
		return Event{}, false
	}
	head, properties, _ := bytes.Cut(msg[:len(msg)-1], []byte{0})
	action, path, ok := strings.Cut(string(head), "@")
	if !ok || action == "" || !strings.HasPrefix(path, "/") {
		return Event{}, false
	}
	e := Event{Action: action, Path: path}
	for line := range bytes.SplitSeq(properties, []byte{0}) {
		name, value, ok := strings.Cut(string(line), "=")
		switch name {
		case "ACTION":
			ok = value == action
		case "DEVPATH":
			ok = value == path
		case "SUBSYSTEM":
			e.Subsystem = value
		case "DEVTYPE":
			e.DevType = value
		case "DEVNAME":
			e.Node = value
		}
		if !ok {
			return Event{}, false // no property, or one that contradicts the first line
		}
	}
	return e, e.Subsystem != "" // the kernel tells no event of a device without it
}
