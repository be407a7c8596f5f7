package device

import (
	"errors"
	"fmt"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// OpenNode opens a character device. Nothing else is opened: what a driver tells its
// device would be written into a file.
func OpenNode(path string) (int, error) {
	fd, err := unix.Open(path, unix.O_RDWR|unix.O_CLOEXEC|unix.O_NOCTTY, 0)
	switch {
	case errors.Is(err, unix.ENOENT):
		return -1, Wrap("open", path, ErrNotFound)
	case errors.Is(err, unix.ENXIO), errors.Is(err, unix.ENODEV):
		return -1, Wrap("open", path, fmt.Errorf("%w: %w", ErrNotFound, err))
	case err != nil:
		return -1, Wrap("open", path, ExplainAccess(FileError(err), path))
	}
	var st unix.Stat_t
	if err = unix.Fstat(fd, &st); err == nil && st.Mode&unix.S_IFMT == unix.S_IFCHR {
		return fd, nil
	}
	_ = unix.Close(fd)
	return -1, Wrap("open", path, fmt.Errorf("%w: not a character device", ErrNotFound))
}

// FileError gives what a system call on a character device answers one of the
// states.
func FileError(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, syscall.ENODEV), errors.Is(err, syscall.ENXIO), errors.Is(err, syscall.ENOENT), errors.Is(err, syscall.EPIPE):
		return fmt.Errorf("%w: %w", ErrUnplugged, err)
	case errors.Is(err, syscall.EBUSY):
		return fmt.Errorf("%w: %w", ErrBusy, err)
	case errors.Is(err, syscall.EACCES), errors.Is(err, syscall.EPERM):
		return fmt.Errorf("%w: %w", ErrAccess, err)
	case errors.Is(err, syscall.EBADF), errors.Is(err, os.ErrClosed):
		return fmt.Errorf("%w: %w", ErrClosed, err)
	}
	return fmt.Errorf("%w: %w", ErrIO, err)
}
