package control

import (
	"fmt"
	"os"
	"os/user"
	"strconv"

	"golang.org/x/sys/unix"

	"openct/internal/config"
	"openct/internal/socket"
)

// openDirectory gives the directory of status file and sockets the owner, group
// and mode that openct.conf names: they decide who may use the readers. Another
// directory than the usual one was made by somebody who has decided already.
func (c *Control) openDirectory() error {
	if c.Dir != socket.DefaultDir {
		return nil
	}
	return setAccess(c.Dir, c.Config)
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
	// The mode comes last: it must not let anybody in who is not meant.
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
