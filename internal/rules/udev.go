// Package rules writes the rules by which udev learns what OpenCT drives. They
// come from the driver table, so that a driver is listed in one place only;
// internal/gen puts them where they belong.
package rules

import (
	"bytes"
	"fmt"
	"slices"
)

// Entry is one USB device that a driver takes.
type Entry struct {
	Vendor, Product uint16
	Driver          string // the driver's name, as in openct.conf
	Name            string // for people

	// OptIn is for readers that others can drive, too: they are served when
	// openct.conf says so ("ccid"), and left to pcscd otherwise.
	OptIn bool
}

const header = `# USB tokens and readers that OpenCT serves: permissions, and a unit to serve
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
SUBSYSTEM!="usb", GOTO="openct_end"
ENV{DEVTYPE}!="usb_device", GOTO="openct_end"
ENV{OPENCT_DRIVER}=="none", GOTO="openct_end"
ENV{OPENCT_DRIVER}=="?*", GOTO="openct_ask"

`

const footer = `
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

// Udev makes 60-openct.rules. The entries' order is kept.
func Udev(entries []Entry) []byte {
	var b bytes.Buffer
	b.WriteString(header)
	for _, group := range byDriver(entries) {
		fmt.Fprintf(&b, "# %s\n", group[0].Driver)
		for _, e := range group {
			fmt.Fprintf(&b, "ATTR{idVendor}==\"%04x\", ATTR{idProduct}==\"%04x\", ", e.Vendor, e.Product)
			if e.OptIn {
				b.WriteString("GOTO=\"openct_ask\"\n")
			} else {
				fmt.Fprintf(&b, "ENV{OPENCT_DRIVER}=%q\n", e.Driver)
			}
		}
	}
	b.WriteString(footer)
	return b.Bytes()
}

// byDriver groups entries by driver, in the order in which drivers appear.
func byDriver(entries []Entry) [][]Entry {
	var groups [][]Entry
	for _, e := range entries {
		i := slices.IndexFunc(groups, func(g []Entry) bool { return g[0].Driver == e.Driver })
		if i < 0 {
			groups = append(groups, nil)
			i = len(groups) - 1
		}
		groups[i] = append(groups[i], e)
	}
	return groups
}
