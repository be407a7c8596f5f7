package device

import (
	"errors"
	"fmt"
	"os"
	"syscall"
)

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
