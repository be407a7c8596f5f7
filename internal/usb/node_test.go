package usb

import "testing"

func TestNode(t *testing.T) {
	for _, tt := range []struct {
		name                string
		bus, address, minor int
		path                string
	}{
		{"the first", 1, 1, 0, "/dev/bus/usb/001/001"},
		{"the last of a bus", 1, 127, 126, "/dev/bus/usb/001/127"},
		{"another bus", 3, 2, 257, "/dev/bus/usb/003/002"},
		{"a bus of four digits", 1000, 4, 127875, "/dev/bus/usb/1000/004"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := NodeMinor(tt.bus, tt.address); got != tt.minor {
				t.Errorf("minor %d, want %d", got, tt.minor)
			}
			if bus, address := NodePlace(tt.minor); bus != tt.bus || address != tt.address {
				t.Errorf("place %d, %d", bus, address)
			}
			if got := NodePath(tt.bus, tt.address); got != tt.path {
				t.Errorf("path %s, want %s", got, tt.path)
			}
		})
	}
}
