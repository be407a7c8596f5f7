package doctor

import (
	"fmt"
	"path"
	"slices"
	"strings"

	"openct/internal/cli"
	"openct/internal/config"
)

// entries is how many readers the status file has room for.
const entries = 16

func checkConfig(f *Facts) []Finding {
	c := f.Config
	var all []Finding
	switch {
	case c.Err != "":
		all = found(Fail, "correct "+c.File+" at the line that the message names", "%s", c.Err)
	case c.Missing:
		all = fine("%s does not exist: the defaults apply", c.File)
	case len(c.Warnings) == 0:
		all = fine("%s has no errors", c.File)
	}
	for _, w := range c.Warnings {
		next := "correct " + c.File + " at this line"
		if len(c.NotYet) > 0 && strings.Contains(w, config.ErrUnknownDriver.Error()) {
			next += "; ifdhandler -i lists the drivers; these drivers of C OpenCT do not exist here: " + strings.Join(c.NotYet, ", ")
		}
		all = append(all, found(Warn, next, "%s", w)...)
	}
	for _, n := range c.Notes {
		all = append(all, fine("%s", n)...)
	}
	for _, u := range c.Unread {
		all = append(all, found(Warn, fmt.Sprintf("move what is needed from %s to %s, and remove %s", u, c.File, u),
			"%s is not read; the file that is read is %s", u, c.File)...)
	}
	return all
}

func checkDirectory(f *Facts) []Finding {
	d := f.Dir
	named := ""
	if d.FromEnv {
		named = " (named by OPENCT_SOCKETDIR)"
	}
	switch {
	case d.Missing && d.FromEnv:
		return found(Fail, "make the directory "+d.Path+", or unset OPENCT_SOCKETDIR", "the directory %s does not exist%s", d.Path, named)
	case d.Missing && f.Systemd:
		return found(Fail, "systemd-tmpfiles --create openct.conf", "the directory %s does not exist", d.Path)
	case d.Missing:
		return found(Fail, "as root: openct-control init", "the directory %s does not exist", d.Path)
	case d.Err != "":
		return found(Fail, "correct "+d.Path, "%s", d.Err)
	}
	return fine("%s%s belongs to %s, group %s, mode %04o", d.Path, named, d.Owner, d.Group, d.Mode)
}

func checkAccess(f *Facts) []Finding {
	d, c := f.Dir, f.Caller
	switch {
	case d.Missing || d.Err != "":
		return nil // told already
	case d.MayEnter:
		return fine("you (%s) may use the readers in %s", c.Name, d.Path)
	case c.IsMember && !c.InGroup:
		return found(Fail, "log out and in again (or, for one shell: newgrp "+d.Group+")",
			"you (%s) are a member of group %s, but your session began before you became one", c.Name, d.Group)
	case d.Mode&0o010 != 0 && d.Group != "root":
		return found(Fail, fmt.Sprintf("as root: usermod -aG %s %s; then log out and in again", d.Group, c.Name),
			"you (%s) are not in group %s, whose members may use the readers", c.Name, d.Group)
	}
	return found(Fail, "in openct.conf, socket { group = scard; dir-mode = 0750; }; then restart OpenCT",
		"only %s may use the readers: %s has mode %04o", d.Owner, d.Path, d.Mode)
}

// start is how to start OpenCT here.
func (f *Facts) start() string {
	if f.Systemd && f.Service.Load == "loaded" {
		return "systemctl start openct.service"
	}
	return "openct-control init"
}

func checkStarted(f *Facts) []Finding {
	switch {
	case f.Dir.Missing || f.Dir.Err != "" || f.Status.Unknown:
		return nil
	case f.Status.Missing:
		return found(Fail, f.start(), "OpenCT is not started: there is no status file in %s", f.Dir.Path)
	case f.Status.Err != "":
		return found(Fail, "openct-control init", "%s", f.Status.Err)
	}
	n := 0
	for _, r := range f.Readers {
		if r.Alive {
			n++
		}
	}
	return fine("OpenCT is started: %d of %d reader numbers are in use", n, entries)
}

