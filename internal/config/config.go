package config

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"time"

	"openct/internal/devname"
)

// Config is what openct.conf says. It is made by Default, Load or Parse.
type Config struct {
	Debug int // log level, 0 to 6; a command's -d may raise it

	// The programs and users of the handlers that openct-control starts itself;
	// a systemd unit has its own.
	Program   string   // handler to start; empty: the one beside openct-control
	ForcePoll bool     // accepted from older files; readers report events here
	User      string   // handlers' user and owner of the status file; empty: the caller
	Groups    []string // handlers' groups, the first is the primary one

	Readers []Reader    // attached by init, in file order
	Drivers []DriverIDs // one for each driver named, in the order they are asked

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

	Proxy Proxy
}

// Reader is a reader that is not found by itself: "reader NAME { ... };"
type Reader struct {
	Name   string // free text
	Driver string
	Device string // TYPE:PATH
	Where  string // FILE:LINE
}

// Target is the reader's device.
func (r Reader) Target() (devname.Target, error) { return devname.ParseDevice(r.Driver, r.Device) }

// DriverIDs gives devices to a driver: "driver NAME { ids = { ... }; };"
// As in C OpenCT a driver that is first named later in the file is asked earlier.
type DriverIDs struct {
	Name string
	IDs  []devname.ID
}

// Proxy is ifdproxy's part.
type Proxy struct {
	ServerPort string // socket for applications
	DevicePort string // address for devices
}

// CCIDMode says whether devices are taken because of their class, chip card
// interface, and not because a driver or the configuration lists them.
type CCIDMode string

const (
	CCIDOn   CCIDMode = "on"
	CCIDOff  CCIDMode = "off"
	CCIDAuto CCIDMode = "auto" // on where pcscd, who wants them too, is not installed
)

// PCSCMode says how PC/SC applications get at our tokens.
type PCSCMode string

const (
	PCSCBridge PCSCMode = "bridge" // pcscd talks to us
	PCSCIgnore PCSCMode = "ignore" // pcscd is told to leave the devices alone
)

// DefaultFile is the configuration file of an installed OpenCT.
const DefaultFile = "/etc/openct.conf"

// Default is the configuration without a file.
func Default() *Config {
	return &Config{
		SocketMode:   0o666,
		EnforceLocks: true,
		LockWait:     2 * time.Second,
		CCID:         CCIDAuto,
		PCSC:         PCSCBridge,
		Proxy:        Proxy{ServerPort: "proxy", DevicePort: ":6666"},
	}
}

// Load reads a file; without a name the default one. A missing file is no error:
// the configuration is Default.
func Load(file string) (*Config, []Warning, error) {
	if file == "" {
		file = DefaultFile
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
	return Parse(file, src)
}

// Parse reads a file's content; file is its name for messages. The error, if any,
// joins an *Error for each mistake. Warnings are for people to read and no reason
// to stop.
func Parse(file string, src []byte) (*Config, []Warning, error) {
	nodes, err := parse(file, src)
	if err != nil {
		return nil, nil, err
	}
	r := &collector{file: file, config: Default()}
	r.group("", nodes, topKeys)
	if len(r.errs) > 0 {
		return nil, r.warnings, errors.Join(r.errs...)
	}
	slices.Reverse(r.config.Drivers)
	return r.config, r.warnings, nil
}

// DriverFor is the driver that the file gives a USB device to.
func (c *Config) DriverFor(vendor, product, release uint16) (string, bool) {
	dev := devname.USBID(vendor, product, release)
	for _, d := range c.Drivers {
		if slices.ContainsFunc(d.IDs, func(id devname.ID) bool { return id.Match(dev) }) {
			return d.Name, true
		}
	}
	return "", false
}

// ClassReaders says whether the ccid driver should have readers of the smart card
// class that no "driver" of the file names.
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
