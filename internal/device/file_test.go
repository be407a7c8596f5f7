package device

import (
	"errors"
	"os"
	"syscall"
	"testing"
)

func TestFileError(t *testing.T) {
	for _, tt := range []struct {
		name     string
		in, want error
	}{
		{"nothing", nil, nil},
		{"card pulled", syscall.ENODEV, ErrUnplugged},
		{"no driver behind the node", syscall.ENXIO, ErrUnplugged},
		{"no node", syscall.ENOENT, ErrUnplugged},
		{"another opener", syscall.EBUSY, ErrBusy},
		{"no access", syscall.EACCES, ErrAccess},
		{"a filter", syscall.EPERM, ErrAccess},
		{"closed", os.ErrClosed, ErrClosed},
		{"anything else", syscall.ENOTTY, ErrIO},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := FileError(tt.in); !errors.Is(got, tt.want) || (tt.in != nil && !errors.Is(got, tt.in)) {
				t.Errorf("%v, want %v", got, tt.want)
			}
		})
	}
}
