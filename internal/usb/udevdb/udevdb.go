// Package udevdb reads what udev has noted about USB devices: the outcome of its
// rules, which systemd acts on.
package udevdb

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/coreos/go-systemd/v22/unit"

	"openct/internal/usb/sysfs"
)

// Record is what udev knows of a device.
type Record struct {
	Exists bool
	Driver string   // OPENCT_DRIVER
	Wants  []string // services that serve it: of SYSTEMD_WANTS, templates with their instance, and OPENCT_UNIT
	Tagged bool     // systemd looks at it
}

// Read returns what udev has noted about a device; root is the file system's. Nodes of usbfs are character
// devices 189, 128 to a bus (Linux, Documentation/admin-guide/devices.txt).
func Read(root string, d sysfs.Device) Record {
	b, err := os.ReadFile(filepath.Join(root, fmt.Sprintf("run/udev/data/c189:%d", (d.Bus-1)*128+d.Address-1)))
	if err != nil {
		return Record{}
	}
	r := Record{Exists: true}
	var tags, current []string
	for _, line := range strings.Split(string(b), "\n") {
		kind, value, ok := strings.Cut(line, ":")
		if !ok {
			continue
		}
		switch kind {
		case "G":
			tags = append(tags, value)
		case "Q": // the tags of the last event, since systemd 247
			current = append(current, value)
		case "E":
			name, value, _ := strings.Cut(value, "=")
			switch name {
			case "OPENCT_DRIVER":
				r.Driver = value
			case "SYSTEMD_WANTS":
				r.Wants = append(r.Wants, wants(root, d, value)...)
			case "OPENCT_UNIT": // what our rule asked for once, and does not at each event
				r.Wants = append(r.Wants, value)
			}
		}
	}
	if current != nil {
		tags = current
	}
	slices.Sort(r.Wants)
	r.Wants = slices.Compact(r.Wants)
	r.Tagged = slices.Contains(tags, "systemd")
	return r
}

// wants are the services of a SYSTEMD_WANTS property. A template without an
// instance gets the device's place in sysfs (systemd.device(5)).
func wants(root string, d sysfs.Device, value string) []string {
	var units []string
	for _, name := range strings.Fields(value) {
		if !strings.HasSuffix(name, ".service") {
			continue // smartcard.target
		}
		if prefix, ok := strings.CutSuffix(name, "@.service"); ok {
			place, err := filepath.EvalSymlinks(filepath.Join(root, "sys/bus/usb/devices", d.Name))
			if err != nil {
				continue
			}
			place = "/" + strings.TrimPrefix(place, strings.TrimSuffix(root, "/")+"/")
			name = prefix + "@" + unit.UnitNamePathEscape(place) + ".service"
		}
		units = append(units, name)
	}
	return units
}
