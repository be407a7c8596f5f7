package status

import (
	"errors"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// watchName is the file that the process which watches for devices has locked.
// Other than the locks of .lock, this one belongs to the process: the kernel tells
// its number to whoever asks (fcntl(2), F_GETLK). Only the process's own user can
// open the file, so nobody else can be taken for it.
const watchName = ".watch"

// WatchProcess is the name of that process.
const WatchProcess = "openct-watch"

// WatchLock says that this process is the one that watches for devices.
type WatchLock struct{ file *lockFile }

// LockWatch makes this process the one that watches for devices for dir's readers,
// until it ends. When there is another one, it returns ErrBusy.
func LockWatch(dir string) (*WatchLock, error) {
	file, err := openOwnLock(filepath.Join(rooted(dir), watchName), unix.Geteuid())
	if err != nil {
		return nil, err
	}
	if err := file.lockAsProcess(); err != nil {
		return nil, err
	}
	return &WatchLock{file}, nil
}

// Close lets another process watch.
func (w *WatchLock) Close() error { return w.file.Close() }

// lockAsProcess takes the lock for this process, or closes the file. The lock of
// another process is ErrBusy.
func (l *lockFile) lockAsProcess() error {
	err := unix.FcntlFlock(uintptr(l.fd), unix.F_SETLK, byteLock(0, unix.F_WRLCK))
	if errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EACCES) {
		err = ErrBusy
	}
	if err != nil {
		l.Close()
	}
	return wrap("lock", l.path, err)
}
