package machine

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/coreos/go-systemd/v22/unit"

	"openct/internal/usb"
)

// Record is what udev has noted about a device: the outcome of its rules, which
// systemd acts on.
type Record struct {
	Exists bool
	Driver string   // OPENCT_DRIVER
	Wants  []string // services that serve it: of SYSTEMD_WANTS, templates with their instance, and OPENCT_UNIT
	Tagged bool     // systemd looks at it
}

// Udev reads udev's record of a device.
func (r Root) Udev(d Device) Record {
	b, err := os.ReadFile(r.Path(fmt.Sprintf("run/udev/data/c%d:%d", usb.NodeMajor, usb.NodeMinor(d.Bus, d.Address))))
	if err != nil {
		return Record{}
	}
	rec := Record{Exists: true}
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
				rec.Driver = value
			case "SYSTEMD_WANTS":
				rec.Wants = append(rec.Wants, r.wants(d, value)...)
			case "OPENCT_UNIT": // what our rule asked for once, and does not at each event
				rec.Wants = append(rec.Wants, value)
			}
		}
	}
	if current != nil {
		tags = current
	}
	slices.Sort(rec.Wants)
	rec.Wants = slices.Compact(rec.Wants)
	rec.Tagged = slices.Contains(tags, "systemd")
	return rec
}

// TTYProperties are the properties that udev has noted about a terminal, by its
// name in /sys/class/tty.
func (r Root) TTYProperties(name string) map[string]string {
	properties := map[string]string{}
	number := Attribute(r.Path("sys/class/tty/"+name), "dev") // 188:0
	b, err := os.ReadFile(r.Path("run/udev/data/c" + number))
	if number == "" || err != nil {
		return properties
	}
	for line := range strings.Lines(string(b)) {
		if property, ok := strings.CutPrefix(line, "E:"); ok {
			key, value, _ := strings.Cut(strings.TrimSpace(property), "=")
			properties[key] = value
		}
	}
	return properties
}

// wants are the services of a SYSTEMD_WANTS property. A template without an
// instance gets the device's place in sysfs (systemd.device(5)).
func (r Root) wants(d Device, value string) []string {
	var units []string
	for _, name := range strings.Fields(value) {
		if !strings.HasSuffix(name, ".service") {
			continue // smartcard.target
		}
		if prefix, ok := strings.CutSuffix(name, "@.service"); ok {
			place, err := filepath.EvalSymlinks(filepath.Join(r.Path(usbDevices), d.Name))
			if err != nil {
				continue
			}
			place = "/" + strings.TrimPrefix(place, strings.TrimSuffix(string(r), "/")+"/")
			name = prefix + "@" + unit.UnitNamePathEscape(place) + ".service"
		}
		units = append(units, name)
	}
	return units
}
