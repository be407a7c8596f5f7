package status

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

const (
	lockName  = ".lock"
	lockMode  = 0o600
	allocByte = Entries // locked while entries change hands

	// Holders of the allocation lock work for microseconds. Only one that was
	// stopped in between makes the others give up.
	lockPatience = 5 * time.Second
)

// lockFile is an open .lock file. Its locks are open file description locks:
// they belong to this descriptor alone, so two claims in one process exclude each
// other too, and the kernel drops them however the process ends. That makes
// "byte n is locked" the one sign of a living handler that no reused pid can fake.
//
// It is a file of its own, not the status file, for two reasons: it outlives any
// exchange of the status file, also by C OpenCT's init, so a handler whose entry
// was lost that way still keeps others off its number and socket; and only the
// handler's user and root can open it, while any reader of the status file could
// take a lock there and keep it.
type lockFile struct {
	fd   int
	path string
}

// openLock opens dir's lock file. A missing one is created for the owner that
// the files have by default, so a handler that root starts by hand does not lock
// out the ones that systemd starts.
func openLock(dir string) (*lockFile, error) { return openLockNamed(dir, lockName) }

func openLockNamed(dir, name string) (*lockFile, error) {
	path := filepath.Join(dir, name)
	fd, _, err := openPlain(path, unix.O_RDWR)
	if errors.Is(err, unix.ENOENT) {
		var st *unix.Stat_t
		if fd, st, err = openPlain(path, unix.O_RDWR|unix.O_CREAT); err == nil {
			err = own(fd, st, defaultOwner(dir), -1, lockMode)
			if err != nil {
				unix.Close(fd)
			}
		}
	}
	if err != nil {
		return nil, wrap("open", path, err)
	}
	return &lockFile{fd: fd, path: path}, nil
}

// openLockFor opens the lock file for Init, which also sets its owner. A file
// that cannot be trusted is replaced.
func openLockFor(dir string, uid int) (*lockFile, error) {
	return openOwnLock(filepath.Join(dir, lockName), uid)
}

func openOwnLock(path string, uid int) (*lockFile, error) {
	for attempt := 0; ; attempt++ {
		fd, st, err := openPlain(path, unix.O_RDWR|unix.O_CREAT)
		if err == nil {
			if err = own(fd, st, uid, -1, lockMode); err == nil {
				return &lockFile{fd: fd, path: path}, nil
			}
			unix.Close(fd)
		}
		if attempt > 0 || !(errors.Is(err, ErrNotRegular) || errors.Is(err, errForeign)) {
			return nil, wrap("open", path, err)
		}
		if err := os.Remove(path); err != nil {
			return nil, wrap("replace", path, err)
		}
	}
}

// Close drops all locks taken through l.
func (l *lockFile) Close() error { return unix.Close(l.fd) }

// try locks one byte; false means that another process has it.
func (l *lockFile) try(n int) (bool, error) {
	err := unix.FcntlFlock(uintptr(l.fd), unix.F_OFD_SETLK, byteLock(n, unix.F_WRLCK))
	if errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EACCES) {
		return false, nil
	}
	return err == nil, wrap("lock", l.path, err)
}

func (l *lockFile) unlock(n int) error {
	return wrap("unlock", l.path, unix.FcntlFlock(uintptr(l.fd), unix.F_OFD_SETLK, byteLock(n, unix.F_UNLCK)))
}

// held says whether another process has locked the byte.
func (l *lockFile) held(n int) (bool, error) {
	lk := byteLock(n, unix.F_WRLCK)
	err := unix.FcntlFlock(uintptr(l.fd), unix.F_OFD_GETLK, lk)
	return err == nil && lk.Type != unix.F_UNLCK, wrap("test lock of", l.path, err)
}

// lockAlloc takes the allocation lock. It asks again and again, for a blocking
// fcntl cannot be given a deadline.
func (l *lockFile) lockAlloc() error {
	deadline := time.Now().Add(lockPatience)
	pause := time.Millisecond
	for {
		ok, err := l.try(allocByte)
		if ok || err != nil {
			return err
		}
		if time.Now().After(deadline) {
			return wrap("lock", l.path, ErrBusy)
		}
		time.Sleep(pause)
		pause = min(2*pause, 50*time.Millisecond)
	}
}

func byteLock(n int, typ int16) *unix.Flock_t {
	return &unix.Flock_t{Type: typ, Whence: io.SeekStart, Start: int64(n), Len: 1}
}
