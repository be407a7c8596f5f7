package config

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sort"
	"time"

	"openct/internal/devname"
)

// Config is what openct.conf says. It is made by Default, Load or Parse.
type Config struct {
	Debug int // log level, 0 to 6; a command's -d may raise it

	// Without systemd, init starts a process that serves what is plugged in later.
	Hotplug bool

	// The programs and users of the handlers that openct-control starts itself;
	// a systemd unit has its own.
	Program string   // handler to start; empty: the one beside openct-control
	User    string   // handlers' user and owner of the status file; empty: the caller
	Groups  []string // handlers' groups, the first is the primary one

	Readers []Reader    // attached by init, in file order
	Aliases []Alias     // names of USB devices, the first that fits counts
	Unknown bool        // a statement names a driver that does not exist
	Drivers []DriverIDs // one for each driver named, in the order they are asked
	NotYet  []DriverIDs // the same for drivers of C OpenCT that are not there

	// Who may connect: whoever can reach the directory of status file and
	// sockets, and open a socket in it. Empty names and mode 0 leave the
	// directory as it is.
	DirOwner   string
	DirGroup   string
	DirMode    fs.FileMode
	SocketMode fs.FileMode

	EnforceLocks bool          // a lock keeps others from the card, not only from locking it
	LockWait     time.Duration // how long a request waits for another client's lock

	CCID   CCIDMode
	Escape bool // clients may send vendor escape commands to readers
	PCSC   PCSCMode
}

// Reader is a reader that is not found by itself: "reader NAME { ... };"
type Reader struct {
	Name   string // free text
	Driver string
	Device string // TYPE:PATH
	Where  string // FILE:LINE

	// Of readers on a serial line; see ifd.Line.
	Clock    int // Hz
	Speed    int // bit/s
	NoSwitch bool
}

// Target is the reader's device.
func (r Reader) Target() (devname.Target, error) { return devname.ParseDevice(r.Driver, r.Device) }

// Instances name the readers, one for each of Readers, for attach and for their
// units: by name, or by device where there is no name or an earlier reader has it.
func (c *Config) Instances() []string {
	names := make([]string, len(c.Readers))
	for i, r := range c.Readers {
		names[i] = r.Name
		if r.Name == "" || slices.Contains(names[:i], r.Name) {
			names[i] = r.Device
		}
	}
	return names
}

// ReaderNamed finds a reader by its name among Instances.
func (c *Config) ReaderNamed(instance string) (Reader, bool) {
	i := slices.Index(c.Instances(), instance)
	if i < 0 {
		return Reader{}, false
	}
	return c.Readers[i], true
}

// ReaderAt finds the statement about the reader at a device: one that names the
// same node, be it by another link.
func (c *Config) ReaderAt(t devname.Target) (Reader, bool) {
	if c == nil || t.Path == "" {
		return Reader{}, false
	}
	node := func(path string) string {
		if real, err := filepath.EvalSymlinks(path); err == nil {
			return real
		}
		return path
	}
	for _, r := range c.Readers {
		if is, err := r.Target(); err == nil && is.Type == t.Type && is.Driver == t.Driver && node(is.Path) == node(t.Path) {
			return r, true
		}
	}
	return Reader{}, false
}

// NameAt is the name of the configured reader at a device. It is empty if several
// virtual readers have the device.
func (c *Config) NameAt(t devname.Target) string {
	r, ok := c.ReaderAt(t)
	if !ok {
		return ""
	}
	for _, other := range c.Readers {
		if t.Type == "virtual" && other.Device == r.Device && other.Name != r.Name {
			return ""
		}
	}
	return r.Name
}

// DriverIDs gives devices to a driver: "driver NAME { ids = { ... }; };"
// As in C OpenCT a driver that is first named later in the file is asked earlier.
type DriverIDs struct {
	Name  string
	IDs   []devname.ID
	Where string // FILE:LINE of the first such statement
}

// CCIDMode says whether devices are taken because of their class, chip card
// interface, and not because a driver or the configuration lists them.
type CCIDMode string

const (
	CCIDOn   CCIDMode = "on"
	CCIDOff  CCIDMode = "off"
	CCIDAuto CCIDMode = "auto" // on where pcscd, which serves them as well, is not installed
)

// PCSCMode says how PC/SC applications get at our tokens.
type PCSCMode string

const (
	PCSCBridge PCSCMode = "bridge" // pcscd talks to us
	PCSCIgnore PCSCMode = "ignore" // pcscd is told to leave the devices alone
)

