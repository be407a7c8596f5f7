// Package machine reads what the kernel and udev tell about this machine's USB
// devices and processes: /sys, /run/udev and /proc. It opens no device and
// changes nothing.
package machine

import (
	"os"
	"path/filepath"
	"strings"
)

// Root is the top of the file system that has these files: Here, or the top of a
// tree made for a test.
type Root string

// Here is this machine.
const Here Root = "/"

// Path is where a file is below the root.
func (r Root) Path(name string) string { return filepath.Join(string(r), name) }

// Exists says whether a file is there.
func (r Root) Exists(name string) bool {
	_, err := os.Stat(r.Path(name))
	return err == nil
}

// UdevRuns says whether udev's daemon runs.
func (r Root) UdevRuns() bool { return r.Exists("run/udev/control") }

// SystemdRuns says whether systemd is this machine's init (sd_booted(3)).
func (r Root) SystemdRuns() bool { return r.Exists("run/systemd/system") }

// Attribute reads a file of one line, as /sys and /proc have them; empty where
// there is none.
func Attribute(dir, name string) string {
	b, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(b))
}
