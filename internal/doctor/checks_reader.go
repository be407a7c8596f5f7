package doctor

import (
	"fmt"
	"strings"
	"time"

	"openct/internal/cli"
)

// served says whether a living handler has the reader.
func (c *Configured) served() bool { return c.Reader != nil && c.Reader.Alive }

// there says whether the reader has what it needs to be served: its node, if it is
// one.
func (c *Configured) there() bool { return c.Node == nil || !c.Node.Missing }

func checkReaderDevice(_ *Facts, c *Configured) []Finding {
	switch {
	case c.Same != "":
		return found(Fail, fmt.Sprintf("remove one of the two from %s", file(c.Where)),
			"%s is also the device of reader %s, which names it by another path", c.Device, c.Same)
	case !c.there() && strings.HasPrefix(c.Device, "/dev/serial/"):
		return found(Warn, fmt.Sprintf("plug in the reader's adapter, or correct the device at %s; ls %s lists the adapters that are plugged in", c.Where, parent(c.Device)),
			"the device %s does not exist; the reader (driver %s) starts when it appears", c.Device, c.Driver)
	case !c.there() && !strings.HasPrefix(c.Device, "/dev/"):
		return found(Warn, fmt.Sprintf("start the program that makes this link to a serial line, such as openct-line@.service of openct(7), or correct the device at %s", c.Where),
			"the device %s does not exist; the reader (driver %s) starts when it appears", c.Device, c.Driver)
	case !c.there():
		return found(Warn, fmt.Sprintf("plug in the reader's adapter, or correct the device at %s", c.Where),
			"the device %s does not exist; the reader (driver %s) starts when it appears", c.Device, c.Driver)
	}
	return fine("driver %s, device %s (%s)", c.Driver, c.Device, c.Where)
}

// file is FILE of FILE:LINE.
func file(where string) string { return where[:max(0, strings.LastIndexByte(where, ':'))] }

func parent(path string) string { return path[:strings.LastIndexByte(path, '/')] }

// modemRule keeps ModemManager off a serial adapter.
const modemRule = `exclude the adapter from ModemManager: ENV{ID_MM_PORT_IGNORE}="1" in a udev rule (openct(7) has an example)`

func checkReaderHolder(f *Facts, c *Configured) []Finding {
	var all []Finding
	if c.Getty.Active == "active" {
		all = append(all, found(Fail, "systemctl disable --now "+c.Getty.Name+"; and remove console=... for the device from the kernel's command line",
			"%s runs a login prompt on the device", c.Getty.Name)...)
	}
	for _, p := range c.Holders {
		switch {
		case p.Name == "ModemManager":
			all = append(all, found(Fail, modemRule+"; then: systemctl restart ModemManager.service", "%s has the device open", p)...)
		case strings.HasSuffix(p.Name, "getty") && len(all) > 0:
		default:
			all = append(all, found(Fail, fmt.Sprintf("end %s", p), "%s has the device open", p)...)
		}
	}
	if len(all) == 0 && f.ModemManager != nil && c.Node != nil && c.there() && !c.noModem {
		return found(Warn, modemRule, "%s runs, and may open the device as a modem", f.ModemManager)
	}
	return all
}

