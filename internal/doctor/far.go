package doctor

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"

	"openct/internal/devname"
	"openct/internal/remote"
)

// Far is what a reader needs that another OpenCT serves.
type Far struct {
	SSH     bool // it is on another machine
	NoSSH   bool // there is no ssh
	NoDir   bool // nor what the handlers' ssh finds its files in
	NoKey   bool // in there
	NoHosts bool // no keys of other machines in there
}

// sshPrograms are where a handler finds ssh, which has systemd's PATH
// (systemd.exec(5), "Environment Variables in Spawned Processes").
var sshPrograms = []string{"/usr/local/sbin/ssh", "/usr/local/bin/ssh", "/usr/sbin/ssh", "/usr/bin/ssh", "/sbin/ssh", "/bin/ssh"}

// far looks at what a reader at another OpenCT needs; nil for other readers. What
// this user may not see is taken to be there.
func (o Options) far(t devname.Target) *Far {
	switch t.Type {
	case devname.TypeUnix:
		return &Far{}
	case devname.TypeRemote:
	default:
		return nil
	}
	f := &Far{SSH: true, NoSSH: !slices.ContainsFunc(sshPrograms, o.Root.Exists)}
	entries, err := os.ReadDir(o.Root.Path(remote.SSHDir))
	if err != nil {
		f.NoDir = errors.Is(err, fs.ErrNotExist)
		return f
	}
	has := func(match func(string) bool) bool {
		return slices.ContainsFunc(entries, func(e fs.DirEntry) bool { return e.Name() == "config" || match(e.Name()) })
	}
	f.NoKey = !has(func(name string) bool { return strings.HasPrefix(name, "id_") && path.Ext(name) != ".pub" })
	f.NoHosts = !has(func(name string) bool { return name == "known_hosts" })
	return f
}

const farManual = `man 7 openct, "A reader on another machine", tells how`

func checkReaderSSH(_ *Facts, c *Configured) []Finding {
	f := c.Far
	switch {
	case f == nil || !f.SSH:
		return nil
	case f.NoSSH:
		return found(Fail, "install OpenSSH's client (Debian: openssh-client)", "the reader is reached over ssh, which is not installed")
	case f.NoDir && c.Unit.Load == "loaded":
		return found(Fail, "put a key and the other machine's key into "+remote.SSHDir+"; "+farManual, "the directory %s, with the ssh keys of %s, does not exist", remote.SSHDir, c.Unit.Name)
	case f.NoKey:
		return found(Fail, farManual, "%s contains no ssh key", remote.SSHDir)
	case f.NoHosts:
		return found(Fail, farManual, "%s contains no known_hosts, so ssh trusts no other machine", remote.SSHDir)
	}
	return fine("the reader is reached over ssh")
}

// farAway is about a reader whose handler waits for it. What the handler says, to systemd
// or in the file of the last error, may be the far machine's words.
func (c *Configured) farAway() []Finding {
	said := c.Unit.StatusText
	if said == "" {
		said = "the handler waits for the far reader"
		if c.Waiting != nil {
			said = fmt.Sprintf("the handler (process %d) waits for the far reader", c.Waiting.PID)
		}
		if c.Fault != "" {
			said += ": " + c.Fault
		}
	}
	why, next := remote.Advice(said, c.Device)
	return found(Warn, next, "%s", why)
}

// waits notes that a process is the handler of a far reader, which it waits for if it
// does not serve it. Without systemd nothing else tells of such a handler: it has no
// entry in the status file.
func (f *Facts) waits(p Process, args []string) {
	for i := range f.Configured {
		c := &f.Configured[i]
		// DRIVER TYPE DEVICE, as handlers are started (daemon.Process)
		if n := len(args); c.Far != nil && !c.served() && n > 3 && args[n-3] == c.Driver && args[n-1] == c.Device {
			c.Waiting = &p
		}
	}
}
