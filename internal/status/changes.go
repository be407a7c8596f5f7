package status

import (
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// Changes tells when there may be something new in a directory of OpenCT: in its
// status file, in a file beside it, or because one of them, or the directory, came
// or went. It sleeps otherwise; nothing is asked now and then.
type Changes struct {
	dir     string
	inotify *os.File
	at      string // what is watched now: dir, or its nearest parent
	wd      int    // its watch descriptor; -1 for none
}

// What is watched for, of the directory and of a parent of a missing one (inotify(7)).
// A handler that tells something changes the status file's times, see announce.
const (
	watchDir    = watchParent | unix.IN_MOVED_FROM | unix.IN_DELETE | unix.IN_ATTRIB
	watchParent = unix.IN_CREATE | unix.IN_MOVED_TO | unix.IN_DELETE_SELF | unix.IN_MOVE_SELF | unix.IN_ONLYDIR
)

// NewChanges begins to watch. The directory need not exist. One that this user may
// not read is fs.ErrPermission.
func NewChanges(dir string) (*Changes, error) {
	file, err := newWatch()
	if err != nil {
		return nil, wrap("watch", dir, err)
	}
	c := &Changes{dir: filepath.Clean(rooted(dir)), inotify: file, wd: -1}
	if err := c.arm(); err != nil {
		file.Close()
		return nil, wrap("watch", dir, err)
	}
	return c, nil
}

// Wait returns when something may have changed since the last Wait, or since
// NewChanges; look after it. Close ends it with os.ErrClosed.
func (c *Changes) Wait() error {
	var events [16 << 10]byte
	for {
		n, err := c.inotify.Read(events[:])
		if errors.Is(err, os.ErrClosed) {
			return os.ErrClosed
		}
		if err != nil {
			return wrap("watch", c.dir, err)
		}
		if !c.news(events[:n]) {
			continue
		}
		return wrap("watch", c.dir, c.arm())
	}
}

// Close ends watching, and a Wait that is under way.
func (c *Changes) Close() error { return c.inotify.Close() }

// news says whether events are of interest: files that are being made, and have
// their names later, are not, nor are other directories than the next one on the
// way to a missing one.
func (c *Changes) news(events []byte) bool {
	next, _, _ := strings.Cut(strings.TrimPrefix(strings.TrimPrefix(c.dir, c.at), "/"), "/")
	for _, e := range inotifyEvents(events) {
		switch {
		case e.mask&(unix.IN_DELETE_SELF|unix.IN_MOVE_SELF|unix.IN_UNMOUNT|unix.IN_Q_OVERFLOW) != 0:
			return true
		case e.mask&unix.IN_IGNORED != 0, next != "" && e.name != next, strings.HasPrefix(e.name, ".tmp."):
		default:
			return true
		}
	}
	return false
}

// arm watches what there is of the directory now.
func (c *Changes) arm() error {
	raw, err := c.inotify.SyscallConn()
	if err != nil {
		return os.ErrClosed
	}
	for {
		at, mask := existing(c.dir), uint32(watchParent)
		if at == c.dir {
			mask = watchDir
		}
		wd, failed := -1, error(nil)
		err := raw.Control(func(fd uintptr) {
			wd, failed = unix.InotifyAddWatch(int(fd), at, mask)
			if failed == nil && c.wd >= 0 && c.wd != wd {
				_, _ = unix.InotifyRmWatch(int(fd), uint32(c.wd)) // gone with what it watched, at times
			}
		})
		switch {
		case err != nil:
			return os.ErrClosed
		case errors.Is(failed, unix.ENOENT):
			continue // it vanished between the look and the watch
		case failed != nil:
			return failed
		}
		c.at, c.wd = at, wd
		if at == existing(c.dir) {
			return nil
		}
	}
}

type inotifyEvent struct {
	mask uint32
	name string
}

// inotifyEvents reads what read(2) of an inotify descriptor gives: struct
// inotify_event (inotify(7)), and a name with zero bytes behind it.
func inotifyEvents(b []byte) []inotifyEvent {
	var events []inotifyEvent
	for len(b) >= unix.SizeofInotifyEvent {
		mask, length := binary.NativeEndian.Uint32(b[4:]), binary.NativeEndian.Uint32(b[12:])
		b = b[unix.SizeofInotifyEvent:]
		if uint64(length) > uint64(len(b)) {
			break
		}
		name, _, _ := strings.Cut(string(b[:length]), "\x00")
		events = append(events, inotifyEvent{mask, name})
		b = b[length:]
	}
	return events
}
