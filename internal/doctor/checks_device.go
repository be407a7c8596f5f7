package doctor

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

func checkDriver(_ *Facts, d *Device) []Finding {
	name := d.ID()
	if d.Label != "" {
		name = fmt.Sprintf("%s (%s)", d.Label, d.ID())
	}
	switch {
	case d.Lent:
		return fine("%s is exported to another machine by USB/IP; usbip unbind --busid=%s takes it back", name, d.Port)
	case d.DriverErr != "":
		return found(Fail, "correct openct.conf; ifdhandler -i lists the drivers", "%s: %s", name, d.DriverErr)
	case d.Left != "":
		return fine("%s is left to %s, as all readers of the USB smart card class (option ccid in openct.conf)", name, d.Left)
	case d.Driver == "":
		return fine("%s has no OpenCT driver: no driver lists its id (openct.conf can assign the id to one)", name)
	}
	return fine("%s has driver %s (%s); the driver was verified by %s", name, d.Driver, d.Why, d.Verified)
}

// retrigger makes udev look at a device again.
func (d *Device) retrigger() string {
	return "udevadm trigger --action=add /sys/bus/usb/devices/" + d.Port + " (or unplug the device and plug it in again)"
}

func checkNode(f *Facts, d *Device) []Finding {
	n := d.Node
	if !d.Ours() {
		return nil
	}
	user := n.User
	if user == "" {
		user = "you"
	}
	switch {
	case n.Missing && f.Rules.Running:
		return found(Fail, "udevadm trigger --action=add /sys/bus/usb/devices/"+d.Port, "the device node %s does not exist", n.Path)
	case n.Missing:
		return found(Fail, "in a container: pass /dev/bus/usb to it; otherwise start udev", "the device node %s does not exist", n.Path)
	case n.UserMay:
		return fine("%s belongs to %s, group %s, mode %04o: %s may open the node", n.Path, n.Owner, n.Group, n.Mode, user)
	case d.Reader != nil && d.Reader.Alive:
		return fine("%s belongs to %s, group %s, mode %04o: the handler has the node open", n.Path, n.Owner, n.Group, n.Mode)
	}
	next := fmt.Sprintf("start the handler as root, or as a user who may open %s", n.Path)
	switch {
	case n.User == "" || !f.Rules.Running:
	case len(f.Rules.current()) == 0:
		next = install
	case f.groupLost(d):
		return found(Fail, restartUdev+"; then: "+d.retrigger(),
			"%s belongs to %s, group %s, mode %04o: %s may not open the node: udev read its rules before that group existed, and applies them without the group",
			n.Path, n.Owner, n.Group, n.Mode, user)
	default:
		next = d.retrigger()
	}
	return found(Fail, next, "%s belongs to %s, group %s, mode %04o: %s may not open the node", n.Path, n.Owner, n.Group, n.Mode, user)
}

// groupLost says whether udev has applied the rule to a device, but not the
// rule's group.
func (f *Facts) groupLost(d *Device) bool {
	return d.Udev.Driver != "" && d.Udev.Driver != "none" && slices.ContainsFunc(f.Rules.current(), func(r RulesFile) bool {
		return r.Group != "" && !r.NoSuch && r.Group != d.Node.Group
	})
}

func checkRecord(f *Facts, d *Device) []Finding {
	if !f.Rules.Running || !f.Systemd || !d.Ours() {
		return nil // without systemd nobody acts on it
	}
	level := Fail
	if d.Reader != nil && d.Reader.Alive {
		level = Warn // works until it is plugged in again
	}
	switch {
	case len(f.Rules.current()) == 0:
		return found(level, install, "udev has no rule for the device")
	case d.Udev.Driver == "none":
		return found(level, d.retrigger(), "udev's record excludes the device (OPENCT_DRIVER=none): so did openct.conf when the device was plugged in")
	case len(d.Udev.Wants) == 0:
		return found(level, d.retrigger(), "udev's record names no unit: the device was plugged in before the rule was installed, or no rule matches")
	case !d.Udev.Tagged:
		return found(level, "add TAG+=\"systemd\" to the rule that sets SYSTEMD_WANTS, then: "+d.retrigger(),
			"udev's record names %s, but lacks the tag \"systemd\": systemd does not start the unit", strings.Join(d.Udev.Wants, " "))
	}
	return fine("udev has systemd start %s", strings.Join(d.Udev.Wants, " "))
}

