package status

import (
	"errors"
	"os"
	"path/filepath"
	"time"

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

// EndWatch asks the process that watches for devices to end, and waits for that.
// It returns false when there is none.
func EndWatch(dir string, patience time.Duration) (bool, error) {
	return endHolder(filepath.Join(rooted(dir), watchName), patience)
}

// endHolder asks the process that has locked a file to end, and waits for that. It
// returns false when there is none.
func endHolder(path string, patience time.Duration) (bool, error) {
	fd, st, err := openPlain(path, unix.O_RDWR)
	if errors.Is(err, unix.ENOENT) {
		return false, nil
	}
	if err != nil {
		return false, wrap("open", path, err)
	}
	defer unix.Close(fd)
	pid, err := lockHolder(fd)
	if err != nil || pid == 0 {
		return false, wrap("test lock of", path, err)
	}
	// The descriptor stands for this very process; it still has the lock, so its
	// number is no other one's.
	process, err := unix.PidfdOpen(pid, 0)
	if errors.Is(err, unix.ESRCH) {
		return false, nil
	}
	if err != nil {
		return false, os.NewSyscallError("pidfd_open", err)
	}
	defer unix.Close(process)
	again, err := lockHolder(fd)
	switch {
	case err != nil:
		return false, wrap("test lock of", path, err)
	case again != pid:
		return false, nil
	case processOwner(pid) != int(st.Uid):
		return false, wrap("end the process that has locked", path, ErrNotHandler)
	}
	if err := unix.PidfdSendSignal(process, unix.SIGTERM, nil, 0); err != nil {
		return false, os.NewSyscallError("pidfd_send_signal", err)
	}
	return true, wrap("wait for the end of the process that has locked", path, waitEnd(process, patience))
}

// lockHolder is the process that has the lock; 0 for none.
func lockHolder(fd int) (int, error) {
	lk := byteLock(0, unix.F_WRLCK)
	if err := unix.FcntlFlock(uintptr(fd), unix.F_GETLK, lk); err != nil || lk.Type == unix.F_UNLCK {
		return 0, err
	}
	return int(lk.Pid), nil
}

// waitEnd waits for the end of the process that a pidfd stands for.
func waitEnd(process int, patience time.Duration) error {
	end := time.Now().Add(patience)
	for {
		left := time.Until(end)
		if left <= 0 {
			return ErrBusy
		}
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(process), Events: unix.POLLIN}}, int(left/time.Millisecond)+1)
		if err != nil && !errors.Is(err, unix.EINTR) {
			return os.NewSyscallError("poll", err)
		}
		if n > 0 {
			return nil
		}
	}
}
