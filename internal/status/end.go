package status

import (
	"errors"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// Ending is a process that was asked to end. Several can be asked before the first
// one is waited for, so that they end at the same time. Close it after use.
type Ending struct {
	PID     int
	process int // descriptor that stands for this very process
}

// Close forgets the process.
func (e *Ending) Close() error { return unix.Close(e.process) }

// Wait waits until the process has ended, or until a time, and says whether it has
// ended.
func (e *Ending) Wait(until time.Time) bool {
	for {
		left := max(time.Until(until), 0)
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(e.process), Events: unix.POLLIN}}, int((left+time.Millisecond-1)/time.Millisecond))
		if errors.Is(err, unix.EINTR) || err == nil && n == 0 && left > 0 {
			continue
		}
		return err == nil && n > 0
	}
}

// ask asks the process that a descriptor stands for to end. The descriptor is the
// Ending's, or closed.
func ask(process, pid int) (*Ending, error) {
	if err := unix.PidfdSendSignal(process, unix.SIGTERM, nil, 0); err != nil {
		unix.Close(process)
		return nil, os.NewSyscallError("pidfd_send_signal", err)
	}
	return &Ending{PID: pid, process: process}, nil
}

// EndWatch asks the process that watches for devices to end. There may be none: nil.
func EndWatch(dir string) (*Ending, error) {
	return endHolder(filepath.Join(rooted(dir), watchName))
}

// endHolder asks the process that has locked a file to end. There may be none: nil.
func endHolder(path string) (*Ending, error) {
	fd, st, err := openPlain(path, unix.O_RDWR)
	if errors.Is(err, unix.ENOENT) {
		return nil, nil
	}
	if err != nil {
		return nil, wrap("open", path, err)
	}
	defer unix.Close(fd)
	pid, err := lockHolder(fd)
	if err != nil || pid == 0 {
		return nil, wrap("test lock of", path, err)
	}
	// The descriptor stands for this very process; it still has the lock, so its
	// number is no other one's.
	process, err := unix.PidfdOpen(pid, 0)
	if errors.Is(err, unix.ESRCH) {
		return nil, nil
	}
	if err != nil {
		return nil, os.NewSyscallError("pidfd_open", err)
	}
	again, err := lockHolder(fd)
	switch {
	case err != nil:
		err = wrap("test lock of", path, err)
	case again == pid && processOwner(pid) != int(st.Uid):
		err = wrap("end the process that has locked", path, ErrNotHandler)
	case again == pid:
		return ask(process, pid)
	}
	unix.Close(process)
	return nil, err
}

// lockHolder is the process that has the lock; 0 for none.
func lockHolder(fd int) (int, error) {
	lk := byteLock(0, unix.F_WRLCK)
	if err := unix.FcntlFlock(uintptr(fd), unix.F_GETLK, lk); err != nil || lk.Type == unix.F_UNLCK {
		return 0, err
	}
	return int(lk.Pid), nil
}
