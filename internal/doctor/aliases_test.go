package doctor

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

// A name without a device is no warning: the token may be in a drawer.
func TestAliases(t *testing.T) {
	m := newMachine(t)
	m.write("etc/openct.conf", "reader office { id = usb:0529/0600; };\nreader spare { port = 1-2; };\nreader other { serial = \"4711\"; };")
	m.plug("1-1", "1", "0529", "0600", "ff", "usbfs")
	m.plug("1-2", "2", "0529", "0600", "ff", "usbfs") // office as well, by the first statement
	m.plug("1-3", "3", "04b9", "1300", "ff", "usbfs")
	m.write("sys/devices/pci0000:00/usb1/1-3/serial", "4711\n")
	conf := m.root + "/etc/openct.conf"
	f := m.gather(silent)
	want := []Finding{
		{Level: OK, Text: "the device at port 1-1 is named office by " + conf + ":1"},
		{Level: OK, Text: "the device that " + conf + ":2 names spare is not plugged in"},
		{Level: OK, Text: "the device at port 1-3 is named other by " + conf + ":3"},
	}
	if diff := cmp.Diff(want, checkAliases(f)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if len(f.Configured) != 0 {
		t.Errorf("configured readers: %+v", f.Configured)
	}
}
