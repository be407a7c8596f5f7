package doctor

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"openct/internal/config"
	"openct/internal/driver"
	"openct/internal/machine"
	"openct/internal/readerunit"
	"openct/internal/socket"
	"openct/internal/status"
)

// Options say where to look.
type Options struct {
	Root       machine.Root // of the file system
	Dir        string       // of status file and sockets
	ConfigFile string

	// Systemctl runs "systemctl show" with these arguments; nil: the real one.
	Systemctl func(ctx context.Context, args ...string) (string, error)
}

// Times that asking may take.
const (
	socketWait  = 2 * time.Second
	systemdWait = 5 * time.Second
)

// Gather looks at the machine. What cannot be seen is left out of the facts, or
// its error is one of them.
func Gather(ctx context.Context, o Options) *Facts {
	if o.Systemctl == nil {
		o.Systemctl = systemctl
	}
	f := &Facts{Now: time.Now()}
	cfg := o.config(f)
	o.directory(f)
	o.caller(f)
	o.status(ctx, f)
	f.Rules = rules(o.Root)
	mdev, _ := os.ReadFile(o.Root.Path("etc/mdev.conf"))
	f.Mdev = mdevStarts(string(mdev))
	f.Systemd = o.Root.SystemdRuns()
	o.devices(f, cfg)
	o.configured(f, cfg)
	o.units(ctx, f, cfg)
	o.processes(f)
	return f
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// config reads openct.conf; where that cannot be read, the defaults go on.
func (o Options) config(f *Facts) *config.Config {
	f.Config.File = o.ConfigFile
	f.Config.Missing = !exists(o.ConfigFile)
	f.Config.Unread = config.Unread(string(o.Root), o.ConfigFile)
	cfg, warnings, err := config.Load(o.ConfigFile, driver.Names())
	for _, w := range warnings {
		f.Config.Warnings = append(f.Config.Warnings, w.String())
	}
	if err != nil {
		f.Config.Err = err.Error()
		return config.Default()
	}
	f.Config.Notes = cfg.Notes()
	f.Config.Hotplug = cfg.Hotplug
	if cfg.Unknown {
		f.Config.NotYet = config.NotYet(driver.Names())
	}
	return cfg
}

func (o Options) directory(f *Facts) {
	d := &f.Dir
	d.Path = o.Dir
	if d.Path == "" {
		d.Path = "/"
	}
	_, d.FromEnv = os.LookupEnv(socket.EnvDir)
	info, err := os.Stat(d.Path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		d.Missing = true
		return
	case err != nil:
		d.Err = err.Error()
		return
	case !info.IsDir():
		d.Err = d.Path + " is not a directory"
		return
	}
	d.Mode = info.Mode().Perm()
	d.Owner, d.Group = owners(info)
	d.MayEnter = unix.Access(d.Path, unix.X_OK) == nil
}

func (o Options) caller(f *Facts) {
	c := &f.Caller
	c.UID = os.Geteuid()
	c.Name = userName(c.UID)
	gid := -1
	if info, err := os.Stat(f.Dir.Path); err == nil {
		gid = int(info.Sys().(*syscall.Stat_t).Gid)
	}
	groups, err := os.Getgroups()
	c.InGroup = err == nil && slices.Contains(groups, gid) || os.Getegid() == gid
	c.IsMember = slices.Contains(groupsOf(c.Name), gid)
}

func (o Options) status(ctx context.Context, f *Facts) {
	if f.Dir.Missing || f.Dir.Err != "" {
		return
	}
	file, err := status.OpenReadOnly(o.Dir)
	switch {
	case errors.Is(err, status.ErrNotInitialised):
		f.Status.Missing = true
		return
	case errors.Is(err, fs.ErrPermission) && !f.Dir.MayEnter:
		f.Status.Unknown = true
		return
	case err != nil:
		f.Status.Err = err.Error()
		return
	}
	defer file.Close()
	all, err := file.Entries()
	if err != nil {
		f.Status.Err = err.Error()
		return
	}
	for _, e := range all {
		if e.PID == 0 {
			continue
		}
		r := Reader{Index: e.Index, Name: e.Name, PID: e.PID, Alive: e.InUse(), Empty: e.Slots > 0 && !e.Present(0), Socket: socket.ReaderPath(o.Dir, e.Index)}
		if d, err := file.ReadDetail(e); err == nil {
			r.Device, r.LastError, r.ErrorTime = d.Device, d.LastError, d.ErrorTime
		}
		// The side file says it, too, but root may be told to restart the unit.
		r.Unit = readerunit.OfProcess(o.Root, e.PID)
		r.Proven = r.Alive && file.IsHandler(e.Index)
		f.Readers = append(f.Readers, r)
	}
	// Side by side: readers that do not answer cost the time of one.
	var asked sync.WaitGroup
	for i := range f.Readers {
		r := &f.Readers[i]
		if !r.Alive {
			continue
		}
		asked.Add(1)
		go func() {
			defer asked.Done()
			if err := ask(ctx, o.Dir, r.Index); err != nil {
				r.SocketErr = err.Error()
			}
		}()
	}
	asked.Wait()
}

// ask asks a reader how it is.
func ask(ctx context.Context, dir string, n int) error {
	ctx, cancel := context.WithTimeout(ctx, socketWait)
	defer cancel()
	c, err := socket.DialReader(ctx, dir, n)
	if err != nil {
		return err
	}
	defer c.Close()
	_, err = c.ReaderStatus(ctx)
	return err
}

// devices lists what is plugged in that is a reader, or might be one.
func (o Options) devices(f *Facts, cfg *config.Config) {
	plugged, err := o.Root.USBDevices()
	if err != nil {
		return // no /sys, no devices
	}
	f.aliases(cfg, plugged)
	for _, p := range plugged {
		d := Device{
			Port: p.Name, Bus: p.Bus, Address: p.Address, Vendor: p.Vendor, Product: p.Product,
			Label: join(p.Manufacturer, p.Model), Node: Node{Path: p.Node()},
		}
		d.Released = o.released(d.Node.Path)
		pick(&d, p, cfg)
		if d.Driver == "" && d.DriverErr == "" && !stranger(p) {
			continue
		}
		if p.Lent {
			d.Lent, d.Driver, d.DriverErr = true, "", ""
		}
		o.node(&d.Node, cfg)
		d.Udev = o.Root.Udev(p)
		for _, i := range p.Interfaces {
			switch {
			case i.Driver == "usbfs":
				d.Claimed = true
			case i.Driver != "" && !(i.Class == classVendor && i.Driver != "usbhid"):
				d.Kernel = i.Driver // others leave it to the handler
			}
		}
		for i := range f.Readers {
			if f.Readers[i].Device == d.Node.Path {
				d.Reader = &f.Readers[i]
			}
		}
		f.Devices = append(f.Devices, d)
	}
}

// pick chooses the driver as attach does, and says why.
func pick(d *Device, p machine.Device, cfg *config.Config) {
	desc, err := p.Descriptor()
	if err != nil {
		d.DriverErr = err.Error()
		return
	}
	choice, err := driver.Pick(desc, cfg)
	switch {
	case errors.Is(err, driver.ErrNoDriver):
		return
	case err != nil:
		d.DriverErr = err.Error()
		return
	}
	d.Driver, d.Verified, d.Left = choice.Entry.Name, string(choice.Entry.Verified), choice.Left
	switch choice.Why {
	case driver.WhyConfig:
		d.Why = "assigned in openct.conf"
	case driver.WhyID:
		d.Why = "which lists the id"
	case driver.WhyClass:
		d.Why = "for the USB smart card class"
	}
}

// bInterfaceClass (USB class codes, usb.org).
const classVendor = 0xFF

// stranger says whether a device without a driver might be a token: it has an
// interface that is not of a known class, and that the kernel has no driver for.
func stranger(p machine.Device) bool {
	return slices.ContainsFunc(p.Interfaces, func(i machine.Interface) bool {
		return i.Class == classVendor && i.Driver == ""
	}) || p.HasCCID()
}

func (o Options) node(n *Node, cfg *config.Config) {
	n.User = cfg.User
	path := o.Root.Path(n.Path)
	info, err := os.Stat(path)
	if err != nil {
		n.Missing = true
		return
	}
	n.Mode = info.Mode().Perm()
	n.Owner, n.Group = owners(info)
	n.UserMay = unix.Access(path, unix.R_OK|unix.W_OK) == nil
	if n.User != "" {
		n.UserMay = allowed(info, n.User)
	}
}

// allowed says whether mode and owners let a user read and write a file.
func allowed(info fs.FileInfo, user string) bool {
	uid, ok := userID(user)
	if !ok {
		return false
	}
	if uid == 0 {
		return true
	}
	st := info.Sys().(*syscall.Stat_t)
	shift := 0
	switch {
	case int(st.Uid) == uid:
		shift = 6
	case slices.Contains(groupsOf(user), int(st.Gid)):
		shift = 3
	}
	return info.Mode().Perm()>>shift&0o6 == 0o6
}

func join(a, b string) string {
	if a == "" || b == "" {
		return a + b
	}
	return a + " " + b
}

// systemctl shows units. It asks systemd, which answers everybody.
func systemctl(ctx context.Context, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, systemdWait)
	defer cancel()
	out, err := exec.CommandContext(ctx, "systemctl", append([]string{"show", "--no-pager"}, args...)...).Output()
	return string(out), err
}

