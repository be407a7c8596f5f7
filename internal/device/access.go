package device

import (
	"errors"
	"fmt"
	"os"
	"os/user"
	"strconv"
	"syscall"
)

// ExplainAccess adds to a denied access what would allow it.
func ExplainAccess(err error, node string) error {
	if !errors.Is(err, ErrAccess) {
		return err
	}
	info, serr := os.Stat(node)
	if serr != nil {
		return err
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return err
	}
	group := strconv.Itoa(int(st.Gid))
	if g, gerr := user.LookupGroupId(group); gerr == nil {
		group = g.Name
	}
	perm := info.Mode().Perm()
	switch {
	case os.Geteuid() == 0:
		return fmt.Errorf("%w even for root: a device filter (DeviceAllow= of the unit, a container) forbids it", err)
	case perm&0o060 != 0o060:
		return fmt.Errorf("%w: the node has mode %04o; a udev rule must give its group %s access", err, perm, group)
	default:
		return fmt.Errorf("%w: the node has group %s and mode %04o; run as a member of that group", err, group, perm)
	}
}
