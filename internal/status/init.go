package status

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"
)

// Options of Init.
type Options struct {
	UID int // owner of the files, the handlers' user; -1: see defaultOwner
	GID int // group; -1 leaves it alone, as C OpenCT does
}

// defaultOwner is the owner of the files where Options name none: the caller or, when
// that is root, the owner of the directory. Where root gave the directory to the
// handlers' user, the handlers can write the file without further configuration.
func defaultOwner(dir string) int {
	if uid := unix.Geteuid(); uid != 0 {
		return uid
	}
	var st unix.Stat_t
	if err := unix.Stat(dir, &st); err != nil {
		return 0 // the next step reports what is wrong with dir
	}
	return int(st.Uid)
}

// Init makes dir/status ready for handlers and clients ("openct-control init").
//
// Programs that use OpenCT keep the mapping of the inode they saw first for as
// long as they live, so Init keeps the inode wherever it can: the file that is
// there, or the one that Retire put aside. Entries of living handlers stay, all
// others are cleared. A new file is made only when there is none that is a plain
// file with one link, belongs to root, the caller or UID, and is not too short.
func Init(dir string, o Options) error {
	dir = rooted(dir)
	if o.UID < 0 {
		o.UID = defaultOwner(dir)
	}
	lock, err := openLockFor(dir, o.UID)
	if err != nil {
		return err
	}
	defer lock.Close()
	if err := lock.lockAlloc(); err != nil {
		return err
	}
	path := filepath.Join(dir, fileName)
	if err := reuse(path, lock, o); err == nil {
		return nil
	}
	keep := filepath.Join(dir, keepName)
	if err := reuse(keep, lock, o); err == nil {
		return replace(keep, path)
	}
	return create(dir, o)
}

// Retire ends what Init began ("openct-control shutdown"): it clears all entries
// and takes the file away, for "no status file" is what other programs understand
// as "OpenCT is stopped". The inode waits under another name for the next Init.
// Without a status file it returns ErrNotInitialised.
func Retire(dir string) error {
	dir = rooted(dir)
	path := filepath.Join(dir, fileName)
	if _, err := os.Lstat(path); errors.Is(err, unix.ENOENT) {
		return wrap("open", path, fmt.Errorf("%w: %w", unix.ENOENT, ErrNotInitialised))
	}
	lock, err := openLock(dir)
	if err != nil {
		return err
	}
	defer lock.Close()
	if err := lock.lockAlloc(); err != nil {
		return err
	}
	f, err := Open(dir)
	switch {
	case errors.Is(err, ErrSize), errors.Is(err, ErrNotRegular):
		return wrap("remove", path, os.Remove(path)) // nothing worth keeping
	case err != nil:
		return err
	}
	defer f.Close()
	err = f.access(func(words []uint32) {
		for n := range Entries {
			clearEntry(entryOf(words, n))
		}
	})
	if err != nil {
		return err
	}
	return replace(path, filepath.Join(dir, keepName))
}

// reuse makes an existing file fit for service or says why it cannot.
func reuse(path string, lock *lockFile, o Options) error {
	fd, st, err := openPlain(path, unix.O_RDWR)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if st.Size < Size {
		return ErrSize
	}
	if err := own(fd, st, o.UID, o.GID, fileMode); err != nil {
		return err
	}
	if st.Size > Size { // old clients would see further entries
		if err := unix.Ftruncate(fd, Size); err != nil {
			return err
		}
	}
	if err := reserve(fd); err != nil {
		return err
	}
	f, err := mapFile(filepath.Dir(path), fd, st, unix.O_RDWR)
	if err != nil {
		return err
	}
	defer f.Close()
	var used [Entries]bool
	for n := range used {
		if used[n], err = f.inUse(n, lock); err != nil {
			return err
		}
		if !used[n] {
			removeLeftovers(filepath.Dir(path), n)
		}
	}
	return f.access(func(words []uint32) {
		for n, living := range used {
			if !living {
				clearEntry(entryOf(words, n))
			}
		}
	})
}

// removeLeftovers takes away what a handler that was killed has left beside the
// file. Whoever takes the entry next makes both anew; until then a program that
// only looks into the directory shall not find a reader there.
func removeLeftovers(dir string, n int) {
	removeDetail(dir, n)
	path := filepath.Join(dir, strconv.Itoa(n))
	if st, err := os.Lstat(path); err == nil && st.Mode().Type() == os.ModeSocket {
		os.Remove(path)
	}
}

// create puts a new file in place in one step: no client sees it half made.
func create(dir string, o Options) error {
	path := filepath.Join(dir, fileName)
	tmp, err := os.CreateTemp(dir, ".status.*")
	if err != nil {
		return wrap("create", path, err)
	}
	defer tmp.Close()
	err = func() error {
		fd := int(tmp.Fd())
		// Bytes, not a hole: a full disk shows now, as an error, and not
		// later, as a signal that kills the handler which writes its entry.
		if _, err := tmp.Write(make([]byte, Size)); err != nil {
			return err
		}
		var st unix.Stat_t
		if err := unix.Fstat(fd, &st); err != nil {
			return err
		}
		if err := own(fd, &st, o.UID, o.GID, fileMode); err != nil {
			return err
		}
		return os.Rename(tmp.Name(), path)
	}()
	if err != nil {
		os.Remove(tmp.Name())
	}
	return wrap("create", path, err)
}

func replace(from, to string) error {
	return wrap("rename", from, os.Rename(from, to))
}

// reserve has the file system set the file's blocks aside, as create does by
// writing them.
func reserve(fd int) error {
	err := unix.Fallocate(fd, 0, 0, Size)
	if errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.ENOSYS) {
		return nil
	}
	return err
}

var errForeign = errors.New("the file does not belong to OpenCT")

// own checks that a file in a directory of an unprivileged user is what it seems,
// and only then gives it away: one link, or it might be the system's other name
// for /etc/shadow; owned by root, the caller or the user it will be given to.
func own(fd int, st *unix.Stat_t, uid, gid int, mode uint32) error {
	owner := int(st.Uid)
	if st.Nlink != 1 {
		return fmt.Errorf("%w: the file has %d links", errForeign, st.Nlink)
	}
	if owner != 0 && owner != unix.Geteuid() && owner != uid {
		return fmt.Errorf("%w: user %d owns the file", errForeign, owner)
	}
	if owner != uid || (gid >= 0 && int(st.Gid) != gid) {
		if err := unix.Fchown(fd, uid, gid); err != nil {
			return err
		}
	}
	if st.Mode&0o7777 != mode {
		return unix.Fchmod(fd, mode)
	}
	return nil
}