// defaultFile is the configuration file of an installed OpenCT.
const defaultFile = "/etc/openct.conf"

// Default is the configuration without a file.
func Default() *Config {
	return &Config{
		SocketMode:   0o666,
		EnforceLocks: true,
		LockWait:     2 * time.Second,
		CCID:         CCIDAuto,
		PCSC:         PCSCBridge,
	}
}

// Load reads a file; without a name the default one. A missing file is no error:
// the configuration is Default. drivers are the names of all drivers; nil: any
// name is one.
func Load(file string, drivers []string) (*Config, []Warning, error) {
	if file == "" {
		file = defaultFile
	}
	f, err := os.Open(file)
	if errors.Is(err, fs.ErrNotExist) {
		return Default(), nil, nil
	}
	if err != nil {
		return nil, nil, fmt.Errorf("configuration: %w", err)
	}
	defer f.Close()
	src, err := io.ReadAll(io.LimitReader(f, maxSize+1))
	if err != nil {
		return nil, nil, fmt.Errorf("configuration: %w", err)
	}
	if len(src) > maxSize {
		return nil, nil, fmt.Errorf("configuration: %s is longer than %d bytes", file, maxSize)
	}
	c, warnings := Parse(file, src, drivers)
	return c, warnings, nil
}

// Parse reads a file's content; file is its name for messages. A statement with an
// error is skipped, with a Warning, and the rest of the file counts.
func Parse(file string, src []byte, drivers []string) (*Config, []Warning) {
	r := &collector{file: file, drivers: drivers, config: Default()}
	r.group("", parse(src, r.warn), topKeys)
	slices.Reverse(r.config.Drivers)
	r.aliasesApart()
	sort.SliceStable(r.warnings, func(i, j int) bool { return r.warnings[i].Line < r.warnings[j].Line })
	return r.config, r.warnings
}

// classDriver is the driver of readers of the USB smart card class. The
// openct.conf that C OpenCT installs has a statement with 23 ids for it, which
// are common readers that pcscd serves: those ids have no effect unless ClassReaders.
const classDriver = "ccid"

// DriverFor is the driver that the file gives a USB device to.
func (c *Config) DriverFor(vendor, product, release uint16) (string, bool) {
	dev := devname.USBID(vendor, product, release)
	for _, d := range c.Drivers {
		if slices.ContainsFunc(d.IDs, func(id devname.ID) bool { return id.Match(dev) }) && (d.Name != classDriver || c.ClassReaders()) {
			return d.Name, true
		}
	}
	return "", false
}

// Notes tells which statements of the file have no effect here though nothing is
// wrong with them.
func (c *Config) Notes() []string {
	var notes []string
	for _, d := range c.Drivers {
		if d.Name == classDriver && len(d.IDs) > 0 && !c.ClassReaders() {
			notes = append(notes, fmt.Sprintf("%s: the ids for driver ccid have no effect: readers of the USB smart card class are left to pcscd; ccid = on; changes that", d.Where))
		}
	}
	for _, d := range c.NotYet {
		if len(d.IDs) == 0 {
			continue
		}
		notes = append(notes, fmt.Sprintf("%s: the ids for driver %s of C OpenCT have no effect: the driver does not exist here", d.Where, d.Name))
	}
	return notes
}

// files are where an openct.conf may lie: an installed OpenCT's, and that of a C
// OpenCT that was built from its source.
var files = []string{defaultFile, "/usr/local/etc/openct.conf"}

// Unread are openct.conf files of this machine other than the one that is read.
// A link to that one is no other file.
func Unread(root, read string) []string {
	var unread []string
	is, err := os.Stat(read)
	for _, f := range files {
		other, err2 := os.Stat(filepath.Join(root, f))
		if err2 == nil && other.Mode().IsRegular() && (err != nil || !os.SameFile(is, other)) {
			unread = append(unread, f)
		}
	}
	return unread
}

// ClassReaders says whether the ccid driver should have readers of the smart card
// class.
func (c *Config) ClassReaders() bool {
	return c.CCID == CCIDOn || c.CCID == CCIDAuto && !pcscInstalled(os.DirFS("/"))
}

// pcscInstalled says whether PC/SC's daemon, which serves all devices of the
// class, can be started on this machine.
func pcscInstalled(root fs.FS) bool {
	return slices.ContainsFunc([]string{"usr/sbin/pcscd", "usr/bin/pcscd", "usr/local/sbin/pcscd"}, func(p string) bool {
		_, err := fs.Stat(root, p)
		return err == nil
	})
}
