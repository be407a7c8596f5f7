package main

import (
	"bytes"
	"fmt"

	"openct/internal/driver"
)

const mdevHeader = `# Lines for /etc/mdev.conf, before those that match all: BusyBox's mdev gives the
# tokens' nodes to group openctd and has each token served that is plugged in while
# OpenCT is started. "openct-control watch" does without them; see no-systemd.md.
# Made from the driver table by "go generate"; do not edit. A device that only
# openct.conf names needs a line like these; readers of the smart card class have
# none, as pcscd may have them.
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