// served says whether a living handler has the device.
func (d *Device) served() bool { return d.Reader != nil && d.Reader.Alive }

func checkHolder(_ *Facts, d *Device) []Finding {
	if !d.Ours() || d.served() {
		return nil
	}
	var all []Finding
	for _, p := range d.Holders {
		var next string
		switch p.Name {
		case "pcscd":
			next = "pcsc = ignore in openct.conf, or, if PC/SC is not needed: systemctl stop pcscd.socket pcscd.service; then unplug the token and plug it in again"
		case "scdaemon":
			next = "gpgconf --kill scdaemon, and disable-ccid in ~/.gnupg/scdaemon.conf"
		default:
			next = fmt.Sprintf("end %s, or unplug the token and plug it in again", p)
		}
		all = append(all, found(Fail, next, "%s has the device open", p)...)
	}
	switch {
	case len(all) > 0:
	case d.Claimed:
		return found(Fail, "run openct-control doctor as root, which tells the program's name", "a program has claimed the device's interface")
	case d.Kernel != "":
		return found(Fail, fmt.Sprintf("keep the kernel driver from loading: echo 'blacklist %s' >/etc/modprobe.d/openct.conf; modprobe -r %s", d.Kernel, d.Kernel),
			"the kernel driver %s has claimed the device's interface", d.Kernel)
	}
	return all
}

func checkUnit(f *Facts, d *Device) []Finding {
	if !f.Systemd || !d.Ours() {
		return nil
	}
	var all []Finding
	for _, u := range d.Units {
		all = append(all, unitFinding(u, d.served())...)
	}
	return all
}

func unitFinding(u Unit, served bool) []Finding {
	level := Fail
	if served {
		level = Warn
	}
	switch {
	case u.Load == "":
		return nil
	case u.Load == "not-found":
		return found(level, "install openct-handler@.service (make install), then: systemctl daemon-reload", "systemd has no unit file for %s", u.Name)
	case u.Load == "masked":
		return found(level, "systemctl unmask "+u.Name, "%s is masked", u.Name)
	case u.Load != "loaded":
		return found(level, "systemctl status "+u.Name, "%s cannot be loaded (%s)", u.Name, u.Load)
	case u.Active == "active" && u.StatusText != "":
		return fine("%s: %s", u.Name, u.StatusText)
	case u.Active == "active":
		return fine("%s is active", u.Name)
	case u.Active == "failed":
		return found(level, fmt.Sprintf("journalctl -u %s -n 20 shows the error; when it is corrected: systemctl restart %s", u.Name, u.Name),
			"%s has failed (%s)", u.Name, u.Result)
	case u.Active == "activating":
		return found(level, "wait 30 seconds; if the unit is still starting then: journalctl -u "+u.Name+" -n 20", "%s is starting", u.Name)
	case served:
		return found(Warn, "openct-control shutdown; systemctl restart openct.service", "%s is %s: the handler was started outside the unit", u.Name, u.Active)
	}
	return found(Fail, "systemctl start "+u.Name, "%s was stopped (%s)", u.Name, u.Active)
}

func checkServed(f *Facts, d *Device) []Finding {
	if !d.Ours() || f.Status.Unknown || f.Status.Missing || f.Status.Err != "" || f.Dir.Missing || f.Dir.Err != "" {
		return nil // told already
	}
	if !d.served() {
		return found(Fail, "openct-control attach "+d.Instance(), "no handler serves the device")
	}
	r := d.Reader
	if r.SocketErr != "" {
		return found(Fail, r.serveAgain("openct-control attach "+d.Instance()), "the handler of the device (process %d, reader %d) does not answer: %s", r.PID, r.Index, r.SocketErr)
	}
	return fine("the handler of the device (process %d, reader %d) answers on %s", r.PID, r.Index, r.Socket)
}

// recent is how long ago an error may have been that is still worth a look.
const recent = 15 * time.Minute

func checkLastError(f *Facts, d *Device) []Finding {
	if !d.served() || d.Reader.LastError == "" {
		return nil
	}
	r := d.Reader
	ago := f.Now.Sub(r.ErrorTime).Round(time.Second)
	if ago > recent {
		return fine("the reader's last error, %v ago: %s", ago, r.LastError)
	}
	next := fmt.Sprintf("openct-tool -r %d mf; if that fails, unplug the token and plug it in again", r.Index)
	return found(Warn, next, "the reader's last error, %v ago: %s", ago, r.LastError)
}
