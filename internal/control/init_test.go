package control

import (
	"errors"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"openct/internal/cli"
)

// A directory that init cannot use comes with what to do.
func TestInitHint(t *testing.T) {
	tests := []struct {
		name string
		err  error
		hint string
	}{
		{"missing", unix.ENOENT, "systemd-tmpfiles --create"},
		{"forbidden", unix.EACCES, "run openct-control as root"},
		{"read-only", unix.EROFS, "make /run/openct writable"},
		{"full", unix.ENOSPC, "free space"},
		{"something else", unix.EIO, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c := &Control{Dir: "/run/openct"}
			err := c.explainInit(tt.err)
			var hint *cli.Hint
			if got := errors.As(err, &hint); got != (tt.hint != "") {
				t.Fatalf("hint: %v", got)
			}
			if hint != nil && !strings.Contains(hint.Hint, tt.hint) {
				t.Errorf("%q does not say %q", hint.Hint, tt.hint)
			}
			if !errors.Is(err, tt.err) {
				t.Errorf("lost the error: %v", err)
			}
		})
	}
}
