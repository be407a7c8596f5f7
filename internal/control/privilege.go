package control

import (
	"fmt"
	"os"
	"os/user"
	"slices"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"

	"openct/internal/devname"
)

// credentialFor returns the user and the groups of the handler that this process starts
// for a device: those of openct.conf or, in place of root, the owner of the directory of
// status file and sockets. They may open the device's node. nil is the caller.
func (c *Control) credentialFor(t devname.Target) (*syscall.Credential, error) {
	cred, err := c.credential()
	if err != nil || os.Geteuid() != 0 {
		return cred, err
	}
	if c.Config.User == "" {
		var dir unix.Stat_t
		if err := unix.Stat(c.Dir, &dir); err != nil {
			return nil, c.explainInit(&os.PathError{Op: "stat", Path: c.Dir, Err: err})
		}
		if cred, err = asOwner(dir, cred); err != nil {
			return nil, err
		}
	}
	if cred == nil || t.Type == "virtual" {
		return cred, nil
	}
	return cred, openNode(c.Root.Path(t.Path), cred)
}

// asOwner is the owner of the directory, with the groups of cred or else its own.
// Root's directory leaves cred as it is.
func asOwner(dir unix.Stat_t, cred *syscall.Credential) (*syscall.Credential, error) {
	switch {
	case dir.Uid == 0:
		return cred, nil
	case cred != nil:
		return &syscall.Credential{Uid: dir.Uid, Gid: cred.Gid, Groups: cred.Groups}, nil
	}
	u, err := user.LookupId(strconv.Itoa(int(dir.Uid)))
	if err != nil {
		return &syscall.Credential{Uid: dir.Uid, Gid: dir.Gid}, nil // a user without a name has no groups
	}
	return credentialOf(u)
}

// openNode lets a handler open a device's node: by the node's group, or by making
// it the node's owner. A node that is not there is the handler's to report.
func openNode(path string, cred *syscall.Credential) error {
	fd, err := unix.Open(path, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return &os.PathError{Op: "stat", Path: path, Err: err}
	}
	switch wayTo(st, cred) {
	case byGroup:
		cred.Groups = append(cred.Groups, st.Gid)
	case byOwner:
		if err := unix.Fchownat(fd, "", int(cred.Uid), -1, unix.AT_EMPTY_PATH); err != nil {
			return &os.PathError{Op: "chown", Path: path, Err: err}
		}
	}
	return nil
}

// way is what a handler needs to open a node.
type way int

const (
	asIs    way = iota
	byGroup     // the node's group
	byOwner     // the node
)

// wayTo says how a process with cred can read and write a node.
func wayTo(node unix.Stat_t, cred *syscall.Credential) way {
	inGroup := cred.Gid == node.Gid || slices.Contains(cred.Groups, node.Gid)
	bits := node.Mode
	switch {
	case cred.Uid == 0, node.Mode&unix.S_IFMT != unix.S_IFCHR:
		return asIs
	case cred.Uid == node.Uid:
		bits >>= 6
	case inGroup:
		bits >>= 3
	}
	switch {
	case bits&0o6 == 0o6:
		return asIs
	case node.Mode&0o060 == 0o060 && node.Gid != 0 && !inGroup && cred.Uid != node.Uid:
		return byGroup
	}
	return byOwner
}

// credential returns the handlers' user and groups in openct.conf: ifdhandler.user, with
// ifdhandler.groups or, without those, the user's own. nil: openct.conf has neither.
func (c *Control) credential() (*syscall.Credential, error) {
	if c.Config.User == "" && len(c.Config.Groups) == 0 {
		return nil, nil
	}
	cred := &syscall.Credential{Uid: uint32(os.Geteuid()), Gid: uint32(os.Getegid())}
	if c.Config.User != "" {
		u, err := user.Lookup(c.Config.User)
		if err == nil {
			cred, err = credentialOf(u)
		}
		if err != nil {
			return nil, fmt.Errorf("ifdhandler.user: %w", err)
		}
	}
	if len(c.Config.Groups) > 0 {
		var ids []string
		for _, name := range c.Config.Groups {
			g, err := user.LookupGroup(name)
			if err != nil {
				return nil, fmt.Errorf("ifdhandler.groups: %w", err)
			}
			ids = append(ids, g.Gid)
		}
		gids, err := numbers(ids)
		if err != nil {
			return nil, fmt.Errorf("ifdhandler.groups: %w", err)
		}
		cred.Gid, cred.Groups = gids[0], gids[1:]
	}
	return cred, nil
}

// credentialOf is a user with all groups that the accounts give it.
func credentialOf(u *user.User) (*syscall.Credential, error) {
	groups, err := u.GroupIds()
	if err != nil {
		return nil, err
	}
	ids, err := numbers(append([]string{u.Uid, u.Gid}, groups...))
	if err != nil {
		return nil, err
	}
	return &syscall.Credential{Uid: ids[0], Gid: ids[1], Groups: ids[2:]}, nil
}

func numbers(ids []string) ([]uint32, error) {
	var all []uint32
	for _, id := range ids {
		n, err := strconv.ParseUint(id, 10, 32)
		if err != nil {
			return nil, err
		}
		all = append(all, uint32(n))
	}
	return all, nil
}