func checkService(f *Facts) []Finding {
	s := f.Service
	if !f.Systemd {
		return checkHotplug(f)
	}
	switch {
	case s.Load == "":
		return nil // it did not answer
	case s.Load == "not-found":
		return found(Warn, "install openct.service and openct-handler@.service (make install), then: systemctl daemon-reload",
			"systemd has no unit file for openct.service: OpenCT is not started at boot")
	case s.Load == "masked":
		return found(Warn, "systemctl unmask openct.service", "openct.service is masked")
	case s.Load != "loaded":
		return found(Warn, "systemctl status openct.service", "openct.service cannot be loaded (%s)", s.Load)
	case s.Active == "failed":
		return found(Fail, "journalctl -u openct.service -n 20", "openct.service has failed (%s)", s.Result)
	case s.Active != "active":
		return found(Warn, "systemctl enable --now openct.service", "openct.service is %s", s.Active)
	}
	return fine("openct.service is active")
}

// noSystemdRules is a file that does nothing where systemd runs
// (packaging/udev).
const noSystemdRules = "61-openct-no-systemd.rules"

// checkHotplug looks for the program that starts handlers where systemd does not run.
func checkHotplug(f *Facts) []Finding {
	var all []Finding
	for _, p := range f.Watch {
		all = append(all, fine("%s starts a handler for each device that is plugged in; systemd does not run here", p)...)
	}
	runs := slices.IndexFunc(f.Rules.current(), func(r RulesFile) bool { return r.Runs > 0 })
	switch {
	case len(all) > 0:
		return all
	case f.Rules.Running && runs >= 0:
		return fine("udev starts a handler for each device that is plugged in (%s); systemd does not run here", f.Rules.current()[runs].Path)
	case f.Mdev:
		return fine("mdev, if it runs, starts a handler for each device that is plugged in (/etc/mdev.conf); systemd does not run here")
	case f.Config.Hotplug:
		return found(Warn, "openct-control init", "no program starts a handler for a device that is plugged in: neither systemd nor openct-control watch runs here")
	}
	return found(Warn, "in "+f.Config.File+", hotplug = yes; then: openct-control init",
		"no program starts a handler for a device that is plugged in: neither systemd nor openct-control watch runs here")
}

// install is how to get the rules there.
const install = "install 60-openct.rules (make install), then: udevadm control --reload"

// current are the files that have an effect.
func (r Rules) current() []RulesFile {
	return slices.DeleteFunc(slices.Clone(r.Files), func(f RulesFile) bool { return f.Masked != "" })
}

// restartUdev makes udev read its rules anew. One that names a group that was
// not there is kept without it, and "udevadm control --reload" reads only files
// that have changed (systemd 252, src/udev/udev-rules.c).
const restartUdev = "systemctl restart systemd-udevd.service"

func checkRules(f *Facts) []Finding {
	if !f.Rules.Running {
		return fine("udev does not run here")
	}
	var all []Finding
	var paths []string
	for _, r := range f.Rules.Files {
		switch {
		case r.Masked != "" && r.Starts:
			all = append(all, found(Warn, "remove "+r.Masked+", then: udevadm control --reload",
				"%s has no effect: udev reads %s in its place", r.Path, r.Masked)...)
		case r.Masked != "":
		case r.Runs > 0 && f.Systemd && path.Base(r.Path) != noSystemdRules:
			all = append(all, found(Warn, fmt.Sprintf("in %s, use SYSTEMD_WANTS in place of RUN, as 60-openct.rules does", r.Path),
				"%s:%d starts handlers with RUN: udev kills them after the event", r.Path, r.Runs)...)
		case r.NoSuch:
			all = append(all, found(Fail, "systemd-sysusers (or, as root: groupadd --system "+r.Group+"); then: "+restartUdev+"; then unplug the tokens and plug them in again",
				"%s assigns the nodes of tokens to group %s, which does not exist", r.Path, r.Group)...)
		default:
			paths = append(paths, r.Path)
		}
	}
	if len(paths) > 0 {
		all = append(all, fine("udev rules: %s", strings.Join(paths, ", "))...)
	}
	if len(all) == 0 && !f.Systemd {
		return fine("no udev rule for OpenCT is installed")
	}
	if len(all) == 0 {
		all = found(Warn, install, "no udev rule for OpenCT is installed: no handler is started for a device that is plugged in")
	}
	return all
}