func checkReaderNode(_ *Facts, c *Configured) []Finding {
	n := c.Node
	if n == nil || n.Missing {
		return nil
	}
	user := n.User
	if user == "" {
		user = "you"
	}
	switch {
	case n.UserMay:
		return fine("%s belongs to %s, group %s, mode %04o: %s may open the node", n.Path, n.Owner, n.Group, n.Mode, user)
	case c.served():
		return fine("%s belongs to %s, group %s, mode %04o: the handler has the node open", n.Path, n.Owner, n.Group, n.Mode)
	case c.Unit.Load != "" && n.Group != "root":
		return found(Fail, "systemctl restart openct.service, which asks for the node's group",
			"%s belongs to %s, group %s, mode %04o: %s, the user of %s, may not open the node", n.Path, n.Owner, n.Group, n.Mode, user, c.Unit.Name)
	case c.Unit.Load != "":
		return found(Fail, fmt.Sprintf("assign the node to a group, in /etc/udev/rules.d/59-openct.rules: SUBSYSTEM==\"tty\", KERNEL==\"%s\", GROUP=\"openctd\", MODE=\"0660\"; then: udevadm control --reload; udevadm trigger --action=change %s",
			base(n.Path), n.Path),
			"%s belongs to %s, group %s, mode %04o: %s, the user of %s, may not open the node", n.Path, n.Owner, n.Group, n.Mode, user, c.Unit.Name)
	}
	return found(Warn, fmt.Sprintf("run openct-control as root, or as a user who may open %s", n.Path),
		"%s belongs to %s, group %s, mode %04o: %s may not open the node", n.Path, n.Owner, n.Group, n.Mode, user)
}

func base(path string) string { return path[strings.LastIndexByte(path, '/')+1:] }

func checkReaderUnit(_ *Facts, c *Configured) []Finding {
	u := c.Unit
	switch {
	case u.Load == "":
		return nil // no systemd, or it did not answer
	case u.Load == "not-found":
		return found(Fail, "install openct-reader@.service (make install), then: systemctl restart openct.service", "systemd has no unit file for %s", u.Name)
	case c.Stale:
		return found(Warn, "systemctl restart openct.service", "openct.conf has changed since systemd read the unit %s", u.Name)
	case u.Active == "inactive" && !c.there():
		return fine("%s is inactive until the device appears", u.Name)
	case u.Active == "inactive" && !c.served():
		return found(Fail, "systemctl start "+cli.Quote(u.Name), "%s is inactive (%s), though the device exists", u.Name, u.Result)
	}
	return unitFinding(u, c.served())
}

func checkReaderServed(f *Facts, c *Configured) []Finding {
	if !c.there() || f.Status.Unknown || f.Status.Missing || f.Status.Err != "" || f.Dir.Missing || f.Dir.Err != "" {
		return nil // told already
	}
	attach := "openct-control attach --reader " + cli.Quote(c.Name)
	if !c.served() && c.Far != nil && (c.Unit.Active == "active" || c.Waiting != nil) {
		return c.farAway()
	}
	if !c.served() {
		next := attach
		if c.Unit.Load == "loaded" {
			next = "systemctl restart " + cli.Quote(c.Unit.Name)
		}
		return found(Fail, next, "no handler serves the device")
	}
	r := c.Reader
	if r.SocketErr != "" {
		return found(Fail, r.serveAgain(attach), "the handler of the device (process %d, reader %d) does not answer: %s", r.PID, r.Index, r.SocketErr)
	}
	return fine("the handler of the device (process %d, reader %d) answers on %s", r.PID, r.Index, r.Socket)
}

func checkReaderError(f *Facts, c *Configured) []Finding {
	if !c.served() || c.Reader.LastError == "" {
		return nil
	}
	ago := f.Now.Sub(c.Reader.ErrorTime).Round(time.Second)
	if ago > recent {
		return fine("the reader's last error, %v ago: %s", ago, c.Reader.LastError)
	}
	return found(Warn, fmt.Sprintf("check that a card is inserted the right way round and that the clock at %s is the reader's; then: openct-tool -r %d atr", c.Where, c.Reader.Index),
		"the reader's last error, %v ago: %s", ago, c.Reader.LastError)
}

func checkReaderCard(_ *Facts, c *Configured) []Finding {
	switch {
	case !c.served() || c.Reader.SocketErr != "" || !c.Reader.Empty:
		return nil
	case !c.NoSwitch && (c.Driver == "phoenix" || c.Driver == "smartmouse"):
		return fine("the card switch (CTS) says that no card is inserted; if one is, set switch = off at %s", c.Where)
	}
	return fine("no card is inserted")
}
