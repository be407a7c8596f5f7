package control

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/user"
	"strconv"

	"golang.org/x/sys/unix"

	"openct/internal/config"
	"openct/internal/socket"
)

// openDirectory gives the directory of status file and sockets the owner, group
// and mode that openct.conf names: they decide who may use the readers. The
// owner and mode of another directory than DefaultDir stay as they are.
func (c *Control) openDirectory() error {
	if c.Dir != socket.DefaultDir {
		return nil
	}
	if os.Geteuid() == 0 {
		if err := makeDirectory(c.Dir, cmp.Or(c.Config.User, daemonUser), clientGroup); err != nil {
			return err
		}
	}
	return setAccess(c.Dir, c.Config)
}

// Who owns the directory, as sysusers.d/openct.conf makes them and
// tmpfiles.d/openct.conf has it.
const (
	daemonUser  = "openctd"
	clientGroup = "scard"
)

// makeDirectory makes the directory where that is missing, as systemd-tmpfiles
// does at boot. One that is there and root's is given to the owner: handlers run
// as its owner, and not as root. Without such a user or group it stays root's.
func makeDirectory(dir, owner, group string) error {
	uid, gid := -1, -1
	if u, err := user.Lookup(owner); err == nil {
		if uid, err = strconv.Atoi(u.Uid); err != nil {
			return fmt.Errorf("user %s: %w", owner, err)
		}
	}
	mode := uint32(0o755)
	if g, err := user.LookupGroup(group); err == nil {
		if gid, err = strconv.Atoi(g.Gid); err != nil {
			return fmt.Errorf("group %s: %w", group, err)
		}
		mode = 0o750
	}
	err := os.Mkdir(dir, 0o700)
	made := err == nil
	if err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	fd, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return &os.PathError{Op: "open", Path: dir, Err: err}
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return &os.PathError{Op: "stat", Path: dir, Err: err}
	}
	if made {
		err = unix.Fchown(fd, uid, gid)
		if err == nil {
			err = unix.Fchmod(fd, mode)
		}
	} else if st.Uid == 0 {
		err = unix.Fchown(fd, uid, -1)
	}
	if err != nil {
		return &os.PathError{Op: "give to " + owner, Path: dir, Err: err}
	}
	return nil
}

// setAccess does it for any directory. What is not set stays as it is.
func setAccess(dir string, c *config.Config) error {
	if c.DirOwner == "" && c.DirGroup == "" && c.DirMode == 0 {
		return nil
	}
	uid, gid := -1, -1
	if c.DirOwner != "" {
		u, err := user.Lookup(c.DirOwner)
		if err != nil {
			return fmt.Errorf("socket.owner: %w", err)
		}
		if uid, err = strconv.Atoi(u.Uid); err != nil {
			return fmt.Errorf("socket.owner: %w", err)
		}
	}
	if c.DirGroup != "" {
		g, err := user.LookupGroup(c.DirGroup)
		if err != nil {
			return fmt.Errorf("socket.group: %w", err)
		}
		if gid, err = strconv.Atoi(g.Gid); err != nil {
			return fmt.Errorf("socket.group: %w", err)
		}
	}
	fd, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return &os.PathError{Op: "open", Path: dir, Err: err}
	}
	defer unix.Close(fd)
	// The mode comes last: until owner and group are right it could let other users in.
	if err := unix.Fchown(fd, uid, gid); err != nil {
		return &os.PathError{Op: "chown", Path: dir, Err: err}
	}
	if c.DirMode == 0 {
		return nil
	}
	if err := unix.Fchmod(fd, uint32(c.DirMode.Perm())); err != nil {
		return &os.PathError{Op: "chmod", Path: dir, Err: err}
	}
	return nil
}