// checkReaders looks at readers that are not on USB, or whose device is not
// known.
func checkReaders(f *Facts) []Finding {
	var all []Finding
	for i := range f.Readers {
		r := &f.Readers[i]
		if !r.Alive || f.served(r) {
			continue
		}
		if r.SocketErr != "" {
			all = append(all, found(Fail, r.serveAgain("attach the reader again"),
				"the handler of reader %d (%s), process %d, does not answer: %s", r.Index, r.Name, r.PID, r.SocketErr)...)
			continue
		}
		all = append(all, fine("the handler of reader %d (%s), process %d, answers on %s", r.Index, r.Name, r.PID, r.Socket)...)
	}
	return all
}

// serveAgain is what to do about a handler that does not answer. Root may be told to
// end a process only if that is proven to be a handler.
func (r *Reader) serveAgain(attach string) string {
	switch {
	case r.Unit != "":
		return "systemctl restart " + cli.Quote(r.Unit)
	case r.Proven:
		return fmt.Sprintf("kill %d; %s", r.PID, attach)
	}
	return "openct-control shutdown; openct-control init"
}

// served says whether a reader is that of one of the devices, or of openct.conf.
func (f *Facts) served(r *Reader) bool {
	return slices.ContainsFunc(f.Devices, func(d Device) bool { return d.Reader == r }) ||
		slices.ContainsFunc(f.Configured, func(c Configured) bool { return c.Reader == r })
}

func checkRoom(f *Facts) []Finding {
	alive := 0
	for _, r := range f.Readers {
		if r.Alive {
			alive++
		}
	}
	if alive < entries {
		return nil
	}
	for i := range f.Devices {
		if d := &f.Devices[i]; d.Ours() && d.Reader == nil {
			return found(Fail, "unplug a device, or stop the unit of one: systemctl stop openct-handler@...",
				"all %d reader numbers are in use, and none is free for the device at port %s", entries, d.Port)
		}
	}
	return nil
}

func checkStale(f *Facts) []Finding {
	var all []Finding
	for _, r := range f.Readers {
		if !r.Alive {
			all = append(all, found(Warn, "openct-control init (removes the entry; other readers are not interrupted)",
				"the handler of reader %d (%s), process %d, has crashed: its entry in the status file is left", r.Index, r.Name, r.PID)...)
		}
	}
	return all
}

func checkPrograms(f *Facts) []Finding {
	var all []Finding
	for _, p := range f.Others {
		switch {
		case p.Name != "pcscd":
			all = append(all, fine("%s runs, and may open the same devices", p)...)
		case !f.Bundle:
			all = append(all, fine("%s runs, but the PC/SC driver for OpenCT's readers is not installed (package openct-pcsc)", p)...)
		case slices.Contains(f.ShutOut, p):
			all = append(all, found(Warn, "systemctl edit pcscd.service, add [Service] and SupplementaryGroups="+f.Dir.Group+"; then: systemctl restart pcscd.service",
				"%s may not open the sockets in %s: PC/SC programs see no card in OpenCT's readers", p, f.Dir.Path)...)
		default:
			all = append(all, fine("%s runs with the PC/SC driver for OpenCT's readers", p)...)
		}
	}
	return all
}

func checkPlugged(f *Facts) []Finding {
	if len(f.Configured) > 0 {
		return nil // there need not be a token
	}
	for _, r := range f.Readers {
		if r.Alive {
			return nil
		}
	}
	var strangers []string
	for i := range f.Devices {
		d := &f.Devices[i]
		if d.Driver != "" || d.DriverErr != "" {
			return nil
		}
		strangers = append(strangers, d.ID())
	}
	next := "plug the token in; lsusb must list it"
	if len(strangers) > 0 {
		next += fmt.Sprintf(" (if the token is %s: openct.conf can assign it to a driver)", strings.Join(strangers, " or "))
	}
	return found(Warn, next, "no device with an OpenCT driver is plugged in")
}
