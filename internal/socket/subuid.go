package socket

import (
	"bufio"
	"io"
	"os"
	"strconv"
	"strings"
)

const (
	// subuidFile says which user may use which ranges of other user ids in
	// user namespaces: lines "user:first:count" (subuid(5)).
	subuidFile = "/etc/subuid"

	maxSubuid = 1 << 20 // bytes of it that are read

	// minSubordinate is the first id that may be a subordinate one. Those below
	// are of people, services and systemd's own ranges (systemd.io, "Users, Groups,
	// UIDs and GIDs").
	minSubordinate = 1 << 16
)

// subordinateRange returns the first id of the range that uid belongs to, by
// which all its ids count as one user, or uid itself where there is none.
func subordinateRange(file string, uid uint32) uint32 {
	if uid < minSubordinate || uid == unknownID {
		return uid
	}
	f, err := os.Open(file)
	if err != nil {
		return uid
	}
	defer f.Close()
	for lines := bufio.NewScanner(io.LimitReader(f, maxSubuid)); lines.Scan(); {
		fields := strings.Split(lines.Text(), ":")
		if len(fields) != 3 {
			continue
		}
		first, err1 := strconv.ParseUint(fields[1], 10, 32)
		count, err2 := strconv.ParseUint(fields[2], 10, 32)
		if err1 == nil && err2 == nil && uint64(uid) >= first && uint64(uid) < first+count {
			return max(uint32(first), minSubordinate) // not root's, whatever the file says
		}
	}
	return uid
}
