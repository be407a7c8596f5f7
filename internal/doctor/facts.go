package doctor

import (
	"fmt"
	"io/fs"
	"time"

	"openct/internal/machine"
	"openct/internal/status"
)

// Facts are what was seen on a machine.
type Facts struct {
	Now     time.Time
	Caller  Caller
	Config  Config
	Dir     Dir
	Status  Status
	Readers []Reader // status entries in use, also those of handlers that have ended
	Rules   Rules
	Systemd bool // is process 1
	Service Unit // openct.service
	Devices []Device

	Configured   []Configured // readers of openct.conf
	Aliases      []Alias      // names of USB devices in openct.conf
	ModemManager *Process     // nil: it does not run

	Others  []Process // pcscd, scdaemon
	Watch   []Process // openct-control watch
	Mdev    bool      // mdev.conf starts handlers
	Bundle  bool      // pcscd's driver for OpenCT is installed
	ShutOut []Process // of Others: a pcscd that may not enter Dir
}

// Caller is who asks.
type Caller struct {
	UID      int
	Name     string
	InGroup  bool // this process has the directory's group
	IsMember bool // the accounts say that the caller has the directory's group
}

// Config is openct.conf.
type Config struct {
	File     string
	Missing  bool
	Err      string
	Warnings []string // errors in it
	NotYet   []string // drivers of C OpenCT that are not there, if one of the errors is such a name
	Notes    []string // what has no effect here, without an error
	Unread   []string // files of that name elsewhere
	Hotplug  bool     // init starts openct-control watch where there is no systemd
}

// Dir is the directory of status file and sockets.
type Dir struct {
	Path         string
	FromEnv      bool // OPENCT_SOCKETDIR names it
	Missing      bool
	Err          string // why it cannot be looked at, or is no directory
	Owner, Group string
	Mode         fs.FileMode
	MayEnter     bool
}

// Status is the status file.
type Status struct {
	Missing bool
	Unknown bool // this process may not look
	Err     string
}

// Reader is a status entry in use.
type Reader struct {
	Index     int
	Name      string
	PID       int
	Alive     bool
	Empty     bool   // no card in its first slot
	Device    string // its node; empty where no side file tells
	Unit      string
	Socket    string
	Proven    bool   // the process is known to be its handler; the owner of the status file can write any pid there
	SocketErr string // why it does not answer
	LastError string
	ErrorTime time.Time
}

// Rules are udev's.
type Rules struct {
	Running bool // udev runs
	Files   []RulesFile
}

// RulesFile is a rules file that says something about OpenCT.
type RulesFile struct {
	Path   string
	Starts bool   // it makes systemd start units
	Runs   int    // line that starts a handler with RUN, which udev kills; 0: none
	Group  string // that it gives the nodes to
	NoSuch bool   // there is no such group
	Masked string // file of the same name that takes its place
}

// Unit is a systemd unit.
type Unit struct {
	Name       string
	Load       string // loaded, not-found, masked ...; empty: systemd was not asked
	Active     string // active, activating, inactive, failed ...
	Result     string
	StatusText string
	User       string
	Groups     string // SupplementaryGroups, separated by blanks
}

// Device is a USB device that is, or could be, a reader.
type Device struct {
	Port            string // 1-2.3
	Bus, Address    int
	Vendor, Product uint16
	Label           string // manufacturer and product, from the descriptors

	Driver    string // empty: no driver takes it
	Why       string // why that driver: "in the driver table" ...
	Verified  string // what the driver was checked against
	DriverErr string // openct.conf gives the device to a driver that does not exist
	Left      string // the program that serves it in place of OpenCT; empty: there is none
	Lent      bool   // to another machine, by USB/IP

	Node    Node
	Udev    machine.Record
	Units   []Unit // that udev has systemd start
	Kernel  string // kernel driver of an interface, other than usbfs
	Claimed bool   // a process has claimed an interface
	Holders []Process
	Reader  *Reader // who serves it; one of Facts.Readers

	Released *status.Released // nil: it is not released
}

// Configured is a reader that openct.conf names.
type Configured struct {
	Name     string // its name for attach and its unit
	Where    string // FILE:LINE
	Driver   string
	Device   string
	NoSwitch bool
	Node     *Node  // nil: the device is no node
	Same     string // reader with another link to the same node
	Unit     Unit   // with systemd
	Stale    bool   // openct.conf has changed since systemd was told of the unit
	Getty    Unit   // that offers a login there
	Holders  []Process
	Reader   *Reader // who serves it; one of Facts.Readers

	Released *status.Released // nil: it is not released

	Far     *Far     // nil: the reader is this machine's
	Waiting *Process // handler of the far reader, which is not there
	Fault   string   // last error of a handler, if it was about this device

	real    string // the node that Device is a link to
	noModem bool   // udev's record tells ModemManager to leave it alone
}

// ID is vendor and product as lsusb prints them.
func (d *Device) ID() string { return fmt.Sprintf("%04x:%04x", d.Vendor, d.Product) }

// Instance is the device as attach and the unit's name take it.
func (d *Device) Instance() string { return fmt.Sprintf("%03d-%03d", d.Bus, d.Address) }

// Ours says whether OpenCT is to serve it.
func (d *Device) Ours() bool { return d.Driver != "" && d.Left == "" }

// Node is the device's usbfs node.
type Node struct {
	Path         string
	Missing      bool
	Owner, Group string
	Mode         fs.FileMode
	User         string // who handlers run as; empty: the caller
	UserMay      bool   // read and write
}

// Process is a running program.
type Process struct {
	PID  int    `json:"pid"`
	Name string `json:"name"`
}

func (p Process) String() string { return fmt.Sprintf("%s (pid %d)", p.Name, p.PID) }
