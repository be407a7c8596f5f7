package status

import (
	"errors"
	"fmt"
)

// States that callers branch on; test with errors.Is.
var (
	// ErrNotInitialised: there is no status file, OpenCT is stopped here.
	// WaitOpen waits for the end of this state.
	ErrNotInitialised = errors.New("OpenCT is not started here; run \"openct-control init\"")

	// ErrSize: the status file is not Size bytes long, or was truncated while
	// it was mapped.
	ErrSize = errors.New("status file has the wrong size; run \"openct-control init\"")

	// ErrNotRegular: something else than a plain file is in the file's place.
	ErrNotRegular = errors.New("not a regular file")

	// ErrNoFreeSlot: all sixteen entries are in use.
	ErrNoFreeSlot = errors.New("no reader number is free: all 16 are in use")

	// ErrLost: the entry is no longer this handler's: it was released, or
	// "openct-control shutdown" cleared it.
	ErrLost = errors.New("the status entry belongs to another handler now")

	// ErrBusy: another init, shutdown or claim holds the lock for too long.
	ErrBusy = errors.New("another OpenCT process holds the lock")

	// ErrNotHandler: the pid in an entry is not one of an OpenCT handler.
	ErrNotHandler = errors.New("not an OpenCT handler")

	// ErrClosed: the File was closed.
	ErrClosed = errors.New("status file is closed")
)

// wrap says what failed ("open", "create", "lock" ...) and on which file. It
// returns nil for a nil err.
func wrap(op, path string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("can't %s %s: %w", op, path, err)
}

// ServedError: another living handler serves the device already.
type ServedError struct {
	Device string
	Reader int // number of the entry
	PID    int
}

func (e *ServedError) Error() string {
	return fmt.Sprintf("%s has a handler already: reader %d, process %d", e.Device, e.Reader, e.PID)
}
