package monitor

import (
	"os/user"
	"strconv"

	"openct/internal/machine"
	"openct/internal/printable"
	"openct/internal/status"
)

// names finds out what processes and users are called.
type names struct {
	root   machine.Root
	users  map[uint32]string
	lookup func(uid string) (*user.User, error)
}

// maxUsers is how many users are looked up, which may ask a server (nsswitch.conf(5)).
// Who writes numbers of users into a side file need not be root.
const maxUsers = 1000

// client names a client, now: once its process has ended, nobody knows its program.
func (n *names) client(pid int, uid uint32) Client {
	c := Client{PID: pid, UID: uid, User: n.user(uid)}
	if pid > 0 {
		c.Program = printable.Line(machine.Attribute(n.root.Path("proc/"+strconv.Itoa(pid)), "comm"))
	}
	return c
}

func (n *names) user(uid uint32) string {
	if name, known := n.users[uid]; known {
		return name
	}
	if len(n.users) == maxUsers {
		return ""
	}
	name := ""
	if u, err := n.lookup(strconv.FormatUint(uint64(uid), 10)); err == nil {
		name = printable.Line(u.Username)
	}
	n.users[uid] = name
	return name
}

// known are the clients of one reader by their connections.
type known map[uint64]Client

// meet names a client that may be known already.
func (k known) meet(n *names, c status.Client) Client {
	who, ok := k[c.Connection]
	if !ok || who.PID != c.PID || who.UID != c.UID {
		who = n.client(c.PID, c.UID)
	}
	return who
}

// forget drops who is no longer connected.
func (k known) forget(connections []status.Connection) known {
	left := known{}
	for _, c := range connections {
		if who, ok := k[c.Connection]; ok {
			left[c.Connection] = who
		}
	}
	return left
}
