package devname

import (
	"fmt"
	"net/url"
	"path"
	"strconv"
	"strings"
)

// Types of the readers that another OpenCT serves.
const (
	TypeRemote = "remote" // on another machine, over ssh
	TypeUnix   = "unix"   // at a socket of this machine
)

// farDriver is the driver of both.
const farDriver = "openct"

// Remote is a reader's socket on another machine.
type Remote struct {
	User   string // empty: ssh's choice
	Host   string // a name, an address, or a Host of ssh_config(5)
	Port   int    // 0: ssh's choice
	Socket string // the path of the reader's socket there
}

// String is the machine and the user, as people write it.
func (r Remote) String() string {
	if r.User == "" {
		return r.Host
	}
	return r.User + "@" + r.Host
}

// socketDir is where an OpenCT has its sockets unless it was told otherwise.
const socketDir = "/run/openct"

// maxSocketPath is what fits into a Unix socket address (unix(7)).
const maxSocketPath = 107

const remoteForm = "ssh://[USER@]HOST[:PORT]/NUMBER, NUMBER being the reader's there, or the path of its socket"

// ParseRemote reads the device of a reader on another machine:
// ssh://user@host:port/0, or a socket's path in place of the number. All parts
// become arguments of ssh(1), so none can be taken for an option, and none has
// a character that ssh or its configuration would look into.
func ParseRemote(device string) (Remote, error) {
	u, err := url.Parse(device)
	if err != nil || u.Scheme != "ssh" || u.Opaque != "" || u.RawQuery != "" || u.Fragment != "" || strings.ContainsAny(device, "%?#") {
		return Remote{}, remoteError(device, "is not "+remoteForm)
	}
	r := Remote{User: u.User.Username(), Host: u.Hostname()}
	if _, set := u.User.Password(); set {
		return Remote{}, remoteError(u.Redacted(), "has a password; ssh's keys are what it is reached with")
	}
	if u.User != nil && !isWord(r.User, "._-+") {
		return Remote{}, remoteError(device, "has no user that can be told to ssh")
	}
	if !isWord(r.Host, ".-_:") || strings.Contains(r.Host, ":") != strings.Contains(u.Host, "[") {
		return Remote{}, remoteError(device, "has no host that can be told to ssh")
	}
	if port := u.Port(); port != "" || strings.HasSuffix(u.Host, ":") {
		n, ok := digits(port, 5)
		if !ok || n < 1 || n > 65535 {
			return Remote{}, remoteError(device, "has no port from 1 to 65535")
		}
		r.Port = n
	}
	number := strings.TrimPrefix(u.Path, "/")
	if n, ok := digits(number, 2); ok {
		r.Socket = path.Join(socketDir, strconv.Itoa(n))
		return r, nil
	}
	if !strings.Contains(number, "/") || !isSocketPath(u.Path) {
		return Remote{}, remoteError(device, "is not "+remoteForm)
	}
	r.Socket = u.Path
	return r, nil
}

// ParseSocket checks the device of a reader at another OpenCT's socket on this
// machine.
func ParseSocket(device string) error {
	if !isSocketPath(device) {
		return remoteError(device, fmt.Sprintf("is not the path of a reader's socket, such as /run/other/0: "+
			"absolute, of letters, digits and ._+@- alone, at most %d bytes", maxSocketPath))
	}
	return nil
}

func remoteError(device, why string) error {
	return fmt.Errorf("%w: %s %s", ErrName, printable(device), why)
}

// isSocketPath says whether a path is absolute, clean, short enough for an address,
// and of characters that neither ssh nor its configuration looks into.
func isSocketPath(p string) bool {
	return len(p) <= maxSocketPath && path.IsAbs(p) && path.Clean(p) == p && p != "/" && plain(p, "/._+@-")
}

// isWord says whether s is made of letters, digits and the other characters, and
// does not begin as an option.
func isWord(s, others string) bool {
	return s != "" && len(s) <= 255 && s[0] != '-' && plain(s, others)
}

func plain(s, others string) bool {
	return !strings.ContainsFunc(s, func(r rune) bool {
		return (r < '0' || r > '9') && (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && !strings.ContainsRune(others, r)
	})
}
