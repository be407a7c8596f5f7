package doctor

import (
	"io/fs"
	"os/user"
	"strconv"
	"syscall"
)

// owners are a file's owner and group by name or, without one, by number.
func owners(info fs.FileInfo) (owner, group string) {
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return "", ""
	}
	group = strconv.Itoa(int(st.Gid))
	if g, err := user.LookupGroupId(group); err == nil {
		group = g.Name
	}
	return userName(int(st.Uid)), group
}

func userName(uid int) string {
	id := strconv.Itoa(uid)
	if u, err := user.LookupId(id); err == nil {
		return u.Username
	}
	return id
}

func userID(name string) (int, bool) {
	u, err := user.Lookup(name)
	if err != nil {
		return 0, false
	}
	uid, err := strconv.Atoi(u.Uid)
	return uid, err == nil
}

// isGroup says whether there is a group, by name or by number.
func isGroup(name string) bool {
	_, err := user.LookupGroup(name)
	if _, nerr := strconv.Atoi(name); nerr == nil {
		return true
	}
	return err == nil
}

// groupsOf are the groups that the accounts give a user.
func groupsOf(name string) []int {
	u, err := user.Lookup(name)
	if err != nil {
		return nil
	}
	ids, err := u.GroupIds()
	if err != nil {
		return nil
	}
	var gids []int
	for _, id := range ids {
		if gid, err := strconv.Atoi(id); err == nil {
			gids = append(gids, gid)
		}
	}
	return gids
}
