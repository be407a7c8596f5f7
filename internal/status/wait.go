package status

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// WaitOpen is Open for a handler that may be started a moment before init is
// through: it waits, sleeping, until the status file is there. When ctx ends
// first, the error wraps both ErrNotInitialised and ctx's. Other errors than a
// missing or not yet filled file are returned at once.
func WaitOpen(ctx context.Context, dir string) (*File, error) {
	dir = rooted(dir)
	f, err := Open(dir)
	if !pending(err) {
		return f, err
	}
	w, err := newWatch()
	if err != nil {
		return nil, wrap("watch", dir, err)
	}
	defer w.Close()
	// Ends a Read that is under way as well as all later ones.
	defer context.AfterFunc(ctx, func() { w.SetReadDeadline(time.Unix(1, 0)) })()

	for {
		// Watch first, then look: what happens in between wakes us.
		watched, err := addWatch(w, dir)
		if err != nil {
			return nil, wrap("watch", dir, err)
		}
		f, err := Open(dir)
		if !pending(err) {
			return f, err
		}
		if watched != existing(dir) {
			continue // the directory itself appeared meanwhile
		}
		if cause := ctx.Err(); cause != nil {
			return nil, &waitedError{err, cause}
		}
		// What exactly happened does not matter; read all that is queued.
		var events [4096]byte
		if _, werr := w.Read(events[:]); werr != nil && !errors.Is(werr, os.ErrDeadlineExceeded) {
			return nil, wrap("watch", dir, werr)
		}
	}
}

// waitedError is the end of a wait: init did not make the status file meanwhile.
type waitedError struct{ state, end error }

func (e *waitedError) Error() string {
	return e.state.Error() + " (no other process ran openct-control init meanwhile)"
}

func (e *waitedError) Unwrap() []error { return []error{e.state, e.end} }

// pending says whether waiting may help. C OpenCT's init makes an empty file first.
func pending(err error) bool {
	return errors.Is(err, ErrNotInitialised) || errors.Is(err, ErrSize)
}

func newWatch() (*os.File, error) {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), "inotify"), nil
}

// addWatch watches dir or, while that does not exist, its nearest parent.
func addWatch(w *os.File, dir string) (string, error) {
	for {
		at := existing(dir)
		var err error
		raw, rerr := w.SyscallConn()
		if rerr != nil {
			return "", rerr
		}
		rerr = raw.Control(func(fd uintptr) {
			_, err = unix.InotifyAddWatch(int(fd), at, unix.IN_CREATE|unix.IN_MOVED_TO|unix.IN_MODIFY|
				unix.IN_ATTRIB|unix.IN_DELETE_SELF|unix.IN_MOVE_SELF|unix.IN_ONLYDIR)
		})
		if rerr != nil {
			return "", rerr
		}
		if !errors.Is(err, unix.ENOENT) {
			return at, err
		}
		// It vanished between the look and the watch.
	}
}

// existing is dir or the nearest parent that exists.
func existing(dir string) string {
	dir = filepath.Clean(dir)
	for {
		if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
			return dir
		}
		parent := filepath.Dir(dir)
		if parent == dir {
			return dir
		}
		dir = parent
	}
}
