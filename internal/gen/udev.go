package main

import (
	"bytes"
	"fmt"

	"openct/internal/driver"
)

const udevHeader = `# Permissions and systemd units of the USB tokens and readers that OpenCT serves.
# "go generate" makes this file from the driver table; do not edit it.
#
# A device that is not listed here is added by a line in openct.conf (see
# openct.conf(5)) and a rule in /etc/udev/rules.d/59-openct.rules:
#
#   SUBSYSTEM=="usb", ENV{DEVTYPE}=="usb_device", ATTR{idVendor}=="1234", \
#     ATTR{idProduct}=="5678", ENV{OPENCT_DRIVER}="etoken64"
#
# A rule there with ENV{OPENCT_DRIVER}="none" is for a device that OpenCT shall not
# serve.
#
# These rules do not match ACTION=="add" alone: there are also the events "bind" and
# "change", and udev forgets a property that the rules do not set at the last event.

ACTION=="remove", GOTO="openct_end"
# The CardMan Mobile 4000, a PCMCIA card (until Linux 6.3). openct.conf names it, and
# its unit runs as openctd.
SUBSYSTEM=="cardman_4000", GROUP:="openctd", MODE:="0660"
SUBSYSTEM!="usb", GOTO="openct_end"
ENV{DEVTYPE}!="usb_device", GOTO="openct_end"
# The device is exported to another machine by USB/IP, which serves it.
DRIVER=="usbip-host", GOTO="openct_end"
ENV{OPENCT_DRIVER}=="none", GOTO="openct_end"
ENV{OPENCT_DRIVER}=="?*", GOTO="openct_ask"

`

const udevFooter = `
# The table above is valid unless openct.conf changes it: in that case
# openct-control init makes udev-ask, and udev runs openct-control for these devices
# as well.
ENV{OPENCT_DRIVER}=="?*", TEST!="/run/openct/udev-ask", GOTO="openct_ours"
ENV{OPENCT_DRIVER}=="?*", GOTO="openct_ask"
# Readers of the smart card class.
ENV{ID_USB_INTERFACES}=="*:0b????:*", GOTO="openct_ask"
GOTO="openct_end"

# openct-control reads openct.conf, and prints OPENCT_DRIVER (the driver's name or
# "none") and, if pcscd has to ignore the device, PCSCLITE_IGNORE.
LABEL="openct_ask"
# At the event "bind", which follows "add" at once, the answer to "add" is used.
ACTION=="bind", IMPORT{db}="PCSCLITE_IGNORE"
ACTION=="bind", IMPORT{db}="OPENCT_DRIVER", GOTO="openct_answered"
IMPORT{program}="/usr/sbin/openct-control udev $env{BUSNUM}-$env{DEVNUM}"
LABEL="openct_answered"
ENV{OPENCT_DRIVER}=="", GOTO="openct_end"
ENV{OPENCT_DRIVER}=="none", GOTO="openct_end"

LABEL="openct_ours"
# Users get access to the token by /run/openct; the node itself is for the handler
# alone. The assignment is final (:=), because libccid's rules, which udev reads
# later, give every reader to pcscd.
GROUP:="openctd", MODE:="0660", ENV{ID_SMARTCARD_READER}="1"
# In a suspend the token may lose power, and with it the state of its card. So it has
# to count as plugged in anew after the resume.
TEST=="power/persist", ATTR{power/persist}="0"
TAG+="systemd"
# At a "change", SYSTEMD_WANTS is set only if it was not before: otherwise systemd
# would start a unit that somebody has stopped.
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
