package main

import (
	"bytes"
	"fmt"

	"openct/internal/driver"
)

const udevHeader = `# USB tokens and readers that OpenCT serves: permissions, and a unit to serve
# them. Made from the driver table by "go generate"; do not edit.
#
# A device that is not listed here is added by a line in openct.conf (see
# openct.conf(5)) and a rule in /etc/udev/rules.d/59-openct.rules:
#
#   SUBSYSTEM=="usb", ENV{DEVTYPE}=="usb_device", ATTR{idVendor}=="1234", \
#     ATTR{idProduct}=="5678", ENV{OPENCT_DRIVER}="etoken64"
#
# and one that OpenCT shall leave alone by ENV{OPENCT_DRIVER}="none" there.
#
# There is no match for ACTION=="add" here on purpose: a device sends "bind"
# and "change" as well, and what is not set again in the last event is lost.

ACTION=="remove", GOTO="openct_end"
# The CardMan Mobile 4000, a PCMCIA card (until Linux 6.3). openct.conf names it, and
# its unit runs as openctd.
SUBSYSTEM=="cardman_4000", GROUP:="openctd", MODE:="0660"
SUBSYSTEM!="usb", GOTO="openct_end"
ENV{DEVTYPE}!="usb_device", GOTO="openct_end"
# Lent to another machine by USB/IP: what serves it is there.
DRIVER=="usbip-host", GOTO="openct_end"
ENV{OPENCT_DRIVER}=="none", GOTO="openct_end"
ENV{OPENCT_DRIVER}=="?*", GOTO="openct_ask"

`

const udevFooter = `
# The table stands as long as openct.conf does not change it: then openct-control
# init leaves this file, and udev asks about these devices as well.
ENV{OPENCT_DRIVER}=="?*", TEST!="/run/openct/udev-ask", GOTO="openct_ours"
ENV{OPENCT_DRIVER}=="?*", GOTO="openct_ask"
# Readers of the smart card class.
ENV{ID_USB_INTERFACES}=="*:0b????:*", GOTO="openct_ask"
GOTO="openct_end"

# openct.conf has the last word: openct-control prints OPENCT_DRIVER (or "none")
# and, where pcscd is to leave the device alone, PCSCLITE_IGNORE.
LABEL="openct_ask"
# The answer to "add" holds for the "bind" that follows it at once.
ACTION=="bind", IMPORT{db}="PCSCLITE_IGNORE"
ACTION=="bind", IMPORT{db}="OPENCT_DRIVER", GOTO="openct_answered"
IMPORT{program}="/usr/sbin/openct-control udev $env{BUSNUM}-$env{DEVNUM}"
LABEL="openct_answered"
ENV{OPENCT_DRIVER}=="", GOTO="openct_end"
ENV{OPENCT_DRIVER}=="none", GOTO="openct_end"

LABEL="openct_ours"
# Access to the token is access to /run/openct; the node itself is the
# handler's alone. Final (:=), as libccid gives every reader to pcscd later.
GROUP:="openctd", MODE:="0660", ENV{ID_SMARTCARD_READER}="1"
# Over a suspend the token loses power and forgets; what comes back shall be
# plugged in anew, not taken for what it was.
TEST=="power/persist", ATTR{power/persist}="0"
TAG+="systemd"
# A device that changes is not plugged in anew: at such an event systemd starts
# what is wanted and does not run, even if somebody has stopped it.
ACTION=="change", IMPORT{db}="OPENCT_UNIT"
ENV{OPENCT_UNIT}=="", ENV{SYSTEMD_WANTS}+="openct-handler@$env{BUSNUM}-$env{DEVNUM}.service"
ENV{OPENCT_UNIT}="openct-handler@$env{BUSNUM}-$env{DEVNUM}.service"

LABEL="openct_end"
`

// udev makes 60-openct.rules, by which udev learns what OpenCT drives. For a token
// of the table the rules run no program. Readers of the smart card class have other
// drivers, too: they are OpenCT's when openct.conf says so ("ccid"), and left to
// pcscd otherwise.
func udev(table []driver.Entry) []byte {
	var b bytes.Buffer
	b.WriteString(udevHeader)
	for _, e := range table {
		if len(e.IDs) == 0 {
			continue
		}
		fmt.Fprintf(&b, "# %s\n", e.Name)
		for _, id := range e.IDs {
			fmt.Fprintf(&b, "ATTR{idVendor}==\"%04x\", ATTR{idProduct}==\"%04x\", ", id.Vendor, id.Product)
			if e.Class != nil {
				b.WriteString("GOTO=\"openct_ask\"\n")
			} else {
				fmt.Fprintf(&b, "ENV{OPENCT_DRIVER}=%q\n", e.Name)
			}
		}
	}
	b.WriteString(udevFooter)
	return b.Bytes()
}