// handlerProcess is what a handler's process is called.
const handlerProcess = "ifdhandler"

// processes finds the processes that have the devices open, and other programs for smart
// cards that run.
func (o Options) processes(f *Facts) {
	node := map[string]*Device{}
	for i := range f.Devices {
		node[f.Devices[i].Node.Path] = &f.Devices[i]
	}
	for _, other := range o.Root.Processes() {
		p := Process{PID: other.PID, Name: other.Name}
		if p.Name == "pcscd" || p.Name == "scdaemon" {
			f.Others = append(f.Others, p)
		}
		if p.Name == handlerProcess {
			f.waits(p, other.Args())
		}
		if p.Name == status.WatchProcess {
			f.Watch = append(f.Watch, p)
		}
		if p.Name == "pcscd" && other.ShutOut(o.Dir) {
			f.ShutOut = append(f.ShutOut, p)
		}
		if p.Name == "ModemManager" {
			f.ModemManager = &p
		}
		for _, file := range other.Open() {
			f.holds(p, file)
			if d := node[file]; d != nil {
				d.Holders = append(d.Holders, p)
			}
		}
	}
	bundles, _ := filepath.Glob(o.Root.Path("usr/lib*/pcsc/drivers/openct-ifd.bundle"))
	f.Bundle = len(bundles) > 0
}
