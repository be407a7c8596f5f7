package control

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"openct/internal/cli"
	"openct/internal/config"
	"openct/internal/daemon"
	"openct/internal/devname"
	"openct/internal/driver"
	"openct/internal/machine"
	"openct/internal/notify"
	"openct/internal/printable"
	"openct/internal/socket"
	"openct/internal/status"
	"openct/internal/usb"
	"openct/internal/usb/usbfs"
)

// Control is one run of openct-control.
type Control struct {
	ConfigFile string
	Config     *config.Config
	Debug      int
	Syslog     bool
	Dir        string   // of status file and sockets
	In         *os.File // what the user answers; nil: nobody can be asked
	Out, Err   io.Writer
	Terminal   io.Writer                // standard output without a filter, if it is a terminal; otherwise nil
	Openers    map[string]daemon.Opener // of USB devices, by type

	// Root is the file system's root, other than machine.Here in tests.
	Root machine.Root
}

// Init starts OpenCT: it makes the status file, then attaches the readers of
// the configuration in their order and, unless noColdplug, the USB devices that
// are plugged in. Where systemd does not do that for what is plugged in later, a
// process is started that watches for it. A reader that fails does not keep the
// others from starting.
func (c *Control) Init(noColdplug bool) error {
	if err := c.prepare(); err != nil {
		return err
	}
	if c.watches() {
		c.complain("hotplug", c.startWatch())
	}
	c.startReaders()
	if !noColdplug {
		if err := c.coldplug(); err != nil {
			return err
		}
	}
	if c.Config.Unknown {
		return cli.ErrExit(cli.ExitConfig) // openct.conf's warnings were printed
	}
	return nil
}

// prepare makes the directory and the status file ready.
func (c *Control) prepare() error {
	uid, gid, err := c.statusOwner()
	if err != nil {
		return err
	}
	if err := c.openDirectory(); err != nil {
		return c.explainInit(err)
	}
	if err := status.Init(c.Dir, status.Options{UID: uid, GID: gid}); err != nil {
		return c.explainInit(err)
	}
	c.complain("udev", c.tellUdev())
	return nil
}

// explainInit adds what to do about a directory that cannot be used.
func (c *Control) explainInit(err error) error {
	hint := ""
	switch {
	case errors.Is(err, unix.ENOENT):
		hint = fmt.Sprintf("make the directory: systemd-tmpfiles --create openct.conf (or: mkdir -m 755 %s)", c.Dir)
	case errors.Is(err, unix.EACCES), errors.Is(err, unix.EPERM):
		hint = "run openct-control as root, or as the owner of " + c.Dir
	case errors.Is(err, unix.EROFS):
		hint = fmt.Sprintf("make %s writable, or name another directory with %s", c.Dir, socket.EnvDir)
	case errors.Is(err, unix.ENOSPC), errors.Is(err, unix.EDQUOT):
		hint = "free space in the file system of " + c.Dir
	}
	if hint == "" {
		return err
	}
	return &cli.Hint{Err: err, Hint: hint}
}

// coldplug attaches what is plugged in and has a driver. What udev has handed to
// systemd gets its handler in a unit of its own.
func (c *Control) coldplug() error {
	devices, err := c.Root.USBDevices()
	if err != nil {
		return err
	}
	var units []string
	settled := false
	for _, d := range devices {
		choice, id, err := c.choose(d)
		if errors.Is(err, driver.ErrNoDriver) || err == nil && !choice.Ours() {
			continue
		}
		if c.isReleased(devname.Target{Path: d.Node()}) {
			continue
		}
		u := c.handedToSystemd(d)
		if u == nil && !settled {
			settled = true
			c.complain("udev", c.settle())
			u = c.handedToSystemd(d)
		}
		if u != nil {
			units = append(units, u...)
			continue
		}
		if err == nil {
			err = c.start(target(d, choice, id))
		}
		c.complain(d.Node(), err)
	}
	return startUnits(units)
}

// target is a plugged device as a handler's.
func target(d machine.Device, choice driver.Choice, id devname.ID) devname.Target {
	return devname.Target{Driver: choice.Entry.Name, ID: id, Type: "usb", Path: d.Node(), Bus: d.Bus, Dev: d.Address}
}

// say writes one line to standard error, without control characters.
func (c *Control) say(format string, args ...any) {
	fmt.Fprintln(c.Err, printable.Line(fmt.Sprintf(format, args...)))
}

func (c *Control) complain(what string, err error) {
	var exit cli.ErrExit
	if err != nil && !errors.As(err, &exit) {
		c.say("Error: %s: %v", what, err)
	}
}

// Attach serves the device that the operands name. Under systemd, which waits
// for a notification, this process is the handler; otherwise it starts one and
// returns when that is ready.
//
// When an event of udev's comes late, systemd starts the unit of a device that was
// unplugged already. The unit has not failed then.
func (c *Control) Attach(operands []string) error {
	t, err := devname.Parse(operands, os.DirFS(c.Root.Path("/")))
	if errors.Is(err, fs.ErrNotExist) && mainProcess() {
		c.say("%v: the device was unplugged", err)
		return nil
	}
	if err != nil {
		return err
	}
	return c.serve(t)
}

// AttachReader serves a reader of openct.conf, by the name that its unit has
// (config.Config.Instances).
func (c *Control) AttachReader(name string) error {
	r, ok := c.Config.ReaderNamed(name)
	if !ok {
		return &cli.Hint{
			Err:  fmt.Errorf("%s has no reader %q", c.ConfigFile, name),
			Hint: "openct-control check-config lists the errors in the file",
		}
	}
	t, err := r.Target()
	if err != nil {
		return err
	}
	return c.serve(t)
}

