package usb

import "fmt"

// A device's usbfs node is a character device 189:N with N = (bus-1)*128 +
// address-1 (Linux, include/linux/usb.h, USB_DEVICE_MAJOR; drivers/usb/core/usb.c).
const (
	NodeMajor     = 189
	nodesOfOneBus = 128
)

// nodeDir is where usbfs has the nodes.
const nodeDir = "/dev/bus/usb"

// NodePath is the node of the device at bus and address.
func NodePath(bus, address int) string { return fmt.Sprintf("%s/%03d/%03d", nodeDir, bus, address) }

// NodeMinor is the minor number of a device's node.
func NodeMinor(bus, address int) int { return (bus-1)*nodesOfOneBus + address - 1 }

// NodePlace is the place of the device whose node has the minor number.
func NodePlace(minor int) (bus, address int) { return minor/nodesOfOneBus + 1, minor%nodesOfOneBus + 1 }
