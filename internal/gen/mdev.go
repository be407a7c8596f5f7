package main

import (
	"bytes"
	"fmt"

	"openct/internal/driver"
)

const mdevHeader = `# Lines for /etc/mdev.conf, before those that match all devices. With them BusyBox's
# mdev gives the tokens' nodes to group openctd, and starts a handler for each token
# that is plugged in while OpenCT is started. "openct-control watch" does not need
# them; see no-systemd.md. "go generate" makes this file from the driver table; do not
# edit it. A device that only openct.conf names needs a line like these. Readers of the
# smart card class have none, because pcscd may serve them.
#
# PRODUCT is vendor/product/release in hexadecimal digits without leading zeros
# (usb_uevent in drivers/usb/core/driver.c).
`

// mdev is what BusyBox's mdev needs: its format knows no classes and no jumps.
func mdev(table []driver.Entry) []byte {
	var b bytes.Buffer
	b.WriteString(mdevHeader)
	for _, e := range table {
		if len(e.IDs) == 0 || e.Class != nil {
			continue
		}
		fmt.Fprintf(&b, "# %s\n", e.Name)
		for _, id := range e.IDs {
			fmt.Fprintf(&b, "DEVTYPE=usb_device;PRODUCT=%x/%x/.*;bus/usb/.* root:openctd 0660 "+
				"@[ ! -e /run/openct/status ] || /usr/sbin/openct-control attach /dev/$MDEV\n", id.Vendor, id.Product)
		}
	}
	return b.Bytes()
}