// serve attaches a device. If this process is the command of a unit, and the device
// was unplugged meanwhile, the unit has not failed.
func (c *Control) serve(t devname.Target) error {
	if r, is := status.ReleasedAt(c.Dir, c.Root.Path(t.Path)); is {
		return c.refuse(r)
	}
	err := c.attach(t)
	if err == nil || !mainProcess() || !strings.HasPrefix(t.Path, "/dev/") {
		return err
	}
	if _, serr := os.Stat(c.Root.Path(t.Path)); !errors.Is(serr, fs.ErrNotExist) {
		return err
	}
	// To systemd, a service that ends before it is ready has failed.
	notify.FromEnv(slog.New(slog.DiscardHandler)).Ready("unplugged")
	c.say("%s: the device was unplugged before its handler was ready", t.Path)
	return nil
}

// mainProcess says whether systemd itself started this process, as the command
// of a service (systemd.exec(5), $SYSTEMD_EXEC_PID).
func mainProcess() bool { return os.Getenv("SYSTEMD_EXEC_PID") == strconv.Itoa(os.Getpid()) }

func (c *Control) attach(t devname.Target) error {
	p := c.process(t)
	if notify.Supervised() {
		return p.Serve()
	}
	if t.Driver == "" {
		if err := c.identify(&t); err != nil {
			return daemon.Explain(err, t.Type)
		}
	}
	return c.start(t)
}

func (c *Control) process(t devname.Target) *daemon.Process {
	return &daemon.Process{
		Target: t, Config: c.Config, ConfigFile: c.ConfigFile, Debug: max(c.Debug, c.Config.Debug), Syslog: c.Syslog,
		Openers: c.Openers, Stderr: c.Err,
	}
}

// identify looks at a device for its id and the driver's name.
func (c *Control) identify(t *devname.Target) error {
	desc, err := c.descriptor(*t)
	if err != nil {
		return err
	}
	if err := daemon.Expected(*t, desc); err != nil {
		return err
	}
	choice, err := driver.Pick(desc, c.Config)
	if err != nil {
		return fmt.Errorf("%s: %w", t.Path, err)
	}
	t.Driver, t.ID = choice.Entry.Name, devname.USBID(desc.Vendor, desc.Product, desc.Release)
	return nil
}

// descriptor is the device's own account. The handler will open the node, which
// wakes the device; here it is opened only where /sys does not know it, to say why.
func (c *Control) descriptor(t devname.Target) (*usb.Descriptor, error) {
	if d, ok := c.Root.USBDevice(t.Bus, t.Dev); ok {
		if d.Lent {
			return nil, &cli.Hint{Err: fmt.Errorf("%s: %w", t.Path, errLent), Hint: "usbip unbind --busid=" + d.Name + " takes it back"}
		}
		return d.Descriptor()
	}
	node, err := usbfs.Look(t.Path)
	if err != nil {
		return nil, err
	}
	defer node.Close()
	desc, err := usb.ParseDescriptors(node.Descriptors)
	return desc, usb.Wrap("read descriptors", t.Path, err)
}

// start starts a handler for a device as the configured user. It returns when
// the handler serves clients.
func (c *Control) start(t devname.Target) error {
	child, err := c.startChild(t)
	if child != nil {
		return child.Release()
	}
	return err
}

// startChild is start for a caller that waits for the handler's end. There is none
// if the device is served already, or by a program that runs in the background.
func (c *Control) startChild(t devname.Target) (*os.Process, error) {
	credential, err := c.credentialFor(t)
	if err != nil {
		return nil, err
	}
	if t.Bus > 0 && !c.Root.UdevRuns() {
		c.forgetAtSuspend(t)
	}
	p := c.process(t)
	if c.Config.Program == "" || isThis(c.Config.Program) {
		return p.StartChild(credential)
	}
	cmd := exec.Command(c.Config.Program, append([]string{"-H"}, p.Args()...)...)
	cmd.Stderr = c.Err
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: credential}
	err = cmd.Run()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return nil, cli.ErrExit(1) // the handler has said why
	}
	return nil, err
}

// forgetAtSuspend does what 60-openct.rules does where udev runs: a token loses
// power over a suspend, and what comes back is plugged in anew, not taken for what
// it was (Documentation/driver-api/usb/persist.rst). Only root may say so, and a
// kernel that cannot suspend has no such file.
func (c *Control) forgetAtSuspend(t devname.Target) {
	if dir := c.Root.USBDir(t.Bus, t.Dev); dir != "" {
		_ = os.WriteFile(filepath.Join(dir, "power/persist"), []byte("0"), 0)
	}
}

// isThis says whether a program is this executable: an openct.conf made for C
// OpenCT names the ifdhandler that is a link to it now.
func isThis(program string) bool {
	this, err := os.Stat("/proc/self/exe")
	if err != nil || filepath.Base(program) != "ifdhandler" {
		return false
	}
	other, err := os.Stat(program)
	return err == nil && os.SameFile(this, other)
}

// statusOwner is who owns the status file: the handlers' user.
func (c *Control) statusOwner() (uid, gid int, err error) {
	if c.Config.User == "" {
		return -1, -1, nil
	}
	u, err := user.Lookup(c.Config.User)
	if err != nil {
		return 0, 0, fmt.Errorf("ifdhandler.user: %w", err)
	}
	uid, err = strconv.Atoi(u.Uid)
	return uid, -1, err
}
